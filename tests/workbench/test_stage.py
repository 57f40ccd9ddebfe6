import json
import os
import signal
import subprocess
import time

import pytest

from reprise import determinism, params
from reprise.errors import ReproError
from reprise.stage import Stage


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("toi", "train"), "unknown paper 'toi': did you mean 'toy'?"),
        (("toy", "trian"), "unknown stage of toy 'trian': did you mean 'train'?"),
        (("toy", "train", "--scale", "smal"), "unknown scale of toy 'smal': did you mean 'small'?"),
        (("toy", "train", "--variant", "heavyball"), "did you mean 'heavy_ball'?"),
        (("toy", "train", "--variant", "gradient"), "data/toy/small/prepared, which is missing"),
        (("toy", "train"), "parameter 'momentum': Field required"),
    ],
)
def test_bad_words_end_in_one_line(checkout, words, message):
    done = checkout.run("reprise.stage", *words, check=False)
    assert done.returncode == 1
    assert message in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("{steps: 100}", "{steps: 100, stepz: 1}", "unknown parameter 'stepz': did you mean 'steps'?"),
        ("{steps: 100}", "{steps: many}", "parameter 'steps': Input should be a valid integer"),
        ("{steps: 100}", "{steps: 0}", "greater than 0"),
        ("{steps: 100}", "{steps: [", "not valid YAML"),
    ],
)
def test_bad_parameters_end_in_one_line(checkout, old, new, message):
    path = checkout.root / "pipelines/toy/params.yaml"
    path.write_text(path.read_text().replace(old, new))
    done = checkout.run("reprise.stage", "toy", "train", "--variant", "gradient", check=False)
    assert done.returncode == 1 and message in done.stderr and done.stderr.count("\n") == 1


def test_a_loss_that_is_not_finite_names_step_and_last_finite_value(checkout):
    for stage in ("download", "preprocess"):
        checkout.run("reprise.stage", "toy", stage)
    model = checkout.root / "src/reprise/papers/toy/model.py"
    model.write_text(model.read_text().replace("return x_KD - alpha", "return x_KD - 1e38 * alpha"))
    done = checkout.run("reprise.stage", "toy", "train", "--variant", "gradient", check=False)
    assert done.returncode == 1 and "loss of member" in done.stderr and "smaller learning rate" in done.stderr
    assert not (checkout.root / "data/toy/small/models/gradient").exists()
    assert not list((checkout.root / ".reprise/work").iterdir())


def test_a_read_only_output_folder_is_said_in_one_line(checkout):
    """A real read-only mount, since root may write to a folder without permissions."""
    data = checkout.root / "data"
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(data)], capture_output=True, check=False).returncode:
        pytest.skip("mounting needs root")
    try:
        done = checkout.run("reprise.stage", "toy", "download", check=False)
    finally:
        subprocess.run(["umount", "-l", str(data)], check=False)
    assert done.returncode == 1 and "read-only file system" in done.stderr and done.stderr.count("\n") == 1


