"""What the workbench itself costs, in CPU seconds: an empty stage, a no-op `dvc repro`, a stage under Snakemake."""

import os
import resource
import subprocess
import sys

from reprise import paths


def cpu(*command: str, code: int = 0) -> float:
    """CPU seconds of a command and its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    env = {**os.environ, "REPRISE_TRACKING": "off", "PYTHONPATH": str(paths.ROOT / "src")}
    done = subprocess.run([sys.executable, "-m", *command], cwd=paths.ROOT, env=env, capture_output=True, check=False)
    assert done.returncode == code, done.stderr.decode()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    status = min(cpu("reprise.cli", "status") for _ in range(3))  # first: it fails where something is stale, which `dvc repro` would rebuild
    rows = {
        "a stage's launch (it ends at a missing input; goal < 1.5)": min(cpu("reprise.stage", "smalltowers", "preprocess", "--scale", "paper", code=1) for _ in range(3)),
        "`dvc repro` with nothing to do (goal < 4)": min(cpu("dvc", "repro", "-q") for _ in range(3)),
        "`reprise status`": status,
        "one fresh stage in the executor (goal < 0.5)": min(cpu("reprise.engine", "execute", "pipelines/smalltowers/dvc.yaml:preprocess@small") for _ in range(3)),
    }
    for what, seconds in rows.items():
        print(f"{seconds:6.2f} s CPU  {what}")


if __name__ == "__main__":
    main()
