"""Networks, patch, GAN, augmentation and attacks."""

import copy

import pytest
import torch
from torch import nn

from reprise.papers.ntl import attack, augment, gan
from reprise.papers.ntl.attack import fisher, pruned
from reprise.papers.ntl.data import Patch, patched
from reprise.papers.ntl.fit import Member, Schedule, one_epoch, order, shorten, supervised
from reprise.papers.ntl.model import VGG, Architecture, accuracy, windowed


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def images(n, side=16, seed=0):
    return torch.randint(256, (n, side, side, 3), generator=rng(seed), dtype=torch.uint8)


# -- networks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, side, width, classes, parameters, features",
    [("vgg11", 32, 256, 10, 9_420_170, 256 * 8 * 8), ("vgg13", 64, 256, 10, 9_997_898, 128 * 16 * 16), ("vgg19", 112, 256, 12, 21_273_164, 128 * 28 * 28)],
)
def test_parameters_and_split_of_the_papers_networks(name, side, width, classes, parameters, features):
    model = VGG(Architecture(name=name, width=width, classes=classes), side, rng())
    assert sum(p.numel() for p in model.parameters()) == parameters
    z, logits = model(images(2, side))
    assert z.shape == (2, features) and logits.shape == (2, classes)


def test_one_pass_is_two_passes():
    model = VGG(Architecture(name="mini", width=16), 16, rng())
    a, b = images(3), images(5, seed=1)
    together, apart = model(torch.cat([a, b])), [model(a), model(b)]
    for i in range(2):
        torch.testing.assert_close(together[i], torch.cat([apart[0][i], apart[1][i]]))


def test_pooling_on_a_gpu_gives_the_same_maxima_and_away_from_ties_the_same_gradient():
    x = torch.rand(3, 4, 6, 8, generator=rng()).requires_grad_()
    one, two = windowed(x), nn.functional.max_pool2d(x, 2)
    assert torch.equal(one, two)
    weights = torch.rand(one.shape, generator=rng(1))
    assert torch.equal(*[torch.autograd.grad((out * weights).sum(), x)[0] for out in (one, two)])


def test_dropout_is_drawn_from_its_generator_and_off_without():
    model = VGG(Architecture(name="mini", width=16), 16, rng())
    x = images(4)
    assert torch.equal(model(x)[1], model(x)[1])
    assert torch.equal(model(x, rng(1))[1], model(x, rng(1))[1]) and not torch.equal(model(x, rng(1))[1], model(x, rng(2))[1])


def test_same_generator_same_weights_and_no_global_draws():
    before = torch.get_rng_state()
    one, two = (VGG(Architecture(name="mini", width=16), 16, rng(5)).state_dict() for _ in range(2))
    assert all(torch.equal(one[key], two[key]) for key in one) and torch.equal(before, torch.get_rng_state())


def test_it_overfits_a_handful_of_images():
    model, g = VGG(Architecture(name="mini", width=128), 16, rng()), {kind: rng(1) for kind in ("source", "auxiliary", "dropout")}
    member = Member("m", model, (images(30), torch.arange(30) % 10), None, supervised)
    adam = torch.optim.Adam(model.parameters(), 2e-3, fused=True)
    flat = torch.optim.lr_scheduler.ExponentialLR(adam, 1.0)
    for _ in range(200):
        one_epoch(member, adam, flat, Schedule(epochs=1, batch=30, rate=1), 1, g)
    assert accuracy(model, *member.source) >= 0.9


def test_order_is_made_of_permutations():
    rows = order(10, 25, rng())
    assert len(rows) == 25 and sorted(rows[:10].tolist()) == list(range(10)) == sorted(rows[10:20].tolist())


# -- the patch -----------------------------------------------------------------------------------------------------


