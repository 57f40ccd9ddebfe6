"""The one entry point of every stage: `python -m reprise.stage <paper> <stage> --scale S [--variant V]`.

The launcher enters the numeric profile of the scale, builds the stage's typed parameters, hands both with a `Stage` to
the paper's function of that name, and moves what it wrote into place. A stage that fails leaves nothing behind.
"""

import argparse
import ctypes
import errno
import fcntl
import importlib
import importlib.util
import inspect
import json
import math
import os
import re
import select
import shutil
import signal
import sys
import threading
import traceback
import typing
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reprise import determinism, paths
from reprise import params as parameters
from reprise.errors import ReproError, unknown

if TYPE_CHECKING:
    import numpy
    import torch

METRIC = re.compile(r"[a-z_][a-z0-9_]*(\.[a-z_][a-z0-9_]*)*")


@dataclass
class Stage:
    """What a stage function may know: who it is, where its inputs lie, where it may write, and its random streams."""

    paper: str
    name: str
    scale: str
    variant: str | None = None
    root: Path = paths.ROOT
    params: parameters.Params | None = None
    inputs: list[Path] = field(default_factory=list)  # what was asked for with `path`: part of a resume point's key

    @property
    def id(self) -> str:
        """`<paper>.<stage>@<scale>[-<variant>]`, a name for logs and locks."""
        return f"{self.paper}.{self.name}@{self.scale}" + (f"-{self.variant}" if self.variant else "")

    @property
    def variants(self) -> list[str]:
        """The paper's variants at this scale."""
        return list(parameters.section(self.paper, self.scale).get("variants") or {})

    @property
    def device(self) -> str:
        """`cuda` at the scales that are made for a GPU, else `cpu`.

        Raises:
            ReproError: the scale needs a GPU and there is none.
        """
        if self.scale not in ("gpu", "paper"):
            return "cpu"
        import torch

        if not torch.cuda.is_available():
            raise ReproError(f"scale '{self.scale}' needs a GPU and torch {torch.__version__} sees none: use --scale small, or install a CUDA build of torch")
        return "cuda"

    # -- files ---------------------------------------------------------------------------------------------------

    @cached_property
    def work(self) -> Path:
        """Where the outputs are written before they are moved into place, on the same file system."""
        work = paths.private(self.root, "work") / self.id
        shutil.rmtree(work, ignore_errors=True)
        (work / "out").mkdir(parents=True)
        return work

    @property
    def out(self) -> Path:
        """The folder to write this stage's output to; it appears under its final name when the stage succeeds."""
        return self.work / "out"

    @property
    def target(self) -> Path:
        """Where `out` goes: `data/<paper>/<scale>/<kind>[/<variant>]`, for a report `reports/<paper>/<scale>`."""
        if self.name == "report":
            return paths.report(self.root, self.paper, self.scale)
        kind = paths.FOLDER.get(self.name, self.name)
        return paths.data(self.root, self.paper, self.scale, kind, *([self.variant] if self.variant else []))

    def path(self, kind: str, *parts: str) -> Path:
        """The output of an earlier stage: `path("prepared")`, `path("models", "mtl")`.

        Raises:
            ReproError: it does not exist yet, or it is the folder of all variants and one in it is no longer declared.
        """
        path = paths.data(self.root, self.paper, self.scale, kind, *parts)
        if not path.exists():
            name = path.relative_to(self.root)
            raise ReproError(f"{self.id} needs {name}, which is missing: run `dvc repro pipelines/{self.paper}/dvc.yaml`, or `dvc pull {name}` where a remote has it")
        if kind == "models" and not parts:  # a variant that was renamed would linger here and change what evaluate depends on
            for stray in sorted({p.name for p in path.iterdir()} - set(self.variants)):
                raise ReproError(f"{(path / stray).relative_to(self.root)} belongs to no variant of {self.paper}: remove it")
        self.inputs.append(path)
        return path

    def fetch(self, file: str) -> Path:
        """The file of this paper named in `data/registry.yaml`, verified, in `out`. See `reprise.datasets.fetch`."""
        from reprise import datasets

        return datasets.fetch(self.paper, file, self.out)

    def metrics(self, values: dict[str, float]) -> None:
        """Write `reports/<paper>/<scale>/metrics.json`: flat, sorted, what the claims speak of.

        Raises:
            ReproError: a key is not made of dotted lower-case names, or a value is not a finite number.
        """
        for key, value in values.items():
            if not METRIC.fullmatch(key):
                raise ReproError(f"{self.id}: metric name {key!r} must be dotted lower-case identifiers, such as 'mtl.accuracy.mean'")
            if not isinstance(value, (int, float)) and not hasattr(value, "item") or not math.isfinite(value):
                raise ReproError(f"{self.id}: metric {key!r} is {value!r}, not a finite number")
        plain = {key: value.item() if hasattr(value, "item") else value for key, value in sorted(values.items())}
        (self.work / "metrics.json").write_text(json.dumps(plain, indent=1) + "\n")

    # -- randomness ----------------------------------------------------------------------------------------------

    def seed(self, *purpose: object) -> int:
        """A seed for this paper and purpose, split from the root seed. The variant enters only if you name it."""
        return determinism.seed(parameters.shared("seed"), self.paper, *purpose)

    def rng(self, *purpose: object) -> "numpy.random.Generator":
        """A NumPy generator of its own for `purpose`."""
        import numpy

        return numpy.random.default_rng(self.seed(*purpose))

    def generator(self, *purpose: object) -> "torch.Generator":
        """A torch CPU generator of its own for `purpose`; draw on the CPU, then move."""
        import torch

        return torch.Generator().manual_seed(self.seed(*purpose))

    # -- words ---------------------------------------------------------------------------------------------------

    def log(self, text: str) -> None:
        """One line to the terminal and to this stage's log."""
        print(f"{self.id}: {text}", flush=True)
        with self.logfile.open("a") as file:
            print(text, file=file)

    @property
    def logfile(self) -> Path:
        """`.reprise/logs/<id>.log`, begun anew at each start of the stage."""
        return paths.private(self.root, "logs") / f"{self.id}.log"


