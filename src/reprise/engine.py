"""One declaration, two engines: DVC's stages run by Snakemake, with the same dvc.lock at the end.

DVC alone declares stages. `graph` reads the resolved ones and keeps them in a small JSON file, so that a job imports
no DVC. `execute` is what a job runs: it decides by content (never by mtime) whether anything is to do, and leaves a
receipt: the hashes of what the stage depended on before its command ran and of its outputs after. `record` is the one
place that writes dvc.lock: it checks each receipt against the disk and lets DVC commit exactly those stages, in the
order of declaration. Both use DVC through `Repo().index` and the command line only.
"""

import argparse
import fcntl
import hashlib
import json
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from reprise import cache, params, paths
from reprise.errors import ReproError, unknown
from reprise.stage import die_with_engine, die_with_parent, fail_clearly

ROOT = paths.ROOT
os.environ.setdefault("DVC_NO_ANALYTICS", "true")


@dataclass(frozen=True)
class Node:
    """A resolved stage: what `dvc.yaml` says after its templates are filled in, paths relative to the root."""

    address: str  # pipelines/<paper>/dvc.yaml:train@small-mtl
    cmd: str
    deps: list[str]
    params: dict[str, list[str]]  # file -> dotted keys
    outs: list[str]
    uncached: list[str]  # the outs that git keeps, not DVC
    meta: dict[str, Any]
    parents: list[str]

    @property
    def file(self) -> str:
        """The dvc.yaml that declares it."""
        return self.address.rpartition(":")[0] or "dvc.yaml"

    @property
    def name(self) -> str:
        """Its name within that file."""
        return self.address.rpartition(":")[2]

    @property
    def stage(self) -> str:
        """What it does: `train` of `train@small-mtl`."""
        return self.name.partition("@")[0]

    @property
    def scale(self) -> str:
        """Its scale: `small` of `train@small-mtl`, '' where it has none."""
        return self.name.partition("@")[2].partition("-")[0]

    @property
    def paper(self) -> str:
        """The paper, '' for a stage of the root dvc.yaml."""
        return Path(self.file).parent.name

    @property
    def id(self) -> str:
        """A name for files and Snakemake rules."""
        return re.sub(r"\W+", "_", f"{self.paper or 'all'}_{self.name}")

    @property
    def log(self) -> str:
        """The log of the job that runs it."""
        return f".reprise/logs/{self.id}.log"


# -- the graph -------------------------------------------------------------------------------------------------------


def graph(root: Path = ROOT) -> dict[str, Node]:
    """All resolved stages by address, in declaration order; read through DVC once, then from `.reprise/graph.json`."""
    declarations = sorted([root / "dvc.yaml", root / "params.yaml", *root.glob("pipelines/*/dvc.yaml"), *root.glob("pipelines/*/params.yaml")])
    digest = hashlib.sha256(b"".join(str(p.relative_to(root)).encode() + p.read_bytes() for p in declarations if p.exists())).hexdigest()
    kept = paths.private(root, "") / "graph.json"
    if kept.exists():
        content = json.loads(kept.read_text())
        if content["digest"] == digest:
            return {node["address"]: Node(**node) for node in content["nodes"]}
    nodes = _resolve(root)
    _write(kept, {"digest": digest, "nodes": [asdict(node) for node in nodes]})
    return {node.address: node for node in nodes}


def _resolve(root: Path) -> list[Node]:
    from dvc.dependency.param import ParamsDependency
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    for lock in sorted(root.glob("pipelines/*/dvc.lock")):
        _lock_file(lock)  # our message says how to mend a damaged one, DVC's does not
    try:
        with Repo(str(root)) as repo:
            index = repo.index
            nodes = []
            for stage in index.stages:
                where = os.path.relpath(stage.wdir, root)
                there = lambda item, where=where: os.path.normpath(os.path.join(where, item.def_path))  # noqa: E731
                parameters = [dep for dep in stage.deps if isinstance(dep, ParamsDependency)]
                nodes.append(
                    Node(
                        address=os.path.relpath(stage.path, root) + ":" + stage.name,
                        cmd=stage.cmd,
                        deps=[there(dep) for dep in stage.deps if dep not in parameters],
                        params={there(dep): list(dep.params) for dep in parameters},
                        outs=[there(out) for out in stage.outs],
                        uncached=[there(out) for out in stage.outs if not out.use_cache],
                        meta=dict(stage.meta or {}),
                        parents=sorted(os.path.relpath(up.path, root) + ":" + up.name for up in index.graph.successors(stage)),
                    )
                )
    except DvcException as error:
        raise ReproError(f"DVC cannot resolve the pipelines: {error}") from None
    return sorted(nodes, key=lambda node: (node.file == "dvc.yaml", node.file))  # stable: within a file, as declared


