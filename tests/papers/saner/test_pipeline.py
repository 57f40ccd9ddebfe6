"""What must be learnable, and the stages end to end."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from reprise import params as parameters
from reprise.papers.saner.corpus import Corpus
from reprise.papers.saner.evaluate import bootstrap
from reprise.papers.saner.metrics import corpus_f1
from reprise.papers.saner.model import Architecture, Tagger
from reprise.papers.saner.train import Train, similar_words
from reprise.stage import run

GEN = {
    "sentences": {"train": 60, "dev": 30, "test": 40, "unlabelled": 600}, "names": 20, "noun_classes": 4, "nouns": 10, "cues": 4, "function_words": 10,
    "zipf": 0.8, "shared": 0.2, "bare_labelled": 0.7, "bare_unlabelled": 0.4,
}  # fmt: skip
TINY = {
    "download": {"generate": {"hard": GEN, "easy": GEN}},
    "preprocess": {"size": 12, "min_count": 2, "min_count_neighbour": 2},
    "train": {"d": 16, "heads": 2, "word_size": 8, "letter_size": 4, "filters": 6, "seeds": 2, "epochs": 2, "lr": 0.01},
    "evaluate": {"resamples": 50},
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A root with the first two stages done."""
    root = tmp_path_factory.mktemp("saner")
    for stage in ("download", "preprocess"):
        run("saner", stage, root=root, params=TINY[stage])
    return root


def settings(**changes):
    return Train.model_validate({**parameters.block("saner", "train", "small"), **TINY["train"], **changes})


def test_twenty_sentences_are_learned_by_heart_in_200_steps(root):
    corpus = Corpus(root / "data/saner/small/prepared/hard")
    free = dict.fromkeys([f"dropout_{x}" for x in ("encoder", "input", "augmentation", "fusion", "output", "word")], 0.0)
    a = settings(d=32, word_size=32, augmentation="attention", fusion="gate", **free)
    tagger = Tagger([torch.Generator().manual_seed(0)], Architecture(**{k: getattr(a, k) for k in Architecture.model_fields}), corpus.sizes, corpus.vectors_RV)
    optimiser = torch.optim.Adam(tagger.parameters(), lr=0.01, fused=True)
    sentences, gold = np.arange(20)[None], corpus.tags("train")
    batch = corpus.batch("train", sentences, corpus.near_WM[:, :10], gold)
    for _ in range(200):
        optimiser.zero_grad()
        tagger.loss(batch, None).sum().backward()
        optimiser.step()
    tags = tagger.predict(batch)[0][batch.mask_SBT].numpy()
    tokens = corpus.lengths["train"][:20].sum()
    assert corpus_f1(gold[:tokens], tags, corpus.first_N["train"][:tokens]) == 100


def test_random_neighbours_are_as_many_but_others(root):
    near = Corpus(root / "data/saner/small/prepared/hard").near_WM
    real, control = (similar_words(settings(neighbours=kind, m=5), near, np.random.default_rng(0)) for kind in ("similar", "random"))
    assert real.shape == control.shape == (len(near), 5) and np.array_equal(real > 0, control > 0)
    assert np.array_equal(real, near[:, :5]) and (real == control)[real > 0].mean() < 0.2
    assert set(control.ravel()) <= set(near[:, :5].ravel())


def test_bootstrap_of_equal_systems_is_zero_and_of_a_better_one_is_not():
    rng = np.random.default_rng(0)
    gold = rng.integers(1, 4, (2, 200))
    worse = np.stack([rng.binomial(gold, 0.5), gold, gold], -1)
    better = np.stack([gold, gold, gold], -1)
    assert (bootstrap(worse, worse, 20, rng) == 0).all()
    draws = bootstrap(better, worse, 200, rng)
    assert draws.mean() == pytest.approx(100 * (1 - worse[..., 0].sum(1) / gold.sum(1)).mean(), abs=1) and draws.min() > 40


def test_a_corpus_may_change_parameters_but_not_invent_them():
    assert settings(changes={"WB": {"d": 64}}).on("WB").d == 64
    assert settings(changes={"WB": {"d": 64}}).on("W17").d == 16
    with pytest.raises(ValueError):
        settings(changes={"WB": {"dd": 64}})


def test_training_does_not_look_at_the_test_labels(root):
    """Nor does it need them: the model is the same without the file."""
    labels = root / "data/saner/small/prepared/hard/labels.test.parquet"
    model = root / "data/saner/small/models/au_ga/hard.safetensors"
    run("saner", "train", variant="au_ga", root=root, params={**TINY["train"], "corpora": ["hard"]})
    before, content = model.read_bytes(), labels.read_bytes()
    labels.unlink()
    try:
        run("saner", "train", variant="au_ga", root=root, params={**TINY["train"], "corpora": ["hard"]})
    finally:
        labels.write_bytes(content)
    assert model.read_bytes() == before


def test_pipeline(root):
    section = parameters.section("saner", "small")
    for variant in section["variants"]:
        run("saner", "train", variant=variant, root=root, params=TINY["train"])
    for stage in ("evaluate", "report"):
        run("saner", stage, root=root, params=TINY.get(stage))
    metrics = json.loads((root / "reports/saner/small/metrics.json").read_text())
    assert metrics["viterbi.illegal"] == 0 and metrics["seqeval.difference"] < 1e-9
    assert 0 <= metrics["hard.au_ga.f1.mean"] <= 100 and "hard.au_ga.over_baseline.mean" in metrics and "easy.baseline.f1.std" in metrics
    results = root / "data/saner/small/results"
    scores, predictions, tokens = (pd.read_parquet(results / f"{x}.parquet") for x in ("scores", "predictions", "tokens"))
    assert len(scores) == 2 * sum(len(v.get("corpora", ["hard"])) for v in section["variants"].values())
    assert len(predictions) == sum(len(tokens[tokens.corpus == corpus]) for corpus in scores.corpus)
    page = (root / "reports/saner/small/index.md").read_text()
    assert "figures/modules.svg" in page and "figures/by_m.svg" in page
    history = pd.read_parquet(root / "data/saner/small/models/au_ga/history_hard.parquet")
    assert set(history.metric) == {"loss", "dev_f1"} and history.member.nunique() == 2


@pytest.mark.parametrize("scale", ["real", "gpu", "paper"])
def test_other_scales_are_consistent(scale):
    """Every corpus trained on is prepared, every file it needs fetched; variants are those of the list."""
    section = parameters.section("saner", scale)
    assert list(section["variants"]) == parameters.of_paper("saner")["variants"]
    prepared = section["preprocess"]["corpora"]
    for name, source in prepared.items():
        assert {f"{name}.{split}.txt" for split in ("train", "dev", "test")} | set(source.get("unlabelled", [])) <= set(section["download"]["fetch"])
    for variant in section["variants"]:
        train = Train.model_validate(parameters.block("saner", "train", scale, variant))
        assert set(train.corpora) <= set(prepared) and train.m <= section["preprocess"]["m"]
        if train.input == "features":
            assert all(prepared[name].get("features") for name in train.corpora)