def function(paper: str, stage: str):
    """The paper's function `stage`: from its module of that name, else from `data`.

    Raises:
        ReproError: unknown paper or stage.
    """
    parameters.of_paper(paper)
    package = f"reprise.papers.{paper}"
    module = stage if importlib.util.find_spec(f"{package}.{stage}") else "data"
    found = getattr(importlib.import_module(f"{package}.{module}"), stage, None)
    if found is None:
        known = {p.stem for p in (paths.ROOT / "src/reprise/papers" / paper).glob("*.py")} & {"train", "evaluate", "report"}
        data = importlib.import_module(f"{package}.data")
        known |= {n for n, f in vars(data).items() if inspect.isfunction(f) and "stage" in inspect.signature(f).parameters and f.__module__ == data.__name__}
        raise unknown(f"stage of {paper}", stage, known)
    return found


def params_class(stage_function) -> type[parameters.Params] | None:
    """The class that a stage function wants as `params`, None if it wants none."""
    return typing.get_type_hints(stage_function).get("params")


def run(paper: str, stage: str, scale: str = "small", variant: str | None = None, *, params: dict[str, Any] | None = None, root: Path = paths.ROOT) -> Stage:
    """Run one stage in this process and move its output into place; `params={...}` overrides single parameters.

    Raises:
        ReproError: bad input; nothing was written then.
    """
    call = function(paper, stage)
    cls = params_class(call)
    determinism.configure_torch()
    values = parameters.merge(parameters.block(paper, stage, scale, variant), params or {})
    where = f"pipelines/{paper}/params.yaml: {scale}.{stage}"
    job = Stage(paper, stage, scale, variant, root=root)
    if cls is None and values:
        raise ReproError(f"{where}: this stage takes no parameters (found: {', '.join(values)})")
    if cls is not None:
        job.params = parameters.validate(cls, values, where)
    with _exclusive(job), _moved_into_place(job):
        job.logfile.write_text("")
        call(**({"params": job.params} if cls else {}), stage=job)
    return job


@contextmanager
def _exclusive(job: Stage) -> Iterator[None]:
    """One writer a stage, by a lock that the kernel frees when its holder dies."""
    with (paths.private(job.root, "locks") / job.id).open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise ReproError(f"{job.id} is already being run by process {lock.read() or '?'}: wait for it or stop it") from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


