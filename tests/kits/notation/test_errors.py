"""Every reason to refuse a call, its words and its caret."""

import numpy as np
import pytest
import torch

from reprise.kits.notation import NotationError, check_shape, einsum, pack, parse_shape, rearrange, reduce, repeat, unpack
from reprise.kits.notation.parsing import parse_pattern
from reprise.papers.einops.equivalence import DEFECTS, defects

X = np.zeros((2, 6, 4))

# pattern, reason, the characters that the carets underline
PARSE = [
    ("a b c -> a (b c", "never closed", "("),
    ("a b) c -> a b c", "never opened", ")"),
    ("a (b (c)) -> a b c", "inside parentheses", "("),
    ("a b-c d -> a", "unknown character '-'", "-"),
    ("a b c, d -> a", "unknown character ','", ","),
    ("a b\tc d -> a", "only spaces", " "),
    ("a b c -> a 0 b c", "at least 1", "0"),
    ("a 2b c -> a", "'2b' is not a name", "2b"),
    ("a _b c -> a", "underscore", "_b"),
    ("a b_ c -> a", "underscore", "b_"),
    ("a b _ -> a", "underscore", "_"),
    ("a b .. -> a", "dots", ".."),
    ("a b... -> a", "dots", "..."),
    ("a .... -> a", "dots", "...."),
    ("... a ... -> a", "once", "..."),
    ("a b a -> a b", "twice", "a"),
    ("a b c -> a b c b", "twice", "b"),
    ("a b c -> a -> b", "second arrow", "->"),
]
# pattern, lengths, reason, underlined
RULES = [
    ("a b c -> a b", {}, "'c' is only on the left", "c"),
    ("a b c -> a b c d", {}, "'d' is only on the right", "d"),
    ("a 6 c -> a c", {}, "has no name", "6"),
    ("a b ... -> a b", {}, "only on the left", "..."),
    ("a b c -> a b c ...", {}, "only on the right", "..."),
    ("a (b ...) -> a b ...", {}, "cannot stand in parentheses", "..."),
    ("a b -> b a", {}, "left side has 2 dimensions, the input 3", "a b"),
    ("a b c d ... -> a b c d ...", {}, "at least 4 dimensions", "a b c d ..."),
    ("a (b d) c -> a b c d", {}, "all of its lengths but one", "(b d)"),
    ("a (b d) c -> a b c d", {"d": 4}, "does not divide", "(b d)"),
    ("a (b d) c -> a b c d", {"d": 2, "b": 2}, "b=2 * d=2 = 4", "(b d)"),
    ("a b c -> c b a", {"c": 5}, "dimension 2 has size 4, the pattern says c=5", "c"),
    ("a () c -> a c", {}, "must have size 1, not 6", "()"),
    ("... (c d) -> ... c d", {"c": 3}, "does not divide", "(c d)"),
    ("a b c -> c b a", {"d": 5}, "length 'd' is given", None),
    ("a b c -> c b a", {"_": 5}, "length '_' is given", None),
]


def underlined(message: str) -> str | None:
    """What the carets of a message stand under."""
    lines = message.splitlines()
    if len(lines) < 3:
        return None
    pattern, carets = lines[-2:]
    return pattern[carets.index("^") : carets.rindex("^") + 1]


@pytest.mark.parametrize(("pattern", "reason", "mark"), PARSE)
def test_patterns_that_do_not_parse(pattern, reason, mark):
    with pytest.raises(NotationError) as caught:
        rearrange(X, pattern)
    message = str(caught.value)
    assert reason in message and "rearrange" in message and repr(pattern) in message and "(2, 6, 4)" in message
    assert underlined(message) == mark


@pytest.mark.parametrize(("pattern", "lengths", "reason", "mark"), RULES)
def test_calls_that_break_a_rule(pattern, lengths, reason, mark):
    with pytest.raises(NotationError) as caught:
        rearrange(X, pattern, **lengths)
    message = str(caught.value)
    assert reason in message and "rearrange" in message and repr(pattern) in message and "(2, 6, 4)" in message
    assert all(f"{name}={length}" in message for name, length in lengths.items())
    assert underlined(message) == mark


