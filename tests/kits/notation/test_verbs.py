"""rearrange, reduce and repeat: inverses, the contract of functions, and what they return."""

import numpy as np
import pytest
import torch

from reprise.kits.notation import NotationError, asnumpy, rearrange, reduce, repeat
from reprise.papers.einops.strict import Array


def test_a_pattern_and_its_inverse():
    x = np.arange(2 * 12 * 5).reshape(2, 12, 5)
    y = rearrange(x, "a (b c) d -> (d b) 1 (a c)", b=3)
    np.testing.assert_array_equal(rearrange(y, "(d b) 1 (a c) -> a (b c) d", b=3, a=2), x)


@pytest.mark.parametrize("reduction", ["min", "max"])
def test_extremes_undo_a_repetition(reduction):
    x = np.random.default_rng(0).random((2, 3, 4))
    y = repeat(x, "a b c -> (a n) m c b", n=3, m=2)
    np.testing.assert_array_equal(reduce(y, "(a n) m c b -> a b c", reduction, n=3), x)


def test_permutations_compose():
    x = np.random.default_rng(0).random((2, 3, 4, 5))
    once = rearrange(rearrange(x, "a b c d -> c a d b"), "c a d b -> b d c a")
    np.testing.assert_array_equal(once, rearrange(x, "a b c d -> b d c a"))


def test_spellings_of_the_same_pattern():
    x = np.arange(24.0).reshape(2, 12)
    for pattern in ("a (b c) -> b (a c)", " a(b c)->b(a c) ", "a   ( b c )  ->b (a c)", "a (b 1 c) -> b (a c 1)", "a (b c) -> b (01 a c)"):
        np.testing.assert_array_equal(rearrange(x, pattern, b=3), rearrange(x, "a (b c) -> b (a c)", b=3))


def test_axes_may_be_called_like_parameters():
    x = np.arange(6)
    assert rearrange(x, "(tensor b) -> b tensor", tensor=2).shape == (3, 2)
    assert rearrange(x, "(pattern b) -> b pattern", pattern=2).shape == (3, 2)
    assert reduce(x, "(reduction b) -> b", "max", reduction=2).shape == (3,)
    assert repeat(x, "a -> a lengths", lengths=2).shape == (6, 2)


def test_a_function_sees_kept_axes_then_reduced_ones():
    x = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    seen = []

    def last(tensor, axes):
        seen.append((tensor.shape, axes))
        return tensor[..., -1, -1]

    result = reduce(x, "a b c d -> c a", last)
    assert seen == [((4, 2, 3, 5), (2, 3))]
    np.testing.assert_array_equal(result, x[:, -1, :, -1].T)
    np.testing.assert_array_equal(reduce(x, "a b c d -> (c a)", lambda t, axes: t.sum(axes)), x.sum((1, 3)).T.reshape(-1))


def test_a_function_is_left_alone_if_nothing_is_reduced():
    def fail(tensor, axes):
        raise AssertionError

    x = np.arange(6).reshape(2, 3)
    np.testing.assert_array_equal(reduce(x, "a b -> b a", fail), x.T)
    np.testing.assert_array_equal(reduce(x, "a b -> b a", "mean"), x.T)  # whole numbers: no mean is taken


def test_a_function_must_reduce_what_it_should():
    with pytest.raises(NotationError, match=r"gave shape \(2, 3\), not \(2,\)"):
        reduce(np.zeros((2, 3)), "a b -> a", lambda tensor, axes: tensor)


def test_reductions_of_nothing_and_types():
    x = np.zeros((2, 0))
    assert reduce(x, "a b -> a", "sum").tolist() == [0, 0]
    assert reduce(x, "a b -> a", "prod").tolist() == [1, 1]
    assert reduce(x, "a b -> a", "any").tolist() == [False, False]
    assert reduce(x, "a b -> a", "all").tolist() == [True, True]
    with pytest.raises(ValueError):
        reduce(x, "a b -> a", "max")
    for dtype in (np.float16, np.float32, np.complex64):
        assert reduce(np.ones((2, 3), dtype), "a b -> a", "mean").dtype == dtype
    assert reduce(torch.ones(2, 3, dtype=torch.bfloat16), "a b -> a", "mean").dtype == torch.bfloat16
    assert reduce(np.ones((2, 3), bool), "a b -> a", "sum").dtype == np.ones((2, 3), bool).sum(1).dtype
    assert reduce(np.array([1j, 3j]), "a -> ", "mean") == 2j
    assert reduce(np.array([[2.0]], np.float16), "a b -> a", "sum").dtype == np.float16
    large = np.full((1, 70_000), 1, np.float16)
    assert reduce(large, "a b -> a", "mean").tolist() == large.mean(1).tolist() == [1.0]


@pytest.mark.parametrize("make", [np.ones, torch.ones])
@pytest.mark.parametrize("dtype", ["int32", "bool"])
def test_no_mean_of_whole_numbers(make, dtype):
    x = make((2, 3), dtype=getattr(np if make is np.ones else torch, dtype))
    with pytest.raises(NotationError, match=r"reduce 'a b -> a' on shape \(2, 3\): the mean of"):
        reduce(x, "a b -> a", "mean")
    with pytest.raises(NotImplementedError):  # what the official package raises
        reduce(x, "a b -> a", "mean")


def test_bool_reductions_on_torch_over_many_axes():
    x = torch.tensor([[[True, False], [True, True]], [[False, False], [True, True]]])
    assert reduce(x, "a b c -> b", "any").tolist() == [True, True]
    assert reduce(x, "a b c -> a", "all").tolist() == [False, False]
    assert reduce(x, "a b c -> ", "prod").item() == 0
    y = torch.arange(1.0, 25).reshape(2, 3, 4)
    torch.testing.assert_close(reduce(y, "a b c -> b", "prod"), y.prod(2).prod(0))
    torch.testing.assert_close(reduce(y.permute(2, 0, 1), "c a b -> a", "prod"), y.prod(2).prod(1))


