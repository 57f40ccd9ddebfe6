"""What all tests share: the numeric environment of the portable profile, and a checkout to be run, broken and compared."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from reprise import determinism, paths

os.environ.update({key: value for key, value in determinism.PROFILES["portable"].items() if value})  # before a library is loaded
os.environ["REPRISE_TRACKING"] = "off"

import torch  # noqa: E402, F401

determinism.configure_torch()


class Checkout:
    """A scratch repository; commands run in it as a user would type them."""

    def __init__(self, root: Path):
        self.root = root

    @property
    def env(self) -> dict[str, str]:
        bin_dir = str(Path(sys.executable).parent)
        return {**os.environ, "PYTHONPATH": str(self.root / "src"), "REPRISE_TRACKING": "off", "DVC_NO_ANALYTICS": "1", "PATH": f"{bin_dir}:{os.environ['PATH']}"}

    def run(self, *command: str, check: bool = True, **env: str) -> subprocess.CompletedProcess:
        words = [sys.executable, "-m", *command] if command[0].startswith(("reprise", "dvc", "snakemake")) else list(command)
        done = subprocess.run(words, cwd=self.root, env={**self.env, **env}, capture_output=True, text=True, check=False)
        assert not check or done.returncode == 0, f"{command}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done

    def start(self, *command: str) -> subprocess.Popen:
        return subprocess.Popen([sys.executable, "-m", *command], cwd=self.root, env=self.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def lock(self) -> bytes:
        return (self.root / "pipelines/toy/dvc.lock").read_bytes()

    def outputs(self) -> dict[str, bytes]:
        """Every file that the pipeline makes, by relative path."""
        tops = [self.root / "data/toy", self.root / "reports/toy"]
        return {str(f.relative_to(self.root)): f.read_bytes() for top in tops for f in sorted(top.rglob("*")) if f.is_file()}

    def cache(self) -> dict[str, bytes]:
        """DVC's cache, objects and saved runs, by relative path."""
        top = self.root / ".dvc/cache"
        return {str(f.relative_to(top)): f.read_bytes() for f in sorted(top.rglob("*")) if f.is_file()}

    def copy(self, to: Path) -> "Checkout":
        shutil.copytree(self.root, to)
        return Checkout(to)


@pytest.fixture(scope="session")
def pristine(tmp_path_factory) -> Checkout:
    """The workbench and `reprise new toy`, nothing run yet."""
    root = tmp_path_factory.mktemp("pristine") / "checkout"
    root.mkdir()
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("src", "profiles"):
        shutil.copytree(paths.ROOT / name, root / name, ignore=ignore)
    for package in ("papers", "kits"):
        for folder in (root / "src/reprise" / package).iterdir():
            if folder.is_dir():
                shutil.rmtree(folder)
    for name in ("params.yaml", "dvc.yaml", "Snakefile", "requirements.lock", ".gitignore", ".dvcignore"):
        shutil.copy(paths.ROOT / name, root / name)
    (root / "params.yaml").write_text("scales: [small]\nseed: 2026\nprofile: {small: portable, paper: fast}\n")
    (root / "data").mkdir()
    (root / "data/registry.yaml").write_text("{}\n")
    checkout = Checkout(root)
    checkout.run("git", "init", "-q")
    checkout.run("dvc", "init", "-q")
    checkout.run("reprise.cli", "new", "toy")
    (root / "tests").mkdir(exist_ok=True)
    return checkout


@pytest.fixture
def checkout(pristine, tmp_path) -> Checkout:
    return pristine.copy(tmp_path / "checkout")


@pytest.fixture(scope="session")
def reproduced(pristine, tmp_path_factory) -> Checkout:
    """The same after a serial `dvc repro`: what every other way of running has to equal."""
    done = pristine.copy(tmp_path_factory.mktemp("serial") / "checkout")
    done.run("dvc", "repro", "-q", "pipelines/toy/dvc.yaml")
    return done
