"""Two engines, one lock; and every way of being interrupted, edited or damaged."""

import random
import shutil
import subprocess
import sys
import time

import pytest

from reprise import cache, engine


def test_the_hash_of_a_folder_is_dvc_s(reproduced):
    for node in engine.graph(reproduced.root).values():
        if node.paper:
            state, outs = engine.locked(node, reproduced.root)
            assert engine.inputs(node, reproduced.root) == state
            assert engine.outputs(node, reproduced.root) == outs


@pytest.mark.parametrize("cores", ["1", "2"])
def test_snakemake_leaves_the_lock_and_the_results_of_dvc(checkout, reproduced, cores):
    checkout.run("reprise.engine", "reproduce", "toy", "--cores", cores)
    assert checkout.lock() == reproduced.lock()
    assert checkout.outputs() == reproduced.outputs()
    assert checkout.cache() == reproduced.cache()
    assert "up to date" in checkout.run("dvc", "status", "pipelines/toy/dvc.yaml").stdout


@pytest.mark.slow
def test_a_shuffled_order_leaves_the_same_lock(checkout, reproduced):
    nodes = [n for n in engine.graph(checkout.root).values() if n.paper]
    done, left, draw = set(), list(nodes), random.Random(3)
    while left:
        ready = [n for n in left if set(n.parents) <= done]
        node = draw.choice(ready)
        checkout.run("reprise.engine", "execute", node.address)
        done.add(node.address)
        left.remove(node)
    checkout.run("reprise.engine", "record")
    assert checkout.lock() == reproduced.lock()
    assert checkout.outputs() == reproduced.outputs()


def test_what_is_missing_is_taken_from_the_cache_and_what_is_damaged_is_made_again(reproduced, tmp_path):
    checkout = reproduced.copy(tmp_path / "checkout")
    address = "pipelines/toy/dvc.yaml:train@small-gradient"
    shutil.rmtree(checkout.root / "data/toy/small/models/gradient")
    assert "checked out" in checkout.run("reprise.engine", "execute", address).stdout
    assert "fresh" in checkout.run("reprise.engine", "execute", address).stdout
    node = engine.graph(checkout.root)[address]
    entry = cache.object_of(engine.locked(node, checkout.root)[1]["data/toy/small/models/gradient"], checkout.root)
    entry.chmod(0o644)
    entry.write_text("[]")
    shutil.rmtree(checkout.root / "data/toy/small/models/gradient")
    assert "ran" in checkout.run("reprise.engine", "execute", address).stdout
    checkout.run("reprise.engine", "record")
    assert checkout.lock() == reproduced.lock() and checkout.outputs() == reproduced.outputs()


def test_what_the_cache_has_lost_is_put_back_from_the_results(reproduced, tmp_path):
    checkout = reproduced.copy(tmp_path / "checkout")
    node = engine.graph(checkout.root)["pipelines/toy/dvc.yaml:evaluate@small"]
    listing = cache.object_of(engine.locked(node, checkout.root)[1]["data/toy/small/results"], checkout.root)
    listing.unlink()
    checkout.run("reprise.engine", "reproduce", "toy")
    assert listing.exists() and "up to date" in checkout.run("dvc", "status", "pipelines/toy/dvc.yaml").stdout
    assert checkout.lock() == reproduced.lock() and checkout.outputs() == reproduced.outputs()


def test_an_upstream_edit_without_effect_reruns_nothing_below(reproduced, tmp_path):
    checkout = reproduced.copy(tmp_path / "checkout")
    data = checkout.root / "src/reprise/papers/toy/data.py"
    data.write_text(data.read_text() + "\n# a remark\n")
    done = checkout.run("reprise.engine", "reproduce", "toy")
    ran = sorted(line.split(":")[1] for line in done.stdout.splitlines() if line.endswith(": ran"))
    assert ran == ["download@small", "preprocess@small"]


