"""The layers, alone and against the functions and the official layers."""

import copy
import math
import pickle

import einops.layers.torch
import numpy as np
import pytest
import torch
from torch import nn

from reprise.kits.notation import NotationError, rearrange, reduce, repeat
from reprise.kits.notation.layers.torch import EinMix, Rearrange, Reduce, Repeat

X = torch.arange(2.0 * 4 * 6 * 3).reshape(2, 4, 6, 3)


def test_layers_are_the_functions():
    for _ in range(3):  # the first call plans, the next ones remember
        assert torch.equal(Rearrange("b (h p) w c -> b h (p w c)", p=2)(X), rearrange(X, "b (h p) w c -> b h (p w c)", p=2))
        assert torch.equal(Repeat("b h w c -> b (h n) w c k", n=2, k=3)(X), repeat(X, "b h w c -> b (h n) w c k", n=2, k=3))
    layer = Rearrange("b (h p) w c -> b h (p w c)", p=2)
    other = torch.zeros(1, 2, 1, 1)
    for x in (X, other, X, other, X.to(torch.int64), nn.Parameter(X)):
        assert torch.equal(layer(x), rearrange(x, "b (h p) w c -> b h (p w c)", p=2))


@pytest.mark.parametrize("reduction", ["min", "max", "sum", "mean", "prod", "any", "all", lambda x, axes: x.sum(axes)])
def test_every_reduction(reduction):
    x = X > 5 if reduction in ("any", "all") else X
    for layer in (Reduce("b (h p) w c -> c b h", reduction, p=2), Reduce("b (h p) w c -> c b h", reduction=reduction, p=2)):
        for _ in range(2):
            assert torch.equal(layer(x), reduce(x, "b (h p) w c -> c b h", reduction, p=2))


def test_lists_and_arguments_by_keyword():
    assert Rearrange(pattern="n a -> a n")([torch.zeros(2)] * 3).shape == (2, 3)
    assert Rearrange("(pattern a) -> a pattern", pattern=2)(torch.zeros(6)).shape == (3, 2)
    with pytest.raises(NotationError, match="needs a pattern"):
        Rearrange()
    with pytest.raises(NotationError, match="needs a reduction"):
        Reduce("a b -> a")


def test_an_ellipsis_stands_for_any_number_of_axes():
    ours, theirs = Rearrange("... a b -> (b a) ..."), einops.layers.torch.Rearrange("... a b -> (b a) ...")
    deep = torch.zeros(*[1] * 9, 2, 3)
    assert ours(deep).shape == (6, *[1] * 9)
    with pytest.raises(KeyError):
        theirs(deep)
    for n in range(3):
        assert ours(torch.zeros(*[2] * n, 2, 3)).shape == theirs(torch.zeros(*[2] * n, 2, 3)).shape


def test_another_number_of_dimensions_is_an_error_of_the_notation():
    layer = Rearrange("a b -> b a")
    for x in (torch.zeros(2, 3, 4), torch.zeros(2)):
        with pytest.raises(NotationError, match="the left side has 2 dimensions"):
            layer(x)
        with pytest.raises(KeyError):
            einops.layers.torch.Rearrange("a b -> b a")(x)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Rearrange("a b -> a"), "only on the left"),
        (lambda: Rearrange("a -> a b"), "only on the right"),
        (lambda: Rearrange("a b -> b a", c=2), "length 'c' is given"),
        (lambda: Rearrange("a b -> b a", a=2.0), "a length is an integer"),
        (lambda: Rearrange("a b -> b (a"), "never closed"),
        (lambda: Repeat("a -> a b"), "new axis 'b' needs a length"),
        (lambda: Reduce("a b -> a", "median"), "unknown reduction"),
        (lambda: Reduce("a b -> a c", "sum"), "only on the right"),
    ],
)
def test_mistakes_are_noticed_when_the_layer_is_made(make, reason):
    with pytest.raises(NotationError, match=reason):
        make()


