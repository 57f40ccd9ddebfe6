"""Run records to MLflow: in one process, in batches, idempotently; and `make ui`, which also follows running stages.

One experiment a paper, one run a variant and scale, recognised by the hash of its record, so publishing again adds
nothing; further loops of a variant (tuning, ablations) are runs below it. Members of a stack (seeds, mostly) become mean
and standard deviation. Tracking is never part of a result: the
outputs are the same without it, and a server that is down costs a warning.
"""

import argparse
import fcntl
import hashlib
import json
import os
import platform
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pandas as pd

from reprise import params, paths
from reprise.errors import ReproError
from reprise.stage import fail_clearly

POINTS = 500  # per metric and run; a longer history is thinned evenly, its last value kept
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")


def uri(root: Path = paths.ROOT) -> str:
    """MLFLOW_TRACKING_URI, or the checkout's own `mlflow.db`."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root}/mlflow.db"


def publish_or_warn(paper: str, scale: str, root: Path = paths.ROOT, figures: Path | None = None) -> None:
    """`publish`, with any failure of the tracking server as one line on standard error."""
    try:
        publish(paper, scale, root, figures)
    except Exception as error:  # a tracking server can fail in every way, a result must not
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        print(f"warning: {paper} was not published to MLflow at {uri(root)} ({reason}); results are complete. `make ui` publishes later", file=sys.stderr)


def publish(paper: str, scale: str, root: Path = paths.ROOT, figures: Path | None = None) -> int:
    """Publish every record of a paper at a scale that the server does not have yet; returns how many runs were new.

    The variants come last, the first of them last of all: MLflow lists the newest on top.
    """
    with _client(root) as client:
        experiment = _experiment(client, paper)
        known = _known(client, experiment)
        metrics_file = paths.report(root, paper, scale) / "metrics.json"
        final = json.loads(metrics_file.read_text()) if metrics_file.exists() else {}
        new = 0
        if final:
            folder = figures or paths.report(root, paper, scale) / "figures"
            identity = _hash(metrics_file.read_bytes(), *(f.read_bytes() for f in sorted(folder.glob("*"))))
            with _once(client, known, experiment, f"results {scale}", _tags(root, paper, scale, "evaluate"), identity) as run:
                if run:
                    new += 1
                    _log(client, run, [(key, value, 0) for key, value in final.items()], {})
                    try:
                        client.log_artifacts(run, str(folder), "figures")
                    except Exception as error:  # a server without an artifact store keeps the numbers
                        print(f"warning: figures of {paper} were not stored: {error}", file=sys.stderr)
        models = paths.data(root, paper, scale, "models")
        declared = list(params.section(paper, scale).get("variants") or {})
        found = {f.parent.name for f in models.glob("*/history*.parquet")}
        for variant in sorted(found, key=lambda v: (declared.index(v) if v in declared else len(declared), v), reverse=True):
            own = {key.removeprefix(f"{variant}."): value for key, value in final.items() if key.startswith(f"{variant}.")}
            identity = _hash(json.dumps(own).encode(), *(f.read_bytes() for f in sorted((models / variant).glob("history*.parquet"))))
            tags = _tags(root, paper, scale, "train", variant)
            with _once(client, known, experiment, f"{variant} {scale}", tags, identity) as run:
                if not run:
                    continue
                loops = histories(models, variant)
                main = "" if "" in loops else next(iter(loops)) if len(loops) == 1 else None
                settings = params.block(paper, "train", scale, variant) if variant in declared else {}
                points = _points(loops[main]) + _best(loops[main]) if main is not None else []
                _log(client, run, points + [(f"test/{k}", v, 0) for k, v in own.items()], settings)
                others = [loop for loop in reversed(loops) if loop != main]  # tuning, ablations: below the run they belong to
                for loop in others:
                    child = client.create_run(experiment, run_name=f"{variant} {loop} {scale}", tags=tags | {"mlflow.parentRunId": run}).info.run_id
                    _log(client, child, _points(loops[loop]) + _best(loops[loop]), settings)
                new += 1 + len(others)
        return new


def histories(models: Path, variant: str) -> dict[str, pd.DataFrame]:
    """Loop -> step, metric, member, value of a variant's trainings, the main one ('') first.

    Loops of single seeds (`history_seed0.parquet`, `history_probe_seed0.parquet`) become members of one.
    """
    loops: dict[str, list[pd.DataFrame]] = {}
    for file in sorted((models / variant).glob("history*.parquet"), key=lambda f: f.stem):
        frame = pd.read_parquet(file)
        loop, seed = re.fullmatch(r"history_?(.*?)(?:_?seed_?(\d+))?", file.stem).groups()
        many = frame.member.nunique() > 1
        names = _members(file.parent, frame) if not seed and not loop else {}
        member = frame.member.map(lambda i, names=names: names.get(i, f"member {i}"))
        if seed:
            member = f"seed {seed}" + (", " + member if many else "")
        if len(frame):
            loops.setdefault(loop, []).append(frame.assign(member=member))
    return {loop: pd.concat(frames, ignore_index=True) for loop, frames in loops.items()}


def _members(folder: Path, frame: pd.DataFrame) -> dict[int, str]:
    """What the members of a main loop are, where `members.parquet` beside its history has a row for each."""
    file = folder / "members.parquet"
    table = pd.read_parquet(file) if file.exists() else pd.DataFrame()
    if len(table) != frame.member.nunique():
        return {}
    differing = table[[column for column in table if table[column].nunique() > 1]]
    return {i: ", ".join(f"{key} {value}" for key, value in row.items()) for i, row in enumerate(differing.to_dict("records"))}


def _hash(*parts: bytes) -> str:
    return hashlib.sha256(b"\0".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()[:16]


@contextmanager
def _client(root: Path) -> Iterator:
    """An MLflow client; one publisher at a time, since a fresh database cannot be set up twice at once."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    with (paths.private(root, "locks") / "mlflow").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        import logging

        logging.getLogger("alembic").setLevel(logging.WARNING)
        from mlflow import MlflowClient

        yield MlflowClient(tracking_uri=uri(root))