def test_a_full_disk_is_said_in_one_line_and_leaves_nothing(checkout, tmp_path):
    """A real full file system, 24 kB small, where the kernel lets us mount one."""
    small = checkout.root / ".reprise"
    small.mkdir(exist_ok=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24k", "tmpfs", str(small)], capture_output=True, check=False).returncode:
        pytest.skip("mounting needs root")
    try:
        path = checkout.root / "pipelines/toy/params.yaml"
        path.write_text(path.read_text().replace("dimension: 20", "dimension: 200"))
        done = checkout.run("reprise.stage", "toy", "download", check=False)
        assert done.returncode == 1 and "disk is full" in done.stderr and done.stderr.count("\n") == 1
        assert not (checkout.root / "data/toy/small/raw").exists()
    finally:
        subprocess.run(["umount", "-l", str(small)], check=False)


def test_a_second_writer_is_refused_and_names_the_first(checkout):
    for stage in ("download", "preprocess"):
        checkout.run("reprise.stage", "toy", stage)
    _slow(checkout)
    first = checkout.start("reprise.stage", "toy", "train", "--variant", "gradient")
    try:
        _wait_for(checkout.root / ".reprise/runs/toy.train@small-gradient.jsonl")
        second = checkout.run("reprise.stage", "toy", "train", "--variant", "gradient", check=False)
        assert second.returncode == 1 and f"already being run by process {first.pid}" in second.stderr
    finally:
        first.kill()


def test_a_stage_dies_with_its_engine(checkout):
    for stage in ("download", "preprocess"):
        checkout.run("reprise.stage", "toy", stage)
    _slow(checkout)
    engine = checkout.start("dvc", "repro", "pipelines/toy/dvc.yaml:train@small-gradient")
    lock = checkout.root / ".reprise/locks/toy.train@small-gradient"
    _wait_for(checkout.root / ".reprise/runs/toy.train@small-gradient.jsonl")
    child = int(lock.read_text())
    engine.send_signal(signal.SIGKILL)
    engine.wait()
    for _ in range(100):
        if not _alive(child):
            return
        time.sleep(0.1)
    raise AssertionError("the stage outlived the engine that started it")


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] != "Z"


def _slow(checkout) -> None:
    train = checkout.root / "src/reprise/papers/toy/train.py"
    train.write_text(train.read_text().replace("loop.log(", "__import__('time').sleep(0.2); loop.log("))


def _wait_for(path) -> None:
    for _ in range(900):
        if path.exists():
            return
        time.sleep(0.1)
    raise AssertionError(f"{path} did not appear")


def test_streams_are_split_by_name():
    stage = Stage("toy", "train", "small")
    seeds = {stage.seed(*names) for names in [(), ("a",), ("b",), ("a", 1), ("a", "1x"), ("a1",)]}
    assert len(seeds) == 6
    assert determinism.seed(2026, "toy", "a") != determinism.seed(2027, "toy", "a")
    assert stage.rng("a").random() == stage.rng("a").random()


def test_metrics_are_finite_numbers_with_dotted_names(tmp_path):
    stage = Stage("toy", "evaluate", "small", root=tmp_path)
    for bad in ({"A": 1.0}, {"a-b": 1.0}, {"a..b": 1.0}, {"a": float("nan")}, {"a": "1"}):
        with pytest.raises(ReproError):
            stage.metrics(bad)
    stage.metrics({"b.x": 1, "a": 0.5})
    assert list(json.loads((stage.work / "metrics.json").read_text())) == ["a", "b.x"]


def test_exact_sqrt_is_the_correctly_rounded_root():
    import numpy as np
    import torch

    x = torch.rand(100_000, generator=torch.Generator().manual_seed(0)) * 1e3
    assert np.array_equal(determinism.exact_sqrt(x).numpy(), np.sqrt(x.numpy()))
    y = x.double()
    assert np.allclose(determinism.exact_sqrt(y).numpy(), np.sqrt(y.numpy()), rtol=4e-16, atol=0)
    assert determinism.exact_sqrt(torch.zeros(1)).item() == determinism.exact_sqrt(torch.zeros(1).double()).item() == 0
    z = torch.rand(5, dtype=torch.float64).add(0.1).requires_grad_()
    assert torch.autograd.gradcheck(determinism.exact_sqrt, z)


def test_merge_is_deep_and_leaves_its_arguments_alone():
    base = {"a": {"x": 1, "y": 2}, "b": 3}
    assert params.merge(base, {"a": {"x": 5}}) == {"a": {"x": 5, "y": 2}, "b": 3}
    assert base == {"a": {"x": 1, "y": 2}, "b": 3}


def test_the_profile_reaches_the_libraries(checkout):
    code = "import torch, os; print(torch.get_num_threads(), torch.backends.cpu.get_cpu_capability(), os.environ['MKL_CBWR'])"
    done = subprocess.run(["python", "-c", code], env=determinism.environment("portable"), capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "AVX2", "COMPATIBLE"]
    assert "MKL_CBWR" not in determinism.environment("fast")