def test_patch_touches_three_quarters_of_channel_zero_and_saturates():
    x = images(1, 32)
    x[..., 0] %= 100
    out = patched(x, Patch(value=80))
    changed = out != x
    assert changed[..., 0].sum() == 768 and not changed[..., 1:].any()
    assert torch.equal(out[0, 1::2, 1::2], x[0, 1::2, 1::2]) and (out[0, ::2, :, 0] == x[0, ::2, :, 0] + 80).all()
    assert not torch.equal(patched(out, Patch(value=80)), out)  # a second stamp shows ...
    full = torch.full_like(x, 255)
    assert torch.equal(patched(full, Patch(value=80)), full)  # ... unless channel 0 is saturated
    assert patched(torch.full_like(x, 200), Patch(value=80))[0, 0, 0, 0] == 255
    assert (patched(x, Patch(value=80, rule="and")) != x).sum() == 256


# -- GAN and augmentation ------------------------------------------------------------------------------------------

GAN = gan.Gan(noise=8, width=8, residual=1, epochs=1, batch=16, rate=5e-4, classify=0.1, eps=0.8, judged="apart", gate=(0.2, 0.3))


def nets(side=16):
    return gan.Generator(GAN, 10, side, rng(1)), gan.Discriminator(GAN, 10, side, rng(2))


@pytest.mark.parametrize("side", [16, 32])
def test_shapes_of_the_gan(side):
    g, d = nets(side)
    x, y = gan.draw(g, 5, 8, rng())
    validity, classes, z = d(x, rng())
    assert x.shape == (5, 3, side, side) and x.abs().max() <= 1 and y.shape == (5,)
    assert validity.shape == (5,) and classes.shape == (5, 10) and len(z) == 5


def test_the_papers_generator_goes_from_1024_channels_to_three():
    g = gan.Generator(gan.Gan(**{**GAN.model_dump(), "width": 128, "noise": 256}), 10, 32, rng())
    shapes = [m.weight.shape[:2] for m in g.stages if isinstance(m, nn.ConvTranspose2d)]
    assert g.linear.out_features == 1024 * 4 and shapes == [(1024, 512), (512, 256), (256, 128), (128, 3)]


@pytest.mark.parametrize("judged", ["apart", "together"])
def test_three_steps_of_the_gan_move_both_networks(judged):
    g, d = nets()
    before = copy.deepcopy((g.state_dict(), d.state_dict()))
    losses = gan.Trainer(GAN.model_copy(update={"judged": judged}), g, d, rng()).step(augment.to_tanh(images(16)), torch.arange(16) % 10)
    assert all(torch.isfinite(v) for v in losses.values())
    assert any(not torch.equal(before[0][k], v) for k, v in g.state_dict().items()) and any(not torch.equal(before[1][k], v) for k, v in d.state_dict().items())


@pytest.mark.parametrize("direction", [0, 1, 2, 3])
def test_a_direction_freezes_exactly_its_share_of_the_channels(direction):
    g, d = nets()
    before = {key: value.clone() for key, value in g.named_parameters()}
    adam = torch.optim.Adam(g.parameters(), 1e-2, fused=True)
    fake, y = gan.draw(g, 16, 8, rng())
    loss, _ = gan.augmentation_loss(GAN, d, augment.to_tanh(images(16)), fake, y, 9.0, rng(1))
    loss.backward()
    gan.freeze_direction(g, direction)
    adam.step()
    for name, parameter in g.named_parameters():
        share = len(parameter) // 4 * direction if name.startswith("stages.") and len(parameter) % 4 == 0 else 0
        moved = (parameter != before[name]).flatten(1 if parameter.dim() > 1 else 0)
        assert not moved[:share].any(), name
        if parameter.dim() > 1:
            assert moved[share:].any(1).all(), name


class Streams:
    """A stage's random streams, and no more of it."""

    device = "cpu"

    def generator(self, *purpose):
        return rng(sum(map(ord, str(purpose))))


