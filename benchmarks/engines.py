"""Two engines on the same stages: wall time of `snakemake --cores 2` against serial `dvc repro`, and bookkeeping a stage.

    python benchmarks/engines.py [--chains 4] [--steps 120000]

In a scratch checkout, `--chains` independent papers of one method are regenerated from nothing by each engine; every
training waits for nothing but the processor. A machine with two free cores is assumed. The locks must agree.
"""

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from reprise import paths


def checkout(root: Path, chains: int, steps: int) -> dict[str, str]:
    """A scratch checkout with `chains` copies of the template paper; returns its environment."""
    for name in ("src", "profiles"):
        shutil.copytree(paths.ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for package in ("papers", "kits"):
        for folder in (root / "src/reprise" / package).iterdir():
            if folder.is_dir():
                shutil.rmtree(folder)
    for name in ("dvc.yaml", "Snakefile", "requirements.lock", ".gitignore", ".dvcignore"):
        shutil.copy(paths.ROOT / name, root / name)
    (root / "params.yaml").write_text("scales: [small]\nseed: 2026\nprofile: {small: portable, paper: fast}\n")
    (root / "data").mkdir()
    (root / "data/registry.yaml").write_text("{}\n")
    env = {**os.environ, "PYTHONPATH": str(root / "src"), "REPRISE_TRACKING": "off", "DVC_NO_ANALYTICS": "1", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    run = lambda *words: subprocess.run(words, cwd=root, env=env, check=True, capture_output=True)  # noqa: E731
    run("git", "init", "-q")
    run(sys.executable, "-m", "dvc", "init", "-q")
    for i in range(chains):
        run(sys.executable, "-m", "reprise.cli", "new", f"chain{i}")
        params = root / f"pipelines/chain{i}/params.yaml"
        # a condition so bad that no loss reaches zero, whose logarithm would be a metric that is not finite
        params.write_text(params.read_text().replace("steps: 100}", f"steps: {steps}}}").replace("condition: 100,", "condition: 1000000000000,"))
    return env


def timed(root: Path, env: dict[str, str], *command: str) -> tuple[float, float]:
    """Wall and CPU seconds of a command."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run([sys.executable, "-m", *command], cwd=root, env=env, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.monotonic() - start, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chains", type=int, default=4, help="independent papers of six stages")
    parser.add_argument("--steps", type=int, default=120000, help="iterations of each training: how long a stage takes")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        one, two = Path(folder) / "dvc", Path(folder) / "snakemake"
        one.mkdir()
        env = checkout(one, args.chains, args.steps)
        shutil.copytree(one, two)
        wall, cpu = timed(one, env, "dvc", "repro", "-q")
        env["PYTHONPATH"] = str(two / "src")
        wall2, cpu2 = timed(two, env, "reprise.engine", "reproduce", "--cores", "2")
        for lock in one.glob("pipelines/*/dvc.lock"):
            assert lock.read_bytes() == (two / lock.relative_to(one)).read_bytes(), lock
        _, idle = timed(two, env, "reprise.engine", "reproduce", "--cores", "2")
        stages = 6 * args.chains + 1
        print(f"{stages} stages: serial dvc repro {wall:.1f} s wall ({cpu:.1f} s CPU), snakemake on 2 cores {wall2:.1f} s ({cpu2:.1f} s CPU): {wall / wall2:.2f} times faster (goal >= 1.8); locks agree")
        print(f"scheduling and bookkeeping with nothing to do: {idle:.1f} s CPU, {idle / stages:.2f} s a stage (goal < 0.5)")


if __name__ == "__main__":
    main()
