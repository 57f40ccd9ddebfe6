"""The cells against the textbook, and their hand-written gradient against finite differences."""

import pytest
import torch
from torch.nn import functional as F

from reprise.papers.bigg.cells import LSTM, Head, TreeLSTM, gated, positions

D = 5


def states(count, rows=6, members=2):
    generator = torch.Generator().manual_seed(0)
    return [tuple(torch.randn(2, members, rows, D, generator=generator, dtype=torch.float64)) for _ in range(count)]


def moved(module):
    """In double precision, with biases that are not zero."""
    module = module.double()
    with torch.no_grad():
        for k, parameter in enumerate(module.parameters()):
            parameter += 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(k), dtype=torch.float64)
    return module


def test_the_lstm_is_that_of_torch():
    (h, c), cell = states(1)[0], moved(LSTM(2, D, torch.Generator().manual_seed(0)))
    answer = torch.tensor([0, 1, 1, 0, 1, 0])
    ours = cell(cell.inputs()[:, answer], (h, c))
    gate = torch.cat([torch.arange(k * D, (k + 1) * D) for k in (0, 2, 3, 1)])  # torch: i, f, u, o; here: i, o, f, u
    for s in range(2):
        known = torch.nn.LSTMCell(D, D).double()
        known.load_state_dict({"weight_ih": cell.w_input[s, gate], "weight_hh": cell.w_hidden[s, gate], "bias_ih": cell.bias[s, 0, gate], "bias_hh": torch.zeros(4 * D)})
        for a, b in zip(ours, known(cell.answer[s, answer], (h[s], c[s]))):
            assert torch.allclose(a[s], b, atol=1e-12)


@pytest.mark.parametrize("kind", ["light", "mlp"])
def test_the_tree_cell_is_its_equation(kind):
    left, right = states(2)
    cell = moved(TreeLSTM(2, D, kind, torch.Generator().manual_seed(0)))
    h, c = cell(left, cell.prepare(right))
    weight = torch.cat([cell.w_left, cell.w_right], dim=2)  # of [h_l; h_r]
    for s in range(2):
        x = torch.cat([left[0][s], right[0][s]], dim=1) @ weight[s].T + cell.bias[s]
        if kind == "mlp":
            x = torch.cat([F.elu(part) @ cell.w_out[s, k].T for k, part in enumerate(x.chunk(5, dim=1))], dim=1) + cell.b_out[s]
        i, o, f_l, f_r, u = x.chunk(5, dim=1)
        phi = torch.tanh if kind == "mlp" else torch.sigmoid
        expected = i.sigmoid() * u.tanh() + phi(f_l) * left[1][s] + phi(f_r) * right[1][s]
        assert torch.allclose(c[s], expected, atol=1e-12)
        assert torch.allclose(h[s], o.sigmoid() * expected.tanh(), atol=1e-12)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("arguments", [1, 2])
def test_gradient_of_the_gates(signed, arguments):
    cs = [c.requires_grad_() for c, _ in states(arguments, rows=2)]
    x = torch.randn(2, 2, (3 + arguments) * D, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, *cs: gated(x, signed, *cs), (x, *cs))
    with torch.no_grad():
        without = gated(x, signed, *cs)
    assert all(torch.equal(a, b) for a, b in zip(without, gated(x, signed, *cs)))


def test_initial_weights():
    generator = torch.Generator().manual_seed(0)
    for cell, bound in ((TreeLSTM(3, 64, "light", generator).w_left, (6 / 192) ** 0.5), (Head(3, 64, generator).hidden.weight, (6 / 192) ** 0.5), (LSTM(3, 64, generator).w_hidden, 1 / 8)):
        assert 0.98 * bound < cell.abs().max().item() <= bound
        assert cell.mean().abs().item() < 0.05 * bound


def test_positions():
    code = positions(50, 8)
    assert torch.allclose(code[:, 0], torch.arange(50.0).double().sin()) and torch.allclose(code[:, 1], torch.arange(50.0).double().cos())
    assert torch.allclose(code[7, 6], torch.tensor(7 / 10000**0.75, dtype=torch.float64).sin())  # the slowest pair
    assert len({tuple(row) for row in code.tolist()}) == 50
