"""Tags, spans, scores, tokens, and what may not leak."""

import warnings

import numpy as np
import pytest

from reprise.errors import ReproError
from reprise.papers.saner import metrics, text
from reprise.papers.saner.evaluate import illegal, seqeval_f1

TYPES = ["LOC", "PER"]


def numbers(*names):
    return np.array([text.tag_names(TYPES).index(n) for n in names])


def first(*lengths):
    flags = np.zeros(sum(lengths), bool)
    flags[np.cumsum([0, *lengths[:-1]])] = True
    return flags


def test_stray_inside_tags_begin_an_entity():
    assert text.repair(["I-PER", "I-PER", "O", "I-LOC", "B-PER", "I-LOC"]) == ["B-PER", "I-PER", "O", "B-LOC", "B-PER", "B-LOC"]


def test_bioes_and_back():
    iob = ["B-PER", "I-PER", "I-PER", "B-PER", "O", "B-LOC", "I-LOC", "B-LOC"]
    tags = text.to_bioes(iob, TYPES)
    assert [text.tag_names(TYPES)[t] for t in tags] == ["B-PER", "I-PER", "E-PER", "S-PER", "O", "B-LOC", "E-LOC", "S-LOC"]
    assert text.spans(tags, first(8)).tolist() == [[0, 2, 1], [3, 3, 1], [5, 6, 0], [7, 7, 0]]
    with pytest.raises(ReproError, match="'ORG' is not one of the training set's: LOC, PER"):
        text.to_bioes(["B-ORG"], TYPES)


def test_all_prefixes_exist_even_if_no_sentence_has_them():
    assert text.tag_names(["X"]) == ["O", "B-X", "I-X", "E-X", "S-X"]


def test_fragments_and_spans_over_a_sentence_end_are_no_entities():
    tags = numbers("B-PER", "E-PER", "B-PER", "O", "I-LOC", "E-LOC", "E-PER", "B-LOC", "E-PER", "S-LOC", "I-LOC", "B-LOC", "I-LOC", "E-LOC")
    assert text.spans(tags, first(14)).tolist() == [[0, 1, 1], [9, 9, 0], [11, 13, 0]]
    assert text.spans(tags, first(1, 13)).tolist() == [[9, 9, 0], [11, 13, 0]]


def test_f1_by_hand():
    gold = numbers("B-PER", "E-PER", "O", "S-LOC", "S-PER")
    tags = numbers("B-PER", "E-PER", "S-PER", "S-PER", "S-PER")  # 2 found, 4 predicted, 3 gold
    assert metrics.counts(gold, tags, first(3, 2)).tolist() == [[1, 2, 1], [1, 2, 2]]
    assert metrics.corpus_f1(gold, tags, first(3, 2)) == pytest.approx(400 / 7)
    assert metrics.corpus_f1(np.zeros(5, int), np.zeros(5, int), first(5)) == 0


@pytest.mark.parametrize("seed", range(20))
def test_f1_equals_seqeval_on_random_tags(seed):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 9, 12)
    gold, tags = (rng.choice(9, lengths.sum(), p=[0.3] + [0.0875] * 8) for _ in range(2))
    tags = np.where(rng.random(len(tags)) < 0.7, gold, tags)  # fragments and all
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert metrics.corpus_f1(gold, tags, first(*lengths)) == pytest.approx(seqeval_f1(gold, tags, first(*lengths), TYPES), abs=1e-9)


def test_legal_table_by_hand():
    transition, start, end = text.legal(2)
    names = text.tag_names(TYPES)

    def may(a, b):
        return transition[names.index(a), names.index(b)]

    assert may("B-PER", "E-PER") and may("I-PER", "I-PER") and may("E-PER", "B-PER") and may("O", "S-LOC") and may("S-LOC", "O")
    assert not any(may(*pair) for pair in [("B-PER", "E-LOC"), ("B-PER", "O"), ("I-PER", "S-PER"), ("O", "I-PER"), ("S-PER", "E-PER"), ("E-PER", "I-PER"), ("B-PER", "B-PER")])
    assert [n for n, ok in zip(names, start) if ok] == ["O", "B-LOC", "S-LOC", "B-PER", "S-PER"]
    assert [n for n, ok in zip(names, end) if ok] == ["O", "E-LOC", "S-LOC", "E-PER", "S-PER"]
    assert illegal(numbers("B-PER", "O", "I-LOC", "S-PER"), first(2, 2), 2) == 3  # B O, I first, I S


def test_conll_errors_name_file_and_line(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("a O\nb B-PER\n\n\nc O")
    assert text.read_conll(path) == [(["a", "b"], ["O", "B-PER"]), (["c"], ["O"])]
    for content, message in [("a O\nb\n", "x.txt, line 2"), ("a X-PER\n", "x.txt, line 1"), ("\n", "no sentence")]:
        path.write_text(content)
        with pytest.raises(ReproError, match=message):
            text.read_conll(path)


def test_tokens_and_word_types():
    tokens = text.tokenise("@Ann don't miss #NYC at http://t.co/x1 , 2day!! www.a.b")
    assert tokens == ["@Ann", "don't", "miss", "#NYC", "at", "http://t.co/x1", ",", "2day", "!", "!", "www.a.b"]
    assert [text.normalise(t) for t in tokens] == ["<user>", "don't", "miss", "#nyc", "at", "<url>", ",", "0day", "!", "!", "<url>"]
    assert text.normalise("[URL]") == "<url>"


def test_held_out_sentences_are_removed_whatever_their_links_case_and_punctuation():
    messages = ["RT Hello, World!! http://t.co/abc", "hello world", "something else", "..."]
    assert text.without(messages, [["rt", "hello", ",", "world", "[URL]"], ["!", "!"]]) == ["hello world", "something else", "..."]


def test_pieces_of_held_out_sentences_and_messages_around_one_are_removed_too():
    held_out = [["Casey", "flies", "to", "Manchester", "today", "at", "noon"], ["short", "one"]]
    piece, around = "To Manchester today!", "so: Casey flies to Manchester today at noon, right?"
    innocent = ["at noon", "to Manchester", "a short one", "Casey flies to Manchester next week", "Casey flies to Manchester, then Casey flies to Paris"]
    assert text.without([piece, around, *innocent], held_out) == innocent