def _experiment(client, paper: str) -> str:
    found = client.get_experiment_by_name(paper)
    if found:
        return found.experiment_id
    local = uri().startswith("sqlite:///")
    place = Path(uri().removeprefix("sqlite:///")).parent / "mlartifacts" / paper if local else None
    return client.create_experiment(paper, artifact_location=place.as_uri() if place else None)


def _known(client, experiment: str) -> dict[str, tuple[str, str]]:
    """Run -> its name and the hash of what it shows; no hash where its publishing did not end."""
    known, token = {}, None
    while True:
        page = client.search_runs([experiment], max_results=1000, page_token=token)
        known |= {run.info.run_id: (run.info.run_name, run.data.tags.get("hash", "")) for run in page}
        token = page.token
        if not token:
            return known


@contextmanager
def _once(client, known: dict[str, tuple[str, str]], experiment: str, name: str, tags: dict[str, str], identity: str) -> Iterator[str | None]:
    """A run to fill, None if it is there already; it is marked as whole when it has been filled."""
    if any(found == identity for _, found in known.values()):
        yield None
        return
    for run, (other, found) in known.items():
        if other == name and not found:  # a publisher died while filling it
            client.delete_run(run)
    run = client.create_run(experiment, run_name=name, tags=tags).info.run_id
    yield run
    client.set_tag(run, "hash", identity)


