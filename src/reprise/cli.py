"""`reprise`: look at papers, run them, check them, add one."""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from ruamel.yaml import YAML

from reprise import claims, closure, determinism, engine, params, paths
from reprise.errors import ReproError, unknown
from reprise.stage import fail_clearly

TEMPLATE = Path(__file__).parent / "template"
MARK = {"reproduced": "✔", "not reproduced": "✘", "not measured at this scale": "–"}
LEARN = """\
a first quarter of an hour:
  reprise list                   what there is, and how its claims fare
  reprise show smalltowers       what a paper says, its claims with our figures, its stages and data
  reprise run smalltowers        make everything again that is not up to date, on all cores
  reprise status                 what is stale, without looking at data
  reprise verify smalltowers     rebuild from nothing in a scratch clone and compare every bit

-q prints only what a script needs, --json prints everything as JSON. `reprise COMMAND --help` has examples.
exit codes: 0 all is well; 1 a check failed, or the work did; 2 the command line is not understood."""


# -- printing --------------------------------------------------------------------------------------------------------


def _tell(args: argparse.Namespace, rows: list[dict[str, Any]], quiet: str = "") -> None:
    """Flat records as JSON for machines, as one column `quiet` for scripts, else as a table."""
    if args.json:
        print(json.dumps(rows, indent=1))
    elif args.quiet:
        for row in rows:
            print(row[quiet])
    elif rows:
        table = Table(*rows[0], box=None, header_style="bold")
        for row in rows:
            table.add_row(*("" if v is None else f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()))
        Console(width=None if sys.stdout.isatty() else 1000, highlight=False).print(table)


def tally(paper: str, scale: str) -> dict[str, int]:
    """How many claims have which verdict."""
    verdicts = [outcome.verdict for outcome in claims.outcomes(paper, scale)]
    return {verdict: verdicts.count(verdict) for verdict in MARK}


def _marks(paper: str, scale: str) -> str:
    return " ".join(f"{MARK[v]}{n}" for v, n in tally(paper, scale).items() if n) if claims.metrics(paper, scale) is not None else ""


# -- looking ---------------------------------------------------------------------------------------------------------


def list_(args: argparse.Namespace) -> int:
    """the papers, with how many claims hold at each scale"""
    marks = {paper: {scale: _marks(paper, scale) for scale in params.shared("profile")} for paper in paths.papers()}
    run_at = [scale for scale in params.shared("profile") if any(marks[paper][scale] for paper in marks)]
    rows = [{"paper": paper, "title": claims.declaration(paper).title, **{scale: marks[paper][scale] for scale in run_at}} for paper in marks]
    _tell(args, rows, quiet="paper")
    return 0


def show(args: argparse.Namespace) -> int:
    """what a paper says, its claims with our figures, its stages, data and last results"""
    paper, scale = args.paper, args.scale
    params.section(paper, scale)
    declared = claims.declaration(paper)
    judged = [{"claim": o.claim.id, "verdict": o.verdict, "paper": o.claim.paper, "ours": o.ours, "spread": o.spread} for o in claims.outcomes(paper, scale)]
    stages = [{"stage": node.name, "state": "fresh" if _fresh(node) else "stale", "outputs": ", ".join(node.outs)} for node in engine.graph().values() if node.paper == paper]
    data = [{"file": file, "bytes": entry["bytes"], "licence": entry["licence"], "sha256": entry["sha256"]} for file, entry in (params.read(paths.REGISTRY).get(paper) or {}).items()]
    if args.json:
        told = declared.model_dump(include={"title", "authors", "link", "summary"}) | {"scale": scale}
        print(json.dumps(told | {"claims": judged, "stages": stages, "data": data, "metrics": claims.metrics(paper, scale)}, indent=1))
        return 0
    if args.quiet:
        _tell(args, [{"line": f"{MARK[row['verdict']]} {row['claim']}"} for row in judged], quiet="line")
        return 0
    print(f"{declared.title}\n{declared.authors}\n{declared.link}\n\n{declared.summary.strip()}\n\nclaims at scale {scale}")
    _tell(args, judged)
    print("\nstages")
    _tell(args, stages)
    if data:
        print("\ndata that some scale downloads")
        _tell(args, [row | {"sha256": row["sha256"][:12] + "…"} for row in data])
    page = paths.report(Path(), paper, scale) / "index.md"
    print(f"\nresults: {page}" if (paths.ROOT / page).exists() else f"\nnot run yet at scale {scale}: reprise run {paper} --scale {scale}")
    return 0


