"""Test scores, recall on what training never showed, the gate, and paired differences."""

import json

import numpy as np
import pandas as pd
import torch
from pydantic import Field
from safetensors.torch import load_file
from seqeval.metrics import f1_score
from seqeval.scheme import IOBES

from reprise.papers.saner import metrics
from reprise.papers.saner.corpus import Corpus
from reprise.papers.saner.embeddings import purity
from reprise.papers.saner.model import Tagger
from reprise.papers.saner.text import legal, spans, tag_names
from reprise.papers.saner.train import Train
from reprise.params import Params
from reprise.stage import Stage


class Evaluate(Params):
    """Parameters of `evaluate`."""

    resamples: int = Field(gt=0, description="bootstrap samples of the test sentences")
    compare: dict[str, list[str]] = Field(description="variant -> the variants that its F1 is compared with, seed by seed")


class Analysis:
    """The gold side of a test set: its entities, and which of them training never showed."""

    def __init__(self, corpus: Corpus):
        self.corpus, self.gold_N, self.first_N = corpus, corpus.tags("test"), corpus.first_N["test"]
        self.gold = spans(self.gold_N, self.first_N)
        self.word_N = corpus.word_of_form[corpus.form_N["test"]]
        self.word = corpus.words.word.to_numpy()
        self.new_N = ~corpus.words.train.to_numpy()[self.word_N]  # tokens that training never showed
        known = set(self._strings(spans(corpus.tags("train"), corpus.first_N["train"]), corpus.word_of_form[corpus.form_N["train"]]))
        self.unseen_string = np.array([s not in known for s in self._strings(self.gold, self.word_N)], bool)
        self.unseen_token = np.array([self.new_N[a : b + 1].any() for a, b, _ in self.gold], bool)
        self.inside_N = self.gold_N > 0
        truth = corpus.folder / "truth.parquet"
        shared = set(pd.read_parquet(truth).query("shared").word) if truth.exists() else set()
        self.shared_N = np.isin(self.word[self.word_N], sorted(shared))

    def _strings(self, spans_X3: np.ndarray, word_N: np.ndarray) -> list[str]:
        word = self.corpus.words.word.to_numpy()
        return [" ".join(word[word_N[a : b + 1]]) for a, b, _ in spans_X3]

    def scores(self, tags_N: np.ndarray, gate_N: np.ndarray) -> dict[str, float]:
        """Everything that is measured of one member's predictions, in percent (the gate: its mean)."""
        predicted = spans(tags_N, self.first_N)
        right, found = metrics.found(predicted, self.gold), metrics.found(self.gold, predicted)
        surface = [{(s, t) for s, t in zip(self._strings(x, self.word_N), x[:, 2].tolist())} for x in (self.gold, predicted)]
        result = {
            "f1": metrics.f1(right.sum(), len(predicted), len(self.gold)),
            "precision": metrics.percent(right.sum(), len(predicted)),
            "recall": metrics.percent(found.sum(), len(found)),
            "surface_f1": metrics.f1(len(surface[0] & surface[1]), *map(len, surface)),
            "recall_unseen_string": metrics.percent(found[self.unseen_string].sum(), self.unseen_string.sum()),
            "recall_unseen": metrics.percent(found[self.unseen_token].sum(), self.unseen_token.sum()),
            "recall_seen": metrics.percent(found[~self.unseen_token].sum(), (~self.unseen_token).sum()),
            "gate_unseen": gate_N[self.inside_N & self.new_N].mean(),
            "gate_seen": gate_N[self.inside_N & ~self.new_N].mean(),
        }
        if self.shared_N.any():
            mine, theirs = self.shared_N[predicted[:, 0]], self.shared_N[self.gold[:, 0]]
            result["shared_f1"] = metrics.f1(right[mine].sum(), mine.sum(), theirs.sum())
        return {key: float(value) for key, value in result.items()}

    def facts(self) -> dict[str, float]:
        """What the corpus is like: shares in percent, and how pure the neighbours are where the truth is known."""
        corpus = self.corpus
        covered_N = corpus.row_of_word[self.word_N] > 0
        result = {
            "unseen_entity_tokens": metrics.percent(self.new_N[self.inside_N].sum(), self.inside_N.sum()),
            "unseen_entity_strings": metrics.percent(self.unseen_string.sum(), len(self.gold)),
            "covered_tokens": metrics.percent(covered_N.sum(), len(covered_N)),
            "covered_entity_tokens": metrics.percent(covered_N[self.inside_N].sum(), self.inside_N.sum()),
        }
        if (path := corpus.folder / "truth.parquet").exists():
            truth = pd.read_parquet(path).set_index("word").classes.str.split()
            vocabulary = pd.read_parquet(corpus.folder / "vocabulary.parquet").word
            classes = [set(truth.get(word, [])) for word in vocabulary]
            rows = corpus.row_of_word - 1
            names = np.array([r >= 0 and any(c.startswith("name") for c in classes[r]) for r in rows])
            result["neighbour_purity"] = 100 * purity(corpus.near_WM[names, :10] - 1, rows[names], classes)
        return {key: float(value) for key, value in result.items()}