def _tags(root: Path, paper: str, scale: str, stage: str, variant: str = "") -> dict[str, str]:
    commit = subprocess.run(["git", "-C", str(root), "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    device = "gpu" if scale in ("gpu", "paper") else platform.processor() or platform.machine()
    return {"paper": paper, "stage": stage, "variant": variant, "scale": scale, "commit": commit, "device": device}


def _points(frame: pd.DataFrame) -> list[tuple[str, float, int]]:
    """(metric, value, step): mean over members, and their standard deviation where there are several."""
    points = []
    for metric, rows in frame.groupby("metric", sort=True):
        by_step = rows.groupby("step")["value"]
        table = pd.DataFrame({metric: by_step.mean(), f"sd/{metric}": by_step.std()})
        keep = sorted({*range(0, len(table), max(1, len(table) // POINTS)), len(table) - 1})
        for name, column in table.iloc[keep].items():
            points += [(name, value, int(step)) for step, value in column.dropna().items()]
    return points


def _best(frame: pd.DataFrame) -> list[tuple[str, float, int]]:
    """The best mean of each metric, since a run table shows only the last: lowest of a loss or error, else highest."""
    best = []
    for metric, rows in frame.groupby("metric", sort=True):
        means = rows.groupby("step")["value"].mean().dropna()
        if len(means):
            lower = any(word in metric for word in ("loss", "error", "nll", "mse", "rmse"))
            best.append((f"best/{metric}", means.min() if lower else means.max(), 0))  # at step 0 MLflow draws bars
    return best


def _flat(tree: dict, prefix: str = "") -> dict[str, str]:
    flat = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": str(value)}
    return flat


def _log(client, run: str, points: list[tuple[str, float, int]], declared: dict) -> None:
    from mlflow.entities import Metric, Param

    metrics = [Metric(name, float(value), 0, step) for name, value, step in points]
    for i in range(0, len(metrics), 1000):
        client.log_batch(run, metrics=metrics[i : i + 1000])
    client.log_batch(run, params=[Param(key, value[:6000]) for key, value in _flat(declared).items()][:100])
    client.set_terminated(run)


def publish_all(root: Path = paths.ROOT) -> int:
    """Publish whatever lies on disk, also after a `dvc pull`."""
    found = sorted({(path.parts[-4], path.parts[-3]) for path in root.glob("data/*/*/models/*") if path.is_dir()})
    return sum(publish(paper, scale, root) for paper, scale in found if paper in paths.papers())


class Follower:
    """Copies growing run records into MLflow, a run for each, until its stage ends and its report publishes it whole."""

    def __init__(self, root: Path = paths.ROOT):
        self.root, self.seen = root, {}

    def poll(self) -> None:
        """Bring every record whose stage runs now up to date; end and delete the runs of stages that have ended."""
        records = {r for r in paths.private(self.root, "runs").glob("*.jsonl") if self._running(r)}
        if not records and not self.seen:
            return
        with _client(self.root) as client:
            for record in sorted(records):
                lines = [json.loads(line) for line in record.read_text().splitlines() if line.endswith("}")]
                if not lines:
                    continue
                if record not in self.seen:
                    header = lines[0]
                    tags = _tags(self.root, header["paper"], header["scale"], header["stage"], header["variant"] or "")
                    name = f"{header['variant'] or header['stage']} {header['scale']} (running)"
                    run = client.create_run(_experiment(client, header["paper"]), run_name=name, tags=tags).info.run_id
                    self.seen[record] = (run, 1)
                run, done = self.seen[record]
                from mlflow.entities import Metric

                for i in range(done, len(lines), 1000):
                    client.log_batch(run, metrics=[Metric(x["metric"], x["mean"], 0, x["step"]) for x in lines[i : i + 1000]])
                self.seen[record] = (run, len(lines))
            for record in set(self.seen) - records:
                client.delete_run(self.seen.pop(record)[0])

    def _running(self, record: Path) -> bool:
        stage = record.name.removesuffix(".jsonl")
        locks = [lock for lock in paths.private(self.root, "locks").iterdir() if stage.startswith(lock.name) and "@" in lock.name]
        for path in locks:
            with path.open() as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    return True
        return False


def main() -> None:
    """Publish what is there, start the MLflow UI on 127.0.0.1, follow running stages until interrupted."""
    parser = argparse.ArgumentParser(prog="python -m reprise.tracking", description=main.__doc__)
    parser.add_argument("--port", type=int, default=5000)
    parser.add_argument("--publish-only", action="store_true", help="publish and leave; start no server")
    args = parser.parse_args()
    with socket.socket() as probe:
        if not args.publish_only and probe.connect_ex(("127.0.0.1", args.port)) == 0:
            raise ReproError(f"port {args.port} is taken, perhaps by another `make ui`: stop that, or `python -m reprise.tracking --port {args.port + 1}`")
    print(f"{publish_all()} new runs published to {uri()}", flush=True)
    if args.publish_only:
        return
    server = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(args.port), "--backend-store-uri", uri(), "--workers", "1"]
    print(f"MLflow: http://127.0.0.1:{args.port} (stop with Ctrl-C)", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with subprocess.Popen(server, start_new_session=True) as process:
        follower = Follower()
        try:
            while process.poll() is None:
                try:
                    follower.poll()
                except Exception as error:  # the next poll tries again
                    print(f"warning: following running stages failed: {error}", file=sys.stderr)
                time.sleep(5)
        except KeyboardInterrupt:
            pass
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)  # its workers, too


if __name__ == "__main__":
    sys.exit(fail_clearly(main))