def test_a_source_edited_while_its_stage_runs_is_not_recorded(checkout):
    checkout.run("reprise.engine", "execute", "pipelines/toy/dvc.yaml:download@small")
    data = checkout.root / "src/reprise/papers/toy/data.py"
    data.write_text(data.read_text().replace("    raw = load_file", "    import time; time.sleep(3)\n    raw = load_file"))
    job = subprocess.Popen([sys.executable, "-m", "reprise.engine", "execute", "pipelines/toy/dvc.yaml:preprocess@small"], cwd=checkout.root, env=checkout.env, stderr=subprocess.PIPE, text=True)
    lock = checkout.root / ".reprise/locks/toy.preprocess@small"
    while not lock.exists():
        time.sleep(0.02)
    data.write_text(data.read_text() + "# edited\n")
    assert "a dependency changed while it ran" in job.communicate()[1] and job.returncode == 1
    checkout.run("reprise.engine", "record")
    assert not (checkout.root / "pipelines/toy/dvc.lock").exists()  # nor the stage before it, whose source it is too


def test_a_receipt_that_disagrees_with_the_disk_is_dropped(checkout):
    checkout.run("reprise.engine", "execute", "pipelines/toy/dvc.yaml:download@small")
    (checkout.root / "data/toy/small/raw/problems.safetensors").write_bytes(b"other")
    assert "not recorded" in checkout.run("reprise.engine", "record").stderr
    assert not (checkout.root / "pipelines/toy/dvc.lock").exists()


@pytest.mark.parametrize("damage", ["truncated", "conflict"])
def test_a_damaged_lock_is_named_with_what_to_do(reproduced, tmp_path, damage):
    checkout = reproduced.copy(tmp_path / "checkout")
    lock = checkout.root / "pipelines/toy/dvc.lock"
    text = lock.read_text()
    lock.write_text(text[: len(text) // 2] + "\n  x: [" if damage == "truncated" else "<<<<<<< HEAD\n" + text + ">>>>>>> theirs\n")
    done = checkout.run("reprise.engine", "execute", "pipelines/toy/dvc.yaml:download@small", check=False)
    assert done.returncode == 1 and "dvc.lock is damaged" in done.stderr and "git checkout" in done.stderr


@pytest.mark.parametrize("left", ["", '{"/some/where": {"write'])
def test_what_a_killed_dvc_left_half_written_is_removed(reproduced, tmp_path, left):
    checkout = reproduced.copy(tmp_path / "checkout")
    (checkout.root / ".dvc/tmp/rwlock").write_text(left)
    assert checkout.run("dvc", "status", check=False).returncode != 0
    assert "removed .dvc/tmp/rwlock" in checkout.run("reprise.engine", "reproduce", "toy").stderr
    assert "up to date" in checkout.run("dvc", "status", "pipelines/toy/dvc.yaml").stdout


def test_a_failing_stage_stops_only_what_depends_on_it_and_is_named(checkout):
    model = checkout.root / "src/reprise/papers/toy/train.py"
    model.write_text(model.read_text().replace("    data = load_file", "    assert not params.momentum\n    data = load_file"))
    done = checkout.run("reprise.engine", "reproduce", "toy", check=False)
    assert done.returncode != 0
    assert "1 failed" in done.stdout and "again: dvc repro pipelines/toy/dvc.yaml:train@small-heavy_ball" in done.stdout
    assert ".reprise/logs/toy_train_small_heavy_ball.log" in done.stdout
    assert (checkout.root / "data/toy/small/models/gradient").exists()
    assert "train@small-gradient" in checkout.lock().decode()


def test_an_engine_that_is_killed_leaves_no_writer_and_two_at_once_are_refused(checkout):
    process = checkout.start("reprise.engine", "reproduce", "toy")
    while not (checkout.root / ".reprise/locks/toy.download@small").exists():
        time.sleep(0.1)
    second = checkout.run("reprise.engine", "reproduce", "toy", check=False)
    assert second.returncode == 1 and "another `reproduce` is running" in second.stderr
    process.kill()
    process.wait()
    time.sleep(1.5)
    checkout.run("reprise.engine", "reproduce", "toy")


@pytest.mark.slow
@pytest.mark.parametrize("profile", ["slurm", "kubernetes"])
def test_a_cluster_s_profile_loads_and_plans_all_stages(checkout, profile):
    site = ["--config", f"root={checkout.root}"] if profile == "kubernetes" else []
    done = checkout.run("snakemake", "--profile", f"profiles/{profile}", "--dry-run", *site)
    assert "toy_train_small_heavy_ball" in done.stdout + done.stderr
