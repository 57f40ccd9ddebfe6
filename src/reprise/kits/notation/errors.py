"""One error for everything that a pattern, a shape or a length can do wrong."""

from collections.abc import Mapping
from typing import Any


class NotationError(RuntimeError):
    """A pattern that does not parse, or does not fit its tensor; the message names verb, pattern, shape, lengths and reason."""


class NotationTypeError(NotationError, NotImplementedError, TypeError):
    """An argument of the wrong kind: not a tensor, an empty list, a data type without a mean."""


def shapes_text(tensors: Any) -> str:
    """`shape (2, 3)` or `shapes (2, 3), (4,)`, for a message; a thing without a shape by its class."""
    if not isinstance(tensors, (list, tuple)):
        return f"a {type(tensors).__name__}"
    texts = [str(tuple(tensor.shape)) if hasattr(tensor, "shape") else f"a {type(tensor).__name__}" for tensor in tensors]
    return f"shape{'s' if len(texts) != 1 else ''} {', '.join(texts) or 'none'}"


class Fault(Exception):
    """A reason and the characters of the pattern it is about, on its way to becoming a `NotationError` with its context."""

    def __init__(self, reason: str, span: tuple[int, int] | None = None, kind: type[NotationError] = NotationError):
        self.reason, self.span, self.kind = reason, span, kind

    def error(self, verb: str, pattern: Any, given: str = "", lengths: Mapping[str, Any] | None = None) -> NotationError:
        """The error to raise: `given` says what the pattern was applied to, such as `shape (2, 3)`."""
        head = f"{verb} {pattern!r}"
        if given:
            head += f" on {given}"
        if lengths:
            head += " with " + ", ".join(f"{name}={value!r}" for name, value in lengths.items())
        lines = [f"{head}: {self.reason}"]
        if self.span and isinstance(pattern, str):
            start, stop = self.span
            shown = "".join(" " if c.isspace() else c for c in pattern)  # a tab would shift the caret
            lines += [f"    {shown}", "    " + " " * start + "^" * max(stop - start, 1)]
        return self.kind("\n".join(lines))
