"""The site: `reports/site/index.html`, a page per paper, opened from the disk or served. `python -m reprise.site` writes it.

Everything on it comes from declarations and committed results, so it is built without data and is the same wherever it
is built. Time and hardware are nothing a rebuild could repeat: they come from `pipelines/<paper>/times.yaml`, which
`reprise time` measured and wrote once.
"""

import hashlib
import shutil
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2
from markdown_it import MarkdownIt
from markupsafe import Markup

from reprise import claims, drawing, params, paths
from reprise.stage import fail_clearly

PAGES = Path(__file__).parent / "pages"
PLANNED = paths.PIPELINES / "papers.yaml"
REPORTS = paths.ROOT / "reports"
SITE = REPORTS / "site"
MARKDOWN = MarkdownIt("commonmark", {"html": False}).enable("table")


def inputs() -> list[str]:
    """What the stage depends on beside its code."""
    files = [PAGES, paths.REGISTRY, paths.ROOT / "params.yaml", drawing.KEPT, REPORTS / "curves"]
    optional = [PLANNED]
    for paper in paths.papers():
        folder = paths.PIPELINES / paper
        files += [folder / "claims.yaml", folder / "params.yaml", REPORTS / paper]
        optional.append(folder / "times.yaml")
    return [str(path.relative_to(paths.ROOT)) for path in files + [path for path in optional if path.exists()]]


@dataclass
class Results:
    """What a paper has to show at one scale."""

    paper: str
    scale: str

    @property
    def folder(self) -> Path:
        """Where they lie."""
        return paths.report(paths.ROOT, self.paper, self.scale)

    @property
    def curves(self) -> Path:
        """The script with its training curves, if it has any."""
        return REPORTS / "curves" / self.scale / f"{self.paper}.js"

    @cached_property
    def outcomes(self) -> list[claims.Outcome]:
        """The verdict on each claim."""
        return claims.outcomes(self.paper, self.scale)

    @property
    def tally(self) -> dict[str, int]:
        """How many claims have which verdict."""
        return claims_by_verdict(self.outcomes)

    @property
    def checksum(self) -> str:
        """The MD5 of `metrics.json`, as it stands in `dvc.lock`."""
        return hashlib.md5((self.folder / "metrics.json").read_bytes()).hexdigest()

    @property
    def details(self) -> Markup:
        """Figures, tables and text of the paper's own page, as HTML with its links made to hold here."""
        page = self.folder / "index.md"
        text = page.read_text() if page.exists() else ""
        text = text.partition("\n## Results\n")[2].partition("\n## What differs")[0]
        tokens = MARKDOWN.parse(text)
        for token in (inner for outer in tokens for inner in (outer, *(outer.children or []))):
            for key in ("src", "href"):
                target = token.attrGet(key)
                if target and ":" not in str(target) and not str(target).startswith("#"):
                    token.attrSet(key, f"{self.scale}/{target}")
            if token.type == "image":
                token.attrSet("loading", "lazy")
        return Markup(MARKDOWN.renderer.render(tokens, MARKDOWN.options, {}))

    @property
    def time(self) -> dict[str, Any] | None:
        """`{machine, kind, seconds: {stage: seconds}}` as measured once, None if nobody did."""
        record = paths.PIPELINES / self.paper / "times.yaml"
        return params.parse(record).get(self.scale) if record.exists() else None


@dataclass
class Paper:
    """A row of the scoreboard."""

    slug: str
    listed: dict[str, str]

    @cached_property
    def declared(self) -> claims.Declaration | None:
        """Its claims, None while it is planned."""
        return claims.declaration(self.slug) if self.slug in paths.papers() else None

    @property
    def title(self) -> str:
        """As it was published."""
        return self.listed.get("title") or self.declared.title

    @cached_property
    def results(self) -> dict[str, Results]:
        """Results by scale, in the order in which the paper declares its scales."""
        scales = params.scales(self.slug) if self.declared else []
        return {scale: Results(self.slug, scale) for scale in scales if claims.metrics(self.slug, scale) is not None}

    @property
    def state(self) -> str:
        """`run`, `declared` (with a pipeline, not run) or `planned`."""
        return "run" if self.results else "declared" if self.declared else "planned"


def claims_by_verdict(outcomes: list[claims.Outcome]) -> dict[str, int]:
    """How many claims have which verdict, zeros included."""
    found = [outcome.verdict for outcome in outcomes]
    return {verdict: found.count(verdict) for verdict in ("reproduced", "not reproduced", "not measured at this scale")}


def papers() -> list[Paper]:
    """The papers of `pipelines/papers.yaml` in its order, then those that are not listed there."""
    listed = params.parse(PLANNED) if PLANNED.exists() else {}
    unlisted = [slug for slug in paths.papers() if slug not in listed]
    return [Paper(slug, listed.get(slug, {})) for slug in [*listed, *unlisted]]


def figure(value: Any) -> str:
    """Four significant digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def build(site: Path = SITE) -> None:
    """Write all pages with the files that they show: copies, so that the folder can be moved or served alone."""
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(PAGES), autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    environment.filters |= {"inline": lambda text: Markup(MARKDOWN.renderInline(str(text).strip())), "figure": figure}
    shutil.rmtree(site, ignore_errors=True)
    site.mkdir(parents=True)
    for asset in ("site.css", "site.js", "curves.js"):
        shutil.copyfile(PAGES / asset, site / asset)
    every = papers()
    scales = [scale for scale in params.shared("profile") if any(scale in paper.results for paper in every)]
    totals = {scale: {v: sum(p.results[scale].tally[v] for p in every if scale in p.results) for v in claims_by_verdict([])} for scale in scales}
    (site / "index.html").write_text(environment.get_template("index.html").render(papers=every, scales=scales, totals=totals))
    registry = params.parse(paths.REGISTRY)
    for paper in (paper for paper in every if paper.declared):
        folder = site / paper.slug
        folder.mkdir()
        for scale, results in paper.results.items():
            shutil.copytree(results.folder, folder / scale)
            if results.curves.exists():
                shutil.copyfile(results.curves, folder / scale / "curves.js")
        page = environment.get_template("paper.html").render(paper=paper, stages=drawing.boxes(paper.slug), drawn=Markup(drawing.svg(paper.slug)), files=registry.get(paper.slug) or {})
        (folder / "index.html").write_text(page)


if __name__ == "__main__":
    sys.exit(fail_clearly(build))
