"""A page per paper and scale: Markdown that renders on GitHub, with the claims first, then figures, then what differs."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import pandas as pd

from reprise import claims, tracking
from reprise.stage import Stage

# One look for all figures, which survives a black-and-white printer: each line differs by dash and marker, not only by hue.
STYLES = [
    {"color": c, "linestyle": line, "marker": m}
    for c, line, m in zip(
        ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#000000", "#e69f00", "#56b4e9", "#7f7f7f"],
        ["-", "--", "-.", ":", "-", "--", "-.", ":"],
        ["o", "s", "^", "D", "v", "P", "X", "*"],
    )
]
RC = {
    "svg.hashsalt": "reprise",  # else element names are drawn at random
    "svg.fonttype": "path",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "lines.markersize": 4,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}
SIGN = {"reproduced": "✔ reproduced", "not reproduced": "✘ not reproduced", "not measured at this scale": "– not measured at this scale"}


def figure_text(value: float | None, spread: float | None, seeds: int | None) -> str:
    """`0.0123 ± 0.0004 (5 seeds)`, or a dash where nothing was measured."""
    if value is None:
        return "–"
    text = f"{value:.4g}" + (f" ± {spread:.2g}" if spread is not None else "")
    return text + (f" ({seeds} seeds)" if seeds else "")


def markdown_table(frame: pd.DataFrame, digits: int = 4) -> str:
    """A data frame as a Markdown table, floats with `digits` significant digits."""

    def cell(value: Any) -> str:
        text = f"{value:.{digits}g}" if isinstance(value, float) else str(value)
        return " ".join(text.replace("|", "\\|").split())

    rows = [list(frame.columns), *frame.itertuples(index=False)]
    lines = ["| " + " | ".join(map(cell, row)) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(frame.columns), *lines[1:]])


class Page:
    """The page of one paper at one scale; `write` adds the claims, the differences and the way to rerun it."""

    def __init__(self, stage: Stage):
        self.stage = stage
        self.declared = claims.declaration(stage.paper)
        self.parts: list[str] = []
        self.figures = stage.out / "figures"
        self.figures.mkdir()

    @property
    def styles(self) -> Iterator[dict[str, str]]:
        """A fresh cycle of line styles: `ax.plot(x, y, **next(styles))`."""
        return cycle(dict(style) for style in STYLES)

    @contextmanager
    def figure(self, name: str, caption: str, width: float = 6, height: float = 3.6, nrows: int = 1, ncols: int = 1, **subplots: Any) -> Iterator[tuple]:
        """A matplotlib figure as `(fig, ax)`; saved as `figures/<name>.svg`, inches, same values give same bytes."""
        with matplotlib.rc_context(RC):
            fig, ax = plt.subplots(nrows, ncols, figsize=(width, height), **subplots)
            yield fig, ax
            fig.savefig(self.figures / f"{name}.svg", metadata={"Date": None})
            plt.close(fig)
        self.parts.append(f"![{caption}](figures/{name}.svg)\n\n*{caption}*")

    def table(self, frame: pd.DataFrame, caption: str, digits: int = 3) -> None:
        """A table with its caption above."""
        self.parts.append(f"**{caption}**\n\n{markdown_table(frame, digits)}")

    def text(self, markdown: str) -> None:
        """A paragraph of Markdown."""
        self.parts.append(markdown.strip())

    def write(self) -> None:
        """Write `index.md`, then publish the paper's runs to MLflow (a failure there is a warning, never an error)."""
        stage, declared = self.stage, self.declared
        outcomes = claims.outcomes(stage.paper, stage.scale, stage.root)
        rows = [
            {
                "claim": o.claim.says,
                "where": o.claim.where,
                "paper": o.claim.paper,
                "ours": figure_text(o.ours, o.spread, o.claim.seeds),
                "counts as reproduced if": o.claim.margin or f"`{o.claim.holds.get(stage.scale, '')}`",
                "verdict": SIGN[o.verdict],
            }
            for o in outcomes
        ]
        tried = [f"- **{o.claim.id}**: {o.claim.not_reproduced[stage.scale]}" for o in outcomes if stage.scale in o.claim.not_reproduced]
        differs = [f"- **{d.what}** {d.why}" for d in declared.differs]
        parts = [
            f"# {declared.title}",
            f"{declared.authors}. <{declared.link}> · scale `{stage.scale}`",
            declared.summary.strip(),
            "## Claims",
            markdown_table(pd.DataFrame(rows)),
            f"Every figure of ours stands in [metrics.json](metrics.json), made by `dvc repro pipelines/{stage.paper}/dvc.yaml`; the last stage alone: `python -m reprise.stage {stage.paper} evaluate --scale {stage.scale}`.",
            *(["### Not reproduced: what was tried", "\n".join(tried)] if tried else []),
            "## Results",
            *self.parts,
            *(["## What differs from the paper, and why", "\n".join(differs)] if differs else []),
        ]
        (stage.out / "index.md").write_text("\n\n".join(parts) + "\n")
        if os.environ.get("REPRISE_TRACKING") != "off":
            tracking.publish_or_warn(stage.paper, stage.scale, stage.root, figures=self.figures)
