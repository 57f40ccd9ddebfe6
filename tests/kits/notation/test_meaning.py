"""What the verbs mean: against the element-by-element interpreter, against the recipe without simplification, and the official package."""

import math

import einops
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from reprise.kits.notation import NotationError, asnumpy, einsum, pack, rearrange, reduce, repeat, unpack, verbs
from reprise.kits.notation.errors import Fault
from reprise.kits.notation.planning import recipe
from reprise.papers.einops.corpus import MODELS, ROWS, reference
from reprise.papers.einops.interpreter import Meaningless, interpret
from reprise.papers.einops.strict import Array

VERBS = {"rearrange": rearrange, "reduce": reduce, "repeat": repeat}


@st.composite
def groups(draw, axes):
    """`axes` cut into dimensions: single axes, and groups in parentheses; unit axes in between."""
    items, left = [], list(axes)
    while left:
        count = draw(st.integers(1, min(3, len(left)))) if draw(st.booleans()) else 1
        group, left = left[:count], left[count:]
        if draw(st.integers(0, 9)) == 0:
            items.append(draw(st.sampled_from(["1", "()", "(1)"])))
        items.append(group[0] if count == 1 and draw(st.integers(0, 9)) else f"({' '.join(group)})")
    return items


@st.composite
def cases(draw):
    """(verb, pattern, shape, lengths, reduction): mostly sound, sometimes with a wrong length or size."""
    verb = draw(st.sampled_from(sorted(VERBS)))
    sizes = {f"a{i}": draw(st.sampled_from([1, 2, 3, 2, 3, 4, 1, 0])) for i in range(draw(st.integers(0, 6)))}
    ellipsis = draw(st.sampled_from([None, None, 0, 1, 2]))
    left = draw(groups(list(sizes)))
    numbers = {}
    if verb == "reduce" and draw(st.booleans()):
        left.insert(draw(st.integers(0, len(left))), draw(st.sampled_from(["2", "3"])))
    if ellipsis is not None:
        left.insert(draw(st.integers(0, len(left))), "...")
    kept = draw(st.permutations(sorted(sizes)))
    lengths = {}
    if verb == "reduce":
        kept = kept[: draw(st.integers(0, len(kept)))]
    if verb == "repeat":
        for new in ("n", "m")[: draw(st.integers(0, 2))]:
            kept = [*kept]
            kept.insert(draw(st.integers(0, len(kept))), new)
            lengths[new] = draw(st.integers(0, 3))
        if draw(st.integers(0, 4)) == 0:
            kept = [*kept, "2"]
    if ellipsis is not None and (verb != "reduce" or draw(st.booleans())):
        kept = [*kept]
        kept.insert(draw(st.integers(0, len(kept))), "...")
    right = draw(groups(kept))
    shape = []
    for item in left:
        if item == "...":
            shape += [draw(st.integers(1, 3)) for _ in range(ellipsis)]
            continue
        names = item.strip("()").split()
        shape.append(math.prod(int(name) if name.isdecimal() else sizes[name] for name in names))
        named = [name for name in names if name in sizes]
        unknown = draw(st.sampled_from([None, *named])) if named else None
        lengths |= {name: sizes[name] for name in named if name != unknown and (len(named) > 1 or draw(st.booleans()))}
    if draw(st.integers(0, 5)) == 0 and lengths:
        lengths[draw(st.sampled_from(sorted(lengths)))] += 1
    if draw(st.integers(0, 7)) == 0 and shape:
        shape[draw(st.integers(0, len(shape) - 1))] += 1
    whole = math.prod(shape) * math.prod(lengths.get(n, 1) for n in ("n", "m")) * 2
    assume(whole <= 1500 and len(shape) <= 8 and not numbers)
    # products of nothing and of units are defined; extremes of nothing are not
    reduction = draw(st.sampled_from(["sum", "prod"] if 0 in shape or 0 in sizes.values() else ["sum", "prod", "min", "max", "mean"]))
    return verb, f"{' '.join(left)} -> {' '.join(right)}", tuple(shape), lengths, reduction


def check_against_interpreter(case, seed):
    verb, pattern, shape, lengths, reduction = case
    rng = np.random.default_rng(seed)
    x = rng.integers(-2, 3, shape).astype(np.float64)
    if x.ndim > 1 and seed % 3 == 0:  # strides that no view of a contiguous array has
        x = np.ascontiguousarray(x.T).T
    try:
        expected = interpret(verb, x, pattern, lengths, reduction)
    except Meaningless:
        expected = None
    extra = (reduction,) if verb == "reduce" else ()
    for library, convert in (("numpy", np.asarray), ("torch", torch.from_numpy), ("array api", Array)):
        try:
            result = VERBS[verb](convert(x), pattern, *extra, **lengths)
        except NotationError:
            assert expected is None, f"{library}: an error where there is a meaning"
            continue
        assert expected is not None, f"{library}: an answer where there is no meaning"
        if library == "torch":  # the recipe without any simplification, as a compiler sees it
            plain = verbs._direct(verb, convert(x), pattern, reduction or None, lengths)
            assert torch.equal(plain, result)
        result = asnumpy(result) if not isinstance(result, np.generic) else np.asarray(result)
        assert result.shape == expected.shape and result.dtype == expected.dtype
        np.testing.assert_allclose(result, expected, rtol=1e-12)


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(cases(), st.integers(0, 99))
def test_agrees_with_the_interpreter(case, seed):
    check_against_interpreter(case, seed)


