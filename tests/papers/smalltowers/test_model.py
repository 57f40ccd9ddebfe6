"""The model, its loss and the weightings: invariants, closed forms, gradients."""

import math

import pandas as pd
import pytest
import torch

from reprise.errors import ReproError
from reprise.papers.smalltowers import model, train, weighting
from reprise.papers.smalltowers.model import Architecture
from reprise.papers.smalltowers.train import Members, Train, grid
from reprise.stage import Stage

BASE = {"classes": 10, "bottom": "mlp", "bottom_layers": 2, "bottom_width": 7, "tower_layers": 2, "tower_width": 6, "neck": 3}


def arch(**over):
    return Architecture(**{**BASE, "aux": "neck", **over})


def settings(**over):
    values = {"architecture": arch(), "weighting": "scalarisation", "gamma": 2.0, "tau": 1.0, "alphas": (0.3, 0.7), "seeds": 2, "rates": (0.05,), "tune_alphas": (0.5,), "tune_seeds": 1, "epochs": 2, "average": 1, "batch": 16, "momentum": 0.9}
    return Train(**{**values, **over})


@pytest.fixture
def stage(tmp_path):
    return Stage("smalltowers", "train", "small", "x", root=tmp_path)


def data(n=64, inputs=12, dtype=torch.float32):
    g = torch.Generator().manual_seed(1)
    return {f"{k}_{split}": (torch.randn(n, inputs, generator=g, dtype=dtype) if k == "x" else torch.randint(10, (n, 2), generator=g)) for split in ("train", "validation", "test") for k in "xy"}


def members(alphas=(0.3, 0.7), rates=(0.05,), seeds=("0", "1")):
    return grid(alphas, rates, list(seeds))


def fit(params, stage, who=None, name="", of=None):
    return train.fit(params, params.architecture, who or members(), of or data(), stage, name, ())[0]


def test_without_gamma_an_auxiliary_tower_changes_nothing(stage):
    with_aux = fit(settings(gamma=0.0), stage)
    without = fit(settings(architecture=arch(aux="none")), stage, name="without")
    for name in without:
        assert torch.allclose(with_aux[name], without[name], atol=1e-6), name


def test_export_drops_auxiliary_towers_and_keeps_predictions(stage):
    tensors = fit(settings(), stage)
    served = model.export(tensors)
    assert any(name.startswith("aux.") for name in tensors) and not any(name.startswith("aux.") for name in served)
    x = data()["x_test"].expand(4, -1, -1)
    assert torch.equal(model.main_towers(served, model.representation(served, x)), model.main_towers(tensors, model.representation(tensors, x)))


def test_a_neck_has_its_rank_and_is_affine_in_h(stage):
    tensors = fit(settings(), stage)
    for m, t in [(0, 0), (3, 1)]:
        assert torch.linalg.matrix_rank(tensors["aux.0.w"][m, t] @ tensors["aux.1.w"][m, t], rtol=1e-4) <= 3
    h = torch.randn(4, 5, 7, generator=torch.Generator().manual_seed(0))
    d = torch.randn(4, 5, 7, generator=torch.Generator().manual_seed(1))
    out = [model.aux_towers(arch(), tensors, h + k * d) for k in range(3)]
    assert torch.allclose(out[2] - 2 * out[1] + out[0], torch.zeros(()), atol=1e-5)


def test_a_stack_equals_separate_trainings_of_modules(stage):
    """The reference is nn.Module and torch.optim.SGD, one model after the other, in double precision."""
    params = settings(epochs=5)
    double = {k: v.double() if v.is_floating_point() else v for k, v in data().items()}
    who = members(rates=(0.05, 0.1))
    torch.set_default_dtype(torch.float64)
    try:
        stacked = fit(params, stage, who, of=double)
        for i, (alpha, rate, seed) in enumerate(zip(who.alpha, who.rate, who.seed)):
            start = {k: v[0].clone() for k, v in train.stack(arch(), 12, Members([alpha], [rate], [seed]), stage).items()}
            single = alone(params, start, double, alpha, rate, stage.generator("order", seed))
            for name, value in single.items():
                assert (stacked[name][i] - value).abs().max() < 1e-5, name
    finally:
        torch.set_default_dtype(torch.float32)


