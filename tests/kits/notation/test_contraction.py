"""einsum against sums written as loops, and what it understands beyond the official one."""

import itertools
import math

import einops
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from reprise.kits.notation import NotationError, asnumpy, einsum, rearrange
from reprise.papers.einops.strict import Array


def looped(operands: list[np.ndarray], inputs: list[list[str]], result: list[str]) -> np.ndarray:
    """The definition: for every value of every axis, add the product of the entries."""
    size = {axis: n for x, axes in zip(operands, inputs) for axis, n in zip(axes, x.shape)}
    total = np.zeros([size[axis] for axis in result])
    for values in itertools.product(*[range(n) for n in size.values()]):
        at = dict(zip(size, values))
        total[tuple(at[axis] for axis in result)] += math.prod(x[tuple(at[axis] for axis in axes)] for x, axes in zip(operands, inputs))
    return total


@st.composite
def sums(draw):
    size = {f"ax{i}": draw(st.integers(0, 3)) for i in range(draw(st.integers(1, 5)))}
    inputs = [draw(st.lists(st.sampled_from(sorted(size)), max_size=4)) for _ in range(draw(st.integers(1, 3)))]
    used = sorted({axis for axes in inputs for axis in axes})
    result = draw(st.permutations(used))[: draw(st.integers(0, len(used)))]
    assume(math.prod(size[axis] for axis in used) <= 300)
    return inputs, result, size


@settings(max_examples=400, deadline=None, derandomize=True)
@given(sums(), st.integers(0, 9))
def test_agrees_with_loops(case, seed):
    inputs, result, size = case
    rng = np.random.default_rng(seed)
    arrays = [rng.integers(-3, 4, [size[axis] for axis in axes]).astype(float) for axes in inputs]
    pattern = ", ".join(" ".join(axes) for axes in inputs) + " -> " + " ".join(result)
    expected = looped(arrays, inputs, result)
    for convert in (np.asarray, torch.from_numpy, Array):
        ours = einsum(*[convert(np.array(x)) for x in arrays], pattern)
        np.testing.assert_array_equal(ours if np.isscalar(ours) else asnumpy(ours), expected)


@pytest.mark.parametrize("order", itertools.product(*[itertools.permutations(p) for p in ("ik", "kj", "ij")]))
@pytest.mark.parametrize("batch", ["", "b ", "... "])
def test_every_matrix_product(order, batch):
    """All ways to write one are recognised, and are what np.einsum says."""
    a, b, c = ("".join(letters) for letters in order)
    size = dict(i=2, k=3, j=4, b=5)
    rng = np.random.default_rng(0)
    for left, right in ((batch, batch), (batch, ""), ("", batch)):
        x, y = (rng.random([5] * bool(side) + [size[axis] for axis in axes]) for side, axes in ((left, a), (right, b)))
        result = (left or right) + " ".join(c)
        expected = np.einsum(f"{left}{a},{right}{b}->{left or right}{c}".replace(" ", ""), x, y)
        for convert in (np.asarray, torch.from_numpy):
            np.testing.assert_allclose(asnumpy(einsum(convert(x), convert(y), f"{left}{' '.join(a)}, {right}{' '.join(b)} -> {result}")), expected, rtol=1e-12)


def test_names_repeats_ellipsis_and_underscore():
    x, y = np.random.default_rng(0).random((2, 3, 3, 4)), np.random.default_rng(1).random((3, 4))
    np.testing.assert_allclose(einsum(x, "batch row row col -> batch col"), np.einsum("brrc->bc", x))
    np.testing.assert_allclose(einsum(x, "... c -> c ..."), np.moveaxis(x, -1, 0))
    np.testing.assert_allclose(einsum(x, "... c -> c"), x.sum((0, 1, 2)))
    np.testing.assert_allclose(einsum(x, y, "... r c, r c -> ... r"), np.einsum("...rc,rc->...r", x, y))
    np.testing.assert_allclose(einsum(x, y, "... a b, ... b -> ... a"), np.einsum("...ab,...b->...a", x, y))
    np.testing.assert_allclose(einsum(y, "_ x -> x _"), y.T)
    assert einsum(np.full((), 2.0), np.ones(3), ", a -> a").tolist() == [2, 2, 2]


