"""What the notation means, said without any thought of speed: every element is visited, one coordinate at a time.

It shares no code with the implementation and has its own reader of patterns, so that it can judge it. Arrays of numpy only.
"""

import itertools
import math
import re
from collections.abc import Mapping

import numpy as np

REDUCERS = {
    "min": np.min, "max": np.max, "sum": np.sum, "mean": np.mean, "prod": np.prod, "any": np.any, "all": np.all,
}  # fmt: skip
Side = list[list[str] | None]  # for each dimension its axes; None for an ellipsis outside parentheses


class Meaningless(ValueError):
    """The pattern says nothing about this input: the correct behaviour is an error."""


def require(condition: bool, why: str) -> None:
    """Raise `Meaningless` unless `condition`."""
    if not condition:
        raise Meaningless(why)


def read_side(text: str) -> Side:
    """The dimensions of one side; numbers from 2 on are made unique by their place, unit axes vanish."""
    require(not re.search(r"[^\w .()]", text), "a character that is not of the notation")
    require(text.count(".") == 3 * text.count("...") and text.count("...") <= 1, "dots")
    side: Side = []
    inside = False
    for place, word in enumerate(re.sub(r"([()])", r" \1 ", text).split(" ")):
        if word == "(":
            require(not inside, "nested parentheses")
            inside = True
            side.append([])
        elif word == ")":
            require(inside, "unbalanced parentheses")
            inside = False
        elif word == "..." and not inside:
            side.append(None)
        elif word:
            number = word.isdecimal() and int(word) >= 1
            name = word.isidentifier() and not word.startswith("_") and not word.endswith("_")
            require(number or name or word == "...", f"{word} is no axis")
            axes = [] if number and int(word) == 1 else [f"{int(word)}@{place}" if number else word]
            if inside:
                side[-1] += axes
            else:
                side.append(axes)
    require(not inside, "unbalanced parentheses")
    names = [axis for axes in side if axes for axis in axes]
    require(len(names) == len(set(names)), "an axis stands twice")
    return side


def spread(side: Side, hidden: int) -> list[list[str]]:
    """The ellipsis replaced by `hidden` axes: dimensions of their own, or members of the group it stands in."""
    names = [f"...{k}" for k in range(hidden)]
    result: list[list[str]] = []
    for axes in side:
        if axes is None:
            result += [[name] for name in names]
        else:
            result.append([name for axis in axes for name in (names if axis == "..." else [axis])])
    return result


def interpret(verb: str, x: np.ndarray, pattern: str, lengths: Mapping[str, object], reduction: str = "") -> np.ndarray:
    """The result of `rearrange`, `reduce` or `repeat`, element by element.

    Raises:
        Meaningless: a rule of the notation is broken.
    """
    require(pattern.count("->") == 1, "one arrow")
    left_text, right_text = pattern.split("->")
    left_side, right_side = read_side(left_text), read_side(right_text)
    require(not any(axes and "..." in axes for axes in left_side), "an ellipsis in parentheses on the left")
    on_left, on_right = None in left_side, "..." in right_text
    require(on_left or not on_right, "an ellipsis on the right only")
    require(on_right or not on_left or verb == "reduce", "an ellipsis on the left only")
    hidden = x.ndim - (len(left_side) - on_left)
    require(hidden == 0 or on_left and hidden > 0, "number of dimensions")
    left, right = spread(left_side, hidden), spread(right_side, hidden)
    left_axes = [axis for axes in left for axis in axes]
    right_axes = [axis for axes in right for axis in axes]
    new, gone = set(right_axes) - set(left_axes), set(left_axes) - set(right_axes)
    require(not new or verb == "repeat", "an axis on the right only")
    require(not gone or verb == "reduce", "an axis on the left only")

    size = {axis: int(axis.split("@")[0]) for axis in (*left_axes, *right_axes) if "@" in axis}
    for name, length in lengths.items():
        require(name in left_axes or name in right_axes, f"{name} is not used")
        require(isinstance(length, (int, np.integer)) and not isinstance(length, bool) and length >= 0, f"{name} is no length")
        size[name] = int(length)
    for axes, n in zip(left, x.shape):
        unknown = [axis for axis in axes if axis not in size]
        known = math.prod(size[axis] for axis in axes if axis in size)
        require(len(unknown) <= 1, "two unknown lengths in one group")
        if unknown:
            require(known > 0 and n % known == 0, "does not divide")
            size[unknown[0]] = n // known
        require(math.prod(size[axis] for axis in axes) == n, "mismatch")
    require(all(axis in size for axis in new), "a new axis without a length")
    if verb == "reduce":
        require(reduction in REDUCERS, "unknown reduction")
        require(reduction != "mean" or not gone or x.dtype.kind in "fc", "a mean of whole numbers")

    shape = tuple(math.prod(size[axis] for axis in axes) for axes in right)
    cells: dict[tuple[int, ...], list] = {place: [] for place in itertools.product(*map(range, shape))}
    every = list(dict.fromkeys(left_axes + right_axes))
    for values in itertools.product(*(range(size[axis]) for axis in every)):
        at = dict(zip(every, values))
        cells[_place(right, at, size)].append(x[_place(left, at, size)])
    reducer = REDUCERS[reduction] if gone else lambda cell: cell[0]
    result = np.empty(shape, reducer(np.ones(1, x.dtype)).dtype)
    for place, cell in cells.items():
        result[place] = reducer(np.array(cell, x.dtype))
    return result


def _place(dimensions: list[list[str]], at: dict[str, int], size: dict[str, int]) -> tuple[int, ...]:
    """Where the element with elementary coordinates `at` stands: within a group the last axis runs fastest."""
    result = []
    for axes in dimensions:
        position = 0
        for axis in axes:
            position = position * size[axis] + at[axis]
        result.append(position)
    return tuple(result)