def chosen(nodes: dict[str, Node], papers: list[str]) -> list[Node]:
    """The stages of `papers` with all that they depend on; of everything if `papers` is empty."""
    known = {node.paper for node in nodes.values()} - {""}
    for paper in papers:
        if paper not in known:
            raise unknown("paper", paper, known)
    wanted = {address for address, node in nodes.items() if not papers or node.paper in papers}
    left = list(wanted)
    while left:
        for parent in nodes[left.pop()].parents:
            if parent not in wanted:
                wanted.add(parent)
                left.append(parent)
    return [node for address, node in nodes.items() if address in wanted]


# -- content ---------------------------------------------------------------------------------------------------------


def content(path: Path) -> str | None:
    """DVC's hash of a file or folder, None if it is missing."""
    if path.is_dir():
        files = sorted((f.relative_to(path).parts, f) for f in path.rglob("*") if f.is_file())
        listing = [{"md5": cache.md5_of(file), "relpath": "/".join(parts)} for parts, file in files]
        return hashlib.md5(json.dumps(listing, sort_keys=True).encode()).hexdigest() + ".dir"
    return cache.md5_of(path) if path.exists() else None


def inputs(node: Node, root: Path = ROOT) -> dict[str, Any]:
    """All that a stage's result hangs on: its command, the hashes of its dependencies, the values of its parameters."""
    values: dict[str, dict[str, Any]] = {}
    for file, keys in node.params.items():
        tree = _tree(root / file)
        values[file] = {key: _at(tree, key) for key in keys}
    return {"cmd": node.cmd, "deps": {dep: content(root / dep) for dep in node.deps}, "params": values}


def outputs(node: Node, root: Path = ROOT) -> dict[str, str | None]:
    """The hashes of a stage's outputs as they lie on disk."""
    return {out: content(root / out) for out in node.outs}


def _tree(path: Path) -> dict[str, Any]:
    return _parsed(path, path.read_bytes() if path.exists() else b"")


@lru_cache(maxsize=64)
def _parsed(path: Path, _content: bytes) -> dict[str, Any]:  # a file serves many stages, and parsing it takes longest
    return params.parse(path)


def _at(tree: Any, key: str) -> Any:
    for part in key.split("."):
        tree = tree.get(part) if isinstance(tree, dict) else None
    return tree


def locked(node: Node, root: Path = ROOT) -> tuple[dict[str, Any], dict[str, str]] | None:
    """What dvc.lock says of a stage, in the form of `inputs` and `outputs`; None if it says nothing readable."""
    entry = _lock_file(root / node.file.replace("dvc.yaml", "dvc.lock")).get(node.name)
    if entry is None:
        return None
    state = {"cmd": entry["cmd"], "deps": {d["path"]: d["md5"] for d in entry.get("deps", [])}, "params": entry.get("params", {})}
    return json.loads(json.dumps(state)), {out["path"]: out["md5"] for out in entry.get("outs", [])}


def _lock_file(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        return _tree(path)["stages"]
    except (ReproError, KeyError, TypeError):  # truncated by a crash, or with the marks of a merge conflict
        name = "/".join(path.parts[-3:])
        raise ReproError(f"{name} is damaged (a crash or a merge conflict): restore it with `git checkout -- {name}`, or delete it and run again") from None


# -- one job ---------------------------------------------------------------------------------------------------------


def _write(path: Path, thing: Any) -> None:
    """Write JSON under a temporary name, then rename: a reader never sees half of it."""
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps(thing, indent=1))
    os.replace(temporary, path)


def _receipt(node: Node, root: Path) -> Path:
    return paths.private(root, "receipts") / f"{node.id}.json"