def status(args: argparse.Namespace) -> int:
    """what is fresh and what is stale, by content and without data, and when it last ran; exit code 1 if anything is stale"""
    rows = []
    nodes = engine.graph()
    own = {paper: [node for node in nodes.values() if node.paper == paper] for paper in args.papers or paths.papers()}
    last = [node for node in nodes.values() if not node.paper]
    if not args.papers and any(engine.locked(node) for node in last):
        own["(all)"] = last  # the scoreboard and the site
    for paper, mine in own.items():
        told = "" if paper == "(all)" else "; ".join(f"{scale}: {_marks(paper, scale) or 'not run'}" for scale in params.shared("scales"))
        stale = ", ".join(node.name for node in mine if not _fresh(node)) or "none"
        rows.append({"paper": paper, "stages": len(mine), "stale": stale, "claims": told, "last run here": _last_run(paper)})
    stale = [row for row in rows if row["stale"] != "none"]
    _tell(args, stale if args.quiet and not args.json else rows, quiet="paper")
    return 1 if stale else 0


def _last_run(paper: str) -> str:
    """When a stage of `paper` last did anything in this checkout, by its log; empty where none has."""
    logs = (paths.ROOT / ".reprise" / "logs").glob(f"{paper}.*@*.log")
    latest = max((log.stat().st_mtime for log in logs), default=None)
    return datetime.fromtimestamp(latest).isoformat(" ", "minutes") if latest else ""


def _fresh(node: engine.Node) -> bool:
    """Whether dvc.lock was made from the current declaration; inputs that are not on disk are taken at the lock's word."""
    known = engine.locked(node)
    if known is None:
        return False
    now = engine.inputs(node)
    now["deps"] = {dep: found or known[0]["deps"].get(dep) for dep, found in now["deps"].items()}
    uncached = all(engine.content(paths.ROOT / out) == known[1].get(out) for out in node.uncached)
    return now == known[0] and uncached


# -- running ---------------------------------------------------------------------------------------------------------


def run(args: argparse.Namespace) -> int:
    """bring papers up to date, in parallel; what is up to date is skipped"""
    scales = params.shared("scales")
    if args.scale and args.scale not in scales:
        raise ReproError(f"scale {args.scale!r} is not among `scales:` in params.yaml ({', '.join(scales)}): add it there, then run again")
    with _into_a_log(paths.private(paths.ROOT, "logs") / "run.log", args.quiet):
        if args.scale and len(scales) > 1:  # one of several: DVC takes single stages, and what they need, by name
            wanted = [node.address for node in engine.chosen(engine.graph(), args.papers) if node.scale == args.scale]
            code = subprocess.run([sys.executable, "-m", "dvc", "repro", *wanted], cwd=paths.ROOT, check=False).returncode
        else:
            code = engine.reproduce(args.papers, args.cores, args.profile)
    if code and args.quiet:
        print("error: something failed, see .reprise/logs/run.log", file=sys.stderr)
    return 1 if code else 0


@contextmanager
def _into_a_log(log: Path, wanted: bool) -> Iterator[None]:
    """Send what this process and its children print to a file, while inside."""
    if not wanted:
        yield
        return
    sys.stdout.flush()
    kept = os.dup(1), os.dup(2)
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept[0], 1)
        os.dup2(kept[1], 2)


def report(args: argparse.Namespace) -> int:
    """write the page of a paper again from its results"""
    from reprise import stage

    for paper in args.papers or paths.papers():
        params.section(paper, args.scale)
        with _into_a_log(paths.private(paths.ROOT, "logs") / "report.log", args.quiet):
            stage.run(paper, "report", args.scale)
        print(f"reports/{paper}/{args.scale}/index.md")
    return 0


def time_(args: argparse.Namespace) -> int:
    """note for the site what each stage took when `reprise run` or `reprise verify` last ran it here"""
    gpu = args.scale in ("gpu", "paper")
    rows = []
    for paper in args.papers or paths.papers():
        seconds: dict[str, float] = {}
        for node in engine.graph().values():
            if node.paper != paper or node.scale != args.scale:
                continue
            if not engine.spent(node).exists():
                raise ReproError(f"{node.address} has not been timed in this checkout: reprise verify {paper}")
            stage, record = node.stage, json.loads(engine.spent(node).read_text())
            seconds[stage] = round(seconds.get(stage, 0) + record["wall" if gpu else "CPU"], 1)
        if not seconds:
            raise ReproError(f"{paper} has no stage at scale {args.scale!r}: add it to `scales:` in params.yaml")
        path = paths.PIPELINES / paper / "times.yaml"
        kept = params.parse(path) if path.exists() else {}
        kept[args.scale] = {"machine": _machine(gpu), "kind": "wall" if gpu else "CPU", "seconds": seconds}
        with path.open("w") as file:
            file.write(f"# Measured once, noted by `reprise time {paper} --scale {args.scale}`; part of no result.\n")
            YAML().dump(kept, file)
        rows += [{"paper": paper, "stage": stage, "seconds": taken} for stage, taken in seconds.items()]
    _tell(args, rows, quiet="seconds")
    return 0


