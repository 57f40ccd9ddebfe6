"""Stacks of networks and optimistic Adam."""

import pytest
import torch

from reprise.kits.offpolicy.networks import OptimisticAdam, cosine, forward, glorot


def generators(n):
    return [torch.Generator().manual_seed(i) for i in range(n)]


def test_a_stack_is_its_members_side_by_side():
    stack, x = glorot([3, 8, 8, 1], generators(4)), torch.randn(3, 10, generator=torch.Generator().manual_seed(9))
    together = forward(stack, x)
    assert together.shape == (4, 1, 10)
    for e in range(4):
        net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
        with torch.no_grad():
            for layer, linear in enumerate(net[::2]):
                linear.weight.copy_(stack[f"w{layer}"][e])
                linear.bias.copy_(stack[f"b{layer}"][e, :, 0])
        assert torch.allclose(together[e, 0], net(x.T)[:, 0], atol=1e-6)
    assert torch.equal(glorot([3, 8, 1], generators(4)[2:3])["w0"][0], glorot([3, 8, 1], generators(4))["w0"][2])


def test_without_optimism_it_is_adam():
    ours = {"x": torch.tensor([1.0, -2.0, 3.0])}
    theirs = ours["x"].clone().requires_grad_()
    mine = OptimisticAdam(ours, beta1=0.9, optimism=0)
    adam = torch.optim.Adam([theirs], lr=0.1, betas=(0.9, 0.999), fused=True)
    for _ in range(20):
        adam.zero_grad()
        (theirs**4).sum().backward()
        adam.step()
        mine.step({"x": 4 * ours["x"] ** 3}, 0.1)
    assert torch.allclose(ours["x"], theirs.detach(), atol=1e-5)


@pytest.mark.parametrize(("beta1", "optimism", "solves"), [(0, 1, True), (0.5, 2, True), (0, 0, False), (0.5, 1, False), (0.9, 0, False)])
def test_a_bilinear_game_needs_more_optimism_than_momentum_delays(beta1, optimism, solves):
    """min over x, max over y of x y from (1, 1): the saddle is (0, 0); it is found if optimism > beta1 / (1 - beta1)."""
    w = {"x": torch.ones(1), "y": torch.ones(1)}
    adam = OptimisticAdam(w, beta1=beta1, optimism=optimism)
    for step in range(5000):
        adam.step({"x": w["y"].clone(), "y": -w["x"].clone()}, cosine(0.03, step, 5000))
    distance = float(torch.hypot(w["x"], w["y"]))
    assert distance < 1e-2 if solves else distance > 0.3


def test_clipping_is_element_by_element():
    w = {"x": torch.zeros(2)}
    adam = OptimisticAdam(w, clip=1.0)
    adam.step({"x": torch.tensor([100.0, 0.5])}, 0.1)
    assert torch.allclose(adam.v["x"], torch.tensor([1.0, 0.25]) * 1e-3)


def test_the_state_restores():
    def steps(w, adam, n):
        for _ in range(n):
            adam.step({"x": w["x"] - 3}, 0.1)

    w = {"x": torch.zeros(2)}
    adam = OptimisticAdam(w)
    steps(w, adam, 5)
    saved, copy = (
        {k: v.clone() if torch.is_tensor(v) else {n: t.clone() if torch.is_tensor(t) else t for n, t in v.items()} for k, v in adam.state_dict().items()},
        {"x": w["x"].clone()},
    )
    steps(w, adam, 5)
    again = OptimisticAdam(copy)
    again.load_state_dict(saved)
    steps(copy, again, 5)
    assert torch.equal(copy["x"], w["x"])
