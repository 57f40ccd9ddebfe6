"""The CRF against enumeration of every path, and against seqeval's and pytorch-crf's word."""

import itertools

import pytest
import torch

from reprise.papers.saner.crf import CRF, LogPartition
from reprise.papers.saner.text import legal


def random_crf(types=1, members=2, seed=0, constrained=True):
    crf = CRF([torch.Generator().manual_seed(seed + s) for s in range(members)], types, constrained)
    with torch.no_grad():
        for p in crf.parameters():
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(seed)))
    return crf


def emissions(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def enumerate_paths(emission_TK, transition, start, end):
    """All K^T paths and their scores."""
    paths = list(itertools.product(range(emission_TK.shape[1]), repeat=len(emission_TK)))
    scores = [
        start[p[0]] + end[p[-1]] + sum(emission_TK[t, y] for t, y in enumerate(p)) + sum(transition[a, b] for a, b in zip(p, p[1:]))
        for p in paths
    ]
    return paths, torch.stack(scores)


@pytest.mark.parametrize("constrained", [True, False])
def test_log_z_marginals_and_viterbi_equal_enumeration_of_all_5_to_the_4_paths(constrained):
    crf, emission = random_crf(constrained=constrained).double(), emissions(2, 1, 4, 5).double().requires_grad_()
    mask = torch.ones(2, 1, 4, dtype=torch.bool)
    scores = [x.detach().requires_grad_() for x in crf.scores()]
    log_z = LogPartition.apply(emission, mask, *scores)
    gradients = torch.autograd.grad(log_z.sum(), [emission, *scores])
    for s in range(2):
        paths, score = enumerate_paths(emission[s, 0].detach(), *(x[s].detach() for x in scores))
        assert log_z[s, 0].item() == pytest.approx(score.logsumexp(0).item(), abs=1e-9)
        probability = score.softmax(0)
        node, edge = torch.zeros(4, 5).double(), torch.zeros(5, 5).double()
        for path, p in zip(paths, probability):
            for t, y in enumerate(path):
                node[t, y] += p
            for a, b in zip(path, path[1:]):
                edge[a, b] += p
        torch.testing.assert_close(gradients[0][s, 0], node)  # the gradient of log Z is the marginals
        torch.testing.assert_close(gradients[1][s], edge)
        torch.testing.assert_close(gradients[2][s], node[0])
        torch.testing.assert_close(gradients[3][s], node[-1])
        torch.testing.assert_close(gradients[0][s, 0].sum(-1), torch.ones(4).double())
        assert tuple(crf.viterbi(emission.detach(), mask)[s, 0].tolist()) == paths[int(score.argmax())]


def test_the_likelihood_of_all_legal_paths_sums_to_one():
    crf, emission = random_crf(members=1).double(), emissions(1, 1, 4, 5).double()
    mask, total = torch.ones(1, 1, 4, dtype=torch.bool), 0
    transition, start, end = (torch.as_tensor(x) for x in legal(1))
    for path in itertools.product(range(5), repeat=4):
        probability = (-crf.loss(emission, torch.tensor([[path]]), mask)).exp().item()
        allowed = start[path[0]] and end[path[-1]] and all(transition[a, b] for a, b in zip(path, path[1:]))
        assert allowed or probability == 0  # an illegal path has none
        total += probability
    assert total == pytest.approx(1)


def test_padding_changes_neither_loss_nor_gradient_nor_path():
    crf, emission = random_crf(types=2), emissions(2, 3, 6, 9)
    tags = torch.tensor([0, 1, 3, 0, 8, 0]).expand(2, 3, -1)
    lengths = torch.tensor([6, 4, 1])
    mask = (torch.arange(6) < lengths[:, None]).expand(2, -1, -1)
    emission.requires_grad_()
    loss = crf.loss(emission, tags, mask)
    gradient = torch.autograd.grad(loss.sum(), [emission, *crf.parameters()], allow_unused=True)
    together = [torch.zeros_like(p) for p in crf.parameters()]
    for b, length in enumerate(lengths):
        short = emission[:, b : b + 1, :length].detach().requires_grad_()
        alone = crf.loss(short, tags[:, b : b + 1, :length], mask[:, b : b + 1, :length])
        torch.testing.assert_close(alone[:, 0], loss[:, b])
        parts = torch.autograd.grad(alone.sum(), [short, *crf.parameters()])
        torch.testing.assert_close(parts[0][:, 0], gradient[0][:, b, :length])
        together = [t + p for t, p in zip(together, parts[1:])]
        assert torch.equal(crf.viterbi(short.detach(), mask[:, b : b + 1, :length])[:, 0], crf.viterbi(emission.detach(), mask)[:, b, :length])
    assert (gradient[0][:, 1, 4:] == 0).all() and (gradient[0][:, 2, 1:] == 0).all()
    torch.testing.assert_close(together, list(gradient[1:]))


def test_viterbi_never_returns_an_illegal_path_on_1000_random_draws():
    crf = random_crf(types=3, members=1)
    lengths = torch.randint(1, 12, (1000,), generator=torch.Generator().manual_seed(3))
    mask = (torch.arange(12) < lengths[:, None])[None]
    path = crf.viterbi(10 * emissions(1, 1000, 12, 13), mask)[0]
    transition, start, end = (torch.as_tensor(x) for x in legal(3))
    for tags, length in zip(path, lengths):
        tags = tags[:length]
        assert start[tags[0]] and end[tags[-1]] and transition[tags[:-1], tags[1:]].all()
    assert (path > 0).float().mean() > 0.3  # not by answering O


def test_equals_pytorch_crf():
    torchcrf = pytest.importorskip("torchcrf")
    crf, emission = random_crf(types=6, members=1), emissions(1, 8, 20, 25).requires_grad_()
    lengths = torch.arange(13, 21)
    mask = (torch.arange(20) < lengths[:, None])[None]
    tags = crf.viterbi(emissions(1, 8, 20, 25, seed=9), mask)  # some legal path
    peer = torchcrf.CRF(25, batch_first=True)
    with torch.no_grad():
        for own, theirs in zip(crf.scores(), (peer.transitions, peer.start_transitions, peer.end_transitions)):
            theirs.copy_(own[0])
    ours = crf.loss(emission, tags, mask)
    other = emission.detach()[0].clone().requires_grad_()
    theirs = -peer(other, tags[0], mask[0], reduction="none")
    torch.testing.assert_close(ours[0], theirs, rtol=1e-5, atol=1e-5)
    ours.sum().backward()
    theirs.sum().backward()
    torch.testing.assert_close(emission.grad[0], other.grad, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(crf.transition.grad[0], torch.where(crf.legal_transition, peer.transitions.grad, 0.0), rtol=1e-4, atol=1e-4)
    assert [t.tolist()[:n] for t, n in zip(crf.viterbi(emission.detach(), mask)[0], lengths)] == peer.decode(emission.detach()[0], mask[0])


def test_far_apart_scores_lose_nothing():
    """Emissions some 300 nats apart, which single-precision probabilities could not hold."""
    crf, emission = random_crf(members=1).double(), 300 * emissions(1, 1, 4, 5).double()
    emission.requires_grad_()
    log_z = LogPartition.apply(emission, torch.ones(1, 1, 4, dtype=torch.bool), *crf.scores())
    _, score = enumerate_paths(emission[0, 0].detach(), *(x[0].detach() for x in crf.scores()))
    assert log_z.item() == pytest.approx(score.logsumexp(0).item(), abs=1e-9)
    log_z.sum().backward()
    assert emission.grad.isfinite().all() and all(p.grad.isfinite().all() for p in crf.parameters())