def _machine(gpu: bool) -> str:
    if gpu:
        import torch

        return torch.cuda.get_device_name()
    from reprise import verify as verifier

    return verifier.machine()


# -- checking --------------------------------------------------------------------------------------------------------


def verify(args: argparse.Namespace) -> int:
    """rebuild the last commit from an empty cache in a scratch clone and compare every output; exit code 1 if one deviates"""
    from reprise import verify as verifier

    compared, deviations = verifier.verify(args.papers, args.against, args.keep, args.scale)
    _tell(args, [d.__dict__ for d in deviations], quiet="output")
    if not args.json and not args.quiet:
        print(f"{compared} outputs rebuilt and compared on {verifier.machine()}: {len(deviations)} deviate" + ("; `reprise why-different` looks for the cause" if deviations else ""))
    return 1 if deviations else 0


def why_different(args: argparse.Namespace) -> int:
    """hash elementary operations and name the first whose bits are not the golden ones; exit code 1 if there is one"""
    determinism.enter("portable", ["-m", "reprise.cli", *sys.argv[1:]])
    from reprise import verify as verifier

    if args.write:
        verifier.GOLDEN.parent.mkdir(exist_ok=True)
        verifier.GOLDEN.write_text(json.dumps(verifier.operations(), indent=1) + "\n")
    wrong = verifier.why_different()
    if args.json or args.quiet:
        _tell(args, [{"operation": name} for name in wrong], quiet="operation")
    else:
        print(f"{verifier.machine()}: " + (f"the first operation with other bits is {wrong[0]!r} ({len(wrong)} in all: {', '.join(wrong)})" if wrong else "all operations have the golden bits"))
    return 1 if wrong else 0


def check(args: argparse.Namespace) -> int:
    """the claims of papers against their metrics, at every scale that has some; exit code 1 if one that held no longer does"""
    lines = [line for paper in args.papers or paths.papers() for scale in params.scales(paper) for line in claims.check(paper, scale)]
    if args.json:
        print(json.dumps(lines, indent=1))
    elif lines or not args.quiet:
        print("\n".join(lines) or "all claims are as declared")
    return 1 if lines else 0


# -- adding ----------------------------------------------------------------------------------------------------------


def new(args: argparse.Namespace) -> int:
    """write a paper that runs at once: five stages around a small real method, claims, tests and a page"""
    slug = args.slug
    places = {"paper": paths.ROOT / "src/reprise/papers" / slug, "pipeline": paths.PIPELINES / slug, "tests": paths.ROOT / "tests/papers" / slug}
    for place in places.values():
        if place.exists():
            raise ReproError(f"{place.relative_to(paths.ROOT)} exists already: choose another name, or remove it")
    for part, place in places.items():
        shutil.copytree(TEMPLATE / part, place, ignore=shutil.ignore_patterns("__pycache__"))
        for file in list(place.iterdir()):
            file.write_text(file.read_text().replace("SLUG", slug))
            file.rename(file.with_name(file.name.replace("SLUG", slug)))
    for declared in (slug, None):
        closure.write(declared)
    if args.json:
        print(json.dumps({part: str(place.relative_to(paths.ROOT)) for part, place in places.items()}, indent=1))
    elif args.quiet:
        print(slug)
    else:
        print("wrote " + ", ".join(f"{place.relative_to(paths.ROOT)}/" for place in places.values()))
        print(f"next:  dvc repro pipelines/{slug}/dvc.yaml     then   make test     docs/adding-a-paper.md walks through the rest")
    return 0


# -- the command line ------------------------------------------------------------------------------------------------