def test_rules_of_the_other_verbs():
    for call, reason in [
        (lambda: reduce(X, "a b c -> a d", "sum"), "'d' is only on the right"),
        (lambda: reduce(X, "a b c -> a 2", "sum"), "only on the right"),
        (lambda: reduce(X, "a 5 c -> a", "sum"), "has size 6, the pattern says 5"),
        (lambda: reduce(X, "a b c -> a", "median"), "unknown reduction 'median'"),
        (lambda: reduce(X, "a b c -> a b c", "median"), "unknown reduction 'median'"),
        (lambda: reduce(X, "a b c -> a", 3), "unknown reduction 3"),
        (lambda: reduce(X, "a b c -> a", "rearrange"), "unknown reduction"),
        (lambda: repeat(X, "a b c -> a b"), "'c' is only on the left"),
        (lambda: repeat(X, "a 6 c -> a 6 c"), "has no name"),
        (lambda: repeat(X, "a b c -> a b c d"), "new axis 'd' needs a length"),
        (lambda: repeat(X, "a b ... -> a b"), "only on the left"),
        (lambda: repeat(X, "a b c -> a b c d", d=2, e=3), "length 'e' is given"),
        (lambda: rearrange(X, 5), "a pattern is a string, not int"),
        (lambda: rearrange(X, ["a", "b"]), "a pattern is a string, not list"),
        (lambda: rearrange(X, "a b c"), "no arrow"),
    ]:
        with pytest.raises(NotationError, match=reason):
            call()


@pytest.mark.parametrize("length", [2.0, 2.5, True, False, np.bool_(True), "2", None, -1, np.int64(-2), [2], np.array([2, 3]), 1j])
def test_lengths_that_are_none(length):
    for call in (
        lambda: rearrange(np.zeros(6), "(a b) -> a b", a=length),
        lambda: rearrange(np.zeros(6), "a -> a", a=length),
        lambda: repeat(np.zeros(6), "b -> a b", a=length),
        lambda: reduce(np.zeros(6), "(a b) -> a", "sum", a=length),
        lambda: reduce(np.zeros(6), "(a b) -> a", lambda x, axes: x.sum(axes), a=length),
        lambda: einsum(np.zeros(6), "(a b) -> a", a=length),
        lambda: check_shape(np.zeros(6), "a", a=length),
    ):
        with pytest.raises(NotationError):
            call()


def test_zero_is_a_length_unless_something_is_inferred_from_it():
    assert rearrange(np.zeros(0), "(a b) -> b a", a=0, b=3).shape == (3, 0)
    assert repeat(np.zeros(2), "a -> a b", b=0).shape == (2, 0)
    with pytest.raises(NotationError, match="cannot be inferred beside a length of 0"):
        rearrange(np.zeros(0), "(a b) -> b a", a=0)


def test_lengths_may_be_integers_of_numpy_and_torch():
    x = np.zeros(6)
    assert rearrange(x, "(a b) -> a b", a=np.int32(2)).shape == (2, 3)
    assert rearrange(x, "(a b) -> a b", a=torch.tensor(2)).shape == (2, 3)
    assert repeat(x, "a -> a b", b=np.uint8(2)).shape == (6, 2)


def test_each_defect_of_the_official_package_is_none_here():
    found = {(name, who): good for name, who, good in defects()}
    assert all(found[name, "ours"] for name, *_ in DEFECTS)
    assert sum(found[name, "official"] for name, *_ in DEFECTS) < len(DEFECTS)