# -- views, copies, identity ---------------------------------------------------------------------------------------


def test_identity_returns_the_same_object():
    for x in (np.zeros((2, 3)), torch.zeros(2, 3)):
        assert rearrange(x, "a b -> a b") is x
        assert rearrange(x, "a ... -> a ...") is x
        assert reduce(x, "a b -> a b", "sum") is x


def test_rearrange_gives_views():
    x = np.zeros((2, 4, 6))
    t = torch.zeros(2, 4, 6)
    for pattern in ("a b c -> c b a", "a (b k) c -> a b k c", "a b c -> (a b) c", "a b c -> 1 b (c 1) a", "a (k b) c -> c k a b", "a b (k c) -> k (a b) c"):
        lengths = {"k": 2} if "k" in pattern else {}
        assert np.shares_memory(rearrange(x, pattern, **lengths), x), pattern
        assert rearrange(t, pattern, **lengths).untyped_storage().data_ptr() == t.untyped_storage().data_ptr(), pattern


def test_no_view_is_lost_by_merging():
    """Axes that could be treated as one, in an array whose strides do not allow it."""
    base = np.arange(2 * 5 * 3 * 7 * 4).reshape(2, 5, 3, 7, 4)
    x = base[:, ::2, :, 1:, :3]
    y = rearrange(x, "a (k b) c d e -> e d k b c a", k=3)
    assert np.shares_memory(y, base)
    z = rearrange(x, "a b c d (k e) -> k d c b a e", k=3)
    assert np.shares_memory(z, base)


def test_unpack_and_torch_repeat_share_memory_and_numpy_repeat_does_not():
    x = np.zeros((2, 3))
    for pattern, lengths in (("a b -> a b n", {"n": 2}), ("a b -> a b n", {"n": 1}), ("a b -> n a b", {"n": 1}), ("a b -> (n a) b", {"n": 2})):
        y = repeat(x, pattern, **lengths)
        assert y.flags.writeable and not np.shares_memory(y, x)
        y += 1
    assert (x == 0).all()
    t = torch.zeros(2, 3)
    assert repeat(t, "a b -> n a b", n=4).data_ptr() == t.data_ptr()


def test_arrays_that_are_not_contiguous():
    base = np.arange(2 * 3 * 4 * 6).reshape(4, 6, 2, 3)
    x = base.transpose(2, 3, 0, 1)[:, ::2, ::-1]
    np.testing.assert_array_equal(rearrange(x, "a b (c k) d -> k (a b) (c d)", k=2), rearrange(x.copy(), "a b (c k) d -> k (a b) (c d)", k=2))


def test_subclasses_of_numpy_arrays():
    x = np.ma.masked_array(np.arange(6.0).reshape(2, 3), mask=[[0, 0, 1], [0, 0, 0]])
    assert reduce(x, "a b -> b", "sum").tolist() == [3, 5, 5]
    assert rearrange(x, "a b -> (b a)").mask.tolist() == [False, False, False, False, True, False]


# -- lists and other inputs ----------------------------------------------------------------------------------------


def test_a_list_is_a_new_first_axis():
    x = [np.full((2, 3), i) for i in range(4)]
    np.testing.assert_array_equal(rearrange(x, "n a b -> a (n b)"), np.concatenate(x, 1))
    np.testing.assert_array_equal(reduce(x, "n a b -> a b", "max"), np.full((2, 3), 3))
    assert repeat([torch.zeros(2)] * 3, "n a -> n a k", k=2).shape == (3, 2, 2)
    assert rearrange([np.array(1.0), np.array(2.0)], "n -> n 1").tolist() == [[1], [2]]
    assert asnumpy(rearrange([Array(np.zeros(2))] * 3, "n a -> a n")).shape == (2, 3)
    assert reduce([np.ones(2), np.zeros(2)], "n a -> a", lambda t, axes: t.sum(axes)).tolist() == [1, 1]


def test_wrong_lists():
    with pytest.raises(TypeError):
        rearrange([], "... -> ...")
    with pytest.raises(NotationError, match="element 1 of the list has shape"):
        rearrange([np.zeros(2), np.zeros(3)], "n a -> a n")
    with pytest.raises(NotationError, match="element 1 of the list is a Tensor"):
        rearrange([np.zeros(2), torch.zeros(2)], "n a -> a n")
    with pytest.raises(NotationError, match="a list of shapes"):
        rearrange([np.zeros(2), np.zeros(2)], "n a b -> a n b")


@pytest.mark.parametrize("thing", [3, 2.0, np.float64(2), "text", None, (np.zeros(2),), {"a": 1}])
def test_what_is_no_tensor(thing):
    with pytest.raises(NotationError, match="no tensor"):
        rearrange(thing, "... -> ...")


def test_no_more_dimensions_than_numpy_has():
    names = [f"a{i}" for i in range(70)]
    x = np.zeros(1)
    assert rearrange(x, f"({' '.join(names)}) -> ({' '.join(reversed(names))})", **dict.fromkeys(names[1:], 1)).shape == (1,)
    with pytest.raises((NotationError, ValueError)):
        rearrange(x, f"({' '.join(names)}) -> {' '.join(names)}", **dict.fromkeys(names[1:], 1))


def test_asnumpy():
    x = np.zeros(3)
    assert asnumpy(x) is x
    assert asnumpy(torch.ones(2, requires_grad=True)).tolist() == [1, 1]
    with pytest.raises(NotationError):
        asnumpy([1, 2])