def test_a_mean_of_whole_numbers_is_an_error_each_time():
    layer = Reduce("a b -> a", "mean")
    layer(torch.ones(2, 3))
    for _ in range(3):
        with pytest.raises(NotationError, match="reduce 'a b -> a' on shape"):
            layer(torch.ones(2, 3, dtype=torch.int64))


def test_an_array_in_between_changes_nothing():
    layer = Rearrange("a b -> b a")
    assert layer(np.zeros((2, 3))).shape == (3, 2)
    assert isinstance(layer(torch.zeros(2, 3)), torch.Tensor)
    assert isinstance(layer(np.zeros((2, 3))), np.ndarray)


def test_repr_copies_and_pickles():
    layers = [Rearrange("b c -> (b c)", b=2), Reduce("b c -> c", "max"), Repeat("b c -> b c n", n=4), EinMix("b c -> b d", "c d", "d", c=3, d=5)]
    assert repr(layers[0]) == "Rearrange('b c -> (b c)', b=2)" and repr(layers[1]) == "Reduce('b c -> c', 'max')"
    assert repr(layers[3]) == "EinMix('b c -> b d', 'c d', 'd', c=3, d=5)"
    x = torch.rand(2, 3)
    for layer in layers:
        y = layer(x)
        for again in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
            assert repr(again) == repr(layer) and torch.equal(again(x), y) and torch.equal(again(x), y)


def test_hooks_are_called():
    layer, seen = Rearrange("a b -> b a"), []
    x = torch.zeros(2, 3)
    layer(x)
    for register in (layer.register_forward_hook, layer.register_forward_pre_hook, nn.modules.module.register_module_forward_hook):
        handle = register(lambda *_: seen.append(1))
        layer(x)
        handle.remove()
        layer(x)
    assert len(seen) == 3
    handle = layer.register_full_backward_hook(lambda *_: seen.append(2))
    layer(x.requires_grad_()).sum().backward()
    handle.remove()
    assert seen[3:] == [2]


def test_a_layer_forgets_when_it_saw_too_many_shapes():
    layer = Rearrange("a b -> b a")
    for n in range(1000):
        layer(torch.zeros(1, n))
    assert len(layer._runs) <= 256


def test_layers_in_a_network_learn():
    net = nn.Sequential(Rearrange("b c (h p) (w q) -> b (h w) (p q c)", p=2, q=2), nn.Linear(4, 3), Reduce("b t d -> b d", "mean"))
    net(torch.rand(2, 1, 4, 4)).sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())
    assert list(net.state_dict()) == ["1.weight", "1.bias"]


# -- EinMix ----------------------------------------------------------------------------------------------------------

MIXES = [  # pattern, weight, bias, lengths, input
    ("b c -> b d", "c d", None, dict(c=3, d=5), (2, 3)),
    ("b c -> b d", "c d", "d", dict(c=3, d=5), (2, 3)),
    ("b t (h c) -> b h t d", "h c d", "h d", dict(h=2, c=3, d=4), (2, 5, 6)),
    ("b (h c) t -> b t (h d)", "h c d", "d", dict(h=2, c=3, d=4), (2, 6, 5)),
    ("... c -> ... d", "c d", "d", dict(c=3, d=5), (2, 4, 3)),
    ("... c -> ... d", "c d", "d", dict(c=3, d=5), (3,)),
    ("b c h w -> b d (h w)", "c d", "d", dict(c=3, d=2), (2, 3, 2, 2)),
    ("a b -> b a", "a", "b a", dict(a=3, b=2), (3, 2)),
    ("b (h p) (w q) c -> b (h w) d", "p q c d", "d", dict(p=2, q=2, c=3, d=5), (2, 4, 6, 3)),
    ("b t c -> t b", "c", "t", dict(c=3, t=4), (2, 4, 3)),
    ("... a -> b (...)", "a b", None, dict(a=3, b=2), (2, 4, 3)),
]