def execute(address: str, root: Path = ROOT) -> str:
    """Bring one stage up to date; returns what was done: `fresh`, `checked out` or `ran`.

    Raises:
        ReproError: the command failed, an output is missing, or a dependency changed while it ran.
    """
    nodes = graph(root)
    if address not in nodes:
        raise unknown("stage", address, nodes)
    node = nodes[address]
    state = inputs(node, root)
    for dep, found in state["deps"].items():
        if found is None:
            raise ReproError(f"{address} needs {dep}, which is missing")
    known = locked(node, root)
    receipt = _receipt(node, root)
    if receipt.exists():
        written = json.loads(receipt.read_text())
        if written["inputs"] == state and written["outputs"] == outputs(node, root):
            return "fresh"
        receipt.unlink()
    if known and known[0] == state:
        missing = [out for out, found in outputs(node, root).items() if found != known[1].get(out)]
        if not missing:
            if not all(cache.stored(known[1][out], root) for out in node.outs if out not in node.uncached):
                _write(receipt, {"inputs": state, "outputs": known[1]})  # so that `record` puts back what the cache has lost
            return "fresh"
        if all(out not in node.uncached and cache.check_out(known[1][out], root / out, root) for out in missing):
            return "checked out"
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    with _gpu_slots(int(node.meta.get("gpu", 0)), root) as env:
        failed = subprocess.run(["bash", "--noprofile", "--norc", "-c", f"exec {node.cmd}"], cwd=root, env=env, check=False).returncode
    wall, after = time.monotonic() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    if failed:
        raise ReproError(f"{address} failed with exit code {failed}; its command: {node.cmd}")
    made = outputs(node, root)
    for out, found in made.items():
        if found is None:
            raise ReproError(f"{address} did not write {out}")
    if inputs(node, root) != state:
        raise ReproError(f"{address}: a dependency changed while it ran, so the result is not recorded; run again")
    _write(receipt, {"inputs": state, "outputs": made})
    _write(spent(node, root), {"CPU": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, "wall": wall})
    return "ran"


def spent(node: Node, root: Path = ROOT) -> Path:
    """Where `execute` notes the CPU and wall seconds of a stage's last run here."""
    return paths.private(root, "times") / f"{node.id}.json"


@contextmanager
def _gpu_slots(count: int, root: Path) -> Iterator[dict[str, str]]:
    """The environment of a job with `count` GPUs of its own: the first whose lock is free."""
    visible = [g for g in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if g] or [p.name[6:] for p in sorted(Path("/dev").glob("nvidia[0-9]*"))]
    held, mine = [], []
    for gpu in visible if count else []:
        if len(mine) == count:
            break
        lock = (paths.private(root, "locks") / f"gpu{gpu}").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        held.append(lock)
        mine.append(gpu)
    try:
        yield {**os.environ, **({"CUDA_VISIBLE_DEVICES": ",".join(mine)} if mine else {})}
    finally:
        for lock in held:
            lock.close()


# -- recording -------------------------------------------------------------------------------------------------------


def record(root: Path = ROOT) -> list[str]:
    """Write the stages that have a receipt into dvc.lock; returns the addresses recorded.

    A receipt that no longer agrees with the disk is dropped with a line that says so: nothing is recorded that was not
    made from what lies there now.
    """
    nodes = graph(root)
    accepted = []
    for node in nodes.values():
        receipt = _receipt(node, root)
        if not receipt.exists():
            continue
        written = json.loads(receipt.read_text())
        if written["inputs"] != inputs(node, root) or written["outputs"] != outputs(node, root):
            print(f"{node.address}: changed since it ran, not recorded; it will run again", file=sys.stderr)
            receipt.unlink()
        else:
            whole = [cache.whole(written["outputs"][out], root) for out in node.outs if out not in node.uncached]
            if all(whole) and locked(node, root) == (written["inputs"], written["outputs"]):
                receipt.unlink()
            else:
                accepted.append(node)
    if accepted:
        kept = set(cache.files(root))
        command = [sys.executable, "-m", "dvc", "commit", "-q", "-f", *(node.address.removeprefix("dvc.yaml:") for node in accepted)]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ReproError(f"`dvc commit` failed, receipts are kept for the next try: {done.stderr.strip()}")
        # `dvc repro` saves no run of a stage of which git keeps every output, `dvc commit` does: the cache would tell which engine ran
        cache.forget_runs({node.cmd for node in accepted if set(node.outs) == set(node.uncached)}, kept, root)
        for file in {node.file for node in accepted}:
            canonical(root / file.replace("dvc.yaml", "dvc.lock"), [n.name for n in nodes.values() if n.file == file])
        for node in accepted:
            _receipt(node, root).unlink()
    return [node.address for node in accepted]


