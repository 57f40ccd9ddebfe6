"""`reprise`: look at papers, run them, check them, add one."""

import argparse
import json
import re
import shutil
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from reprise import claims, closure, determinism, engine, params, paths
from reprise.errors import ReproError
from reprise.stage import fail_clearly

TEMPLATE = Path(__file__).parent / "template"
MARK = {"reproduced": "✔", "not reproduced": "✘", "not measured at this scale": "–"}


def _papers(named: list[str]) -> list[str]:
    for paper in named:
        params.of_paper(paper)
    return named or paths.papers()


def _show(rows: list[dict], as_json: bool) -> None:
    """A list of flat records as a table on a terminal, as JSON for machines."""
    if as_json:
        print(json.dumps(rows, indent=1))
    elif rows:
        table = Table(*rows[0], box=None, header_style="bold")
        for row in rows:
            table.add_row(*("" if v is None else f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()))
        Console().print(table)


def tally(paper: str, scale: str) -> dict[str, int]:
    """How many claims have which verdict."""
    verdicts = [outcome.verdict for outcome in claims.outcomes(paper, scale)]
    return {verdict: verdicts.count(verdict) for verdict in MARK}


def list_(args) -> int:
    """The papers, with the state of their claims at each scale that was run."""
    rows = []
    for paper in paths.papers():
        row = {"paper": paper, "title": claims.declaration(paper).title}
        for scale in ("small", "real", "gpu"):
            run = claims.metrics(paper, scale) is not None
            row[scale] = " ".join(f"{MARK[v]}{n}" for v, n in tally(paper, scale).items() if n) if run else ""
        rows.append(row)
    _show(rows, args.json)
    return 0


def show(args) -> int:
    """What a paper says, its claims with our figures, its stages and data."""
    paper = _papers([args.paper])[0]
    declared = claims.declaration(paper)
    if not args.json:
        print(f"{declared.title}\n{declared.authors}\n{declared.link}\n\n{declared.summary.strip()}\n")
    _show([{"claim": o.claim.id, "verdict": o.verdict, "paper": o.claim.paper, "ours": o.ours, "spread": o.spread} for o in claims.outcomes(paper, args.scale)], args.json)
    if not args.json:
        from reprise.datasets import registry

        print("\nstages")
        _show([{"stage": n.name, "outputs": ", ".join(n.outs)} for n in engine.graph().values() if n.paper == paper], False)
        for file, entry in registry(paper).items():
            print(f"data: {file} ({entry['bytes']} bytes, {entry['licence']})")
        print(f"\nrun: reprise run {paper}    page: reports/{paper}/{args.scale}/index.md")
    return 0


def run(args) -> int:
    """Bring papers up to date, in parallel."""
    if args.scale and args.scale not in params.shared("scales"):
        raise ReproError(f"scale {args.scale!r} is not among `scales:` in params.yaml ({', '.join(params.shared('scales'))}): add it there, then run again")
    return engine.reproduce(args.papers and _papers(args.papers), args.cores, args.profile)


def status(args) -> int:
    """Fresh or stale, by content and without data: stale if a declared input differs from what dvc.lock recorded."""
    rows, stale = [], False
    nodes = engine.graph()
    for paper in _papers(args.papers):
        own = [node for node in nodes.values() if node.paper == paper]
        bad = [node.name for node in own if not _fresh(node)]
        stale |= bool(bad)
        verdicts = {scale: tally(paper, scale) for scale in params.shared("scales")}
        told = "; ".join(f"{scale}: " + " ".join(f"{MARK[v]}{n}" for v, n in tallied.items() if n) for scale, tallied in verdicts.items())
        rows.append({"paper": paper, "stages": len(own), "stale": ", ".join(bad) or "none", "claims": told})
    _show(rows, args.json)
    return 1 if stale else 0


def _fresh(node: engine.Node) -> bool:
    """Whether dvc.lock was made from the current declaration; inputs that are not on disk are taken at the lock's word."""
    known = engine.locked(node)
    if known is None:
        return False
    now = engine.inputs(node)
    now["deps"] = {dep: found or known[0]["deps"].get(dep) for dep, found in now["deps"].items()}
    uncached = all(engine.content(paths.ROOT / out) == known[1].get(out) for out in node.uncached)
    return now == known[0] and uncached


def verify(args) -> int:
    """Rebuild from an empty cache in a scratch clone of the last commit and compare every output with dvc.lock."""
    from reprise import verify as verifier

    compared, deviations = verifier.verify(args.papers and _papers(args.papers), args.against, args.keep)
    _show([d.__dict__ for d in deviations], args.json)
    if not args.json:
        print(f"{compared} outputs rebuilt and compared on {verifier.machine()}: {len(deviations)} deviate" + ("; `reprise why-different` looks for the cause" if deviations else ""))
    return 1 if deviations else 0