def illegal(tags_N: np.ndarray, first_N: np.ndarray, types: int) -> int:
    """How many steps of the predicted paths BIOES forbids."""
    transition, start, end = legal(types)
    last_N = np.append(first_N[1:], True)
    return int((~transition[tags_N[:-1], tags_N[1:]] & ~first_N[1:]).sum() + (~start[tags_N[first_N]]).sum() + (~end[tags_N[last_N]]).sum())


def seqeval_f1(gold_N: np.ndarray, tags_N: np.ndarray, first_N: np.ndarray, types: list[str]) -> float:
    """seqeval's strict IOBES F1 in percent, computed by the library."""
    names = np.array(tag_names(types))
    split = [[names[s].tolist() for s in np.split(x, np.flatnonzero(first_N)[1:])] for x in (gold_N, tags_N)]
    return 100 * float(f1_score(*split, mode="strict", scheme=IOBES, zero_division=0))


def bootstrap(counts_SNC: np.ndarray, others_SNC: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """The difference in F1 (mean over seeds) on each of `resamples` draws of the sentences, the same draw for both."""
    sentences = counts_SNC.shape[1]
    weight_RN = rng.multinomial(sentences, np.full(sentences, 1 / sentences), size=resamples).astype(np.float64)
    means = [metrics.f1(*np.moveaxis(np.einsum("rn,snc->src", weight_RN, c, optimize=True), -1, 0)).mean(0) for c in (counts_SNC, others_SNC)]
    return means[0] - means[1]


def evaluate(params: Evaluate, stage: Stage) -> None:
    """Tag each test set once with the parameters selected on dev.

    Writes scores.parquet (a row a corpus, variant and seed), differences.parquet, facts.parquet, tokens.parquet and
    predictions.parquet (a row a token).
    """
    scores, facts, tokens, predictions, values = [], [], [], [], {"viterbi.illegal": 0, "seqeval.difference": 0.0}
    counts: dict[tuple[str, str], np.ndarray] = {}
    analyses: dict[str, Analysis] = {}
    for variant in stage.variants:
        folder = stage.path("models", variant)
        for name, settings in json.loads((folder / "settings.json").read_text()).items():
            settings = Train.model_validate(settings)
            corpus = Corpus(stage.path("prepared") / name, stage.device, settings.input == "features")
            if name not in analyses:
                analysis = analyses[name] = Analysis(corpus)
                facts.append({"corpus": name, **analysis.facts()})
                form = corpus.forms.form.to_numpy()[corpus.form_N["test"]]
                tokens.append(pd.DataFrame({"corpus": name, "first": analysis.first_N, "form": form, "gold": analysis.gold_N, "unseen": analysis.new_N, "shared": analysis.shared_N}))
            analysis = analyses[name]
            tags_SN, gate_SN = predict(settings, corpus, load_file(folder / f"{name}.safetensors"))
            for seed, (tags_N, gate_N) in enumerate(zip(tags_SN, gate_SN)):
                scores.append({"corpus": name, "variant": variant, "seed": seed, **analysis.scores(tags_N, gate_N)})
                predictions.append(pd.DataFrame({"corpus": name, "variant": variant, "seed": seed, "tag": tags_N.astype(np.int16), "gate": gate_N}))
                values["viterbi.illegal"] += illegal(tags_N, analysis.first_N, len(corpus.types))
                theirs = seqeval_f1(analysis.gold_N, tags_N, analysis.first_N, corpus.types)
                values["seqeval.difference"] = max(values["seqeval.difference"], abs(theirs - scores[-1]["f1"]))
            counts[name, variant] = np.stack([metrics.counts(analysis.gold_N, tags_N, analysis.first_N) for tags_N in tags_SN])
    scores, facts = pd.DataFrame(scores), pd.DataFrame(facts)
    differences = compare(params, stage, scores, counts)
    values |= flat(scores, facts, differences)
    for name, frame in {"scores": scores, "differences": differences, "facts": facts, "tokens": pd.concat(tokens), "predictions": pd.concat(predictions)}.items():
        frame.to_parquet(stage.out / f"{name}.parquet", index=False)
    stage.metrics(values)


def compare(params: Evaluate, stage: Stage, scores: pd.DataFrame, counts: dict[tuple[str, str], np.ndarray]) -> pd.DataFrame:
    """F1 of one variant minus that of another: by seed, and an interval from resampled sentences."""
    f1, rows = scores.groupby(["corpus", "variant"]).f1.apply(np.array), []
    for corpus in scores.corpus.unique():
        for variant, other in [(v, o) for v, others in params.compare.items() for o in others]:
            if (corpus, variant) in counts and (corpus, other) in counts:
                by_seed = f1[corpus, variant] - f1[corpus, other]
                draws = bootstrap(counts[corpus, variant], counts[corpus, other], params.resamples, stage.rng("bootstrap", corpus, variant, other))
                low, high = np.quantile(draws, [0.025, 0.975])
                rows.append({"corpus": corpus, "variant": variant, "other": other, "mean": by_seed.mean(), "std": spread(by_seed), "positive": int((by_seed > 0).sum()), "low": low, "high": high})
    return pd.DataFrame(rows)


def flat(scores: pd.DataFrame, facts: pd.DataFrame, differences: pd.DataFrame) -> dict[str, float]:
    """The tables as metrics: <corpus>.<variant>.<score>.mean and .std, <corpus>.<variant>.over_<other>.<key>, <corpus>.<fact>."""
    values = {}
    for (corpus, variant), part in scores.groupby(["corpus", "variant"]):
        for key in part.columns.difference(["corpus", "variant", "seed"]):
            if part[key].notna().all():
                values |= {f"{corpus.lower()}.{variant}.{key}.mean": part[key].mean(), f"{corpus.lower()}.{variant}.{key}.std": spread(part[key])}
    for row in differences.to_dict("records"):
        values |= {f"{row['corpus'].lower()}.{row['variant']}.over_{row['other']}.{key}": row[key] for key in ("mean", "std", "positive", "low", "high")}
    for row in facts.to_dict("records"):
        values |= {f"{row['corpus'].lower()}.{key}": value for key, value in row.items() if key != "corpus" and not np.isnan(value)}
    return values


def predict(settings: Train, corpus: Corpus, tensors: dict[str, torch.Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """Tags and mean gate of the test tokens (S, N), by the saved members."""
    near_WM = tensors.pop("near").numpy()
    tagger = Tagger([torch.Generator() for _ in range(settings.seeds)], settings, corpus.sizes, corpus.vectors_RV)
    tagger.load_state_dict(tensors)
    return corpus.predict(tagger.to(corpus.device), "test", settings.seeds, near_WM)


def spread(values: np.ndarray) -> float:
    """The standard deviation over seeds, 0 of a single one."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
