"""Domains, splits, what each task trains on, and the pipeline end to end at tiny sizes."""

import hashlib
import json
import os

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file

from reprise.errors import ReproError
from reprise.papers.ntl import data, domains
from reprise.papers.ntl.attack import best_for_thief
from reprise.papers.ntl.data import Patch
from reprise.papers.ntl.evaluate import Table, drops
from reprise.papers.ntl.loss import Objective
from reprise.papers.ntl.train import Train, streams
from reprise.params import section
from reprise.stage import run

SIZES = {"images": [300, 60, 80]}
SCHEDULE = {"epochs": 3, "batch": 25}
ONE = {"seeds": 1, "schedule": SCHEDULE}
GAN = {"noise": 8, "width": 8, "residual": 1, "epochs": 3, "batch": 50, "rate": 1e-3, "classify": 1.0, "eps": 1e-5, "judged": "together", "gate": [0.2, 0.3]}
LEVELS = [{"distances": [0.1, 0.5], "steps": 2, "rate": 0.001}]
ATTACK = {"schedule": SCHEDULE, "hard": SCHEDULE, "scratch": SCHEDULE, "rates": [0.001, 0.01], "fisher_images": 3, "prune_ratios": [0.5, 0.9], "unlabelled_images": 40}


@pytest.mark.parametrize("name", ["plain", "bold", "blend", "print", "street", "mnist"])
def test_painters_give_square_colour_images_that_follow_their_generator(name):
    digits = np.random.default_rng(0).integers(0, 256, (4, 8, 8), dtype=np.uint8)
    one, two = (domains.paint(name, digits, np.arange(4), 16, np.random.default_rng(1)) for _ in range(2))
    assert one.shape == (4, 16, 16, 3) and one.dtype == np.uint8 and np.array_equal(one, two)
    assert one.std(axis=(1, 2, 3)).min() > 1


def test_every_font_has_every_digit():
    from PIL import Image, ImageDraw

    for name in domains.FONTS:
        seen = set()
        for digit in range(10):
            image = Image.new("L", (64, 64))
            ImageDraw.Draw(image).text((32, 32), str(digit), 255, domains.font(name, 60), anchor="mm")
            seen.add(image.tobytes())
            assert 100 < np.asarray(image).astype(bool).sum(), f"{name} has no {digit}"
        assert len(seen) == 10


def test_splits_are_disjoint_and_real_images_are_used_once():
    parts = data.split(np.zeros(1797, bool), (0.56, 0.16, 0.28), np.random.default_rng(0))
    assert sum(map(len, parts)) == len(set(np.concatenate(parts))) == 1797
    official = data.split(np.arange(100) >= 80, (0.6, 0.2, 0.2), np.random.default_rng(0))
    assert sorted(official[2]) == list(range(80, 100)) and list(map(len, official)) == [60, 20, 20] and len(set(np.concatenate(official))) == 100
    assert len(set(data.choose(parts[0], 500, True, np.random.default_rng(0)))) == 500
    assert set(data.choose(parts[2], 5000, False, np.random.default_rng(0))) <= set(parts[2])


def settings(task, **more):
    values = {"task": task, "pairs": [["a"]], "seeds": 1, "architecture": {"name": "mini", "width": 8}, "objective": {"alpha": 1, "beta": 1, "alpha_dis": 1, "beta_dis": 1}, "schedule": {"epochs": 1, "batch": 2, "rate": 0.1}, "patch": {"value": 80}}
    return Train(**values | more)


def test_what_each_task_trains_on():
    g = torch.Generator().manual_seed(0)
    source, target, augmented = ((torch.randint(100, (n, 4, 4, 3), generator=g, dtype=torch.uint8), torch.arange(n) % 3) for n in (6, 5, 20))
    stamp = lambda x: data.patched(x, Patch(value=80))  # noqa: E731
    (x_s, y_s), (x_a, y_a) = streams(settings("target"), source, target, None)
    assert torch.equal(x_s, source[0]) and torch.equal(x_a, target[0]) and torch.equal(y_a, target[1])
    _, (x_a, y_a) = streams(settings("ownership"), source, None, None)
    assert torch.equal(x_a, stamp(source[0])) and torch.equal(y_a, source[1])
    _, (x_a, y_a) = streams(settings("watermark", label=2), source, None, None)
    assert len(y_a) == 4 and (y_a == 2).all() and torch.equal(x_a, stamp(source[0][source[1] != 2]))
    _, (x_a, y_a) = streams(settings("source_only"), source, None, augmented)
    assert torch.equal(x_a, augmented[0])
    (x_s, y_s), (x_a, y_a) = streams(settings("authorisation"), source, None, augmented)
    assert torch.equal(x_s, stamp(source[0])) and torch.equal(y_s, source[1])
    assert torch.equal(x_a, torch.cat([source[0], augmented[0][:3], stamp(augmented[0][3:6])]))
    assert torch.equal(y_a, torch.cat([source[1], augmented[1][:6]]))


def test_relative_drop_and_what_is_left_out():
    rows = [{"variant": v, "source": "a", "target": t, "seed": s, "domain": d, "patched": False, "accuracy": value} for v, t, s, d, value in [("sl", "", 0, "a", 90.0), ("sl", "", 0, "b", 80.0), ("sl", "", 0, "c", 15.0), ("x", "", 0, "a", 88.0), ("x", "", 0, "b", 20.0), ("x", "", 0, "c", 9.0)]]
    lost, relative, out = drops(Table(pd.DataFrame(rows)), "x", "a", ["b", "c"], "", {"b": 10, "c": 10}, 2)
    assert lost.tolist() == [2] and relative.tolist() == [75] and out == ["c"]


