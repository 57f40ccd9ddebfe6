"""SAT formulas as bipartite graphs of literals and clauses, and the statistics by which formulas are compared (section 4.4)."""

from pathlib import Path

import networkx as nx
import numpy as np

from reprise.errors import ReproError
from reprise.papers.bigg.plan import Rows


def read_dimacs(path: Path) -> Rows:
    """A DIMACS CNF file: literal v is row v - 1, literal -v row variables + v - 1, clauses are columns.

    Raises:
        ReproError: no header, a literal out of range, or another number of clauses than announced.
    """
    header, tokens = None, []
    for line in path.read_text().splitlines():
        if line.startswith("p cnf"):
            header = tuple(map(int, line.split()[2:4]))
        elif header and not line.startswith(("c", "%")):
            tokens += map(int, line.split())
    if header is None:
        raise ReproError(f"{path} is not a DIMACS CNF file: there is no line `p cnf variables clauses`")
    variables, clauses = header
    literal = np.array(tokens, dtype=np.int64)
    if (np.abs(literal) > variables).any():
        raise ReproError(f"{path}: literal {literal[np.abs(literal) > variables][0]}, but only {variables} variables are announced")
    clause = np.cumsum(literal == 0) - (literal == 0)
    if (literal == 0).sum() != clauses:
        raise ReproError(f"{path}: {clauses} clauses are announced, {(literal == 0).sum()} found")
    literal, clause = literal[literal != 0], clause[literal != 0]
    row = np.where(literal > 0, literal - 1, variables - literal - 1)
    return Rows.bipartite(2 * variables, clauses, np.unique(np.stack([row, clause], axis=1), axis=0))


def statistics(rows: Rows) -> dict[str, float]:
    """Clustering of the variable graph, modularity of both graphs, and the exponents of the power laws of both degrees.

    In the variable incidence graph two variables are joined if a clause holds both; in the literal clause graph every
    literal is joined to its clauses.
    """
    variables = rows.n // 2
    clauses = int(rows.width_R.max(initial=0))
    literal_clause = nx.Graph((int(r), rows.n + int(c)) for r, c in rows.edges_E2)
    variable_E, clause_E = rows.edges_E2[:, 0] % variables, rows.edges_E2[:, 1]
    incidence = nx.Graph()
    members = [np.unique(part) for part in np.split(variable_E[np.argsort(clause_E, kind="stable")], np.cumsum(np.bincount(clause_E, minlength=clauses))[:-1])]
    for part in members:
        incidence.add_edges_from((int(a), int(b)) for k, a in enumerate(part) for b in part[:k])
    return {
        "vig_clustering": nx.average_clustering(incidence),
        "vig_modularity": _modularity(incidence),
        "lcg_modularity": _modularity(literal_clause),
        "variable_exponent": power_law(np.bincount(variable_E, minlength=variables)),
        "clause_exponent": power_law(np.bincount(clause_E, minlength=clauses)),
    }


def _modularity(graph: nx.Graph) -> float:
    return nx.community.modularity(graph, nx.community.louvain_communities(graph, seed=0))


def power_law(degree: np.ndarray) -> float:
    """Exponent of the tail by maximum likelihood, cut off where the fit is best in the Kolmogorov-Smirnov sense (Clauset et al. 2009)."""
    degree = np.sort(degree[degree > 0])
    best, exponent = np.inf, 0.0
    for low in np.unique(degree)[:-1]:
        tail = degree[degree >= low]
        alpha = 1 + len(tail) / np.log(tail / (low - 0.5)).sum()
        values, count = np.unique(tail, return_counts=True)
        fitted = 1 - ((values + 0.5) / (low - 0.5)) ** (1 - alpha)
        distance = np.abs(np.cumsum(count) / len(tail) - fitted).max()
        if distance < best:
            best, exponent = distance, alpha
    return float(exponent)
