"""Entity-level scores: an entity counts if its type and both ends agree."""

import numpy as np

from reprise.papers.saner.text import spans


def key(spans_X3: np.ndarray) -> np.ndarray:
    """One number a span (first token, last token, type), equal for equal spans."""
    return (spans_X3[:, 0] << 34) + ((spans_X3[:, 1] - spans_X3[:, 0]) << 16) + spans_X3[:, 2]


def found(wanted_X3: np.ndarray, among_X3: np.ndarray) -> np.ndarray:
    """Which of the wanted spans are among others, as booleans."""
    return np.isin(key(wanted_X3), key(among_X3))


def counts(gold_N: np.ndarray, tags_N: np.ndarray, first_N: np.ndarray) -> np.ndarray:
    """For each sentence the entities found, predicted and gold: (sentences, 3)."""
    sentence = np.cumsum(first_N) - 1
    gold, predicted = spans(gold_N, first_N), spans(tags_N, first_N)
    right = predicted[found(predicted, gold)]
    return np.stack([np.bincount(sentence[x[:, 0]], minlength=sentence[-1] + 1) for x in (right, predicted, gold)], 1)


def f1(found: np.ndarray, predicted: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """Micro F1 in percent, 0 where there is nothing to find and nothing was found."""
    return 200 * found / np.maximum(predicted + gold, 1)


def percent(part: float, whole: float) -> float:
    """100 part / whole, 0 of nothing."""
    return 100 * part / max(whole, 1)


def corpus_f1(gold_N: np.ndarray, tags_N: np.ndarray, first_N: np.ndarray) -> float:
    """Micro F1 of a whole corpus in percent."""
    return float(f1(*counts(gold_N, tags_N, first_N).sum(0)))