@pytest.mark.slow
@settings(max_examples=10_000, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(cases(), st.integers(0, 99))
def test_agrees_with_the_interpreter_in_ten_thousand_cases(case, seed):
    check_against_interpreter(case, seed)


def test_the_strategy_finds_both_meaning_and_none():
    found = {True: 0, False: 0}

    @settings(max_examples=200, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(cases())
    def collect(case):
        verb, pattern, shape, lengths, reduction = case
        try:
            interpret(verb, np.zeros(shape), pattern, lengths, reduction)
            found[True] += 1
        except Meaningless:
            found[False] += 1

    collect()
    assert found[True] > 60 and found[False] > 30


@settings(max_examples=500, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(cases())
def test_the_official_package_agrees_wherever_there_is_a_meaning(case):
    verb, pattern, shape, lengths, reduction = case
    x = np.random.default_rng(0).integers(-2, 3, shape).astype(np.float64)
    extra = (reduction,) if verb == "reduce" else ()
    try:
        ours = VERBS[verb](x, pattern, *extra, **lengths)
    except NotationError:
        with pytest.raises((einops.EinopsError, ValueError, ZeroDivisionError)):  # its own, or that of numpy
            getattr(einops, verb)(x, pattern, *extra, **lengths)
        return
    theirs = getattr(einops, verb)(x, pattern, *extra, **lengths)
    assert type(ours) is type(theirs) and ours.shape == theirs.shape and ours.dtype == theirs.dtype
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)


@settings(max_examples=500, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(cases())
def test_simplifying_twice_is_simplifying_once_and_never_adds(case):
    verb, pattern, shape, lengths, _ = case
    try:
        found = recipe(pattern, verb, len(shape))
        calls = found.calls(shape, lengths)
    except Fault:
        assume(False)
    once, parts = found.plain.merged()
    again, _ = once.merged()
    assert (again.inputs, again.outputs) == (once.inputs, once.outputs)
    assert once.n <= found.plain.n and len(once.order) <= len(found.plain.order)
    if parts:
        assert sorted(axis for part in parts for axis in part) == list(range(len(found.labels)))
    assert len(calls) <= min(5, len(found.calls(shape, lengths, symbolic=True)))


@pytest.mark.parametrize(
    ("pattern", "shape", "verb", "kinds"),
    [
        ("a b c -> a b c", (2, 3, 4), "rearrange", []),
        ("a b c -> (a b c)", (2, 3, 4), "rearrange", ["reshape"]),
        ("a (b c) -> (a b) c", (2, 12), "rearrange", ["reshape"]),
        ("a b -> b a 1", (2, 3), "rearrange", ["permute", "reshape"]),
        ("a b -> b 1 a", (1, 3), "rearrange", ["reshape"]),  # the axis of size 1 need not be moved
        ("(a b) c -> c a b", (6, 4), "rearrange", ["reshape", "permute"]),
        ("a b c d -> d c", (2, 3, 4, 5), "reduce", ["reduce", "permute"]),
        ("a b c -> ", (2, 3, 4), "reduce", ["reduce"]),
        ("a b -> n a b", (2, 3), "repeat", ["expand"]),
        ("a b -> (a n) b", (2, 3), "repeat", ["expand", "reshape"]),
    ],
)
def test_no_more_calls_than_needed(pattern, shape, verb, kinds):
    lengths = {name: {"b": 3, "n": 2}[name] for name in "bn" if name == "n" and "n" in pattern or name == "b" and ("b c)" in pattern or "(a b)" in pattern.split("->")[0])}
    assert [kind for kind, _ in recipe(pattern, verb, len(shape)).calls(shape, lengths)] == kinds


def test_the_corpus_is_as_large_as_it_says():
    assert len(ROWS) >= 150 and len(MODELS) >= 60 and all(pattern.code for pattern in MODELS)


def test_the_strict_namespace_of_the_consortium():
    """Every row, and the other functions, on the array-API project's own reference, where it is installed."""
    xp = pytest.importorskip("array_api_strict")
    for pattern in (*ROWS, *MODELS):
        x = reference(pattern, np.random.default_rng(0))
        right = interpret(pattern.verb, x, pattern.pattern, pattern.lengths, pattern.reduction)
        extra = (pattern.reduction,) if pattern.verb == "reduce" else ()
        np.testing.assert_allclose(asnumpy(VERBS[pattern.verb](xp.asarray(x), pattern.pattern, *extra, **pattern.lengths)), right, rtol=1e-12)
    x = xp.reshape(xp.arange(24.0), (2, 3, 4))
    plain = asnumpy(x)
    np.testing.assert_allclose(asnumpy(einsum(x, x, "a b c, a d c -> a b d")), plain @ plain.transpose(0, 2, 1))
    np.testing.assert_allclose(asnumpy(einsum(xp.ones((3, 3)), "a a -> a")), np.ones(3))
    packed, shapes = pack([x, x[:, 0, :]], "a * c")
    assert shapes == [(3,), ()] and [piece.shape for piece in unpack(packed, shapes, "a * c")] == [(2, 3, 4), (2, 4)]
    assert reduce([x, x], "n a b c -> a", lambda t, axes: xp.sum(t, axis=axes)).shape == (2,)
