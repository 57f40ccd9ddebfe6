"""The equivalence matrix, the defects, the mutation study, and whether the three networks learn the same."""

from itertools import combinations

import numpy as np
import pandas as pd
from pydantic import Field
from safetensors.numpy import load_file

from reprise.papers.einops import equivalence, mutation
from reprise.papers.einops.corpus import MODELS, ROWS, reference
from reprise.papers.einops.packages import convert, implementation, values
from reprise.params import Params
from reprise.stage import Stage

IMPLEMENTATIONS = equivalence.IMPLEMENTATIONS


class Evaluate(Params):
    """Parameters of `evaluate`."""

    rows: int = Field(gt=0, description="patterns of the table `ROWS` to compare (all, if there are fewer)")
    models: int = Field(gt=0, description="patterns of real networks to compare and to mutate (all, if there are fewer)")


def evaluate(params: Evaluate, stage: Stage) -> None:
    """One table for each of the four studies; metrics: shares and differences."""
    metrics: dict[str, float] = {}
    tables = {
        "equivalence": equivalence_table(params, stage.rng("equivalence")),
        "defects": pd.DataFrame(equivalence.defects(), columns=["case", "implementation", "right"]),
        "mutation": mutation_table(params, stage.rng("mutation")),
        "learning": learning_table(stage),
    }
    for (name, library), rows in tables["equivalence"].groupby(["implementation", "library"]):
        metrics |= {f"equivalence.{name}.{library}.agree": rows.equal.mean(), f"equivalence.{name}.{library}.rows": len(rows)}
    for name, rows in tables["defects"].groupby("implementation"):
        metrics |= {f"defects.{name}": int(rows.right.sum()), "defects.cases": len(rows)}
    for (library, name), rows in tables["mutation"].groupby(["library", "implementation"]):
        senseless, sensible = rows[~rows.sensible], rows[rows.sensible]
        metrics |= {
            f"mutation.{library}.{name}.detected": (senseless.outcome == "error").mean(),
            f"mutation.{library}.{name}.detected_of_raw": (senseless[senseless.of_raw].outcome == "error").mean(),
            f"mutation.{library}.{name}.silent": int((senseless.outcome == "wrong").sum()),
            f"mutation.{library}.{name}.right_on_sensible": (sensible.outcome == "right").mean(),
            f"mutation.{library}.{name}.mutants": len(senseless),
            f"mutation.{library}.{name}.undetectable": len(sensible),
        }
    metrics |= learning_metrics(tables["learning"], stage)
    for name, table in tables.items():
        table.to_parquet(stage.out / f"{name}.parquet", index=False)
    stage.metrics(metrics)


def equivalence_table(params: Evaluate, rng: np.random.Generator) -> pd.DataFrame:
    """Pattern, implementation, library, data type, whether equal to the interpreter."""
    rows = [(p.name, p.pattern, *found) for p in [*ROWS[: params.rows], *MODELS[: params.models]] for found in equivalence.compare(p, rng)]
    return pd.DataFrame(rows, columns=["name", "pattern", "implementation", "library", "dtype", "equal"])


def mutation_table(params: Evaluate, rng: np.random.Generator) -> pd.DataFrame:
    """One row a mutant, library and implementation: whether raw code can make the mistake, whether it is sensible (the interpreter finds a meaning), outcome."""
    rows = []
    for pattern in MODELS[: params.models]:
        x = reference(pattern, rng) + np.arange(np.prod(pattern.shape)).reshape(pattern.shape)  # no two entries alike
        for mutant in mutation.mutants(pattern, x):
            right = mutation.wanted(pattern, mutant)
            for library in ("numpy", "torch"):
                given = convert(mutant.x, library)
                of_raw = mutant.of_raw(pattern)
                for name in IMPLEMENTATIONS if of_raw else ("ours", "official"):
                    call = implementation(name, pattern, library)
                    seen = mutation.outcome(lambda x, call=call, **lengths: values(call(x, **lengths)), mutant, given, right)
                    rows.append((pattern.name, mutant.kind, library, name, of_raw, right is not None, seen))
    return pd.DataFrame(rows, columns=["pattern", "kind", "library", "implementation", "of_raw", "sensible", "outcome"])


def learning_table(stage: Stage) -> pd.DataFrame:
    """Step, seed, and the loss of each implementation."""
    columns = {}
    for name in IMPLEMENTATIONS:
        histories = [pd.read_parquet(path).assign(seed=seed) for seed, path in enumerate(sorted(stage.path("models", name).glob("history_seed*.parquet")))]
        columns[name] = pd.concat(histories).set_index(["seed", "step"]).value
    return pd.DataFrame(columns).reset_index()


def learning_metrics(table: pd.DataFrame, stage: Stage) -> dict[str, float]:
    """The largest difference of losses between any two implementations, and what each has learned."""
    labels = load_file(stage.path("prepared") / "digits.safetensors")["test_labels"]
    metrics = {"learning.largest_difference": max((table[a] - table[b]).abs().max() for a, b in combinations(IMPLEMENTATIONS, 2))}
    for name in IMPLEMENTATIONS:
        accuracy = (load_file(stage.path("models", name) / "logits.safetensors")["logits"].argmax(-1) == labels).mean(-1)
        metrics |= {
            f"learning.{name}.accuracy.mean": accuracy.mean(),
            f"learning.{name}.accuracy.se": accuracy.std(ddof=1) / np.sqrt(len(accuracy)) if len(accuracy) > 1 else 0.0,
            f"learning.{name}.last_loss": table[table.step == table.step.max()][name].mean(),
        }
    return metrics
