"""Answers do not depend on what was asked before; caches are bounded; threads do not disturb each other."""

import json
import random
import subprocess
import sys
import threading
import tracemalloc

import numpy as np
import pytest
import torch

from reprise.kits.notation import NotationError, caching, clear_caches, einsum, pack, rearrange, reduce, repeat, unpack, verbs
from reprise.kits.notation.caching import plan

CASES = {
    "a=5": lambda: rearrange(np.zeros(6), "a -> a", a=5),
    "a=int64(5)": lambda: rearrange(np.zeros(6), "a -> a", a=np.int64(5)),
    "a=6": lambda: rearrange(np.zeros(6), "a -> a", a=6),
    "a=6.0": lambda: rearrange(np.zeros(6), "a -> a", a=6.0),
    "a=int64(6)": lambda: rearrange(np.zeros(6), "a -> a", a=np.int64(6)),
    "split 3": lambda: rearrange(np.zeros(6), "(a b) -> a b", a=3),
    "split 3.0": lambda: rearrange(np.zeros(6), "(a b) -> a b", a=3.0),
    "split 1": lambda: rearrange(np.zeros(6), "(a b) -> a b", a=1),
    "split True": lambda: rearrange(np.zeros(6), "(a b) -> a b", a=True),
    "split b": lambda: rearrange(np.zeros(6), "(a b) -> a b", b=3),
    "split both": lambda: rearrange(np.zeros(6), "(a b) -> a b", a=2, b=3),
    "split both, turned": lambda: rearrange(np.zeros(6), "(a b) -> a b", b=3, a=2),
    "reduce as rearrange": lambda: reduce(np.zeros(6), "(a b) -> a b", "rearrange", a=3),
    "reduce sum": lambda: reduce(np.ones(6), "(a b) -> a", "sum", a=3),
    "reduce max": lambda: reduce(np.ones(6), "(a b) -> a", "max", a=3),
    "reduce function": lambda: reduce(np.ones(6), "(a b) -> a", lambda x, axes: x.sum(axes) * 2, a=3),
    "reduce 2.0": lambda: reduce(np.ones(6), "(a b) -> a", "sum", a=3.0),
    "reduce without": lambda: reduce(np.ones((2, 3)), "a b -> a b", "sum"),
    "rearrange without": lambda: rearrange(np.ones((2, 3)), "a b -> a b"),
    "repeat without": lambda: repeat(np.ones((2, 3)), "a b -> a b"),
    "repeat 2": lambda: repeat(np.ones(3), "a -> (a n)", n=2),
    "repeat 1": lambda: repeat(np.ones(3), "a -> (a n)", n=1),
    "repeat True": lambda: repeat(np.ones(3), "a -> (a n)", n=True),
    "repeat torch": lambda: repeat(torch.ones(3), "a -> (a n)", n=2),
    "repeat -1": lambda: repeat(torch.ones(3), "a -> a n", n=-1),
    "unpack": lambda: unpack(np.arange(5.0), [[2], [3]], "*")[0],
    "unpack True": lambda: unpack(np.arange(5.0), [[True], [4]], "*")[0],
    "unpack 1": lambda: unpack(np.arange(5.0), [[1], [4]], "*")[0],
    "unpack floats": lambda: unpack(np.arange(5.0), [[2.0], [3.0]], "*")[0],
    "unpack left": lambda: unpack(np.arange(5.0), [[2], [-1]], "*")[1],
    "pack": lambda: pack([np.ones(2), np.ones((2, 3))], "a *")[0],
    "pack torch": lambda: pack([torch.ones(2), torch.ones((2, 3))], "a *")[0],
    "pack both": lambda: pack([np.ones(2), torch.ones((2, 3))], "a *")[0],
    "einsum": lambda: einsum(np.ones((2, 3)), np.ones((3, 4)), "i k, k j -> i j"),
    "einsum 1": lambda: einsum(np.ones((2, 1)), np.ones((3, 4)), "i k, k j -> i j"),
    "einsum split": lambda: einsum(np.ones((2, 6)), "i (k l) -> l", l=2),
    "einsum split 2.0": lambda: einsum(np.ones((2, 6)), "i (k l) -> l", l=2.0),
}


def outcome(call):
    """A result in plain data, or the class of the error."""
    try:
        result = call()
    except Exception as error:
        return type(error).__name__
    return [type(result).__name__, list(result.shape), np.asarray(result).tolist()]


def test_every_order_gives_the_answers_of_fresh_processes():
    fresh = {}
    for name, call in CASES.items():
        clear_caches()
        fresh[name] = outcome(call)
    assert fresh["a=5"] == fresh["a=int64(5)"] == fresh["split 3.0"] == fresh["split True"] == "NotationError"
    assert fresh["a=6"] == fresh["a=int64(6)"] and fresh["split both"] == fresh["split both, turned"]
    order = random.Random(0)
    clear_caches()
    for _ in range(20):
        names = list(CASES) * 2
        order.shuffle(names)
        for name in names:
            assert outcome(CASES[name]) == fresh[name], name