def alone(params, start, data, alpha, rate, order):
    linear = {name[:-2]: start[name] for name in start if name.endswith(".w")}

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = torch.nn.ParameterDict({k.replace(".", "_"): torch.nn.Parameter(v.clone()) for k, v in start.items()})

        def chain(self, part, x, tower, relu):
            depth = sum(k.startswith(part) for k in linear)
            for i in range(depth):
                x = x @ self.layers[f"{part}_{i}_w"][tower] + self.layers[f"{part}_{i}_b"][tower]
                x = torch.relu(x) if relu and i < depth - 1 else x
            return x

        def forward(self, x):
            h = torch.relu(self.chain("bottom", x, 0, True))
            return [(self.chain("main", h, t, True), self.chain("aux", h, t, False)) for t in range(2)]

    net = Net()
    optimiser = torch.optim.SGD(net.parameters(), lr=rate, momentum=params.momentum)
    ce = torch.nn.functional.cross_entropy
    for _ in range(params.epochs):
        rows = torch.randperm(len(data["x_train"]), generator=order)
        for start_at in range(0, len(rows) - params.batch + 1, params.batch):
            i = rows[start_at : start_at + params.batch]
            task = [ce(main, data["y_train"][i, t]) + params.gamma * ce(aux / params.tau, data["y_train"][i, t]) for t, (main, aux) in enumerate(net(data["x_train"][i]))]
            optimiser.zero_grad()
            ((1 - alpha) * task[0] + alpha * task[1]).backward()
            optimiser.step()
    return {k: net.layers[k.replace(".", "_")].detach() for k in start}


def test_a_task_without_weight_keeps_its_towers_bit_for_bit(stage):
    who = members(alphas=(0.0,))
    params = settings()
    start = train.stack(arch(), 12, who, stage)
    end = fit(params, stage, who)
    for name in ("main.0.w", "main.1.b", "aux.0.w", "aux.1.w"):
        assert torch.equal(end[name][:, 1], start[name][:, 1]), name
        assert not torch.equal(end[name][:, 0], start[name][:, 0]) or name.endswith("b")


def test_frozen_auxiliary_towers_stay_and_the_bottom_moves(stage):
    who, params = members(), settings(architecture=arch(aux="tower", copies=2), gamma=1.0, frozen=True)
    start, end = train.stack(params.architecture, 12, who, stage), fit(params, stage, who)
    assert all(torch.equal(start[n], end[n]) for n in start if n.startswith("aux."))
    assert not torch.equal(start["bottom.0.w"], end["bottom.0.w"])


def vectors(*rows):
    return [torch.tensor([row], dtype=torch.float64) for row in rows]


def test_mgda_closed_form():
    g1, g2 = vectors([3.0, 0.0], [0.0, 3.0])
    assert weighting.mgda_weight(g1, g2).item() == pytest.approx(0.5)
    g1, g2 = vectors([2.0, 0.0], [0.0, 3.0])
    assert weighting.mgda_weight(g1, g2).item() == pytest.approx(9 / 13)  # |g2|^2 / (|g1|^2 + |g2|^2)
    assert weighting.mgda_weight(g1, g2, released=True).item() == pytest.approx(4 / 13)
    g1, g2 = vectors([1.0, 0.0], [2.0, 0.0])
    assert weighting.mgda_weight(g1, g2).item() == pytest.approx(weighting.MOST)
    generator = torch.Generator().manual_seed(0)
    g1, g2 = torch.randn(2, 50, 6, generator=generator, dtype=torch.float64)
    c = weighting.mgda_weight(g1, g2)[:, None]
    direction = c * g1 + (1 - c) * g2
    interior = ((c > weighting.LEAST) & (c < weighting.MOST))[:, 0]
    assert ((direction * g1).sum(1)[interior] > -1e-9).all() and ((direction * g2).sum(1)[interior] > -1e-9).all()
    assert interior.sum() > 10


def test_mgda_gives_the_first_task_the_weight_c(stage):
    """The combined gradient with respect to h is the shortest in the hull of the two."""
    tensors = {k: v.requires_grad_() for k, v in train.stack(arch(), 12, members(), stage).items()}
    d = data()
    x, y = d["x_train"][:16].expand(4, -1, -1), d["y_train"][:16].expand(4, -1, -1)
    params = settings(weighting="mgda")
    loss, _ = train.objective(params, arch(), tensors, x, y, torch.zeros(4))
    h = model.representation(tensors, x)
    both, _ = model.task_losses(arch(), tensors, h, y, params.gamma, params.tau)
    g = [torch.autograd.grad(both[:, t].sum(), h, retain_graph=True)[0].flatten(1) for t in range(2)]
    lengths = [(c * g[0] + (1 - c) * g[1]).norm(dim=1) for c in torch.linspace(0.001, 0.999, 41)]
    best = torch.stack(lengths).argmin(0) * 0.998 / 40 + 0.001
    implied = (loss.detach() - both[:, 1].detach()) / (both[:, 0] - both[:, 1]).detach()
    assert torch.allclose(implied, best, atol=0.03)


