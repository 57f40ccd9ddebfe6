"""Source vectors trained in the pipeline (PPMI and SVD), vectors read from a file, and the similar words."""

from collections import Counter
from pathlib import Path

import numpy as np
import scipy.sparse
from sklearn.utils.extmath import randomized_svd

from reprise.errors import ReproError

FORBIDDEN = {"<url>", "<user>"}  # and whatever has no letter or digit: never a similar word
BLOCK = 64  # rows of the similarity matrix held at a time
GROUP = 16  # candidates of a group
NEVER = -2.0  # below any cosine
STEPS = 10**6  # cosines are rounded to one in so many


def vocabulary(sentences: list[list[str]], min_count: int) -> tuple[list[str], np.ndarray]:
    """The words seen at least `min_count` times, most frequent first, ties by spelling, and their counts."""
    counts = Counter(word for sentence in sentences for word in sentence)
    words = sorted((w for w, n in counts.items() if n >= min_count), key=lambda w: (-counts[w], w))
    if len(words) < 2:
        raise ReproError(f"only {len(words)} words occur {min_count} times in the unlabelled text: lower min_count or give more text")
    return words, np.array([counts[w] for w in words])


def cooccurrence(sentences: list[list[str]], words: list[str], window: int) -> scipy.sparse.csr_array:
    """Weights (V, 2V): column c counts c to the left of the row's word, column V + c to its right, 1 / distance each."""
    index = {word: i for i, word in enumerate(words)}
    ids = np.array([index.get(word, -1) for sentence in sentences for word in [*sentence, *[None] * window]])  # gaps keep sentences apart
    size, rows, columns, weights = len(words), [], [], []
    for distance in range(1, window + 1):
        left, right = ids[:-distance], ids[distance:]
        both = (left >= 0) & (right >= 0)
        left, right = left[both], right[both]
        rows += [left, right]
        columns += [size + right, left]
        weights.append(np.full(2 * len(left), 1 / distance))
    return scipy.sparse.coo_array((np.concatenate(weights), (np.concatenate(rows), np.concatenate(columns))), shape=(size, 2 * size)).tocsr()


def ppmi(counts: scipy.sparse.csr_array, smoothing: float) -> scipy.sparse.csr_array:
    """max(0, log( p(w, c) / (p(w) p_a(c)) )) with the context distribution p_a(c) ~ count(c)^a."""
    coo = counts.tocoo()
    total = coo.data.sum()
    word, context = counts.sum(axis=1) / total, counts.sum(axis=0) ** smoothing
    context /= context.sum()
    values = np.log(coo.data / total / (word[coo.row] * context[coo.col]))
    return scipy.sparse.coo_array((np.maximum(values, 0), (coo.row, coo.col)), shape=coo.shape).tocsr()


def svd_vectors(matrix: scipy.sparse.csr_array, size: int, seed: int) -> np.ndarray:
    """The rows of U sqrt(S), of length 1 (a zero row stays zero), from a randomised SVD of rank `size`; (V, size) float32."""
    u, s, _ = randomized_svd(matrix, n_components=size, n_iter=4, random_state=seed % 2**32)
    return unit(u * np.sqrt(s)).astype(np.float32)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows divided by their length; cosines are products then."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def read_vectors(path: Path) -> tuple[list[str], np.ndarray]:
    """Words and unit vectors from a text file `word x1 ... xd`, with or without a `count dim` header line.

    Raises:
        ReproError: a line has another number of columns than the first, or there is none.
    """
    words, rows, size = [], [], None
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            word, *values = line.rstrip("\n").rstrip(" ").split(" ")
            if number == 1 and len(values) == 1:
                continue
            size = size or len(values)
            if len(values) != size:
                raise ReproError(f"{path.name}, line {number}: {len(values)} numbers, not {size} as before")
            words.append(word)
            rows.append(np.array(values, np.float32))
    if not words:
        raise ReproError(f"{path.name} holds no vector")
    return words, unit(np.stack(rows)).astype(np.float32)


def may_be_neighbour(words: list[str], counts: np.ndarray, min_count: int) -> np.ndarray:
    """Which words may be offered as similar ones: seen often enough, no link, handle or bare punctuation."""
    return np.array([n >= min_count and w not in FORBIDDEN and any(map(str.isalnum, w)) for w, n in zip(words, counts)])


def neighbours(vectors: np.ndarray, rows: np.ndarray, allowed: np.ndarray, m: int) -> tuple[np.ndarray, np.ndarray]:
    """The m allowed words of highest cosine for each of `rows`, best first, without the word itself; ties by number.

    One matrix product a block. Of the maxima of small groups of candidates the m-th largest, tau, is found first: at
    least m candidates reach tau, so the m best, and all that tie with them, are among the few that do.

    Args:
        vectors: (V, d) of length 1.
        rows: the words to find neighbours for, numbers into `vectors`.
        allowed: (V) which words may be neighbours.

    Returns:
        numbers (len(rows), m), -1 where there are fewer, and cosines (0 there), rounded to 1e-6.
    """
    candidates = np.flatnonzero(allowed)
    table = np.ascontiguousarray(vectors[candidates].T)
    width = -(-len(candidates) // GROUP) | 1  # odd: rows of whole memory pages would share the same few cache lines
    place = np.full(len(vectors), -1)
    place[candidates] = np.arange(len(candidates))
    ids, cosines = np.full((len(rows), m), -1, np.int64), np.zeros((len(rows), m), np.float32)
    scores = np.full((min(BLOCK, len(rows)), GROUP * width), NEVER, np.float32)  # candidate c lies in group c % width
    for begin in range(0, len(rows), BLOCK):
        block = rows[begin : begin + BLOCK]
        part = scores[: len(block)]
        np.matmul(vectors[block], table, out=part[:, : len(candidates)])
        itself = np.flatnonzero(place[block] >= 0)
        part[itself, place[block][itself]] = NEVER
        grouped = part.reshape(len(block), GROUP, width)
        best = grouped.max(axis=1)
        tau = np.partition(best, -m, axis=1)[:, -m] if width > m else np.full(len(block), NEVER)
        least = np.maximum(tau - 2e-6, NEVER / 2)  # what rounding may bring up to tau counts as well
        row, group = np.divmod(np.flatnonzero(best >= least[:, None]), width)
        values = grouped[row, :, group]
        hit = np.flatnonzero(values >= least[row, None])
        which, inside = np.divmod(hit, GROUP)
        # row, cosine from the highest on, candidate, as one whole number: one sort
        below = 2 * STEPS - np.rint(values.ravel()[hit] * np.float32(STEPS)).astype(np.int64)
        key = np.sort((row[which] * (4 * STEPS) + below) * len(candidates) + inside * width + group[which])
        key, column = np.divmod(key, len(candidates))
        row, below = np.divmod(key, 4 * STEPS)
        first = np.searchsorted(row, np.arange(len(block) + 1))
        at = first[:-1, None] + np.arange(m)
        there = at < first[1:, None]
        ids[begin : begin + BLOCK][there] = candidates[column[at[there]]]
        cosines[begin : begin + BLOCK][there] = (2 * STEPS - below[at[there]]).astype(np.float32) / np.float32(STEPS)
    return ids, cosines


def purity(ids: np.ndarray, rows: np.ndarray, classes: list[set[str]]) -> float:
    """The mean share of a word's neighbours that have a class in common with it (generated corpora know the classes)."""
    shares = [np.mean([bool(classes[row] & classes[i]) for i in found if i >= 0]) for row, found in zip(rows, ids) if (found >= 0).any()]
    return float(np.mean(shares))
