"""torch: gradients, compilation with open sizes, vmap, meta tensors, export."""

import numpy as np
import pytest
import torch

from reprise.kits.notation import NotationError, check_shape, einsum, pack, parse_shape, rearrange, reduce, repeat, unpack
from reprise.kits.notation.caching import plan
from reprise.kits.notation.layers.torch import EinMix, Rearrange, Reduce, Repeat

CALLS = {
    "rearrange": lambda x: rearrange(x, "a (b n) c -> (c n) a b", n=2),
    "flatten": lambda x: rearrange(x, "a ... -> a (...)"),
    "identity": lambda x: rearrange(x, "a b c -> a b c"),
    "repeat": lambda x: repeat(x, "a b c -> c (a n) m b", n=2, m=3),
    **{name: lambda x, name=name: reduce(x, "a (b n) c -> c a", name, n=2) for name in ("min", "max", "sum", "mean", "prod")},
    "function": lambda x: reduce(x, "a (b n) c -> c a", lambda t, axes: t.logsumexp(axes), n=2),
    "einsum": lambda x: einsum(x, x, "a b c, d b c -> a d"),
    "einsum, groups": lambda x: einsum(x, x, "a (b n) c, d (b n) e -> (a n) e", n=2),
    "pack": lambda x: pack([x, x[:, 0], x[..., :1]], "a *")[0],
    "unpack": lambda x: unpack(x, [(1,), (), (-1, 1)], "a * c")[2],
    "list": lambda x: rearrange([x, 2 * x], "n a b c -> (n a) b c"),
    "parse_shape": lambda x: check_shape(x, "a b _") * parse_shape(x, "_ n _")["n"],
}