def why_different(args) -> int:
    """Hash elementary operations under the portable profile and name the first whose bits are not the golden ones."""
    determinism.enter("portable", ["-m", "reprise.cli", *sys.argv[1:]])
    from reprise import verify as verifier

    if args.write:
        verifier.GOLDEN.parent.mkdir(exist_ok=True)
        verifier.GOLDEN.write_text(json.dumps(verifier.operations(), indent=1) + "\n")
    wrong = verifier.why_different()
    print(f"{verifier.machine()}: " + (f"the first operation with other bits is {wrong[0]!r} ({len(wrong)} in all: {', '.join(wrong)})" if wrong else "all operations have the golden bits"))
    return 1 if wrong else 0


def check(args) -> int:
    """The claims of every paper against its metrics: exit code 1 if one that held no longer does."""
    lines = [line for paper in _papers(args.papers) for scale in params.shared("scales") for line in claims.check(paper, scale)]
    print("\n".join(lines) or "all claims are as declared")
    return 1 if lines else 0


def report(args) -> int:
    """Write the page of a paper again from its results."""
    from reprise import stage

    for paper in _papers(args.papers):
        stage.run(paper, "report", args.scale)
        print(f"reports/{paper}/{args.scale}/index.md")
    return 0


def new(args) -> int:
    """Write a paper that runs at once: five stages around a small real method, claims, tests and a page."""
    slug = args.slug
    if not re.fullmatch(r"[a-z][a-z0-9]*", slug):
        raise ReproError(f"{slug!r} is not a paper's name: lower-case letters and digits, a letter first")
    places = {"paper": paths.ROOT / "src/reprise/papers" / slug, "pipeline": paths.PIPELINES / slug, "tests": paths.ROOT / "tests/papers" / slug}
    for place in places.values():
        if place.exists():
            raise ReproError(f"{place.relative_to(paths.ROOT)} exists already")
    for part, place in places.items():
        shutil.copytree(TEMPLATE / part, place, ignore=shutil.ignore_patterns("__pycache__"))
        for file in list(place.iterdir()):
            file.write_text(file.read_text().replace("SLUG", slug))
            file.rename(file.with_name(file.name.replace("SLUG", slug)))
    for declared in (slug, None):
        closure.write(declared)
    print(f"wrote {', '.join(str(p.relative_to(paths.ROOT)) for p in places.values())}")
    print(f"next: dvc repro pipelines/{slug}/dvc.yaml    then replace the method; docs/adding-a-paper.md walks through it")
    return 0


def main() -> int:
    """Parse and dispatch."""
    parser = argparse.ArgumentParser(prog="reprise", description=__doc__, epilog="start with: reprise list; reprise show smalltowers; reprise run smalltowers")
    parser.add_argument("--json", action="store_true", help="machine-readable output (list, show, status, verify)")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")

    def command(function, name: str, papers: bool = False):
        one = commands.add_parser(name, help=function.__doc__.splitlines()[0], description=function.__doc__)
        one.set_defaults(call=function)
        one.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        if papers:
            one.add_argument("papers", nargs="*", help="default: all")
        return one

    command(list_, "list")
    one = command(show, "show")
    one.add_argument("paper")
    one.add_argument("--scale", default="small")
    one = command(run, "run", papers=True)
    one.add_argument("--scale", help="must be among `scales:` of params.yaml; default: all of those")
    one.add_argument("--cores", type=int)
    one.add_argument("--profile", default="profiles/local", help="Snakemake profile: profiles/local, profiles/slurm, profiles/kubernetes")
    command(status, "status", papers=True)
    one = command(verify, "verify", papers=True)
    one.add_argument("--against", type=Path, metavar="CHECKOUT", help="compare with the dvc.lock files of another checkout")
    one.add_argument("--keep", action="store_true", help="leave the scratch clone for a look")
    one = command(why_different, "why-different")
    one.add_argument("--write", action="store_true", help="take this machine's hashes as the golden ones")
    command(check, "check", papers=True)
    one = command(report, "report", papers=True)
    one.add_argument("--scale", default="small")
    command(new, "new").add_argument("slug", help="the paper's name: lower-case letters and digits")
    args = parser.parse_args()
    return args.call(args)


def entry() -> int:
    """The console script: `main` with errors as one line."""
    return fail_clearly(lambda: sys.exit(main()))


if __name__ == "__main__":
    sys.exit(entry())
