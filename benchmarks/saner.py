"""What `saner` costs beside named peers: the CRF, the similar words, frozen features computed once.

    python benchmarks/saner.py [--record]

Own code and peer alternate within one run, CPU time of one thread; each ratio is of the medians. `--record` writes the
ratios, with the processor they were measured on, to benchmarks/saner.md.
"""

import argparse
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from statistics import median

from reprise import determinism

if __name__ == "__main__":
    determinism.enter("fast", sys.argv)  # one thread, also in the libraries behind numpy

import numpy as np
import pandas as pd
import torch
import torchcrf

from reprise.papers.saner import embeddings, features
from reprise.papers.saner.crf import CRF
from reprise.report import markdown_table
from reprise.verify import machine

RECORD = Path(__file__).with_suffix(".md")
GLOVE, W17 = (4096, 400_000, 400_000), (7716, 18_890, 12_552)  # words to find neighbours for, words with a vector, those that may be neighbours


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


def two_crfs(sentences: int = 32, length: int = 40, types: int = 6) -> tuple[CRF, torchcrf.CRF, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ours and pytorch-crf's with equal scores (25 tags); emissions, mask and legal tags of a batch."""
    rng = torch.Generator().manual_seed(0)
    ours, theirs = CRF([rng], types), torchcrf.CRF(4 * types + 1, batch_first=True)
    with torch.no_grad():
        for mine, other in zip(ours.scores(), (theirs.transitions, theirs.start_transitions, theirs.end_transitions)):
            other.copy_(mine[0])
    emission = torch.randn(1, sentences, length, 4 * types + 1, generator=rng)
    mask = torch.ones(1, sentences, length, dtype=torch.bool)
    return ours, theirs, emission, mask, ours.viterbi(torch.randn(emission.shape, generator=rng), mask)


def likelihood() -> tuple[float, float, float]:
    """Loss and gradients of a batch; also the largest difference, of the loss a relative one."""
    ours, theirs, emission, mask, tags = two_crfs()
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


def decoding() -> tuple[float, float, float]:
    """Viterbi on the same batch; the difference is the share of paths that disagree."""
    ours, theirs, emission, mask, _ = two_crfs()
    own, peer = lambda: ours.viterbi(emission, mask), lambda: theirs.decode(emission[0], mask[0])
    return *alternate(own, peer, 30), float(np.mean([a != b for a, b in zip(own()[0].tolist(), peer())]))


def similar(sizes: tuple[int, int, int], peers: str, sample: int, m: int = 10) -> tuple[float, float, float]:
    """Similar words of `sizes` (see GLOVE) in blocks, against a peer that does `sample` of them; its time is scaled to all.

    Peers: "authors", a product with all words in double precision and a full sort for each word, as the package word2vec
    does; "lean", the same in single precision and among the allowed words only. The difference is the share of other
    neighbours than the sorted ones.
    """
    words, vocabulary, candidates = sizes
    vectors = embeddings.unit(np.random.default_rng(0).standard_normal((vocabulary, 100))).astype(np.float32)
    rows, allowed = np.arange(words), np.arange(vocabulary) < candidates
    table = vectors.astype(np.float64) if peers == "authors" else vectors[:candidates]

    def own():
        return embeddings.neighbours(vectors, rows, allowed, m)[0]

    def peer():
        best = [np.argsort(table @ table[row])[::-1] for row in rows[:sample]]
        return np.stack([(order[order < candidates] if peers == "authors" else order)[1 : m + 1] for order in best])

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


JOBS = [  # what, the measurement, the least ratio wanted, the largest difference allowed
    ("CRF, loss and gradient / pytorch-crf", likelihood, 3, 1e-5),
    ("CRF, Viterbi / pytorch-crf", decoding, None, 0),
    ("similar words, WNUT17 / the authors' call", lambda: similar(W17, "authors", 768), 20, 1e-3),
    ("similar words, WNUT17 / single precision, allowed words only", lambda: similar(W17, "lean", 768), 20, 1e-3),
    ("similar words, GloVe / single precision", lambda: similar(GLOVE, "lean", 64), 20, 1e-3),
    ("frozen features / encoder each epoch", frozen, 20, 1e-2),
]


def main() -> None:
    """Measure, print, perhaps record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--record", action="store_true", help=f"write the ratios to {RECORD.name}")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for what, job, least, most in JOBS:
        own, peer, difference = job()
        missed = least is not None and peer / own < least or most is not None and difference > most
        goal = "–" if least is None else f"≥ {least}"
        rows.append((what, f"{peer / own:.1f}", f"{difference:.1g}", goal, "missed" if missed else "–" if least is None else "met"))
        print(f"{what:62} {1e3 * own:9.2f} ms {1e3 * peer:9.2f} ms  x{peer / own:5.1f}  {goal:4} {rows[-1][-1]}", flush=True)
    table = pd.DataFrame(rows, columns=["ours / peer", "times faster", "difference", "goal", "verdict"])
    if args.record:
        made_on = f"{machine()}; Python {platform.python_version()}, numpy {np.__version__}, torch {torch.__version__}, pytorch-crf {version('pytorch-crf')}"
        text = [
            "# Costs of the tagger's parts beside named peers",
            f"Made by `python benchmarks/saner.py --record` on: {made_on}. One thread, CPU time, medians in turns; ratios only.",
            markdown_table(table),
            "The CRF: 32 sentences of 40 tokens, 25 tags. Similar words: ten of 12,552 allowed words for 7,716 words of an embedding of\n18,890 (WNUT17), ten of 400,000 for 4,096 (GloVe). Features: four layers of 256 units.",
        ]
        RECORD.write_text("\n\n".join(text) + "\n")


if __name__ == "__main__":
    main()