@pytest.mark.parametrize("name", CALLS)
def test_gradients(name):
    x = torch.rand(2, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(CALLS[name], (x,))


def test_gradients_of_layers():
    x = torch.rand(2, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    mix = EinMix("a (b n) c -> c (n d) a", "b n d", "d", b=2, n=2, d=3).double()
    for layer in (Rearrange("a (b n) c -> (c n) a b", n=2), Reduce("a b c -> c", "max"), Repeat("a b c -> (a n) b c", n=2), mix):
        assert torch.autograd.gradcheck(layer, (x,)) and torch.autograd.gradcheck(layer, (x,))


def test_extremes_share_the_gradient_between_ties():
    x = torch.tensor([[1.0, 2.0, 2.0], [0.0, 0.0, 0.0]], requires_grad=True)
    reduce(x, "a b -> a", "max").sum().backward()
    torch.testing.assert_close(x.grad, torch.tensor([[0, 0.5, 0.5], [1 / 3, 1 / 3, 1 / 3]]))


@pytest.mark.parametrize("name", CALLS)
def test_compiles_as_one_graph(name):
    torch._dynamo.reset()
    x = torch.rand(2, 4, 3)
    for dynamic in (False, True):
        compiled = torch.compile(CALLS[name], fullgraph=True, dynamic=dynamic, backend="eager")
        for y in (x, torch.rand(3, 6, 5)):
            torch.testing.assert_close(compiled(y), CALLS[name](y))


def test_two_graphs_do_for_all_shapes():
    """The first for the shape as it is, the second for open sizes; every later shape runs on the second."""
    torch._dynamo.reset()
    graphs = []

    def count(graph, _):
        graphs.append(graph)
        return graph.forward

    net = torch.nn.Sequential(Rearrange("b c (h p) (w q) -> b (h w) (p q c)", p=2, q=2), EinMix("b t c -> b t (n d)", "c n d", "n d", c=12, n=2, d=4), Reduce("b t d -> b d", "mean"))

    def forward(x):
        y = net(x)
        return repeat(rearrange(y, "b (n d) -> n b d", n=2), "n b d -> b n k d", k=3)

    compiled = torch.compile(forward, backend=count, fullgraph=True)
    for batch, side in ((2, 4), (3, 6), (4, 8), (7, 10)):
        x = torch.rand(batch, 3, side, side)
        torch.testing.assert_close(compiled(x), forward(x))
    assert len(graphs) <= 2


def test_compiled_code_makes_the_same_mistakes():
    torch._dynamo.reset()
    for bad in (2.0, True, 4):
        compiled = torch.compile(lambda x, bad=bad: rearrange(x, "(a b) -> a b", a=bad), backend="eager")
        with pytest.raises(Exception, match="a length is an integer|does not divide"):
            compiled(torch.zeros(6))


def test_compiling_leaves_the_caches_alone():
    torch._dynamo.reset()
    before = plan.cache_info()
    torch.compile(lambda x: rearrange(x, "u (v w) -> w u v", w=3), fullgraph=True, backend="eager")(torch.zeros(2, 6))
    assert plan.cache_info() == before


def test_layers_compile_before_and_after_they_were_used():
    torch._dynamo.reset()
    x = torch.rand(2, 4, 3)
    for used in (False, True):
        layer = Rearrange("a (b n) c -> (c n) a b", n=2)
        if used:
            layer(x)
        torch.testing.assert_close(torch.compile(layer, fullgraph=True, backend="eager")(x), layer(x))
        layer.compile(fullgraph=True, backend="eager")
        torch.testing.assert_close(layer(x), CALLS["rearrange"](x))


@pytest.mark.slow
def test_the_default_compiler():
    torch._dynamo.reset()
    for name in ("rearrange", "mean", "einsum, groups"):
        torch.testing.assert_close(torch.compile(CALLS[name], fullgraph=True)(torch.ones(2, 4, 3)), CALLS[name](torch.ones(2, 4, 3)))


def test_export_with_an_open_size():
    net = torch.nn.Sequential(Rearrange("b (n c) -> b n c", n=2), Reduce("b n c -> b c", "max"))
    exported = torch.export.export(net, (torch.rand(3, 6),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    x = torch.rand(11, 6)
    torch.testing.assert_close(exported.module()(x), net(x))


@pytest.mark.parametrize("name", [n for n in CALLS if n not in ("list",)])
def test_vmap(name):
    xs = torch.rand(5, 2, 4, 3)
    torch.testing.assert_close(torch.vmap(CALLS[name])(xs), torch.stack([CALLS[name](x) for x in xs]))


def test_gradient_as_a_function():
    x = torch.rand(2, 4, 3)
    grad = torch.func.grad(lambda x: reduce(x * x, "a b c -> ", "sum"))(x)
    torch.testing.assert_close(grad, 2 * x)
    per_example = torch.vmap(torch.func.grad(lambda x: einsum(x, x, "b c, b c -> ")))(x)
    torch.testing.assert_close(per_example, 2 * x)


@pytest.mark.parametrize("name", CALLS)
def test_meta_tensors_and_parameters(name):
    x = torch.rand(2, 4, 3)
    assert CALLS[name](x.to("meta")).shape == CALLS[name](torch.nn.Parameter(x)).shape == CALLS[name](x).shape
    with pytest.raises(NotationError):
        rearrange(x.to("meta"), "a b -> b a")


def test_types_and_devices_stay():
    for dtype in (torch.bfloat16, torch.float16, torch.int8, torch.bool, torch.complex64):
        x = torch.ones(2, 3).to(dtype)
        assert rearrange(x, "a b -> b a").dtype == repeat(x, "a b -> b a 2").dtype == dtype
    assert reduce(torch.ones(2, 3, dtype=torch.int32), "a b -> a", "sum").dtype == torch.int64
    assert reduce(torch.ones(2, 3, dtype=torch.int32), "a b -> a", "max").dtype == torch.int32


def test_a_numpy_plan_is_none_for_torch():
    x = np.arange(6).reshape(2, 3)
    assert isinstance(rearrange(x, "a b -> b a"), np.ndarray)
    assert isinstance(rearrange(torch.from_numpy(x), "a b -> b a"), torch.Tensor)
    assert isinstance(rearrange(x, "a b -> b a"), np.ndarray)