class Parser(argparse.ArgumentParser):
    """argparse that suggests the nearest name for a misspelt command or option."""

    def __init__(self, **kwargs: Any):
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **kwargs)

    def error(self, message: str) -> None:
        """One line that says what is not understood, and exit code 2."""
        if found := re.search(r"argument command: invalid choice: '([^']*)'", message):
            message = str(unknown("command", found[1], COMMANDS))
        elif found := re.search(r"unrecognized arguments: (-\S+)", message):
            options = {option for action in self._command_actions() for option in action.option_strings}
            message = str(unknown("option", found[1].partition("=")[0], options))
        self.exit(2, f"error: {message}\n`{self.prog} --help` says more\n")

    def _command_actions(self) -> list[argparse.Action]:
        subparsers = [parser for action in self._actions if isinstance(action, argparse._SubParsersAction) for parser in action.choices.values()]
        return [action for parser in [self, *subparsers] for action in parser._actions]


def _slug(text: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9]*", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a paper's name: lower-case letters and digits, a letter first")
    return text


def _known(kind: str, names: Callable[[], list[str]]) -> Callable[[str], str]:
    """An argument that has to be one of `names`."""

    def convert(text: str) -> str:
        if text not in names():
            raise argparse.ArgumentTypeError(str(unknown(kind, text, names())))
        return text

    return convert


PAPER = _known("paper", paths.papers)
SCALE = _known("scale", lambda: list(params.shared("profile")))
COMMANDS: dict[str, tuple[Callable[[argparse.Namespace], int], str]] = {
    "list": (list_, "reprise list\n  reprise list --json | python -m json.tool"),
    "show": (show, "reprise show smalltowers\n  reprise show smalltowers --json"),
    "run": (run, "reprise run                                everything\n  reprise run smalltowers --cores 1          one paper, one core\n  reprise run --profile profiles/slurm       on a cluster (docs/engines.md)"),
    "status": (status, "reprise status\n  reprise status -q || reprise run"),
    "report": (report, "reprise report smalltowers"),
    "time": (time_, "reprise time smalltowers                    writes pipelines/smalltowers/times.yaml"),
    "verify": (verify, "reprise verify smalltowers\n  reprise verify semgame --scale real\n  reprise verify --against ../another/checkout"),
    "why-different": (why_different, "reprise why-different"),
    "check": (check, "reprise check"),
    "new": (new, "reprise new mypaper\n  dvc repro pipelines/mypaper/dvc.yaml"),
}


def parser() -> Parser:
    """The whole command line."""
    whole = Parser(prog="reprise", description=__doc__, epilog=LEARN)
    whole.add_argument("--json", action="store_true", help="everything, as JSON")
    whole.add_argument("-q", "--quiet", action="store_true", help="only what a script needs")
    commands = whole.add_subparsers(dest="command", metavar="command")
    made = {}
    for name, (function, examples) in COMMANDS.items():
        text = function.__doc__
        made[name] = one = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.", epilog=f"examples:\n  {examples}")
        one.set_defaults(call=function)
        one.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="everything, as JSON")
        one.add_argument("-q", "--quiet", action="store_true", default=argparse.SUPPRESS, help="only what a script needs")
    made["show"].add_argument("paper", type=PAPER, help="a folder of pipelines/; `reprise list` names them")
    for name in ("run", "status", "report", "verify", "time", "check"):
        made[name].add_argument("papers", type=PAPER, nargs="*", help="default: all")
    for name in ("show", "report", "time"):
        made[name].add_argument("--scale", type=SCALE, default="small", help="default: small")
    made["run"].add_argument("--scale", type=SCALE, help="one of `scales:` in params.yaml; default: all of those")
    made["run"].add_argument("--cores", type=int, metavar="N", help="default: all of this machine")
    made["run"].add_argument("--profile", default="profiles/local", help="Snakemake profile: profiles/local, profiles/slurm, profiles/kubernetes")
    made["verify"].add_argument("--scale", type=SCALE, help="any that a lock knows; default: those of params.yaml")
    made["verify"].add_argument("--against", type=Path, metavar="CHECKOUT", help="compare with the dvc.lock files of another checkout")
    made["verify"].add_argument("--keep", action="store_true", help="leave the scratch clone for a look")
    made["why-different"].add_argument("--write", action="store_true", help="take this machine's hashes as the golden ones")
    made["new"].add_argument("slug", type=_slug, help="the paper's name: lower-case letters and digits")
    return whole


def main() -> int:
    """Parse and dispatch."""
    engine.own_python_first()
    whole = parser()
    args = whole.parse_args()
    if not args.command:
        whole.print_help()
        return 2
    return args.call(args)


def entry() -> int:
    """The console script: `main` with errors as one line."""
    return fail_clearly(lambda: sys.exit(main()))


if __name__ == "__main__":
    sys.exit(entry())
