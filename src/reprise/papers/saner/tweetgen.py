"""TweetGen: short messages with known truth, in which most entities of the test set never occur in training.

Every word is made of the same random syllables, so spelling tells nothing; what tells is the company a word keeps. Six
entity types have two latent sub-classes each. A mention may stand beside a cue word of its sub-class; where it does not
(most labelled mentions), only other mentions of the word, in unlabelled text, say what it is. Latent classes of ordinary
nouns (tag O) stand in the same frames. A `shared` part of the names belongs to two types: there only context decides.
"""

from itertools import accumulate
from pathlib import Path
from random import Random

import pandas as pd
from pydantic import Field

from reprise.params import Params

TYPES = ["corporation", "creative_work", "group", "location", "person", "product"]
SUBCLASSES = 2 * len(TYPES)  # sub-class c has type TYPES[c // 2]
CONSONANTS, VOWELS = "bdfgklmnprstvz", "aeiou"


class Sizes(Params):
    """How many sentences each part has."""

    train: int = Field(gt=0, description="labelled sentences to learn from")
    dev: int = Field(gt=0, description="labelled sentences to select with")
    test: int = Field(gt=0, description="labelled sentences to judge by")
    unlabelled: int = Field(gt=0, description="sentences for the word vectors")


class TweetGen(Params):
    """Parameters of one generated corpus."""

    sentences: Sizes = Field(description="sentences of each part")
    names: int = Field(gt=1, description="names of a sub-class")
    noun_classes: int = Field(gt=0, description="latent classes of ordinary nouns")
    nouns: int = Field(gt=0, description="nouns of a class")
    cues: int = Field(gt=0, description="cue words of a class")
    function_words: int = Field(gt=0, description="words without meaning")
    zipf: float = Field(ge=0, description="exponent of the frequencies of names and nouns")
    shared: float = Field(ge=0, lt=1, description="share of a sub-class's names that another type has too")
    bare_labelled: float = Field(ge=0, le=1, description="share of mentions without a cue word near, labelled text")
    bare_unlabelled: float = Field(ge=0, le=1, description="the same, unlabelled text")


class Language:
    """The words of one generated language and how likely each is."""

    def __init__(self, params: TweetGen, rng: Random):
        self.params, self.used = params, set()
        p = params
        self.function_words = self._words(rng, p.function_words)
        self.nouns = [self._words(rng, p.nouns) for _ in range(p.noun_classes)]
        self.cues = [self._words(rng, p.cues) for _ in range(SUBCLASSES + p.noun_classes)]
        self.names = [self._words(rng, p.names) for _ in range(SUBCLASSES)]
        self.second = {"person": self._words(rng, p.names), "creative_work": self._words(rng, p.nouns), "group": self._words(rng, p.nouns)}
        self._share(rng)

    def _words(self, rng: Random, count: int) -> list[str]:
        words = []
        while len(words) < count:
            word = "".join(rng.choice(CONSONANTS) + rng.choice(VOWELS) for _ in range(rng.choice((2, 3))))
            if word not in self.used:
                self.used.add(word)
                words.append(word)
        return words

    def _share(self, rng: Random) -> None:
        """Each sub-class lends half of `shared` of its names to the next type's and borrows as many from the one before.

        What is lent and what is borrowed lies at random ranks, so that a shared name is no rarer than others.
        """
        count = round(self.params.shared / 2 * self.params.names)
        ranks = [rng.sample(range(self.params.names), 2 * count) for _ in range(SUBCLASSES)]
        lent = [[names[r] for r in own[:count]] for names, own in zip(self.names, ranks)]
        for c in range(SUBCLASSES):
            for rank, name in zip(ranks[c][count:], lent[c - 2]):
                self.names[c][rank] = name

    def truth(self) -> pd.DataFrame:
        """One row a word: `classes` that it belongs to, blank-separated, and whether two types share it as a name."""
        rows = [(w, f"noun{c}") for c, words in enumerate(self.nouns) for w in words]
        rows += [(w, f"cue{c}") for c, words in enumerate(self.cues) for w in words]
        rows += [(w, f"name{c}") for c, words in enumerate(self.names) for w in words]
        rows += [(w, f"second_{kind}") for kind, words in self.second.items() for w in words] + [(w, "function") for w in self.function_words]
        frame = pd.DataFrame(rows, columns=["word", "class"]).groupby("word")["class"].agg(" ".join).rename("classes").reset_index()
        return frame.assign(shared=frame.classes.str.contains(r"name\d+ name\d+"))


def generate(params: TweetGen, seed: int) -> tuple[dict[str, list[tuple[list[str], list[str]]]], pd.DataFrame]:
    """Draw a language and its sentences.

    Returns:
        part -> sentences as (tokens, IOB2 tags), for train, dev, test and unlabelled; and the truth of every word.
    """
    rng = Random(seed)
    language = Language(params, rng)

    def draw(words: list[str], weights: list[float] = list(accumulate((r + 1) ** -params.zipf for r in range(max(params.names, params.nouns, params.function_words))))) -> str:
        return rng.choices(words, cum_weights=weights[: len(words)])[0]

    def mention() -> tuple[list[str], list[str], int]:
        c = rng.randrange(SUBCLASSES)
        kind = TYPES[c // 2]
        words = [draw(language.names[c])]
        if rng.random() < {"person": 0.4, "creative_work": 0.3, "group": 0.3}.get(kind, 0):
            words.append(draw(language.second[kind]))
        cased = [w.capitalize() for w in words] if rng.random() < 0.5 else words
        return cased, [f"B-{kind}", f"I-{kind}"][: len(words)], c

    def plain(words: list[str]) -> tuple[list[str], list[str]]:
        return [w.capitalize() if rng.random() < 0.12 else w for w in words], ["O"] * len(words)

    def noun() -> tuple[list[str], list[str], int]:
        c = rng.randrange(params.noun_classes)
        return *plain([draw(language.nouns[c])]), SUBCLASSES + c

    def sentence(bare: float) -> tuple[list[str], list[str]]:
        parts = [plain([draw(language.function_words) for _ in range(rng.randint(1, 3))])]
        for _ in range(2):
            words, tags, c = mention() if rng.random() < 0.6 else noun()
            cue = plain([rng.choice(language.cues[c])] if rng.random() >= bare else [])
            parts += [cue, (words, tags)] if rng.random() < 0.5 else [(words, tags), cue]
            parts.append(plain([draw(language.function_words) for _ in range(rng.randint(0, 2))]))
        return [w for words, _ in parts for w in words], [t for _, tags in parts for t in tags]

    bare = {"unlabelled": params.bare_unlabelled}
    parts = {part: [sentence(bare.get(part, params.bare_labelled)) for _ in range(count)] for part, count in params.sentences}
    return parts, language.truth()


def write(params: TweetGen, seed: int, folder: Path, name: str) -> None:
    """Write a corpus as the real ones come: `<name>.<split>.txt` in CoNLL columns, `<name>.unlabelled.txt` one message a line.

    `<name>.words.parquet` holds the truth about each word, for the analysis only.
    """
    parts, truth = generate(params, seed)
    for part, sentences in parts.items():
        if part == "unlabelled":
            text = "".join(" ".join(tokens) + "\n" for tokens, _ in sentences)
        else:
            text = "".join("".join(f"{w} {t}\n" for w, t in zip(*s)) + "\n" for s in sentences)
        (folder / f"{name}.{part}.txt").write_text(text)
    truth.to_parquet(folder / f"{name}.words.parquet", index=False)