@contextmanager
def _moved_into_place(job: Stage) -> Iterator[None]:
    try:
        yield
        moves = [(job.out, job.target)]
        if job.name == "report":  # beside metrics.json, which another stage owns
            moves = [(path, job.target / path.name) for path in sorted(job.out.iterdir())]
        if (job.work / "metrics.json").exists():
            moves.append((job.work / "metrics.json", paths.report(job.root, job.paper, job.scale) / "metrics.json"))
        for source, target in moves:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)
            os.replace(source, target)
        shutil.rmtree(paths.private(job.root, "resume") / job.id, ignore_errors=True)
    finally:
        shutil.rmtree(job.work, ignore_errors=True)


def die_with_parent() -> None:
    """Have the kernel end this process when its direct parent ends."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def die_with_engine() -> None:
    """End this process when the engine that started it does: a killed engine must not leave a second writer behind."""
    die_with_parent()
    pid = os.getppid()
    while pid > 1:  # a shell may stand between us and the engine, and outlive it
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        argv = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        if any(Path(arg).name in ("dvc", "snakemake") for arg in argv[:3]) or "reprise.engine" in argv:
            watched = os.pidfd_open(pid)
            threading.Thread(target=lambda: (select.select([watched], [], []), os.kill(os.getpid(), signal.SIGKILL)), daemon=True).start()
        pid = int(stat[1])


def explain(error: OSError) -> str:
    """What an operating-system error means for the reader of one line."""
    file = error.filename or "an output"
    reasons = {
        errno.ENOSPC: f"the disk is full while writing {file}: free some space and run again (`dvc gc -w` drops unused cache)",
        errno.EDQUOT: f"the disk quota is used up while writing {file}: free some space and run again",
        errno.EROFS: f"{file} lies on a read-only file system: move the checkout or remount it writable",
        errno.EACCES: f"no permission for {file}: make it writable for you (`chmod -R u+w`), or move the checkout",
        errno.EPERM: f"no permission for {file}: make it writable for you (`chmod -R u+w`), or move the checkout",
    }
    return reasons.get(error.errno, f"{file}: {error.strerror or error}")


def fail_clearly(job, *args, **kwargs) -> int:
    """Call `job`; bad input becomes one line and exit code 1, an interruption 130, a bug its traceback and 1."""
    try:
        job(*args, **kwargs)
        return 0
    except ReproError as error:
        print(f"error: {error}", file=sys.stderr)
    except OSError as error:
        if os.environ.get("REPRISE_DEBUG"):
            traceback.print_exc()
        print(f"error: {explain(error)}", file=sys.stderr)
    except Exception as error:
        native = re.search(r"\(os error (\d+)\)", str(error))  # how libraries written in Rust report a full disk
        if not native:
            raise
        print(f"error: {explain(OSError(int(native[1]), str(error)))}", file=sys.stderr)
    except KeyboardInterrupt:
        print("interrupted: run again to go on from the last resume point", file=sys.stderr)
        return 130
    return 1


def main() -> int:
    """Parse the command line, enter the profile, run."""
    parser = argparse.ArgumentParser(prog="python -m reprise.stage", description="Run one stage of one paper.", epilog="example: python -m reprise.stage smalltowers train --scale small --variant mtl")
    parser.add_argument("paper", help="a folder of pipelines/")
    parser.add_argument("stage", help="download, preprocess, train, evaluate, report, or an extra stage of the paper")
    parser.add_argument("--scale", default="small", help="a section of the paper's params.yaml (default: small)")
    parser.add_argument("--variant", help="a method or baseline, one of the paper's variants")
    args = parser.parse_args()

    def launch() -> None:
        parameters.section(args.paper, args.scale)
        profiles = parameters.shared("profile")
        if args.scale not in profiles:
            raise unknown("scale", args.scale, profiles)
        determinism.enter(profiles[args.scale], ["-m", "reprise.stage", *sys.argv[1:]])
        die_with_engine()
        run(args.paper, args.stage, args.scale, args.variant)

    return fail_clearly(launch)


if __name__ == "__main__":
    sys.exit(main())