def canonical(lock: Path, order: list[str]) -> None:
    """Put the entries of a dvc.lock into declaration order, byte for byte as DVC wrote them.

    DVC appends entries as stages complete, so without this the order would tell which engine ran, and how.
    """
    head, *entries = re.split(r"(?m)^(?=  \S)", lock.read_text())
    place = {name: i for i, name in enumerate(order)}
    ordered = sorted(entries, key=lambda entry: place.get(entry.split(":\n")[0].strip().strip("'\""), len(order)))
    if ordered != entries:
        temporary = lock.with_suffix(".tmp")
        temporary.write_text(head + "".join(ordered))
        os.replace(temporary, lock)


# -- the whole -------------------------------------------------------------------------------------------------------


def reproduce(papers: list[str], cores: int | None = None, profile: str = "profiles/local", root: Path = ROOT) -> int:
    """Everything that `papers` need, through Snakemake; records what succeeded, then says where to look.

    A failing stage stops only what depends on it; the summary names it, its log and the command that reruns it.
    """
    nodes = chosen(graph(root), papers)
    for file in {node.file for node in nodes}:
        _lock_file(root / file.replace("dvc.yaml", "dvc.lock"))  # a damaged one is named before anything runs
    command = [sys.executable, "-m", "snakemake", "--profile", profile, *(["--cores", str(cores)] if cores else []), *(["--config", f"papers={','.join(papers)}"] if papers else [])]
    with (paths.private(root, "locks") / "engine").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ReproError("another `reproduce` is running in this checkout: wait for it or stop it") from None
        _mend_dvc(root)
        record(root)  # what an interrupted run finished but could not record
        (root / ".reprise" / "failed").unlink(missing_ok=True)
        try:
            done = subprocess.run(command, cwd=root, env={**os.environ, "PYTHONPATH": str(root / "src")}, check=False, preexec_fn=die_with_parent).returncode  # noqa: PLW1509 - no threads here
        finally:
            recorded = record(root)
    failed = _failures(root)
    print(f"\n{len(nodes)} stages: {len(recorded)} recorded in dvc.lock, {len(nodes) - len(recorded) - len(failed)} fresh or waiting, {len(failed)} failed")
    for address in failed:
        node = graph(root)[address]
        print(f"  {address}\n    log: {node.log}\n    again: dvc repro {address}")
    for scale in params.shared("scales"):
        for page in sorted({n.paper for n in nodes if n.paper and (root / "reports" / n.paper / scale / "index.md").exists()}):
            print(f"  page: reports/{page}/{scale}/index.md")
    print("  index: reports/index.md\n  runs: make ui (MLflow on http://127.0.0.1:5000)")
    return done


def _mend_dvc(root: Path) -> None:
    """Remove DVC's list of running stages if a killed DVC left half of it: every DVC command would refuse to start."""
    listing = root / ".dvc" / "tmp" / "rwlock"
    for _ in range(2):  # one that is being written right now is whole a second later
        try:
            json.loads(listing.read_text())
            return
        except FileNotFoundError:
            return
        except ValueError:
            time.sleep(1)
    listing.unlink(missing_ok=True)
    print("removed .dvc/tmp/rwlock, which a killed DVC had left half written", file=sys.stderr)


def _failures(root: Path) -> list[str]:
    path = root / ".reprise" / "failed"
    return sorted(set(path.read_text().split())) if path.exists() else []


def own_python_first() -> None:
    """Let `python` in a stage's command be this very interpreter, whether or not its environment is activated."""
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"


def main() -> int:
    own_python_first()
    parser = argparse.ArgumentParser(prog="python -m reprise.engine", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    job = commands.add_parser("execute", help="bring one stage up to date (what a Snakemake job runs)")
    job.add_argument("address")
    commands.add_parser("record", help="write finished stages into dvc.lock")
    everything = commands.add_parser("reproduce", help="run all stages, or those of some papers")
    everything.add_argument("papers", nargs="*")
    everything.add_argument("--cores", type=int, help="default: all of this machine")
    everything.add_argument("--profile", default="profiles/local", help="a Snakemake profile: profiles/local, profiles/slurm, profiles/kubernetes")
    args = parser.parse_args()
    if args.command == "execute":
        die_with_engine()
        try:
            print(f"{args.address}: {execute(args.address)}")
        except ReproError:
            with (paths.private(ROOT, "") / "failed").open("a") as file:
                print(args.address, file=file)
            raise
    elif args.command == "record":
        record()
    else:
        return reproduce(args.papers, args.cores, args.profile)
    return 0


if __name__ == "__main__":
    sys.exit(fail_clearly(lambda: sys.exit(main())))