@pytest.mark.parametrize("judged", ["together", "apart"])
def test_the_distance_reached_grows_with_the_distance_asked_for(judged, monkeypatch):
    """As the stage does it, with the discriminator as `fit_gan` leaves it; from images that G makes itself, so at no distance."""
    monkeypatch.setattr(augment, "Loop", lambda *_: [])
    own = GAN.model_copy(update={"judged": judged, "eps": 1e-5})
    params = augment.Augment(sources=("s",), gans=(own,), levels=[{"distances": (0.3, 1.0, 3.0), "steps": 60, "rate": 2e-3}], directions=1, images=40)
    generator, discriminator = augment.fit_gan(params, own, Streams(), "s", augment.to_tanh(images(64)), torch.arange(64) % 10)
    with torch.no_grad():
        x, y = gan.draw(generator, 64, 8, rng(3))
    _, rows = augment.bend(params, own, Streams(), "s", generator, discriminator, x, y)
    reached = [row["mmd"] for row in rows]
    if judged == "together":
        assert reached == sorted(reached) and reached[-1] > reached[0] + 0.2
    else:  # batch norm over each batch alone hides the distance
        assert max(reached) < 1


class Telltale(nn.Module):
    """A generator whose images are as bright as their label says."""

    classes = 10

    def __init__(self):
        super().__init__()
        self.linear, self.stages = nn.Linear(1, 1), nn.Linear(4, 4)

    def forward(self, z, y):
        moved = self.linear.weight.sum() * 0 + self.stages.weight.sum() * 0 + self.stages.bias.sum() * 0
        return ((20 * y + 30) / 127.5 - 1 + moved)[:, None, None, None].expand(-1, 3, 16, 16)


def test_the_label_of_an_augmented_image_is_the_one_it_was_drawn_for():
    params = augment.Augment(sources=("s",), gans=(GAN,), levels=[{"distances": (0.3, 1.0), "steps": 2, "rate": 2e-3}, {"distances": (2.0,), "steps": 1, "rate": 1e-3}], images=15)
    _, d = nets()
    (x, y), rows = augment.bend(params, GAN, Streams(), "s", Telltale(), d.requires_grad_(False), augment.to_tanh(images(32)), torch.arange(32) % 10)
    assert len(rows) == 3 * 4 and len(x) == len(y) == 15 * 12 and len(set(y.tolist())) == 10
    file = augment.shuffled("s", x, y, rng())
    assert not torch.equal(file["s/y"], y)
    for images_, labels in ((x, y), (file["s/x"], file["s/y"])):
        assert (images_ == (20 * labels + 30)[:, None, None, None]).all()


def test_images_survive_the_way_to_the_gan_and_back_up_to_the_blur():
    flat = torch.full((1, 16, 16, 3), 77, dtype=torch.uint8)
    assert torch.equal(augment.to_uint8(augment.to_tanh(flat)), flat)
    assert augment.transformed(images(9), rng()).shape == (9, 16, 16, 3)


# -- attacks -------------------------------------------------------------------------------------------------------


class Logistic(nn.Module):
    """Two classes by one linear map, with the interface of VGG."""

    def __init__(self, size):
        super().__init__()
        self.w = nn.Parameter(torch.randn(size, generator=rng()))

    def forward(self, x, dropout=None):
        score = x.flatten(1) @ self.w
        return x, torch.stack([torch.zeros_like(score), score], 1)


def test_fisher_of_a_logistic_regression_is_known():
    x = torch.randn(20, 4, generator=rng(1))
    model = Logistic(4)
    p = torch.sigmoid(x @ model.w.detach())
    torch.testing.assert_close(fisher(model, x)["w"], (x.square() * (p * (1 - p))[:, None]).mean(0))


