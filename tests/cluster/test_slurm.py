"""A real SLURM on this machine runs the stages, and leaves the lock and results of a serial `dvc repro`."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.cluster
SCRIPT = Path(__file__).with_name("slurm.sh")

# What a site adds to profiles/slurm: this one keeps no accounts, and its file system is local.
SITE = """
slurm-status-command: squeue
slurm-no-account: true
slurm-init-seconds-before-status-checks: 2
"""


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """The environment of a running cluster."""
    if os.geteuid() != 0 or not shutil.which("apt-get") and not shutil.which("slurmctld"):
        pytest.skip("SLURM and munge are not installed, and installing them needs root and apt-get")
    folder = tmp_path_factory.mktemp("slurm")
    started = subprocess.run([SCRIPT, "start", folder], capture_output=True, text=True, check=False)
    try:
        if started.returncode:
            pytest.skip(f"SLURM did not start: {started.stderr.strip().splitlines()[-1:]}")
        yield {"SLURM_CONF": started.stdout.strip()}
    finally:
        subprocess.run([SCRIPT, "stop", folder], check=False)


def test_slurm_leaves_the_lock_and_the_results_of_dvc(checkout, reproduced, slurm):
    profile = checkout.root / "profiles/slurm/config.yaml"
    profile.write_text(profile.read_text().replace("latency-wait: 60", "latency-wait: 5").replace("checks: 5", "checks: 1") + SITE)
    done = checkout.run("reprise.engine", "reproduce", "toy", "--profile", "profiles/slurm", **slurm)
    assert "6 recorded" in done.stdout and "0 failed" in done.stdout
    assert checkout.lock() == reproduced.lock()
    assert checkout.outputs() == reproduced.outputs()
    jobs = subprocess.run(["squeue", "-h", "-t", "all", "-o", "%T"], env={**os.environ, **slurm}, capture_output=True, text=True, check=True).stdout.split()
    assert len(jobs) == 6 and set(jobs) == {"COMPLETED"}  # every stage was a job of the cluster


def test_a_stage_that_fails_on_the_cluster_is_named(checkout, slurm):
    profile = checkout.root / "profiles/slurm/config.yaml"
    profile.write_text(profile.read_text().replace("latency-wait: 60", "latency-wait: 5").replace("checks: 5", "checks: 1") + SITE)
    train = checkout.root / "src/reprise/papers/toy/train.py"
    train.write_text(train.read_text().replace("    data = load_file", "    assert not params.momentum\n    data = load_file"))
    done = checkout.run("reprise.engine", "reproduce", "toy", "--profile", "profiles/slurm", check=False, **slurm)
    assert done.returncode != 0 and "1 failed" in done.stdout and "train@small-heavy_ball" in done.stdout
    assert "train@small-gradient" in checkout.lock().decode()
