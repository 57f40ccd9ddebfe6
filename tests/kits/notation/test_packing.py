"""pack and unpack, parse_shape and check_shape."""

import einops
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reprise.kits.notation import NotationError, asnumpy, check_shape, pack, parse_shape, unpack
from reprise.papers.einops.strict import Array

LIBRARIES = {"numpy": np.asarray, "torch": torch.from_numpy, "array api": Array}


@st.composite
def packs(draw):
    """A pattern and shapes that fit it."""
    head = [draw(st.integers(0, 3)) for _ in range(draw(st.integers(0, 2)))]
    tail = [draw(st.integers(1, 3)) for _ in range(draw(st.integers(0, 2)))]
    middles = draw(st.lists(st.lists(st.integers(0, 3), max_size=3), min_size=1, max_size=4))
    pattern = " ".join([*[f"a{i}" for i in range(len(head))], "*", *[f"b{i}" for i in range(len(tail))]])
    return pattern, [(*head, *middle, *tail) for middle in middles], [tuple(middle) for middle in middles]


@pytest.mark.parametrize("library", LIBRARIES)
@settings(max_examples=150, deadline=None, derandomize=True)
@given(case=packs())
def test_unpack_is_the_inverse_of_pack(library, case):
    pattern, shapes, middles = case
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 99, shape) for shape in shapes]
    packed, packed_shapes = pack([LIBRARIES[library](x) for x in arrays], pattern)
    assert packed_shapes == middles
    if all(x.size for x in arrays):  # the official one fails on tensors of nothing
        np.testing.assert_array_equal(asnumpy(packed), einops.pack(arrays, pattern)[0])
    back = unpack(packed, packed_shapes, pattern)
    for x, y in zip(arrays, back, strict=True):
        np.testing.assert_array_equal(asnumpy(y), x)


def test_one_length_may_be_inferred():
    x = np.arange(24).reshape(2, 12)
    for shapes, lengths in (([(-1,), (4,)], [8, 4]), ([(2, -1), (4,)], [8, 4]), ([[-1, 3], [3]], [9, 3]), ([(12,), (-1,)], [12, 0]), ([(), (-1, 1)], [1, 11])):
        pieces = unpack(x, shapes, "a *")
        assert [piece.size // 2 for piece in pieces] == lengths
        np.testing.assert_array_equal(np.concatenate([piece.reshape(2, -1) for piece in pieces], 1), x)


@pytest.mark.parametrize("make", [np.zeros, torch.zeros])
def test_pieces_are_views_and_a_piece_without_axes_loses_its_axis(make):
    x = make((2, 6, 3))
    pieces = unpack(x, [(2,), (), (3, 1)], "a * b")
    assert [tuple(piece.shape) for piece in pieces] == [(2, 2, 3), (2, 3), (2, 3, 1, 3)]
    pieces[0][...] = 1
    pieces[1][...] = 2
    pieces[2][...] = 3
    assert asnumpy(x)[0, :, 0].tolist() == [1, 1, 2, 3, 3, 3]


def test_the_shapes_returned_are_the_callers_own():
    arrays = [np.zeros((2, 3)), np.zeros(2)]
    _, shapes = pack(arrays, "a *")
    shapes.append("spoilt")
    assert pack(arrays, "a *")[1] == [(3,), ()]


def test_the_arguments_stay_as_they_are():
    arrays = [np.zeros((2, 3)), np.zeros(2)]
    before = list(arrays)
    for _ in range(2):
        pack(arrays, "a *")
    assert all(a is b for a, b in zip(arrays, before, strict=True))


def test_arguments_by_keyword_tuples_whitespace_and_numpy_integers():
    x, shapes = pack(tensors=(np.ones((2, 3)), np.ones(2)), pattern="a\t*")
    assert x.shape == (2, 4)
    for given in (shapes, tuple(shapes), [list(shape) for shape in shapes], [(np.int64(3),), ()], [np.array([3]), ()], [torch.Size([3]), ()]):
        for _ in range(2):
            assert [piece.shape for piece in unpack(tensor=x, packed_shapes=given, pattern="a \n *")] == [(2, 3), (2,)]


def test_carets_stand_under_whole_words():
    with pytest.raises(NotationError) as caught:
        pack([np.zeros((2, 3))], "ab a_ *")
    assert str(caught.value).splitlines()[-2:] == ["    ab a_ *", "       ^^"]


def test_pack_of_tensors_of_one_library_only():
    with pytest.raises(NotationError, match="tensor 1 is a Tensor, tensor 0 a ndarray"):
        pack([np.zeros(2), torch.zeros(2)], "*")
    for nothing in ([], ()):
        with pytest.raises(NotationError, match="empty"):
            pack(nothing, "*")
    for wrong in (5, None):
        with pytest.raises(NotationError):
            pack(wrong, "*")


def test_parse_shape():
    x = torch.zeros(2, 3, 4, 5, 1)
    assert parse_shape(x, "a b c d e") == dict(a=2, b=3, c=4, d=5, e=1)
    assert parse_shape(x, "a _ _ d 1") == dict(a=2, d=5)
    assert parse_shape(x, "a ... d ()") == dict(a=2, d=5)
    assert parse_shape(x, "a ... 5 e") == dict(a=2, e=1)
    assert parse_shape(x, "...") == {}
    assert parse_shape(x, "(a) 3 ...") == dict(a=2)
    assert parse_shape(np.zeros(()), "") == parse_shape(np.zeros(()), "...") == {}
    assert list(parse_shape(x=x, pattern="e d c b a")) == list("edcba")
    for pattern in ("a b c", "a ... b ...", "a 4 ...", "a b c d e f", "a b c d e ... f", "a b c d 2"):
        with pytest.raises(NotationError):
            parse_shape(x, pattern)


def test_check_shape():
    x = np.zeros((2, 3, 4))
    assert check_shape(x, "a b c") is x and check_shape(x, "a ... c", c=4) is x and check_shape(x, "a 3 _", a=np.int64(2)) is x
    for pattern, lengths in (("a b", {}), ("a b c", {"c": 3}), ("a 4 c", {}), ("a b c", {"d": 1}), ("a b c", {"a": 2.0}), ("a b c", {"a": True})):
        with pytest.raises(NotationError) as caught:
            check_shape(x, pattern, **lengths)
        assert "check_shape" in str(caught.value) and "(2, 3, 4)" in str(caught.value)
    assert check_shape(np.zeros((2, 3)), "pattern tensor", pattern=2, tensor=3).shape == (2, 3)
