"""The grammar of a pattern.

    pattern := side "->" side              exactly one arrow
    side    := { item }                    items separated by spaces; parentheses separate by themselves
    item    := axis | "(" { axis } ")"     one level; "()" and "1" are unit axes
    axis    := name | "..." | number       a number above 1 is an axis without a name

A parsed side is a list with an entry for each dimension it stands for: `ELLIPSIS`, or the tuple of the axes that the
dimension is made of, names as `str` and numbers as `int`; unit axes have vanished, so that a unit dimension is `()`.
"""

import keyword
import re
import warnings
from functools import lru_cache
from typing import Any

from reprise.kits.notation.errors import Fault

ELLIPSIS = "..."
Axis = str | int
Item = str | tuple[Axis, ...]

_TOKEN = re.compile(r"[()]|[^ ()]+")
_DOUBTFUL = frozenset(keyword.kwlist) | {"axis"}


def parse_pattern(pattern: Any, underscore: bool = False) -> tuple[list[Item], list[Item]]:
    """Both sides of a pattern.

    Raises:
        Fault: not a string, not exactly one arrow, or a side that does not parse.
    """
    if not isinstance(pattern, str):
        raise Fault(f"a pattern is a string, not {type(pattern).__name__}")
    left, arrow, right = pattern.partition("->")
    if not arrow:
        raise Fault("there is no arrow '->' between input and output axes")
    if "->" in right:
        at = pattern.index("->", len(left) + 2)
        raise Fault("there is a second arrow", (at, at + 2))
    return parse_side(left, 0, underscore), parse_side(right, len(left) + 2, underscore)


def parse_side(text: str, offset: int = 0, underscore: bool = False, repeats: bool = False) -> list[Item]:
    """One side of a pattern, which begins at character `offset` of the whole.

    Args:
        underscore: whether the name `_` is allowed.
        repeats: whether a name may stand twice.

    Raises:
        Fault: with the offending characters.
    """
    items: list[Item] = []
    group: list[Axis] | None = None
    seen = set()
    for n, token in enumerate(_TOKEN.findall(text)):
        if token == "(":
            if group is not None:
                raise _at(text, offset, n, "parentheses cannot stand inside parentheses")
            group = []
            continue
        if token == ")":
            if group is None:
                raise _at(text, offset, n, "this parenthesis was never opened")
            items.append(tuple(group))
            group = None
            continue
        try:
            axis = _axis(token)
        except Fault as fault:
            raise _at(text, offset, n, fault.reason) from None
        if axis == 1:
            if group is None:
                items.append(())
            continue
        if axis.__class__ is str:
            if axis == "_" and not underscore:
                raise _at(text, offset, n, _why_not(axis))
            if axis in seen and (not repeats or axis is ELLIPSIS):
                raise _at(text, offset, n, "an ellipsis may stand once on a side" if axis is ELLIPSIS else f"axis {axis!r} stands twice on one side")
            seen.add(axis)
        if group is not None:
            group.append(axis)
        else:
            items.append(axis if axis is ELLIPSIS else (axis,))
    if group is not None:
        opened = max(n for n, token in enumerate(_TOKEN.findall(text)) if token == "(")
        raise _at(text, offset, opened, "this parenthesis is never closed")
    return items


@lru_cache(512)
def _axis(token: str) -> Axis:
    """What a token that is no parenthesis stands for."""
    if token.isidentifier() and (token[0] != "_" != token[-1] or token == "_"):
        if token in _DOUBTFUL:
            _warn(token)
        return token
    if token.isdecimal() and int(token) > 0:
        return int(token)
    if token == ELLIPSIS or token == "…":
        return ELLIPSIS
    raise Fault("a number in a pattern is at least 1" if token.isdecimal() else _why_not(token))


def names(items: list[Item]) -> list[str]:
    """The names of a side in order, the ellipsis among them if it is there."""
    return [axis for item in items for axis in ((item,) if item is ELLIPSIS else item) if isinstance(axis, str)]


def span_of_axis(pattern: str, axis: Axis, side: str | None = None) -> tuple[int, int] | None:
    """Where `axis` stands in the pattern (on the "left" or "right" side of its arrow)."""
    arrow = pattern.find("->")
    start, stop = {"left": (0, arrow), "right": (arrow + 2, len(pattern)), None: (0, len(pattern))}[side]
    for match in _TOKEN.finditer(pattern, start, stop):
        if match[0] == str(axis) or isinstance(axis, int) and match[0].isdecimal() and int(match[0]) == axis:
            return match.span()
    return None


def span_of_item(pattern: str, index: int) -> tuple[int, int] | None:
    """Where the item `index` of the left side (or of a pattern without arrow) stands, parentheses included."""
    count, opened = -1, None
    for match in _TOKEN.finditer(pattern.partition("->")[0]):
        if match[0] == ")":
            opened, start = None, opened
        elif opened is not None:
            continue
        else:
            count += 1
            start = match.start()
            if match[0] == "(":
                opened = start
                continue
        if count == index:
            return start, match.end()
    return None


def _at(text: str, offset: int, n: int, reason: str) -> Fault:
    """A fault of token `n`: the characters in it that belong to no name, if there are such, else all of it."""
    match = list(_TOKEN.finditer(text))[n]
    start, stop = match.span()
    if bad := re.search(r"\W+", match[0]):
        start, stop = start + bad.start(), start + bad.end()
    return Fault(reason, (start + offset, stop + offset))


def _why_not(token: str) -> str:
    if bad := re.search(r"\W", token):
        char = bad[0]
        if char in ".…":
            return "dots stand only in an ellipsis '...', apart from names"
        return f"only spaces separate axes, not {char!r}" if char.isspace() else f"unknown character {char!r}"
    if token[0] == "_" or token[-1] == "_":
        return f"an axis name cannot begin or end with an underscore: {token!r}"
    return f"{token!r} is not a name: a name is a Python identifier"


def _warn(name: str) -> None:
    if name == "axis":
        warnings.warn("an axis named 'axis' reads as something else; call it otherwise", FutureWarning, stacklevel=2)
    else:
        warnings.warn(f"axis name {name!r} is a Python keyword, which cannot be given as a length", RuntimeWarning, stacklevel=2)
