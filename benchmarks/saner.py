"""Three comparisons for `saner`, in CPU time of one thread: the CRF, the similar words, frozen features computed once.

Own code and peer alternate within one run; each ratio is of the medians.
"""

import os

os.environ |= {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
import torchcrf

from reprise.papers.saner import embeddings, features
from reprise.papers.saner.crf import CRF
from reprise.papers.saner.text import legal

torch.set_num_threads(1)


def alternate(own: Callable, peer: Callable, repeats: int) -> tuple[float, float]:
    """Median CPU seconds of each, measured in turns."""
    times = {own: [], peer: []}
    for turn in range(repeats + 1):
        for job in (own, peer) if turn % 2 else (peer, own):
            start = time.process_time()
            job()
            if turn:  # the first warms up
                times[job].append(time.process_time() - start)
    return median(times[own]), median(times[peer])


def crf(sentences: int = 32, length: int = 40, types: int = 6) -> tuple[float, float, float]:
    """Loss and gradients of a batch (25 tags) against pytorch-crf; also the largest difference."""
    rng = torch.Generator().manual_seed(0)
    ours = CRF([rng], types)
    theirs = torchcrf.CRF(4 * types + 1, batch_first=True)
    with torch.no_grad():
        for mine, other in zip(ours.scores(), (theirs.transitions, theirs.start_transitions, theirs.end_transitions)):
            other.copy_(mine[0])
    emission = torch.randn(1, sentences, length, 4 * types + 1, generator=rng)
    mask = torch.ones(1, sentences, length, dtype=torch.bool)
    tags = ours.viterbi(torch.randn(emission.shape, generator=rng), mask)
    mine, other = emission.clone().requires_grad_(), emission[0].clone().requires_grad_()

    def own():
        mine.grad = None
        loss = ours.loss(mine, tags, mask).mean()
        loss.backward()
        return loss.item()

    def peer():
        other.grad = None
        loss = -theirs(other, tags[0], mask[0], reduction="mean")
        loss.backward()
        return loss.item()

    difference = max(abs(own() - peer()) / abs(peer()), (mine.grad[0] - other.grad).abs().max().item())
    return *alternate(own, peer, 30), difference


def viterbi(sentences: int = 32, length: int = 40, types: int = 6) -> tuple[float, float, float]:
    """Decoding the same batch; the difference is the share of paths that disagree."""
    rng = torch.Generator().manual_seed(0)
    ours, theirs = CRF([rng], types), torchcrf.CRF(4 * types + 1, batch_first=True)
    with torch.no_grad():
        for mine, other in zip(ours.scores(), (theirs.transitions, theirs.start_transitions, theirs.end_transitions)):
            other.copy_(mine[0])
    emission = torch.randn(1, sentences, length, 4 * types + 1, generator=rng)
    mask = torch.ones(1, sentences, length, dtype=torch.bool)
    own, peer = lambda: ours.viterbi(emission, mask), lambda: theirs.decode(emission[0], mask[0])
    return *alternate(own, peer, 30), float(np.mean([a != b for a, b in zip(own()[0].tolist(), peer())]))


def similar(words: int, vocabulary: int, sample: int, size: int = 100, m: int = 10) -> tuple[float, float, float]:
    """Similar words in blocks for as many words as a corpus has, against a product and a sort for every word.

    The peer does `sample` of the words, each at the same cost; its time is scaled to all of them.
    """
    vectors = embeddings.unit(np.random.default_rng(0).standard_normal((vocabulary, size))).astype(np.float32)
    rows = np.arange(words)

    def own():
        return embeddings.neighbours(vectors, rows, np.ones(vocabulary, bool), m)[0]

    def peer():
        return np.stack([np.argsort(vectors @ vectors[row])[::-1][1 : m + 1] for row in rows[:sample]])

    ours, theirs = alternate(own, peer, 3)
    return ours, theirs * words / sample, float((own()[:sample] != peer()).mean())


def frozen(sentences: int = 64, length: int = 18, size: int = 256) -> tuple[float, float, float]:
    """Reading an epoch's features from the file against running a small frozen encoder again."""
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(size, 4, 4 * size, batch_first=True, dropout=0.0)
    encoder = torch.nn.TransformerEncoder(layer, 4, enable_nested_tensor=False).eval()
    inputs = torch.randn(sentences, length, size)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        path = Path(folder) / "features.safetensors"
        places = iter(range(sentences))
        features.write(path, [[""] * length] * sentences, lambda tokens: encoder(inputs[next(places)][None])[0].numpy())
        stored = features.TokenFeatures(path, sentences * length)
        tokens = np.arange(sentences * length).reshape(sentences, length)
        own, peer = lambda: stored[tokens], lambda: encoder(inputs)
        return *alternate(own, peer, 10), (own() - peer()).abs().max().item()


if __name__ == "__main__":
    assert legal(6)[0].shape == (25, 25)
    print(f"{'what':38} {'own ms':>9} {'peer ms':>9} {'ratio':>7} {'difference':>11}   goal")
    for name, job, goal in [
        ("CRF loss + gradient / pytorch-crf", crf, ">= 3, equal to 1e-5"),
        ("Viterbi / pytorch-crf", viterbi, ""),
        ("similar words / one by one, WNUT17", lambda: similar(8400, 13300, 840), ">= 20"),
        ("similar words / one by one, GloVe", lambda: similar(4096, 400000, 64), ">= 20"),
        ("frozen features / encoder each epoch", frozen, ">= 20"),
    ]:
        own, peer, difference = job()
        print(f"{name:38} {1e3 * own:9.3f} {1e3 * peer:9.3f} {peer / own:7.1f} {difference:11.2g}   {goal}")
