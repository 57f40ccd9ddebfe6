"""Run records to MLflow: in one process, in batches, idempotently; and `make ui`, which also follows running stages.

One experiment a paper, one run a variant and scale, recognised by the hash of its record, so publishing again adds
nothing. Members of a stack (seeds, mostly) become mean and standard deviation. Tracking is never part of a result: the
outputs are the same without it, and a server that is down costs a warning.
"""

import argparse
import fcntl
import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from reprise import params, paths

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
    """Publish every record of a paper at a scale that the server does not have yet; returns how many were new."""
    with _client(root) as client:
        experiment = _experiment(client, paper)
        known = _known(client, experiment)
        metrics_file = paths.report(root, paper, scale) / "metrics.json"
        final = json.loads(metrics_file.read_text()) if metrics_file.exists() else {}
        new = 0
        for history in sorted(paths.data(root, paper, scale, "models").glob("*/history*.parquet")):
            variant = history.parent.name
            loop = history.stem.removeprefix("history").lstrip("_")
            own = {key.removeprefix(f"{variant}."): value for key, value in final.items() if key.startswith(f"{variant}.")}
            identity = _hash(history.read_bytes(), json.dumps(own).encode())
            if identity in known:
                continue
            frame = pd.read_parquet(history)
            run = _create(client, experiment, " ".join(filter(None, [variant, loop, scale])), root, paper, scale, "train", variant, identity)
            declared = params.block(paper, "train", scale, variant) if variant in (params.section(paper, scale).get("variants") or {}) else {}
            _log(client, run, _points(frame) + _best(frame) + [(f"test/{k}", v, 0) for k, v in own.items()], declared)
            new += 1
        if final:
            folder = figures or paths.report(root, paper, scale) / "figures"
            identity = _hash(metrics_file.read_bytes(), *(f.read_bytes() for f in sorted(folder.glob("*"))))
            if identity not in known:
                run = _create(client, experiment, f"results {scale}", root, paper, scale, "evaluate", "", identity)
                _log(client, run, [(key, value, 0) for key, value in final.items()], {})
                try:
                    client.log_artifacts(run, str(folder), "figures")
                except Exception as error:  # a server without an artifact store keeps the numbers
                    print(f"warning: figures of {paper} were not stored: {error}", file=sys.stderr)
                new += 1
        return new


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


def _known(client, experiment: str) -> set[str]:
    known, token = set(), None
    while True:
        page = client.search_runs([experiment], max_results=1000, page_token=token)
        known |= {run.data.tags.get("hash") for run in page}
        token = page.token
        if not token:
            return known


def _create(client, experiment: str, name: str, root: Path, paper: str, scale: str, stage: str, variant: str, identity: str) -> str:
    commit = subprocess.run(["git", "-C", str(root), "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    device = "gpu" if scale in ("gpu", "paper") else platform.processor() or platform.machine()
    tags = {"paper": paper, "stage": stage, "variant": variant, "scale": scale, "commit": commit, "device": device, "hash": identity}
    return client.create_run(experiment, run_name=name, tags=tags).info.run_id


def _points(frame: pd.DataFrame) -> list[tuple[str, float, int]]:
    """(metric, value, step): mean over members, and their standard deviation where there are several."""
    points = []
    for metric, rows in frame.groupby("metric", sort=True):
        by_step = rows.groupby("step")["value"]
        table = pd.DataFrame({metric: by_step.mean(), f"{metric}/sd": by_step.std()})
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
            step = means.idxmin() if lower else means.idxmax()
            best.append((f"best/{metric}", means[step], int(step)))
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
                    run = _create(client, _experiment(client, header["paper"]), f"{header['variant'] or header['stage']} {header['scale']} (running)", self.root, header["paper"], header["scale"], header["stage"], header["variant"] or "", "")
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
    print(f"{publish_all()} new runs published to {uri()}")
    if args.publish_only:
        return
    server = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(args.port), "--backend-store-uri", uri(), "--workers", "1"]
    print(f"MLflow: http://127.0.0.1:{args.port} (stop with Ctrl-C)")
    with subprocess.Popen(server) as process:
        follower = Follower()
        try:
            while process.poll() is None:
                try:
                    follower.poll()
                except Exception as error:  # the next poll tries again
                    print(f"warning: following running stages failed: {error}", file=sys.stderr)
                time.sleep(5)
        except KeyboardInterrupt:
            process.terminate()


if __name__ == "__main__":
    main()
