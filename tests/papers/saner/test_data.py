"""The generated corpus, the prepared files, and what they may not know."""

import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from reprise import datasets
from reprise import params as parameters
from reprise.papers.saner import data, text, tweetgen
from reprise.papers.saner.corpus import Corpus
from reprise.papers.saner.evaluate import Analysis
from reprise.papers.saner.features import TokenFeatures, write
from reprise.stage import run

GEN = tweetgen.TweetGen(
    sentences={"train": 300, "dev": 40, "test": 300, "unlabelled": 1500}, names=60, noun_classes=4, nouns=20, cues=6, function_words=30,
    zipf=0.8, shared=0.2, bare_labelled=0.7, bare_unlabelled=0.4,
)  # fmt: skip
SMALL = {
    "download": {"generate": {name: GEN.model_dump() for name in ("hard", "easy")}},
    "preprocess": {"size": 16, "min_count": 2, "min_count_neighbour": 2},
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The first two stages at a very small size."""
    root = tmp_path_factory.mktemp("saner")
    for stage in ("download", "preprocess"):
        run("saner", stage, root=root, params=SMALL[stage])
    return root / "data/saner/small"


def test_same_seed_same_bytes(tmp_path):
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        (tmp_path / folder).mkdir()
        tweetgen.write(GEN, seed, tmp_path / folder, "x")
    files = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert files == ["x.dev.txt", "x.test.txt", "x.train.txt", "x.unlabelled.txt", "x.words.parquet"]
    for file in files:
        one, two, other = ((tmp_path / folder / file).read_bytes() for folder in "abc")
        assert one == two != other


def test_the_corpus_is_as_configured():
    parts, truth = tweetgen.generate(GEN, 5)
    assert {part: len(s) for part, s in parts.items()} == dict(GEN.sentences)
    tags = [tag for _, tags in parts["unlabelled"] for tag in tags]
    begins = pd.Series([t[2:] for t in tags if t[0] == "B"]).value_counts(normalize=True)
    assert sorted(begins.index) == tweetgen.TYPES and (begins - 1 / 6).abs().max() < 0.04  # balanced
    names = truth[truth.classes.str.contains("name")]
    assert len(names) == 12 * 60 - 12 * 6 and names.shared.sum() == 12 * 6  # a fifth of each list of 60, and each shared name is in two lists
    for pair in names[names.shared].classes.str.findall(r"\d+"):
        assert int(pair[0]) // 2 != int(pair[1]) // 2  # of two types
    cues = set(truth[truth.classes.str.startswith("cue")].word)
    near = {
        part: np.mean([any(w.lower() in cues for w in words[max(i - 1, 0) : i + 3]) for words, tags in parts[part] for i, t in enumerate(tags) if t[0] == "B"])
        for part in ("test", "unlabelled")
    }
    assert near["test"] < near["unlabelled"]
    cased = np.mean([w[0].isupper() for words, tags in parts["unlabelled"] for w, t in zip(words, tags) if t != "O"])
    assert cased == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(("names", "low", "high"), [(20, 0, 15), (250, 45, 65)])
def test_unseen_entity_tokens_grow_with_the_number_of_names(tmp_path, names, low, high):
    settings = GEN.model_copy(update={"names": names, "sentences": tweetgen.Sizes(train=700, dev=10, test=400, unlabelled=1)})
    parts, _ = tweetgen.generate(settings, 7)
    seen = {w.lower() for words, _ in parts["train"] for w in words}
    unseen = 100 * np.mean([w.lower() not in seen for words, tags in parts["test"] for w, t in zip(words, tags) if t != "O"])
    assert low <= unseen <= high


def test_prepared_corpus_gives_the_words_back(prepared):
    corpus = Corpus(prepared / "prepared/hard")
    sentences = text.read_conll(prepared / "raw/hard.test.txt")
    assert corpus.lengths["test"].tolist() == [len(words) for words, _ in sentences]
    forms = corpus.forms.form.to_numpy()
    assert forms[corpus.form_N["test"]].tolist() == [w for words, _ in sentences for w in words]
    batch = corpus.batch("test", np.array([[0, 5], [7, 2]]), corpus.near_WM, corpus.tags("test"))
    words, tags = sentences[5]
    n = len(words)
    assert batch.mask_SBT[0, 1].tolist() == [True] * n + [False] * (batch.mask_SBT.shape[2] - n)
    assert batch.tag_SBT[0, 1, :n].tolist() == text.to_bioes(tags, corpus.types).tolist()
    distinct = np.unique(corpus.form_N["test"][np.isin(np.repeat(np.arange(len(sentences)), corpus.lengths["test"]), [0, 5, 7, 2])])
    shown = batch.form_SBT[0, 1, :n].numpy()
    assert len(batch.letters_UL) in (len(distinct), len(distinct) + 1)  # padding shows the split's first token
    assert [len(w) for w in words] == (batch.letters_UL[shown] > 0).sum(1).tolist()
    seen = set(corpus.words.word[corpus.words.train])
    assert [(i > 0) for i in batch.word_SBT[0, 1, :n].tolist()] == [text.normalise(w) in seen for w in words]
    vocabulary = pd.read_parquet(prepared / "prepared/hard/vocabulary.parquet").word
    for word, row in zip(words, batch.row_SBT[0, 1, :n].tolist()):
        assert row == 0 or vocabulary[row - 1] == text.normalise(word)


def test_every_training_sentence_comes_once_an_epoch_for_every_member(prepared):
    corpus = Corpus(prepared / "prepared/hard")
    order = corpus.order(32, 3, np.random.default_rng(0))
    for s in range(3):
        assert sorted(i for batch in order for i in batch[s]) == list(range(300))
    spread = [np.ptp(corpus.lengths["train"][batch]) for batch in order]
    assert np.median(spread) <= 4  # bucketed by length
    assert not np.array_equal(order[0][0], order[0][1])


def test_no_held_out_sentence_trains_the_vectors_and_no_held_out_label_has_a_say(prepared, tmp_path):
    """Held-out sentences hidden in the unlabelled text, their labels replaced: what is prepared stays the same."""
    root = tmp_path
    raw = root / "data/saner/small/raw"
    shutil.copytree(prepared / "raw", raw)
    held_out = [words for split in ("dev", "test") for words, _ in text.read_conll(raw / f"hard.{split}.txt")]
    with (raw / "hard.unlabelled.txt").open("a") as file:
        file.writelines(f"{' '.join(words).upper()} !! http://t.co/x\n" for words in held_out)
    for split in ("dev", "test"):
        path = raw / f"hard.{split}.txt"
        path.write_text("".join(f"{line.split()[0]} O\n" if line.strip() else "\n" for line in path.read_text().split("\n")[:-1]))
    run("saner", "preprocess", root=root, params=SMALL["preprocess"])
    changed = []
    for file in sorted((prepared / "prepared/hard").iterdir()):
        if file.read_bytes() != (root / "data/saner/small/prepared/hard" / file.name).read_bytes():
            changed.append(file.name)
    assert changed == ["labels.dev.parquet", "labels.test.parquet"]


def test_analysis_counts_what_training_never_showed(prepared):
    corpus = Corpus(prepared / "prepared/hard")
    analysis = Analysis(corpus)
    seen = {text.normalise(w) for words, _ in text.read_conll(prepared / "raw/hard.train.txt") for w in words}
    entities = [
        [text.normalise(w) for w in words[a : b + 1]]
        for words, tags in text.read_conll(prepared / "raw/hard.test.txt")
        for a, b, _ in text.spans(text.to_bioes(tags, corpus.types), np.arange(len(words)) == 0)
    ]
    assert analysis.unseen_token.tolist() == [not set(e) <= seen for e in entities]
    perfect = analysis.scores(analysis.gold_N, np.ones(len(analysis.gold_N)))
    assert perfect["f1"] == perfect["recall_unseen"] == perfect["shared_f1"] == perfect["surface_f1"] == 100
    nothing = analysis.scores(0 * analysis.gold_N, np.ones(len(analysis.gold_N)))
    assert nothing["f1"] == nothing["recall"] == 0
    assert analysis.facts()["neighbour_purity"] > 30  # chance: about 1 in 16 classes


def test_letters_of_unknown_alphabets_and_long_words():
    assert data.letter_table(["ab", "éa", "abcabc"], ["a", "b", "c"], 4).tolist() == [[2, 3, 0, 0], [1, 2, 0, 0], [2, 3, 4, 2]]


def test_token_features_are_one_door(tmp_path, prepared):
    sentences = [["a", "bb"], ["ccc"]]
    write(tmp_path / "features.safetensors", sentences, lambda tokens: np.array([[len(t), 0.5] for t in tokens]))
    features = TokenFeatures(tmp_path / "features.safetensors", 3)
    assert features.size == 2 and features[np.array([[2, 0]])].tolist() == [[[3, 0.5], [1, 0.5]]]
    with pytest.raises(Exception, match="3 tokens, the corpus has 4"):
        TokenFeatures(tmp_path / "features.safetensors", 4)
    with pytest.raises(Exception, match="no contextual features"):
        Corpus(prepared / "prepared/hard", features=True)


def test_a_hugging_face_encoder_fills_the_features(tmp_path):
    transformers = pytest.importorskip("transformers", reason="the optional extra is not installed")
    from reprise.papers.saner.features import transformer

    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "##b"]))
    config = transformers.BertConfig(vocab_size=8, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8, max_position_embeddings=16)
    transformers.BertModel(config).save_pretrained(tmp_path)
    transformers.BertTokenizerFast(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    encode = transformer(tmp_path, 1)
    assert encode(["a", "bb", "a"]).shape == (3, 8) and np.isfinite(encode(["a"] * 40)).all()
    assert not np.allclose(encode(["a", "bb", "a"])[0], encode(["a", "bb", "a"])[2])  # contextual


@pytest.fixture(scope="module")
def mirror():
    """The folder of the real files."""
    folder = Path(os.environ.get("REPRISE_MIRROR", "/nowhere")) / "saner"
    if not folder.exists():
        pytest.skip("REPRISE_MIRROR holds no files of saner")
    return folder


@pytest.mark.mirror
def test_the_real_files_are_what_their_source_says(mirror):
    expected = {"W16": [(2394, 46469, 1496), (1000, 16261, 661), (3850, 61908, 3473)], "W17": [(3394, 62730, 1975), (1008, 15719, 835), (1287, 23391, 1079)], "WB": [(1350, 73510, 1895), (270, 14509, 389), (270, 14823, 418)]}
    strays = {}
    for corpus, counts in expected.items():
        for split, count in zip(("train", "dev", "test"), counts):
            sentences = text.read_conll(mirror / f"{corpus}.{split}.txt")
            entities = sum(tag[0] == "B" for _, tags in sentences for tag in text.repair(tags))
            assert (len(sentences), sum(len(w) for w, _ in sentences), entities) == count, (corpus, split)
            strays[corpus, split] = sum(a != b for _, tags in sentences for a, b in zip(tags, text.repair(tags)))
    assert {key: n for key, n in strays.items() if n} == {("WB", "train"): 10, ("WB", "test"): 4}


@pytest.mark.mirror
def test_weibo_comes_through_the_registry_and_is_prepared_by_characters(mirror, tmp_path):
    for split in ("train", "dev", "test"):
        datasets.fetch("saner", f"WB.{split}.txt", tmp_path)  # checksums verified
    characters = sorted({c for words, _ in text.read_conll(tmp_path / "WB.train.txt") for c in words if "一" <= c <= "龥"})[:300]
    vectors = np.random.default_rng(0).standard_normal((300, 8))
    (tmp_path / "characters.txt").write_text("".join(f"{c} {' '.join(map(str, row))}\n" for c, row in zip(characters, vectors)))
    settings = {**parameters.block("saner", "preprocess", "real"), "corpora": {"WB": {"vectors": "characters.txt"}}}
    (tmp_path / "WB").mkdir()
    data.prepare(params := data.Preprocess.model_validate(settings), "WB", params.corpora["WB"], tmp_path, tmp_path / "WB", stage=None)
    corpus = Corpus(tmp_path / "WB")
    assert corpus.types == [f"{kind}.{level}" for kind in ("GPE", "LOC", "ORG", "PER") for level in ("NAM", "NOM")]
    assert [len(text.spans(corpus.tags(split), corpus.first_N[split])) for split in ("train", "dev", "test")] == [1895, 389, 418]  # stray I- repaired
    covered = corpus.words.word.isin(characters).to_numpy()
    assert covered.sum() == 300 and (corpus.near_WM[covered] > 0).all() and (corpus.near_WM[~covered] == 0).all()


@pytest.mark.mirror
@pytest.mark.slow
def test_nothing_of_a_held_out_sentence_is_left_in_the_unlabelled_text(mirror):
    """Looked for in another way than `without` does: as pieces of one long text."""
    held_out = [words for split in ("dev", "test") for words, _ in text.read_conll(mirror / f"W17.{split}.txt")]
    messages = [line for file in parameters.section("saner", "real")["preprocess"]["corpora"]["W17"]["unlabelled"] for line in (mirror / file).read_text().split("\n") if line.strip()]
    kept = text.without(messages, held_out)
    assert 2279 <= len(messages) - len(kept) < len(messages) / 20  # 2279 are whole sentences
    left, wanted = {text.fingerprint(m) for m in kept}, {text.fingerprint(" ".join(words)) for words in held_out} - {""}
    assert not left & wanted
    all_left, all_wanted = "\n".join(left), "\n".join(wanted)
    assert not [w for w in wanted if len(w) >= 15 and w in all_left] and not [f for f in left if len(f) >= 15 and f in all_wanted]