def test_uncertainty_has_its_minimum_at_half_the_log_of_twice_the_loss():
    losses = torch.tensor([[0.4, 3.0]], dtype=torch.float64)
    s = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([s], max_iter=100, tolerance_grad=1e-12, tolerance_change=1e-16)

    def closure():
        optimiser.zero_grad()
        loss = weighting.uncertainty(losses, s).sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    assert torch.allclose(s, 0.5 * (2 * losses).log(), atol=1e-6)


def test_an_infinite_temperature_leaves_log_c_and_no_gradient(stage):
    tensors = train.stack(arch(), 12, members(), stage)
    h = torch.randn(4, 5, 7, generator=torch.Generator().manual_seed(0), requires_grad=True)
    y = torch.randint(10, (4, 5, 2), generator=torch.Generator().manual_seed(1))
    loss = model.cross_entropy(model.aux_towers(arch(), tensors, h) / 1e8, y)
    assert torch.allclose(loss, torch.full((), math.log(10)), atol=1e-5)
    assert torch.autograd.grad(loss.sum(), h)[0].abs().max() < 1e-7


@pytest.mark.parametrize("how", ["scalarisation", "uncertainty"])
@pytest.mark.parametrize("aux", ["none", "neck", "linear", "tower"])
def test_gradient_of_the_whole_loss(stage, how, aux):
    a = arch(aux=aux, bottom_width=3, tower_width=3, classes=3)
    tensors = {k: v.double() for k, v in train.stack(a, 4, members(alphas=(0.3,), seeds=("0",)), stage).items()}
    tensors["s"] = torch.full((1, 2), 0.7, dtype=torch.float64)
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(1, 5, 4, generator=g, dtype=torch.float64), torch.randint(3, (1, 5, 2), generator=g)
    alpha = torch.tensor([0.3], dtype=torch.float64)

    def loss(*values):
        return train.objective(settings(architecture=a, weighting=how), a, dict(zip(tensors, values)), x, y, alpha)[0]

    leaves = [(t + 0.05 * torch.randn(t.shape, generator=g, dtype=torch.float64)).requires_grad_() for t in tensors.values()]
    if how == "scalarisation":  # which does not look at s
        leaves[-1] = leaves[-1].detach()
    assert torch.autograd.gradcheck(loss, leaves)


def test_lenet_stack_equals_one_at_a_time():
    a = Architecture(**{**BASE, "bottom": "lenet", "aux": "neck"})
    generators = [{part: torch.Generator().manual_seed(10 * i + j) for j, part in enumerate(train.PARTS)} for i in range(3)]
    each = [model.init(a, 1296, g) for g in generators]
    stacked = {k: torch.stack([one[k] for one in each]) for k in each[0]}
    x = torch.rand(3, 4, 1296, generator=torch.Generator().manual_seed(5))
    together = model.representation(stacked, x)
    for i, one in enumerate(each):
        assert torch.allclose(together[i : i + 1], model.representation({k: v[None] for k, v in one.items()}, x[i : i + 1]), atol=1e-5)


def test_it_learns_eight_pairs(stage):
    d = {k: v[:8] for k, v in data().items()}
    _, history = train.fit(settings(epochs=150, batch=8, rates=(0.1,)), arch(bottom_width=30, tower_width=30), members(rates=(0.1,)), d, stage, "", ("train",))
    last = history[history.step == 149]
    assert last[last.metric.str.startswith("train_accuracy")].value.min() == 1.0


def test_a_rate_at_which_a_run_diverged_is_not_chosen():
    who = grid((0.3, 0.7), (0.05, 0.1), ["tune0"])  # members: alpha 0.3 at both rates, then alpha 0.7
    rows = [(4, f"validation_{what}_{side}", m, v) for m, accuracy, loss in ((0, 0.8, 1.0), (1, 0.9, 1.0), (2, 0.8, 1.0), (3, 0.9, math.nan)) for side in ("left", "right") for what, v in (("accuracy", accuracy), ("loss", loss))]
    history = pd.DataFrame(rows, columns=["step", "metric", "member", "value"])
    assert list(train.validation_score(history, who)) == [0.05]
    assert train.validation_score(history.fillna(1.0), who) == {0.05: pytest.approx(0.09), 0.1: pytest.approx(0.16)}
    with pytest.raises(ReproError, match="every learning rate diverged"):
        train.validation_score(history.assign(value=math.nan), who)
