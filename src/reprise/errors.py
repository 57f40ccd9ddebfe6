"""The one exception for mistakes that a person can mend: shown as a single line, exit code 1."""

import difflib
from collections.abc import Iterable


class ReproError(Exception):
    """Bad input: the message says what is wrong and how to mend it."""


def unknown(kind: str, name: str, known: Iterable[str]) -> ReproError:
    """An error for a misspelt name, with the nearest known one.

    >>> print(unknown("stage", "trian", ["train", "report"]))
    unknown stage 'trian': did you mean 'train'? (known: report, train)
    """
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=5)
    hint = f" did you mean {near[0]!r}?" if near else ""
    shown = known if len(known) <= 20 else [*(near or known[:5]), f"… {len(known)} in all"]
    return ReproError(f"unknown {kind} {name!r}:{hint} (known: {', '.join(shown) or 'none'})")
