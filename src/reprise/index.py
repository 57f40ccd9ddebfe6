"""The scoreboard: one row per paper, its claims at every scale that was run. `python -m reprise.index` writes it."""

import sys

import pandas as pd

from reprise import claims, paths
from reprise.report import SIGN, markdown_table
from reprise.stage import fail_clearly

ORDER = ("small", "real", "gpu", "paper")


def inputs() -> list[str]:
    """What the stage depends on beside its code."""
    return [path for paper in paths.papers() for path in (f"pipelines/{paper}/claims.yaml", f"reports/{paper}")]


def board() -> pd.DataFrame:
    """One row per paper and scale that has results: how many claims have which verdict."""
    rows = []
    for paper in paths.papers():
        declared = claims.declaration(paper)
        for scale in ORDER:
            if claims.metrics(paper, scale) is None:
                continue
            verdicts = [outcome.verdict for outcome in claims.outcomes(paper, scale)]
            link = f"[{paper}]({paper}/{scale}/index.md)"
            rows.append({"paper": link, "title": declared.title, "scale": scale, **{SIGN[v]: verdicts.count(v) for v in SIGN}})
    return pd.DataFrame(rows)


def main() -> None:
    """Write `reports/index.md`."""
    rows = board()
    text = markdown_table(rows) if len(rows) else "No paper has been run yet."
    (paths.ROOT / "reports").mkdir(exist_ok=True)
    (paths.ROOT / "reports" / "index.md").write_text(f"# Scoreboard\n\nClaims of each paper, as checked against its `metrics.json`.\n\n{text}\n")


if __name__ == "__main__":
    sys.exit(fail_clearly(main))