def test_the_errors_of_the_other_functions_name_their_axis():
    for call, reason in [
        (lambda: pack([np.zeros((2, 3)), np.zeros((4, 5))], "a *"), "axis 'a' has size 4 in tensor 1, 2 in tensor 0"),
        (lambda: pack([np.zeros(2)], "a b *"), "fewer than the 2 names"),
        (lambda: pack([np.zeros(2)], "a b"), r"no '\*'"),
        (lambda: pack([np.zeros(2)], "* a *"), "twice"),
        (lambda: pack([np.zeros(2)], "a a *"), "'a' stands twice"),
        (lambda: pack([np.zeros(2)], "a-b *"), "neither a name nor"),
        (lambda: pack([], "*"), "empty"),
        (lambda: pack([np.zeros(2), torch.zeros(2)], "*"), "tensor 1 is a Tensor"),
        (lambda: unpack(np.zeros((2, 5)), [[5]], "*"), "1 items, the tensor 2 dimensions"),
        (lambda: unpack(np.zeros(5), [[2], [4]], "*"), "hold 6 entries, the packed axis 5"),
        (lambda: unpack(np.zeros(5), [[2], [-1], [4]], "*"), "-1 are left"),
        (lambda: unpack(np.zeros(5), [[-1], [-1]], "*"), "only one -1"),
        (lambda: unpack(np.zeros(5), [[2, -1]], "*"), "cannot hold"),
        (lambda: unpack(np.zeros(5), [], "*"), "hold 0 entries"),
        (lambda: unpack(np.zeros(5), [[2.5], [2.5]], "*"), "a length is an integer"),
        (lambda: unpack(np.zeros(5), [[True], [4]], "*"), "a length is an integer"),
        (lambda: unpack(np.zeros(5), 5, "*"), "a list of shapes"),
        (lambda: einsum(np.zeros((2, 1)), np.zeros((4, 3)), "i k, k j -> i j"), "axis 'k' has size 4 in input 1, 1 elsewhere"),
        (lambda: einsum(np.zeros((2, 3)), "i k, k j -> i j"), "2 inputs, 1 tensors"),
        (lambda: einsum(np.zeros((2, 3)), "i k -> j"), "'j' is in the result"),
        (lambda: einsum(np.zeros((2, 3)), "i k"), "no arrow"),
        (lambda: einsum(np.zeros((2, 3)), "i -> i"), "1 dimensions in the pattern, 2"),
        (lambda: einsum(np.zeros((2, 3)), "i k -> i i"), "twice"),
        (lambda: einsum(np.zeros((2, 3)), "i k -> i ..."), "only in the result"),
        (lambda: einsum("i -> i"), "takes tensors"),
        (lambda: einsum(np.zeros(2)), "takes tensors"),
        (lambda: einsum(), "takes tensors"),
        (lambda: parse_shape(X, "a b"), "2 dimensions, the tensor 3"),
        (lambda: parse_shape(X, "a (b c) d"), "no axes joined"),
        (lambda: parse_shape(X, "a 5 c"), "has size 6, the pattern says 5"),
        (lambda: parse_shape(X, "a () c"), "has size 6, the pattern says 1"),
        (lambda: parse_shape(X, "a b a"), "twice"),
        (lambda: parse_shape(X, "(...)"), "no axes joined"),
        (lambda: parse_shape(X, "a b c -> a"), "no arrow"),
        (lambda: check_shape(X, "a b c", c=5), "has size 4, the lengths say 5"),
        (lambda: check_shape(X, "a b c", d=5), "length 'd' is given"),
    ]:
        with pytest.raises(NotationError, match=reason):
            call()


def test_doubtful_names_warn_once_when_parsed():
    from reprise.kits.notation import parsing

    parsing._axis.cache_clear()
    with pytest.warns(RuntimeWarning, match="keyword"):
        parse_pattern("lambda b -> b lambda")
    with pytest.warns(FutureWarning, match="axis"):
        parse_pattern("axis b -> b axis")


def test_errors_are_those_that_callers_of_the_official_package_catch():
    import einops

    assert issubclass(NotationError, RuntimeError) and issubclass(einops.EinopsError, RuntimeError)
    with pytest.raises(TypeError):
        rearrange([], "a -> a")