@pytest.mark.parametrize("weight, least, most", [(1e6, 0, 1e-4), (0.0, 1e-2, 9)])
def test_ewc_with_a_huge_lambda_holds_the_weights(weight, least, most):
    from functools import partial

    from reprise.papers.ntl.attack import ewc

    model = Logistic(4)
    x, y = torch.randn(40, 4, generator=rng(1)), torch.randint(2, (40,), generator=rng(2))
    anchor = {"w": model.w.detach().clone()}
    loss = partial(ewc, anchor=anchor, information=fisher(model, x), weight=weight)
    sgd = torch.optim.SGD(model.parameters(), 1 / max(weight, 1))
    for _ in range(50):
        sgd.zero_grad()
        loss(model, (x, y), None, rng())["loss"].backward()
        sgd.step()
    assert least <= (model.w - anchor["w"]).abs().max().item() <= most


def test_pruning_cuts_the_smallest_weights_of_all_layers_and_they_stay_cut():
    model = VGG(Architecture(name="mini", width=16), 16, rng())
    cut = pruned(model, 0.5)
    weights = torch.cat([m.weight.flatten() for m in cut.modules() if isinstance(m, (nn.Conv2d, nn.Linear))])
    old = torch.cat([m.weight.flatten() for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))])
    assert (weights == 0).double().mean() == pytest.approx(0.5, abs=1e-3)
    assert old[weights == 0].abs().max() <= old[weights != 0].abs().min()
    member = Member("m", cut, (images(8), torch.arange(8)), None, supervised)
    adam = torch.optim.Adam(cut.parameters(), 1e-2, fused=True)
    one_epoch(member, adam, torch.optim.lr_scheduler.ExponentialLR(adam, 1.0), Schedule(epochs=1, batch=8, rate=1), 1, {kind: rng() for kind in ("source", "auxiliary", "dropout")})
    cut(images(1))
    after = torch.cat([m.weight.flatten() for m in cut.modules() if isinstance(m, (nn.Conv2d, nn.Linear))])
    assert not after[weights == 0].any() and not torch.equal(after, weights)


def test_the_thief_has_no_labels_of_the_unlabelled_images():
    domains = {(name, "train"): (torch.arange(20)[:, None, None, None] + start, torch.arange(20) + start) for name, start in (("a", 0), ("b", 100))}
    params = attack.Attack.model_construct(share=0.3, unlabelled=("a", "b"), unlabelled_images=12)
    (x, y), others = attack.booty(params, domains, "a", rng())
    assert torch.equal(x.flatten(), y) and len(set(y.tolist())) == 6 and y.max() < 20
    unlabelled = others.flatten().tolist()
    assert len(set(unlabelled)) == 12 and not set(unlabelled) & set(y.tolist()) and sum(i >= 100 for i in unlabelled) == 6


def test_a_long_gradient_is_cut_to_length_one_and_a_short_one_stays():
    model = nn.Linear(3, 2)
    for scale in (5.0, 0.01):
        for p in model.parameters():
            p.grad = torch.full_like(p, scale)
        model.bias.grad += scale  # 6 + 2 * 4 times scale^2
        before = [p.grad.clone() for p in model.parameters()]
        shorten(model)
        after = torch.cat([p.grad.flatten() for p in model.parameters()])
        assert after.norm().item() == pytest.approx(min(1, 14**0.5 * scale), rel=1e-6)
        assert scale > 1 or all(torch.equal(p.grad, b) for p, b in zip(model.parameters(), before))


def test_schedule_chooses_what_descends():
    model = nn.Linear(3, 2)
    adam, sgd = (Schedule(epochs=1, batch=1, rate=0.1, decay=0.01, momentum=m).optimiser(model, 0.2) for m in (None, 0.9))
    assert isinstance(adam, torch.optim.Adam) and isinstance(sgd, torch.optim.SGD) and sgd.defaults["momentum"] == 0.9
    assert all(o.defaults["lr"] == 0.2 and o.defaults["weight_decay"] == 0.01 for o in (adam, sgd))


def test_schedule_refuses_what_cannot_be():
    with pytest.raises(ValueError):
        Schedule(epochs=0, batch=1, rate=1)
