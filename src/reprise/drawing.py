"""A paper's pipeline as an SVG drawing: the stages of its `dvc.yaml`, an arrow where one reads what another writes.

DVC takes no `dvc.yaml` as a dependency, so that the site could not depend on what it draws. `pipelines/stages.json`
stands between: `python -m reprise.closure --write` keeps it equal to the declarations, and a test fails when it is not.
"""

import json
from dataclasses import dataclass, field
from typing import Any
from xml.sax.saxutils import escape

from reprise import params, paths

KEPT = paths.PIPELINES / "stages.json"
WIDTH, HEIGHT, GAP_X, GAP_Y, MARGIN = 132, 46, 44, 22, 8


@dataclass
class Box:
    """A stage as declared, before `matrix:` multiplies it."""

    name: str
    does: str
    reads: list[str]
    writes: list[str]
    variants: int  # how many runs of it a scale has
    column: int = 0
    row: float = 0
    after: list["Box"] = field(default_factory=list)  # the stages whose outputs it reads
    before: list["Box"] = field(default_factory=list)  # the stages that read its outputs


def declared() -> dict[str, dict[str, Any]]:
    """What `pipelines/stages.json` has to say: paper -> stage -> what it does, reads and writes, and its number of variants."""
    found: dict[str, dict[str, Any]] = {}
    for paper in paths.papers():
        count = len(params.of_paper(paper).get("variants") or [])
        for name, stage in params.parse(paths.PIPELINES / paper / "dvc.yaml")["stages"].items():
            outs = [path for key in ("outs", "metrics", "plots") for out in stage.get(key) or [] for path in ([out] if isinstance(out, str) else out)]
            reads = [dep for dep in stage.get("deps") or [] if dep.startswith(("data/", "reports/"))]
            variants = count if "variant" in stage.get("matrix", {}) else 1
            found.setdefault(paper, {})[name] = {"does": stage.get("desc", ""), "reads": reads, "writes": outs, "variants": variants}
    return found


def boxes(paper: str) -> list[Box]:
    """The stages of a paper with who feeds whom, in declaration order."""
    found = [Box(name, **stage) for name, stage in json.loads(KEPT.read_text())[paper].items()]
    for box in found:
        box.after = [other for other in found if any(_feeds(out, dep) for out in other.writes for dep in box.reads)]
        for other in box.after:
            other.before.append(box)
    return found


def _to_the_end(box: Box) -> int:
    return max((_to_the_end(other) + 1 for other in box.before), default=0)


def _feeds(out: str, dep: str) -> bool:
    return out == dep or out.startswith(f"{dep}/") or dep.startswith(f"{out}/")


def svg(paper: str) -> str:
    """The drawing, left to right; colours come from the page's style sheet."""
    drawn = boxes(paper)
    last = max(map(_to_the_end, drawn))
    columns: dict[int, list[Box]] = {}
    for box in drawn:
        box.column = last - _to_the_end(box)  # as late as what reads it allows: arrows stay short
        columns.setdefault(box.column, []).append(box)
    rows = max(map(len, columns.values()))
    for column in columns.values():
        for i, box in enumerate(column):
            box.row = i + (rows - len(column)) / 2
    wide, high = len(columns) * (WIDTH + GAP_X) - GAP_X + 2 * MARGIN, rows * (HEIGHT + GAP_Y) - GAP_Y + 2 * MARGIN
    parts = [
        f'<svg class="flow" viewBox="0 0 {wide} {high}" width="{wide}" height="{high}" role="img" aria-label="The stages of {escape(paper)}">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto"><path d="M0 0 8 4 0 8z"/></marker></defs>',
    ]
    parts += [_arrow(other, box) for box in drawn for other in _direct(box)]
    parts += map(_box, drawn)
    return "\n".join([*parts, "</svg>"])


def _direct(box: Box) -> list[Box]:
    """The stages it reads from, without those that it also reaches through another: fewer lines, the same order."""

    def reaches(start: Box, goal: Box) -> bool:
        return any(step is goal or reaches(step, goal) for step in start.after)

    return [other for other in box.after if not any(reaches(via, other) for via in box.after if via is not other)]


def _corner(box: Box) -> tuple[float, float]:
    return MARGIN + box.column * (WIDTH + GAP_X), MARGIN + box.row * (HEIGHT + GAP_Y)


def _arrow(start: Box, end: Box) -> str:
    (x0, y0), (x1, y1) = _corner(start), _corner(end)
    x0, y0, y1 = x0 + WIDTH, y0 + HEIGHT / 2, y1 + HEIGHT / 2
    turn = x1 - GAP_X / 2  # level until just before the end, so that a long arrow passes beside the boxes between
    return f'<path class="arrow" marker-end="url(#tip)" d="M{x0:g} {y0:g}C{turn:g} {y0:g} {turn:g} {y1:g} {x1:g} {y1:g}"/>'


def _box(box: Box) -> str:
    x, y = _corner(box)
    below = f"{box.variants} variants" if box.variants > 1 else ""
    name = f'<text x="{x + WIDTH / 2:g}" y="{y + (20 if below else 28):g}">{escape(box.name)}</text>'
    if below:
        name += f'<text class="small" x="{x + WIDTH / 2:g}" y="{y + 36:g}">{below}</text>'
    return f'<g><title>{escape(box.does)}</title><rect x="{x:g}" y="{y:g}" width="{WIDTH}" height="{HEIGHT}" rx="8"/>{name}</g>'
