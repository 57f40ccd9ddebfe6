"""What the portable profile costs against the fast one, stage by stage, alternating in one run.

    python benchmarks/profiles.py smalltowers download preprocess movielens train:mgda
"""

import resource
import subprocess
import sys
import tempfile

from reprise import determinism, params, paths


def cpu(profile: str, paper: str, stage: str, variant: str | None, root: str) -> float:
    """CPU seconds of one stage in a process of its own, torch's import included."""
    code = f"from pathlib import Path; from reprise.stage import run; run({paper!r}, {stage!r}, variant={variant!r}, root=Path({root!r}))"
    env = determinism.environment(profile) | {"REPRISE_TRACKING": "off", "PYTHONPATH": str(paths.ROOT / "src")}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], env=env, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main(paper: str, stages: list[str]) -> None:
    if not stages:
        declared = params.parse(paths.PIPELINES / paper / "dvc.yaml")["stages"]
        stages = [f"{name}:{v}" if "variant" in one["matrix"] else name for name, one in declared.items() for v in (params.of_paper(paper)["variants"] if "variant" in one["matrix"] else [""])]
    with tempfile.TemporaryDirectory() as portable, tempfile.TemporaryDirectory() as fast:
        for text in stages:
            stage, _, variant = text.partition(":")
            slow, quick = cpu("portable", paper, stage, variant or None, portable), cpu("fast", paper, stage, variant or None, fast)
            print(f"{text:28} portable {slow:7.1f} s   fast {quick:7.1f} s   ratio {slow / quick:4.2f}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
