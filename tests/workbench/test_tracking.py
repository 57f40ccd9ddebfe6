"""Published once, whatever happens; to the embedded store, to a real server, and past a server that is down."""

import socket
import subprocess
import sys
import time

import pytest

SCRIPT = """
from reprise import tracking
from mlflow import MlflowClient
print(tracking.publish_all(), tracking.publish_all())
client = MlflowClient(tracking_uri=tracking.uri())
experiment = client.get_experiment_by_name("toy")
for run in sorted(client.search_runs([experiment.experiment_id]), key=lambda r: r.info.run_name):
    metrics = run.data.metrics
    print(run.info.run_name, run.data.tags["variant"], sorted(m for m in metrics if not m.startswith("test"))[:3], run.data.params.get("steps"), len(client.get_metric_history(run.info.run_id, "loss")))
    print("artifacts", [f.path for f in client.list_artifacts(run.info.run_id)])
"""


def published(checkout, **env):
    return checkout.run(sys.executable, "-c", SCRIPT, **env)


def check(text):
    lines = text.splitlines()
    assert "3 0" in lines  # three new runs, then none
    assert "gradient small gradient ['best/loss', 'loss', 'sd/loss'] 100 100" in lines
    assert "heavy_ball small heavy_ball ['best/loss', 'loss', 'sd/loss'] 100 100" in lines
    assert "artifacts ['figures']" in lines


def test_to_the_embedded_store_and_only_once(reproduced, tmp_path):
    check(published(reproduced.copy(tmp_path / "checkout")).stdout)


@pytest.mark.slow
def test_to_a_real_server(reproduced, tmp_path):
    checkout = reproduced.copy(tmp_path / "checkout")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1", "--backend-store-uri", f"sqlite:///{tmp_path}/server.db", "--artifacts-destination", str(tmp_path / "artifacts")]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(120):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.5)
        check(published(checkout, MLFLOW_TRACKING_URI=f"http://127.0.0.1:{port}").stdout)
    finally:
        server.terminate()
        server.wait()


def test_a_server_that_is_down_costs_a_warning_and_no_result(reproduced, tmp_path):
    checkout = reproduced.copy(tmp_path / "checkout")
    before = checkout.outputs()
    done = checkout.run("reprise.stage", "toy", "report", REPRISE_TRACKING="on", MLFLOW_TRACKING_URI="http://127.0.0.1:9", MLFLOW_HTTP_REQUEST_TIMEOUT="2")
    assert "warning: toy was not published to MLflow" in done.stderr
    assert checkout.outputs() == before


def test_a_running_stage_is_followed_and_then_given_up_to_its_report(checkout):
    for stage in ("download", "preprocess"):
        checkout.run("reprise.stage", "toy", stage)
    train = checkout.root / "src/reprise/papers/toy/train.py"
    train.write_text(train.read_text().replace("loop.log(", "__import__('time').sleep(0.5); loop.log("))
    job = checkout.start("reprise.stage", "toy", "train", "--variant", "gradient")
    try:
        record = checkout.root / ".reprise/runs/toy.train@small-gradient.jsonl"
        for _ in range(300):
            if record.exists() and len(record.read_text().splitlines()) > 5:
                break
            time.sleep(0.1)
        script = "from reprise import tracking; f = tracking.Follower(); f.poll(); (run, n), = f.seen.values(); print(n > 5); open('run', 'w').write(run)"
        assert checkout.run(sys.executable, "-c", script).stdout.splitlines()[-1] == "True"
    finally:
        job.kill()
        job.wait()
    script = "from reprise import tracking; f = tracking.Follower(); f.seen = {'x': (open('run').read(), 1)}; f.poll(); print(f.seen)"
    assert checkout.run(sys.executable, "-c", script).stdout.splitlines()[-1] == "{}"