@pytest.mark.parametrize(("pattern", "weight", "bias", "lengths", "shape"), MIXES)
def test_einmix_is_the_official_one_with_the_same_parameters(pattern, weight, bias, lengths, shape):
    ours, theirs = EinMix(pattern, weight, bias, **lengths).double(), einops.layers.torch.EinMix(pattern, weight, bias, **lengths).double()
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}
    ours.load_state_dict(theirs.state_dict())
    x = torch.rand(shape, dtype=torch.float64)
    for _ in range(2):
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-12, atol=1e-12)


def test_einmix_as_a_linear_layer_by_hand():
    mix = EinMix("t b c -> b t d", weight_shape="c d", bias_shape="d", c=3, d=5)
    x = torch.rand(4, 2, 3)
    torch.testing.assert_close(mix(x), (x @ mix.weight + mix.bias.squeeze()).transpose(0, 1))


def test_einmix_starts_within_its_bounds_and_keeps_the_variance():
    """weight ~ U(+-sqrt(3 / fan_in)) has variance 1 / fan_in, bias ~ U(+-sqrt(1 / fan_in))."""
    torch.manual_seed(0)
    fan_in, out = 128, 512
    mix = EinMix("b (h c) -> b d", "h c d", "d", h=2, c=fan_in // 2, d=out)
    bound = math.sqrt(3 / fan_in)
    assert mix.weight.abs().max() <= bound and mix.weight.abs().max() > 0.99 * bound
    assert mix.bias.abs().max() <= math.sqrt(1 / fan_in) and mix.bias.abs().max() > 0.9 * math.sqrt(1 / fan_in)
    n = mix.weight.numel()
    # the variance of n uniform draws deviates by (variance) * sqrt(0.8 / n): five standard errors
    assert abs(mix.weight.var().item() * fan_in - 1) < 5 * math.sqrt(0.8 / n)
    y = mix(torch.randn(2000, fan_in))
    assert abs(y.var().item() - 1 - 1 / (3 * fan_in)) < 0.05


@pytest.mark.parametrize(
    ("arguments", "lengths", "reason"),
    [
        (("b c -> b d", "c"), dict(c=3), "'d' of the output is neither"),
        (("b c -> b", "c d"), dict(c=3, d=2), "'d' of the weight is neither"),
        (("b c -> b d", "c d"), dict(c=3), "'d' of the weight needs a length"),
        (("b c -> b d", "c d"), dict(c=3, d=2, e=4), "length 'e' is given"),
        (("b c -> b d", "c d", "c"), dict(c=3, d=2), "'c' of the bias is not in the output"),
        (("b c -> b d", "c d", "b"), dict(c=3, d=2), "'b' of the bias needs a length"),
        (("... c -> d ...", "c d", "d"), dict(c=3, d=2), "before the ellipsis"),
        (("... c -> b d", "c d"), dict(c=3, d=2), "on both sides or on none"),
        (("(... c) -> ... d", "c d"), dict(c=3, d=2), "cannot stand in parentheses"),
        (("b c 2 -> b d", "c d"), dict(c=3, d=2), "no axes without a name"),
        (("b c -> b d", "(c d)"), dict(c=3, d=2), "no parentheses"),
        (("b c -> b d", "c ... d"), dict(c=3, d=2), "names only"),
        (("b c -> b d", "c d"), dict(c=3, d=-2), "negative"),
        (("b c b d", "c d"), dict(c=3, d=2), "no arrow"),
    ],
)
def test_einmix_mistakes(arguments, lengths, reason):
    with pytest.raises(NotationError, match=reason):
        EinMix(*arguments, **lengths)


def test_a_weight_without_axes_warns():
    with pytest.warns(UserWarning, match="single number"):
        mix = EinMix("a b -> b a", "")
    assert mix.weight.shape == ()
