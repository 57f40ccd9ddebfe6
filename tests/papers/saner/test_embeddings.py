"""PPMI and SVD by hand, and the similar words."""

import os
import subprocess
import sys

import numpy as np
import pytest
import scipy.sparse

from reprise.errors import ReproError
from reprise.papers.saner import embeddings


def random_vectors(count=500, size=8, seed=0):
    return embeddings.unit(np.random.default_rng(seed).standard_normal((count, size))).astype(np.float32)


def word_by_word(vectors, row, allowed, m):
    """The definition: one product and one sort a word."""
    cosine = np.round(vectors @ vectors[row], 6)
    order = np.lexsort((np.arange(len(vectors)), -cosine))
    return [i for i in order if allowed[i] and i != row][:m]


def test_cooccurrence_and_ppmi_of_three_sentences_by_hand():
    sentences = [["a", "b", "c"], ["b", "a"], ["a", "x"]]
    words, counts = embeddings.vocabulary(sentences, 1)
    assert words == ["a", "b", "c", "x"] and counts.tolist() == [3, 2, 1, 1]
    c = embeddings.cooccurrence(sentences, words, 2).toarray()  # columns: left a b c x, right a b c x
    assert c.tolist() == [
        [0, 1, 0, 0, 0, 1, 0.5, 1],
        [1, 0, 0, 0, 1, 0, 1, 0],
        [0.5, 1, 0, 0, 0, 0, 0, 0],
        [1, 0, 0, 0, 0, 0, 0, 0],
    ]
    smooth = c.sum(0) ** 0.75 / (c.sum(0) ** 0.75).sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        expected = np.nan_to_num(np.maximum(np.log(c / c.sum() / (c.sum(1, keepdims=True) / c.sum() * smooth)), 0))
    np.testing.assert_allclose(embeddings.ppmi(embeddings.cooccurrence(sentences, words, 2), 0.75).toarray(), expected)
    assert expected[3, 0] == pytest.approx(np.log((1 / 9) / ((1 / 9) * smooth[0])))  # x: its one context


def test_svd_of_a_rank_two_matrix_recovers_the_cosines():
    rng = np.random.default_rng(1)
    basis, _ = np.linalg.qr(rng.standard_normal((30, 2)))
    rows = rng.standard_normal((12, 2))
    vectors = embeddings.svd_vectors(scipy.sparse.csr_array(rows @ basis.T), 2, seed=3)
    u, s, _ = np.linalg.svd(rows, full_matrices=False)
    scaled = embeddings.unit(u * np.sqrt(s))
    np.testing.assert_allclose(vectors @ vectors.T, scaled @ scaled.T, atol=1e-5)


@pytest.mark.parametrize(("count", "m", "share"), [(500, 10, 0.8), (40, 10, 0.5), (3000, 15, 1.0), (12, 10, 0.5)])
def test_neighbours_equal_the_word_by_word_definition(count, m, share):
    vectors, rng = random_vectors(count), np.random.default_rng(2)
    allowed, rows = rng.random(count) < share, rng.permutation(count)[: min(count, 300)]
    ids, cosines = embeddings.neighbours(vectors, rows, allowed, m)
    for row, found, cosine in zip(rows, ids, cosines):
        expected = word_by_word(vectors, row, allowed, m)
        assert found[: len(expected)].tolist() == expected and (found[len(expected) :] == -1).all()
        np.testing.assert_allclose(cosine[: len(expected)], vectors[expected] @ vectors[row], atol=2e-6)
        assert (np.diff(cosine[: len(expected)]) <= 0).all() and row not in found


def test_equal_vectors_come_in_order_of_their_number():
    vectors = np.repeat(random_vectors(1), 70, axis=0)
    ids, _ = embeddings.neighbours(vectors, np.array([3, 60]), np.ones(70, bool), 5)
    assert ids.tolist() == [[0, 1, 2, 4, 5], [0, 1, 2, 3, 4]]


def test_links_handles_punctuation_and_rare_words_are_nobody_s_neighbour():
    words = ["<url>", "<user>", "...", "rare", "fine", "#0"]
    assert embeddings.may_be_neighbour(words, np.array([9, 9, 9, 2, 9, 5]), 5).tolist() == [False, False, False, False, True, True]


def test_the_same_in_every_process():
    """Whatever the hash seed: nothing goes through a set."""
    code = (
        "import hashlib, numpy as np; from reprise.papers.saner import embeddings as e\n"
        "s = [[f'w{(i * k) % 37}' for k in range(9)] for i in range(200)]\n"
        "words, n = e.vocabulary(s, 2); v = e.svd_vectors(e.ppmi(e.cooccurrence(s, words, 3), .75), 8, 5)\n"
        "ids, c = e.neighbours(v, np.arange(len(words)), e.may_be_neighbour(words, n, 3), 10)\n"
        "print(words[:5], hashlib.sha256(v.tobytes() + ids.tobytes() + c.tobytes()).hexdigest())"
    )
    outputs = {subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True).stdout for seed in ("1", "2")}
    assert len(outputs) == 1 and "w0" in outputs.pop()


@pytest.mark.parametrize("header", ["", "3 2\n"])
def test_vectors_are_read_with_or_without_a_header(tmp_path, header):
    path = tmp_path / "v.txt"
    path.write_text(header + "a 3 4\nb 0 2\nc 1 0\n")
    words, vectors = embeddings.read_vectors(path)
    assert words == ["a", "b", "c"]
    np.testing.assert_allclose(vectors, [[0.6, 0.8], [0, 1], [1, 0]])
    path.write_text(header + "a 3 4\nb 0\n")
    with pytest.raises(ReproError, match="1 numbers, not 2"):
        embeddings.read_vectors(path)
    with pytest.raises(ReproError, match="holds no vector"):
        path.write_text(header)
        embeddings.read_vectors(path)


def test_too_little_text_is_said():
    with pytest.raises(ReproError, match="lower min_count"):
        embeddings.vocabulary([["a", "b"]], 2)
