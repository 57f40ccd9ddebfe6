"""Corpora, word vectors and similar words.

`download` fetches the real files or generates a corpus in the same format, so that everything after it is one path.
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd
from pydantic import Field
from safetensors.numpy import save_file

from reprise.datasets import unpack
from reprise.papers.saner import embeddings, features, text, tweetgen
from reprise.params import Params
from reprise.stage import Stage

SPLITS = ["train", "dev", "test"]


class Download(Params):
    """Parameters of `download`."""

    fetch: list[str] = Field(default=[], description="files of the registry")
    generate: dict[str, tweetgen.TweetGen] = Field(default={}, description="corpora to generate, by name")


class Features(Params):
    """Frozen contextual features."""

    model: str = Field(description="folder in raw with a Hugging Face encoder")
    layers: int = Field(gt=0, description="how many of its last layers are averaged")


class Source(Params):
    """Where a corpus gets its source vectors and contextual features from."""

    unlabelled: list[str] = Field(default=[], description="files with one message a line, to train vectors on")
    vectors: str | None = Field(default=None, description="instead: a text file of pre-trained vectors")
    features: Features | None = Field(default=None, description="contextual features, off by default")


class Preprocess(Params):
    """Parameters of `preprocess`."""

    corpora: dict[str, Source] = Field(description="corpora by name; their files are <name>.train.txt and so on")
    min_count: int = Field(gt=0, description="a word seen less often gets no vector")
    min_count_neighbour: int = Field(gt=0, description="a word seen less often is nobody's similar word")
    window: int = Field(gt=0, description="words to each side that count as context, weight 1 / distance")
    smoothing: float = Field(gt=0, le=1, description="exponent of the context distribution")
    size: int = Field(gt=0, description="size of the vectors")
    m: int = Field(gt=0, description="similar words kept for each word, the most that a model can use")
    longest_word: int = Field(gt=0, description="letters of a word that the character encoder sees")


def download(params: Download, stage: Stage) -> None:
    """Fetch the files (archives are unpacked) and generate the corpora."""
    for file in params.fetch:
        path = stage.fetch(file)
        if path.suffix in (".zip", ".whl"):
            unpack(path, stage.out)
            path.unlink()
    for name, settings in params.generate.items():
        tweetgen.write(settings, stage.seed("tweetgen", name), stage.out, name)


def preprocess(params: Preprocess, stage: Stage) -> None:
    """Numbers for tokens, source vectors, similar words; labels of each split in a file of its own.

    Only the training labels have a say in anything: they name the entity types. The other splits give their words.
    """
    for name, source in params.corpora.items():
        folder = stage.out / name
        folder.mkdir()
        prepare(params, name, source, stage.path("raw"), folder, stage)


def prepare(params: Preprocess, name: str, source: Source, raw: Path, folder: Path, stage: Stage) -> None:
    """Prepare one corpus."""
    sentences = {split: text.read_conll(raw / f"{name}.{split}.txt") for split in SPLITS}
    types = sorted({tag[2:] for _, tags in sentences["train"] for tag in tags} - {""})
    (folder / "types.json").write_text(json.dumps(types))
    for split in SPLITS:
        tags = np.concatenate([text.to_bioes(tags, types) for _, tags in sentences[split]])
        pd.DataFrame({"tag": tags}).to_parquet(folder / f"labels.{split}.parquet", index=False)

    tokens = pd.DataFrame([(split, i, token) for split in SPLITS for i, (words, _) in enumerate(sentences[split]) for token in words], columns=["split", "sentence", "token"])
    forms = sorted(set(tokens.token))
    word_of = {form: text.normalise(form) for form in forms}
    words = sorted(set(word_of.values()))
    number, form_number = {w: i for i, w in enumerate(words)}, {f: i for i, f in enumerate(forms)}
    seen = {word_of[t] for t in tokens.token[tokens.split == "train"]}
    tokens.assign(form=tokens.token.map(form_number)).drop(columns="token").to_parquet(folder / "tokens.parquet", index=False)
    pd.DataFrame({"form": forms, "word": [number[word_of[f]] for f in forms]}).to_parquet(folder / "forms.parquet", index=False)

    vocabulary, counts, vectors = source_vectors(params, source, raw, [t for split in SPLITS[1:] for t, _ in sentences[split]], stage)
    row_of = {word: i for i, word in enumerate(vocabulary)}
    rows = np.array([row_of.get(word, -1) for word in words])
    covered = np.flatnonzero(rows >= 0)
    near = np.full((len(words), params.m), -1)
    near[covered], _ = embeddings.neighbours(vectors, rows[covered], embeddings.may_be_neighbour(vocabulary, counts, params.min_count_neighbour), params.m)
    # keep the vectors of the corpus's words and of their similar words only
    used = np.union1d(rows[covered], near[near >= 0])
    place = np.full(len(vocabulary) + 1, -1)  # the last answers for -1
    place[used] = np.arange(len(used))
    pd.DataFrame({"word": words, "train": [w in seen for w in words], "row": place[rows]}).to_parquet(folder / "words.parquet", index=False)
    pd.DataFrame({"word": [vocabulary[i] for i in used]}).to_parquet(folder / "vocabulary.parquet", index=False)
    letters = letter_table(forms, sorted({c for f in tokens.token[tokens.split == "train"] for c in f}), params.longest_word)
    save_file({"vectors": np.ascontiguousarray(vectors[used]), "neighbours": place[near], "letters": letters}, folder / "arrays.safetensors")

    if (truth := raw / f"{name}.words.parquet").exists():  # a generated corpus
        pd.read_parquet(truth).to_parquet(folder / "truth.parquet", index=False)
    if source.features:
        encode = features.transformer(raw / source.features.model, source.features.layers)
        features.write(folder / "features.safetensors", (t for split in SPLITS for t, _ in sentences[split]), encode)


def source_vectors(params: Preprocess, source: Source, raw: Path, held_out: list[list[str]], stage: Stage) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Words, counts and unit vectors: read from a file, or trained on the unlabelled messages that are no held-out sentence.

    The real dev and test sentences stand verbatim in the unlabelled files: they are removed first.
    """
    if source.vectors:
        vocabulary, vectors = embeddings.read_vectors(raw / source.vectors)
        return vocabulary, np.full(len(vocabulary), params.min_count_neighbour), vectors
    messages = [line for file in source.unlabelled for line in (raw / file).read_text(encoding="utf-8").split("\n") if line.strip()]
    kept = text.without(messages, held_out)
    stage.log(f"{len(messages)} unlabelled messages, {len(messages) - len(kept)} held-out sentences among them removed")
    tokens = [[text.normalise(t) for t in text.tokenise(message)] for message in kept]
    vocabulary, counts = embeddings.vocabulary(tokens, params.min_count)
    matrix = embeddings.ppmi(embeddings.cooccurrence(tokens, vocabulary, params.window), params.smoothing)
    return vocabulary, counts, embeddings.svd_vectors(matrix, params.size, stage.seed("svd"))


def letter_table(forms: list[str], alphabet: list[str], longest: int) -> np.ndarray:
    """Letters of each form (F, longest): 0 behind the last, 1 for letters that the training set does not have."""
    number = {letter: i for i, letter in enumerate(alphabet, 2)}
    table = np.zeros((len(forms), longest), np.int64)
    for row, form in zip(table, forms):
        row[: len(form)] = [number.get(letter, 1) for letter in form[:longest]]
    return table