def test_axes_of_an_ellipsis_broadcast_and_named_ones_do_not():
    x, y = np.ones((1, 2, 3)), np.ones((4, 3, 5))
    assert einsum(x, y, "... i k, ... k j -> ... i j").shape == (4, 2, 5)
    assert einsum(np.ones((1, 2, 3)), np.ones((4, 3, 5)), "... i k, ... k j -> i j").tolist() == np.full((2, 5), 12.0).tolist()
    for make in (np.ones, torch.ones):
        with pytest.raises(NotationError, match="axis 'b' has size 4 in input 1, 1 elsewhere"):
            einsum(make((1, 2, 3)), make((4, 3, 5)), "b i k, b k j -> b i j")
        assert einops.einsum(make((1, 2, 3)), make((4, 3, 5)), "b i k, b k j -> b i j").shape == (4, 2, 5)  # the silent one
    with pytest.raises(NotationError, match="do not broadcast"):
        einsum(np.ones((3, 2)), np.ones((4, 2)), "... a, ... a -> ...")


def test_groups_units_numbers_and_lengths():
    x, w = np.random.default_rng(0).random((2, 5, 12)), np.random.default_rng(1).random((3, 4, 6))
    expected = np.einsum("bthc,hcd->bthd", x.reshape(2, 5, 3, 4), w).reshape(2, 5, 18)
    for convert in (np.asarray, torch.from_numpy, Array):
        ours = einsum(convert(x), convert(w), "b t (h c), h c d -> b t (h d)")  # h and c are those of the weight
        np.testing.assert_allclose(asnumpy(ours), expected)
    np.testing.assert_allclose(einsum(x, "b t (h c) -> h b", h=3), x.reshape(2, 5, 3, 4).sum((1, 3)).T)
    np.testing.assert_allclose(einsum(x, "b t c -> b 1 (t c) ()"), x.reshape(2, 1, 60, 1))
    np.testing.assert_allclose(einsum(x[:, :, None], "b t 1 c -> t"), x.sum((0, 2)))
    np.testing.assert_allclose(einsum(x, "b 5 (3 c) -> c"), x.reshape(10, 3, 4).sum((0, 1)))
    np.testing.assert_allclose(einsum(x, "... (h c) -> (h ...) c", h=3), rearrange(x, "... (h c) -> (h ...) c", h=3))
    assert einsum(np.ones(6), "(pattern a) -> a", pattern=2).tolist() == [2, 2, 2]
    for call, reason in [
        (lambda: einsum(x, "b t (h c) -> h"), "all of its lengths but one"),
        (lambda: einsum(x, "b t (h c) -> h", h=5), "does not divide"),
        (lambda: einsum(x, "b t c -> b", t=4), "axis 't' has size 5"),
        (lambda: einsum(x, "b t c -> b", z=4), "length 'z' is given"),
        (lambda: einsum(x, w, "b t (h c), h c d -> b t (h d)", h=2), "axis 'h' has size 3"),
        (lambda: einsum(x, "b t c -> b 5"), "in the result, but in no input"),
        (lambda: einsum(x, "b (t ...) -> b"), "in parentheses"),
        (lambda: einsum(x, torch.ones(2), "b t c, b -> t"), "tensor 1 is a Tensor"),
    ]:
        with pytest.raises(NotationError, match=reason):
            call()


def test_whole_numbers_bools_and_single_precision():
    i = np.arange(6).reshape(2, 3)
    assert einsum(i, i, "a b, c b -> a c").dtype == i.dtype and einsum(i, i, "a b, c b -> a c").tolist() == (i @ i.T).tolist()
    b = i > 2
    assert einsum(b, b, "a b, c b -> a c").tolist() == np.einsum("ab,cb->ac", b, b).tolist()
    f = i.astype(np.float32)
    assert einsum(f, f, "a b, c b -> a c").dtype == np.float32
