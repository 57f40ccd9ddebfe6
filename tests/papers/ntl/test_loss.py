"""The MMD and the losses against slow, obvious versions of themselves, known answers and their stated limits."""

import math

import numpy as np
import pytest
import torch

from reprise.papers.ntl.loss import Objective, kl, mmd, ntl


def sample(n, d, seed, shift=0.0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


def bandwidth(t):
    n = len(t)
    return sum(float(((a - b) ** 2).sum()) for a in t for b in t) / (n * n - n)


def slow_mmd(s, a, w):
    """By the definition, pair by pair."""

    def k(x, y):
        d = ((x - y) ** 2).sum()
        return sum(torch.exp(-d / (w / 4 * 2**r)) for r in range(5))

    def mean(xs, ys):
        return sum(k(x, y) for x in xs for y in ys) / (len(xs) * len(ys))

    return mean(s, s) + mean(a, a) - 2 * mean(s, a)


@pytest.mark.parametrize("n, m", [(5, 5), (4, 7), (1, 6)])
def test_mmd_is_its_definition(n, m):
    s, a = sample(n, 3, 0), sample(m, 3, 1, 0.7)
    assert mmd(s, a).item() == pytest.approx(slow_mmd(s, a, bandwidth(torch.cat([s, a]))).item(), rel=1e-12)


@pytest.mark.parametrize("n, known", [(2, 7.1299), (8, 7.6104), (32, 7.7111), (64, 7.7272)])
def test_two_point_masses(n, known):
    s, a = torch.zeros(n, 4), torch.ones(n, 4)
    closed = 10 - 2 * sum(math.exp(-4 * (2 * n - 1) / (n * 2**r)) for r in range(5))
    assert mmd(s, a).item() == pytest.approx(closed, abs=1e-5) == pytest.approx(known, abs=1e-4)


def test_mmd_is_symmetric_blind_to_scale_and_shift_and_zero_for_equal_batches():
    s, a = sample(6, 5, 0), sample(9, 5, 1, 1.0)
    assert mmd(s, a).item() == pytest.approx(mmd(a, s).item(), rel=1e-12)
    assert mmd(s, a).item() == pytest.approx(mmd(1e4 * s, 1e4 * a).item(), rel=1e-9)
    assert mmd(s, a).item() == pytest.approx(mmd(s + 3, a + 3).item(), rel=1e-9)
    assert mmd(s, s[torch.randperm(6, generator=torch.Generator().manual_seed(0))]).item() == pytest.approx(0, abs=1e-12)
    assert mmd(torch.ones(3, 2), torch.ones(3, 2)).item() == 0  # all features alike: no bandwidth


def test_small_distances_survive_single_precision_far_from_the_origin():
    s, a = sample(8, 16, 0) * 1e-2, sample(8, 16, 1, 1.0) * 1e-2
    far = mmd((s + 20).float(), (a + 20).float()).item()
    assert far == pytest.approx(mmd(s, a).item(), rel=1e-3)


def test_gradient_of_mmd_treats_the_bandwidth_as_constant():
    s, a = sample(4, 3, 0), sample(5, 3, 1, 0.5)
    w = bandwidth(torch.cat([s, a]))
    s.requires_grad_()
    (gradient,) = torch.autograd.grad(mmd(s, a), s)
    for i, j in [(0, 0), (2, 1), (3, 2)]:
        step = torch.zeros_like(s).detach()
        step[i, j] = 1e-6
        with torch.no_grad():
            numeric = (slow_mmd(s + step, a, w) - slow_mmd(s - step, a, w)) / 2e-6
        assert gradient[i, j].item() == pytest.approx(numeric.item(), rel=1e-5)
    scaling = (gradient * s).sum() + (torch.autograd.grad(mmd(s, a.requires_grad_()), a)[0] * a).sum()
    assert abs(scaling.item()) > 1e-3  # the value does not see a common scale, the gradient does


def test_independent_batches_have_a_bias_of_order_one_over_n():
    means = {n: np.mean([mmd(sample(n, 8, i), sample(n, 8, 100 + i)).item() for i in range(20)]) for n in (16, 64)}
    assert 3 < means[16] / means[64] < 5


BASE = Objective(alpha=0.3, beta=3.0, alpha_dis=0.2, beta_dis=1.0)


def batches(requires_grad=True):
    g = torch.Generator().manual_seed(3)
    out = []
    for _ in range(2):
        z, logits = (torch.randn(6, k, generator=g).requires_grad_(requires_grad) for k in (4, 10))
        out.append((z, logits, torch.randint(10, (6,), generator=g)))
    return out


def gradients(objective):
    source, auxiliary = batches()
    loss = ntl(objective, source, auxiliary)["loss"]
    return torch.autograd.grad(loss, [source[1], auxiliary[1], auxiliary[0]], allow_unused=True, materialize_grads=True)


def with_(**changes):
    return BASE.model_copy(update=changes)


def test_the_papers_and_the_released_form():
    source, auxiliary = batches(False)
    l_s, l_a, distance = kl(source[1], source[2]), kl(auxiliary[1], auxiliary[2]), mmd(source[0], auxiliary[0])
    l_dis = min(1.0, 0.2 * distance.item())
    assert ntl(BASE, source, auxiliary)["loss"].item() == pytest.approx((l_s - 0.3 * l_a * l_dis).item(), rel=1e-5)
    released = ntl(with_(clamp="factors", reduction="mean"), source, auxiliary)["loss"]
    assert released.item() == pytest.approx((l_s / 10 - 0.3 * l_a / 10 * l_dis).item(), rel=1e-5)
    tight = ntl(with_(beta=0.05), source, auxiliary)["loss"]
    assert tight.item() == pytest.approx(l_s.item() - 0.05, rel=1e-5)  # the product is clamped ...
    tight = ntl(with_(beta=0.05, clamp="factors"), source, auxiliary)["loss"]
    assert tight.item() == pytest.approx(l_s.item() - 0.05 * l_dis, rel=1e-5)  # ... or its first factor alone


def test_an_active_clamp_has_no_gradient():
    _, logits_a, z_a = gradients(with_(beta=0.05))
    assert not logits_a.any() and not z_a.any()
    _, logits_a, z_a = gradients(with_(beta=0.05, clamp="factors"))
    assert not logits_a.any() and z_a.any()  # the MMD is still pushed
    _, logits_a, z_a = gradients(with_(beta_dis=0.01))
    assert logits_a.any() and not z_a.any()


def test_without_alpha_it_is_supervised_learning():
    source, auxiliary = batches()
    plain = torch.autograd.grad(kl(source[1], source[2]), source[1])[0]
    logits_s, logits_a, z_a = gradients(with_(alpha=0))
    assert torch.equal(logits_s, plain) and not logits_a.any() and not z_a.any()


def test_the_first_form_is_the_product_with_the_distance_at_one():
    source, auxiliary = batches(False)
    one = with_(alpha_dis=1e6)  # L_dis = beta' = 1
    assert ntl(with_(terms="kl"), source, auxiliary)["loss"].item() == pytest.approx(ntl(one, source, auxiliary)["loss"].item(), rel=1e-6)
    parts = ntl(with_(terms="mmd"), source, auxiliary)
    assert parts["loss"].item() == pytest.approx((parts["source"] - 0.2 * parts["mmd"]).item(), rel=1e-6)


def test_the_reductions_differ_by_the_number_of_classes():
    source, _ = batches(False)
    assert kl(source[1], source[2]).item() == pytest.approx(10 * kl(source[1], source[2], "mean").item(), rel=1e-6)
    p = source[1].log_softmax(1)
    one_hot = torch.nn.functional.one_hot(source[2], 10).float()
    assert kl(source[1], source[2]).item() == pytest.approx(torch.nn.functional.kl_div(p, one_hot, reduction="batchmean").item(), rel=1e-6)


def test_one_step_lowers_the_source_loss_and_raises_the_auxiliary_product():
    g = torch.Generator().manual_seed(0)
    x_s, x_a = torch.randn(40, 5, generator=g), torch.randn(40, 5, generator=g) + 1
    y = torch.randint(3, (40,), generator=g)
    phi, omega = (torch.randn(shape, generator=g).requires_grad_() for shape in ((5, 6), (6, 3)))

    def parts():
        z_s, z_a = (torch.tanh(x @ phi) for x in (x_s, x_a))
        return ntl(Objective(alpha=0.5, beta=1e9, alpha_dis=0.5, beta_dis=1e9), (z_s, z_s @ omega, y), (z_a, z_a @ omega, y))

    before = parts()
    before["loss"].backward()
    with torch.no_grad():
        for p in (phi, omega):
            p -= 1e-3 * p.grad
    after = parts()
    assert after["source"] < before["source"]
    assert after["auxiliary"] * after["mmd"] > before["auxiliary"] * before["mmd"]
