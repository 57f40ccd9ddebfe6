"""Text and tags: CoNLL files, BIOES tags as numbers, spans, tokens of tweets, and what counts as the same sentence.

A tag is a number: 0 is O, and 1 + 4 * type + (0, 1, 2, 3) are B, I, E, S of a type; so K = 4 * types + 1.
"""

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from reprise.errors import ReproError

B, I, E, S = range(4)
LINK = r"https?://\S+|www\.\S+|\[URL\]"
TOKEN = re.compile(rf"{LINK}|@\w+|#\w+|\w+(?:['’]\w+)*|[^\w\s]")
SPECIFIC = 15  # letters and digits from which on a piece of text is taken to come from one message only


def read_conll(path: Path) -> list[tuple[list[str], list[str]]]:
    """Sentences as (tokens, IOB2 tags) from lines `TOKEN TAG`, a blank line after each sentence.

    Raises:
        ReproError: a line does not have two columns, or a tag is not O, B-type or I-type.
    """
    sentences, tokens, tags = [], [], []
    for number, line in enumerate([*path.read_text(encoding="utf-8").split("\n"), ""], 1):
        if line.strip():
            columns = line.split()
            if len(columns) != 2 or not re.fullmatch(r"O|[BI]-\S+", columns[1]):
                raise ReproError(f"{path.name}, line {number}: {line!r} is not 'TOKEN TAG' with an IOB2 tag")
            tokens.append(columns[0])
            tags.append(columns[1])
        elif tokens:
            sentences.append((tokens, tags))
            tokens, tags = [], []
    if not sentences:
        raise ReproError(f"{path.name} holds no sentence")
    return sentences


def repair(tags: list[str]) -> list[str]:
    """IOB2 tags in which every I- that continues nothing has become a B- (the Weibo files hold some)."""
    return ["B" + tag[1:] if tag[0] == "I" and before[1:] != tag[1:] else tag for before, tag in zip(["O", *tags], tags)]


def to_bioes(tags: list[str], types: list[str]) -> np.ndarray:
    """IOB2 tags as BIOES numbers, after `repair`.

    Raises:
        ReproError: a type that is not in `types`.
    """
    tags = repair(tags)
    result = np.zeros(len(tags), np.int64)
    for i, (tag, after) in enumerate(zip(tags, [*tags[1:], "O"])):
        if tag != "O":
            if tag[2:] not in types:
                raise ReproError(f"entity type {tag[2:]!r} is not one of the training set's: {', '.join(types)}")
            goes_on = after[0] == "I"  # of the same type: the tags are repaired
            prefix = {"B": B if goes_on else S, "I": I if goes_on else E}[tag[0]]
            result[i] = 1 + 4 * types.index(tag[2:]) + prefix
    return result


def tag_names(types: list[str]) -> list[str]:
    """The K tags as text, in the order of their numbers."""
    return ["O"] + [f"{prefix}-{kind}" for kind in types for prefix in "BIES"]


def spans(tags_N: np.ndarray, first_N: np.ndarray) -> np.ndarray:
    """The entities of a run of sentences: rows (first token, last token, type), in order.

    Strict: S, or B I* E of one type; any other fragment is no entity. On legal paths every reading agrees.

    Args:
        tags_N: tags of all tokens, sentence after sentence.
        first_N: whether a token begins a sentence.
    """
    prefix, kind = (tags_N - 1) % 4, (tags_N - 1) // 4
    inside = tags_N > 0
    opens, goes_on = inside & ((prefix == B) | (prefix == I)), inside & ((prefix == I) | (prefix == E))
    linked = np.zeros(len(tags_N), bool)
    linked[1:] = opens[:-1] & goes_on[1:] & (kind[1:] == kind[:-1]) & ~first_N[1:]
    # a chain is a longest run of linked tokens; it is an entity if it begins as one and ends as one
    start = np.flatnonzero(~linked)
    end = np.append(start[1:], len(tags_N)) - 1
    good = inside[start] & ((prefix[start] == B) | (prefix[start] == S)) & ((prefix[end] == E) | (prefix[end] == S))
    return np.stack([start, end, kind[start]], 1)[good]


def legal(types: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which transitions (K, K), first tags (K) and last tags (K) BIOES allows.

    B, I go on to I, E of the same type only; E, S, O go to any O, B, S. A path starts with O, B, S and ends with O, E, S.
    """
    tags = np.arange(4 * types + 1)
    prefix, kind = np.where(tags > 0, (tags - 1) % 4, S), (tags - 1) // 4  # O opens and closes as S does
    opens, goes_on = np.isin(prefix, (B, I)), np.isin(prefix, (I, E))
    transition = np.where(opens[:, None], goes_on & (kind[:, None] == kind), ~goes_on)
    return transition, ~goes_on, ~opens


def tokenise(message: str) -> list[str]:
    """A message's links, @handles, #tags, words (with their apostrophes) and single signs."""
    return TOKEN.findall(message)


def normalise(token: str) -> str:
    """The word type of a token: lower case, digits as 0, links `<url>`, handles `<user>`."""
    if re.match(LINK, token):
        return "<url>"
    if re.fullmatch(r"@\w+", token):
        return "<user>"
    return re.sub(r"\d", "0", token.lower())


def fingerprint(message: str) -> str:
    """Lower-cased letters and digits without links: equal for a sentence and the raw message that it was taken from."""
    return "".join(filter(str.isalnum, re.sub(LINK, " ", message).lower()))


def without(messages: Iterable[str], sentences: Iterable[list[str]]) -> list[str]:
    """The messages that share no text with the (tokenised) sentences: what is held out must not train the word vectors.

    A message goes if its fingerprint is a sentence's, or if one of the two holds the other and that one is at least
    `SPECIFIC` characters long: a message may have been cut into several lines, or a sentence out of a message.
    """
    held_out = {fingerprint(" ".join(tokens)) for tokens in sentences} - {""}
    together = "\n".join(sorted(held_out))
    by_start = defaultdict(list)
    for held in held_out:
        if len(held) >= SPECIFIC:
            by_start[held[:SPECIFIC]].append(held)

    def leaks(text: str) -> bool:
        if text in held_out or len(text) >= SPECIFIC and text in together:
            return True
        starts = (i for i in range(len(text) - SPECIFIC + 1) if text[i : i + SPECIFIC] in by_start)
        return any(text.startswith(held, i) for i in starts for held in by_start[text[i : i + SPECIFIC]])

    return [message for message in messages if not leaks(fingerprint(message))]
