"""A hundred things that go wrong, one after the other; the next undisturbed run equals one that nothing ever disturbed."""

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time

import pytest

from reprise import engine

DVC = ("dvc", "repro", "-q", "pipelines/toy/dvc.yaml")
SNAKEMAKE = ("reprise.engine", "reproduce", "toy")


def _family(pid: int) -> list[int]:
    done = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    return [pid, *(member for child in done.stdout.split() for member in _family(int(child)))]


class Trouble:
    """One method for each kind of fault; each leaves the checkout in whatever state it may be in."""

    def __init__(self, checkout, seed: int):
        self.checkout, self.root, self.draw = checkout, checkout.root, random.Random(seed)

    def start(self, command, **popen) -> subprocess.Popen:
        return subprocess.Popen([sys.executable, "-m", *command], cwd=self.root, env=self.checkout.env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True, **popen)

    def finish(self, process: subprocess.Popen) -> None:
        """Let it end, then anything it left; ours never end in a traceback."""
        _, err = process.communicate(timeout=900)
        assert "Traceback" not in err or "reprise.engine" not in process.args, err[-2000:]

    def kill_one(self) -> None:
        """SIGKILL the engine, or any process below it: a shell, a job, a stage."""
        process = self.start(self.draw.choice([DVC, SNAKEMAKE]))
        time.sleep(self.draw.uniform(0.1, 5))
        victim = self.draw.choice(_family(process.pid))
        try:
            os.kill(victim, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.communicate(timeout=900)
        time.sleep(0.3)  # what the kernel ends with its parent

    def kill_all(self) -> None:
        """SIGKILL everything at once, as a power cut would."""
        process = self.start(self.draw.choice([DVC, SNAKEMAKE]))
        time.sleep(self.draw.uniform(0.1, 5))
        for pid in _family(process.pid):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        process.communicate(timeout=900)

    def full_disk(self) -> None:
        """No file may grow beyond a few kilobytes: every write of an output, a lock or a record may fail half way."""
        size = self.draw.choice([0, 1024, 4096, 65536])
        self.start(SNAKEMAKE, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))).communicate(timeout=900)

    def two_engines(self) -> None:
        """Both started at once: one of them waits, is refused, or finds nothing to do."""
        pair = [self.start(self.draw.choice([DVC, SNAKEMAKE])) for _ in range(2)]
        for process in pair:
            process.communicate(timeout=900)

    def damage_cache(self) -> None:
        """An object is overwritten or deleted, read-only or not."""
        objects = [p for p in sorted((self.root / ".dvc/cache/files").rglob("*")) if p.is_file()]
        for path in self.draw.sample(objects, min(2, len(objects))):
            mode = path.stat().st_mode
            path.chmod(0o644)
            path.unlink() if self.draw.random() < 0.5 else path.write_bytes(b"damaged")
            if path.exists() and self.draw.random() < 0.5:
                path.chmod(mode)

    def lose_output(self) -> None:
        """A folder of results is deleted."""
        shutil.rmtree(self.root / "data/toy/small" / self.draw.choice(["raw", "prepared", "models", "models/gradient", "results"]), ignore_errors=True)

    def damage_output(self) -> None:
        """A result is overwritten."""
        files = [p for p in sorted((self.root / "data/toy").rglob("*")) if p.is_file()]
        for path in self.draw.sample(files, min(1, len(files))):
            path.write_bytes(b"damaged")

    def damage_lock(self) -> None:
        """dvc.lock is cut short or has the marks of a merge conflict: the engine says so, and what to do."""
        lock = self.root / "pipelines/toy/dvc.lock"
        if lock.exists():
            text = lock.read_text()
            lock.write_text(self.draw.choice([text[: int(len(text) * self.draw.uniform(0.1, 0.9))] + "\n  x: [", f"<<<<<<< HEAD\n{text}=======\n{text}>>>>>>> theirs\n"]))
            done = self.checkout.run(*SNAKEMAKE, check=False)
            assert done.returncode == 1 and "dvc.lock is damaged" in done.stderr and "delete it and run again" in done.stderr
            lock.unlink()

    def edit_while_running(self) -> None:
        """A source is edited while stages run, then put back."""
        process = self.start(SNAKEMAKE)
        source = self.root / "src/reprise/papers/toy" / self.draw.choice(["data.py", "train.py", "model.py"])
        text = source.read_text()
        time.sleep(self.draw.uniform(0.5, 4))
        source.write_text(text + "# edited\n")
        time.sleep(self.draw.uniform(0.0, 2))
        source.write_text(text)
        self.finish(process)

    def move_clock(self) -> None:
        """Every file's time jumps by up to a year, as after a wrong clock."""
        for path in [*(self.root / "data").rglob("*"), *(self.root / "src").rglob("*.py"), *(self.root / ".reprise").rglob("*")]:
            when = time.time() + self.draw.uniform(-3e7, 3e7)
            os.utime(path, (when, when))


KINDS = [name for name in vars(Trouble) if not name.startswith("_") and name not in ("start", "finish")]


def _suffer(checkout, reproduced, count: int, seed: int) -> None:
    trouble = Trouble(checkout, seed)
    kinds = [*KINDS, "kill_one", "kill_one", "kill_all"]
    for i in range(count):
        kind = kinds[i] if i < len(kinds) else trouble.draw.choice(kinds)
        getattr(trouble, kind)()
        if trouble.draw.random() < 0.2:  # now and then a run comes through
            checkout.run(*trouble.draw.choice([DVC, SNAKEMAKE]), check=False)
    checkout.run("reprise.engine", "reproduce", "toy")
    assert checkout.lock() == reproduced.lock()
    assert checkout.outputs() == reproduced.outputs()
    for node in engine.graph(checkout.root).values():
        if node.paper:
            assert engine.locked(node, checkout.root) == (engine.inputs(node, checkout.root), engine.outputs(node, checkout.root))
    assert "up to date" in checkout.run("dvc", "status", "pipelines/toy/dvc.yaml").stdout


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("seed", [1, 2])
def test_fifty_faults_in_a_row(checkout, reproduced, seed):
    _suffer(checkout, reproduced, count=50, seed=seed)
