"""A real training, killed ten times at random moments and gone on with, ends in the same bits."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from reprise import determinism, paths
from reprise.stage import run

CODE = """
import sys
from pathlib import Path
from reprise import training
training.SAVE_EVERY = 0.0
from reprise.stage import run
run("smalltowers", "train", variant="mgda", root=Path(sys.argv[1]))
"""


@pytest.mark.slow
def test_ten_kills(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for root in (whole, killed):
        run("smalltowers", "download", root=root)
        run("smalltowers", "preprocess", root=root)
    env = determinism.environment("portable") | {"PYTHONPATH": str(paths.ROOT / "src")}

    def start(root):
        return subprocess.Popen([sys.executable, "-c", CODE, str(root)], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    draw, points = random.Random(1), killed / ".reprise/resume"
    for _ in range(10):
        process, before = start(killed), set(points.rglob("*.safetensors"))
        while process.poll() is None and not set(points.rglob("*.safetensors")) - before:
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.4))
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, process.stderr.read()
    for root in (whole, killed):
        process = start(root)
        assert process.wait() == 0, process.stderr.read()
    models = [{f.name: f.read_bytes() for f in (root / "data/smalltowers/small/models/mgda").iterdir()} for root in (whole, killed)]
    assert models[0] == models[1] and {"model.safetensors", "history.parquet", "history_tune.parquet"} <= set(models[0])
    assert not list(points.rglob("*.safetensors"))