def test_the_thief_takes_what_removes_most_among_what_keeps_the_model_useful():
    def row(variant, attack, setting, clean, patched, answers):
        return {"variant": variant, "source": "a", "seed": 0, "attack": attack, "setting": setting, "clean": clean, "patched": patched, "answers": answers}

    attacks = pd.DataFrame([
        row("ownership", "none", 0, 0.95, 0.1, 0.1), row("ownership", "ftal", 1, 0.94, 0.2, 0), row("ownership", "ftal", 2, 0.93, 0.3, 0), row("ownership", "ftal", 3, 0.5, 0.5, 0),
        row("watermark", "none", 0, 0.95, 0.1, 1.0), row("watermark", "ftal", 1, 0.94, 0.2, 0.8), row("watermark", "ftal", 2, 0.95, 0.2, 0.1), row("watermark", "ftal", 3, 0.2, 0.1, 0.0),
    ])  # fmt: skip
    best = best_for_thief(attacks, 5).set_index(["variant", "attack"]).setting
    assert best["ownership", "ftal"] == 2 and best["watermark", "ftal"] == 2
    hopeless = attacks.assign(clean=attacks.clean.where(attacks.attack == "none", 0.1 * attacks.setting))
    assert best_for_thief(hopeless, 5).set_index(["variant", "attack"]).setting["ownership", "ftal"] == 3


def pipeline(root):
    run("ntl", "download", root=root)
    run("ntl", "preprocess", root=root, params=SIZES)
    run("ntl", "pretrain", root=root, params=ONE)
    run("ntl", "augment", root=root, params={"gans": [GAN, {**GAN, "judged": "apart"}], "levels": LEVELS, "images": 20})
    for variant in section("ntl", "small")["variants"]:
        run("ntl", "train", variant=variant, root=root, params=ONE)
    run("ntl", "attack", root=root, params=ATTACK)
    run("ntl", "evaluate", root=root, params={"embedded": 20, "destroyable": 0.01})
    return (root / "reports/ntl/small/metrics.json").read_bytes()


def hashes(folder):
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_pipeline_from_data_to_page(tmp_path):
    metrics = json.loads(pipeline(tmp_path))
    prepared = load_file(tmp_path / "data/ntl/small/prepared/domains.safetensors")
    for domain in ("plain", "bold", "blend"):  # no digit of a test image was trained on, in whatever domain
        assert not set(prepared[f"{domain}.test.id"]) & {i for other in ("plain", "bold", "blend") for part in ("train", "validation") for i in prepared[f"{other}.{part}.id"]}
    assert "print.train.x" not in prepared
    assert {"target.relative_drop.mean", "ownership.source_drop.mean", "attack.ownership.patched.highest", "authorise.authorisation.others.mean", "ablation.target_kl.relative_drop.sd", "verify.sl.gap.mean", "attack.scratch.none.clean.mean"} <= set(metrics)
    attacks, thief = (pd.read_parquet(tmp_path / f"data/ntl/small/attack/{name}.parquet") for name in ("attacks", "thief"))
    assert len(attacks) == 2 * (1 + 2 + 6 * 2 + 1) + 1 and len(thief) == 2 * (1 + 1 + 6 + 1) + 1
    run("ntl", "report", root=tmp_path)
    page = (tmp_path / "reports/ntl/small/index.md").read_text()
    assert page.count("![") >= 8 and "Claims" in page


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bits(tmp_path):
    one, two = (pipeline(tmp_path / name) for name in ("one", "two"))
    assert one == two and hashes(tmp_path / "one/data") == hashes(tmp_path / "two/data")


def test_a_pair_that_does_not_suit_its_task_is_named(tmp_path):
    run("ntl", "download", root=tmp_path)
    run("ntl", "preprocess", root=tmp_path, params=SIZES)
    with pytest.raises(ReproError, match="takes \\[source, target\\]"):
        run("ntl", "pretrain", root=tmp_path, params={**ONE, "sources": ["plain"]})
        run("ntl", "train", variant="target", root=tmp_path, params={**ONE, "pairs": [["plain"]]})
    with pytest.raises(ReproError, match="no domain 'plane'"):
        run("ntl", "preprocess", root=tmp_path, params={**SIZES, "domains": {"plane": "digits"}})
    with pytest.raises(ReproError, match="print.*no train images"):
        run("ntl", "pretrain", root=tmp_path, params={**ONE, "sources": ["print"]})


def test_objective_refuses_a_negative_weight():
    with pytest.raises(ValueError):
        Objective(alpha=-1, beta=1, alpha_dis=1, beta_dis=1)


@pytest.mark.mirror
def test_real_digits_are_fetched_and_read(tmp_path):
    if not os.environ.get("REPRISE_MIRROR"):
        pytest.skip("REPRISE_MIRROR is not set")
    stage = run("ntl", "download", "real", root=tmp_path)
    mnist, usps = (load_file(stage.target / f"{name}.safetensors") for name in ("mnist", "usps"))
    assert mnist["images"].shape == (10_000, 28, 28) and usps["images"].shape == (9298, 16, 16)
    assert not mnist["held_out"].any() and np.flatnonzero(usps["held_out"]).tolist() == list(range(7291, 9298))
    assert np.bincount(usps["labels"]).tolist() == [1553, 1269, 929, 824, 852, 716, 834, 792, 708, 821]