def test_clearing_is_like_a_fresh_process():
    """One real new process, for the case on which the official package changes its mind."""
    program = (
        "import json, numpy as np\nfrom reprise.kits.notation import rearrange\n"
        "def ask(**k):\n    try: return list(rearrange(np.zeros(6), '(a b) -> a b', **k).shape)\n    except RuntimeError: return 'error'\n"
        "print(json.dumps([ask(a=3.0), ask(a=3), ask(a=3.0), ask(a=True), ask(a=1), ask(a=True)]))"
    )
    answers = json.loads(subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout)
    assert answers == ["error", [3, 2], "error", "error", [1, 6], "error"]


def test_numpy_users_do_not_load_torch():
    program = "import sys\nimport numpy as np\nfrom reprise.kits.notation import rearrange\nrearrange(np.zeros((2, 3)), 'a b -> b a')\nprint('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.strip() == "False"


def test_torch_may_come_after_the_kit():
    program = (
        "import numpy as np\nfrom reprise.kits.notation import rearrange\nimport torch\n"
        "compiled = torch.compile(lambda x: rearrange(x, 'a (b c) -> (c a) b', c=2), fullgraph=True, backend='eager')\n"
        "print(compiled(torch.zeros(2, 6)).shape == rearrange(torch.zeros(2, 6), 'a (b c) -> (c a) b', c=2).shape)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.strip() == "True"


def test_the_order_of_keywords_does_not_matter():
    x = np.arange(24)
    a = rearrange(x, "(a b c) -> c a b", a=2, b=3)
    np.testing.assert_array_equal(a, rearrange(x, "(a b c) -> c a b", b=3, a=2))
    arguments = (verbs.plan_rearrange, "(a b c) -> c a b", np.ndarray, (24,))
    assert plan(*arguments, a=2, b=3) is plan(*arguments, b=3, a=2)  # made once


def test_only_plain_lengths_are_entered():
    clear_caches()
    x = np.zeros(6)
    for length in (np.int64(2), torch.tensor(2), np.uint8(2)):
        rearrange(x, "(a b) -> a b", a=length)
    assert plan.cache_info().currsize == 1
    for length in (2.0, True, "2", None, -2):
        with pytest.raises(NotationError):
            rearrange(x, "(a b) -> a b", a=length)
    assert plan.cache_info().currsize == 1


def test_fresh_functions_do_not_grow_the_cache():
    x = np.ones((2, 3))
    reduce(x, "a b -> a", lambda x, axes: x.sum(axes))
    before = plan.cache_info()
    for i in range(300):
        assert reduce(x, "a b -> a", lambda x, axes, i=i: x.sum(axes) + i).tolist() == [3 + i, 3 + i]
    assert plan.cache_info().currsize == before.currsize and plan.cache_info().misses == before.misses


def test_errors_are_not_cached():
    clear_caches()
    for _ in range(3):
        with pytest.raises(NotationError):
            rearrange(np.zeros(7), "(a b) -> a b", a=2)
    assert plan.cache_info().currsize == 0


def test_size_is_bounded_and_old_plans_come_back():
    clear_caches()
    x = np.zeros((2, 4))
    first = rearrange(x, "a (b k) -> k b a", k=2)
    tracemalloc.start()
    for i in range(6000):
        rearrange(x, f"a{i} (b k) -> k b a{i}", k=2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert plan.cache_info().currsize == caching.PLANS and max(len(verbs._latest.entries), len(verbs._by_shape.entries)) <= caching.PLANS
    assert peak < 5e6
    np.testing.assert_array_equal(rearrange(x, "a (b k) -> k b a", k=2), first)


@pytest.mark.parametrize("lengths", [{}, {"k": 2}])
def test_two_thousand_patterns_in_turn_stay_cached(lengths):
    clear_caches()
    x = np.zeros((2, 4))
    patterns = [f"a{i} (b k) -> k b a{i}" if lengths else f"a{i} b -> b a{i}" for i in range(2000)]
    for pattern in patterns:
        rearrange(x, pattern, **lengths)
    before = plan.cache_info().misses
    for _ in range(3):
        for pattern in patterns:
            rearrange(x, pattern, **lengths)
    assert plan.cache_info().misses == before


def run_threads(calls: int) -> int:
    """Eight threads, `calls` in all, more patterns than the cache holds: how many results were wrong."""
    wrong = [0] * 8

    def work(n: int) -> None:
        x = np.arange(2 * 6 * (n + 1)).reshape(2, 6, n + 1)
        right = x.reshape(2, 3, 2, n + 1).transpose(3, 2, 1, 0)
        for i in range(calls // 8):
            result = rearrange(x, f"a (b{i % 700} c) d -> d c b{i % 700} a", c=2)
            if result.shape != right.shape or result[-1, -1, -1, -1] != right[-1, -1, -1, -1] or result[-1, 1, 0, 1] != right[-1, 1, 0, 1]:
                wrong[n] += 1

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(wrong)


def test_threads():
    clear_caches()
    assert run_threads(20_000) == 0
    assert plan.cache_info().currsize <= caching.PLANS


@pytest.mark.slow
def test_a_million_calls_from_eight_threads():
    clear_caches()
    assert run_threads(1_000_000) == 0
    assert plan.cache_info().currsize <= caching.PLANS
