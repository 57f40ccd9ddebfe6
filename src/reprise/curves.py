"""Training histories thinned for the site: `reports/curves/<scale>/<paper>.js`. `python -m reprise.curves` writes them.

The histories are large and lie in DVC's cache; these files are small and in git, so that the site can be built, and shows
the curves of every scale, where no data lie. They are scripts because a page opened from a disk may load no JSON.
"""

import argparse
import json
import math
import shutil
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from reprise import params, paths, tracking
from reprise.errors import unknown
from reprise.stage import fail_clearly

BYTES = 300_000  # of one file, so that a page with the curves of three scales stays below 1 MB
# (points of a curve, members of main loops, members of the others), tried until it fits.
SIZES = [(points, *members) for members in ((100, 100), (100, 5), (100, 0), (16, 0), (5, 0), (0, 0)) for points in (120, 60, 40, 25)] + [(12, 0, 0), (6, 0, 0)]


def inputs() -> list[str]:
    """What the stage depends on beside its code: the models of every paper that trains."""
    wanted = {paper: f"data/{paper}/${{item.scale}}/models" for paper in paths.papers()}
    return [models for paper, models in wanted.items() if models in (paths.PIPELINES / paper / "dvc.yaml").read_text()]


def histories(models: Path) -> dict[tuple[str, str], pd.DataFrame]:
    """(loop, variant) -> step, metric, member, value of everything trained at a scale, main loops first."""
    found = {(loop, folder.name): frame for folder in sorted(models.glob("*")) for loop, frame in tracking.histories(models, folder.name).items()}
    return dict(sorted(found.items()))


def thinned(found: dict[tuple[str, str], pd.DataFrame], points: int, main: int, others: int) -> dict[str, Any]:
    """`{loop: {names: {variant: [member]}, metrics: {metric: {variant: curve}}}}`.

    A curve `{x, of, mean, y}` has at most `points` steps, the last one kept, and a row of `y` for each of at most `main`
    (`others`, where the loop has a name) of its `of` members, spread evenly. Its mean is over all, summed exactly, so that
    no instruction set shows in it.
    """
    tree: dict[str, Any] = {}
    for (loop, variant), frame in found.items():
        members = list(dict.fromkeys(frame.member))
        shown = [members[i] for i in _spread(len(members), others if loop else main)] if len(members) > 1 else []
        place = tree.setdefault(loop, {"names": {}, "metrics": {}})
        place["names"][variant] = shown
        for metric, rows in frame.groupby("metric", sort=True):
            table = rows.pivot_table(index="step", columns="member", values="value", dropna=False, aggfunc="last").reindex(columns=members).dropna(axis=1, how="all")
            table = table.iloc[_spread(len(table), points)]
            place["metrics"].setdefault(metric, {})[variant] = {
                "x": [int(step) for step in table.index],
                "of": table.shape[1],
                "mean": [_mean(values) for values in table.to_numpy()],
                "y": [[_short(value) for value in table[member]] if member in table else [] for member in shown],
            }
    return tree


def _spread(length: int, most: int) -> list[int]:
    """At most `most` of `length` positions, evenly spread, both ends among them."""
    return sorted({round(i * (length - 1) / max(1, min(length, most) - 1)) for i in range(min(length, most))})


def _mean(values: Any) -> float | None:
    finite = [float(value) for value in values if math.isfinite(value)]
    return _short(math.fsum(finite) / len(finite)) if len(finite) == len(values) else None


def _short(value: float) -> float | None:
    return float(f"{value:.4g}") if math.isfinite(value) else None


def script(scale: str, found: dict[tuple[str, str], pd.DataFrame]) -> str:
    """The file of one paper: a call of `curves`, which the site's own script defines."""
    for size in SIZES:
        text = f"curves({json.dumps(scale)}, {json.dumps(thinned(found, *size), separators=(',', ':'))});\n"
        if len(text) <= BYTES:
            break
    return text


def main() -> None:
    """Write the curves of every paper at one scale."""
    parser = argparse.ArgumentParser(prog="python -m reprise.curves", description=main.__doc__)
    parser.add_argument("--scale", default="small")
    scale = parser.parse_args().scale
    if scale not in params.shared("profile"):
        raise unknown("scale", scale, params.shared("profile"))
    folder = paths.ROOT / "reports" / "curves" / scale
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for paper in paths.papers():
        if found := histories(paths.data(paths.ROOT, paper, scale, "models")):
            (folder / f"{paper}.js").write_text(script(scale, found))


if __name__ == "__main__":
    sys.exit(fail_clearly(main))
