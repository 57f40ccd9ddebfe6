"""Relative attention, augmentation, gate, character encoder, members."""

import math

import numpy as np
import pytest
import torch

from reprise.papers.saner.encoders import RelativeAttention, Transformer, by_key, encoder, sinusoids
from reprise.papers.saner.layers import CharCNN, Embedding, dropout, kept
from reprise.papers.saner.model import Architecture, Augmentation, Batch, Gate, Sizes, Tagger

TINY = dict(
    input="random", encoder="tener", augmentation="attention", fusion="gate", value_init="random", value_std=0.5, m=4, d=16, heads=2, layers=1,
    word_size=8, letter_size=5, filters=6, letter_width=3, dropout_encoder=0.1, dropout_input=0.1, dropout_augmentation=0.1,
    dropout_fusion=0.1, dropout_output=0.1, dropout_word=0.1,
)  # fmt: skip
SIZES = Sizes(words=20, letters=9, types=2)


def rngs(members=1, seed=0):
    return [torch.Generator().manual_seed(seed + s) for s in range(members)]


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def integers(high, *shape, seed=0):
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(seed))


def some_batch(members=1, sentences=3, length=5, sources=30):
    lengths = torch.tensor([5, 3, 1])[:sentences]
    mask = (torch.arange(length) < lengths[:, None]).expand(members, -1, -1)
    letters = integers(8, 10, 4, seed=5) + 1
    return Batch(
        mask_SBT=mask,
        word_SBT=integers(20, 1, sentences, length).expand(members, -1, -1),
        row_SBT=integers(sources, 1, sentences, length).expand(members, -1, -1),
        near_SBTM=integers(sources, 1, sentences, length, 4).expand(members, -1, -1, -1),
        form_SBT=integers(10, 1, sentences, length).expand(members, -1, -1),
        letters_UL=letters,
        tag_SBT=torch.zeros(members, sentences, length, dtype=torch.long),
    )


def test_relative_shift_picks_the_offset_key_minus_query():
    score = torch.arange(4 * 7).view(4, 7)
    assert by_key(score).tolist() == [[score[i, j - i + 3].item() for j in range(4)] for i in range(4)]


def test_relative_attention_equals_the_double_loop():
    attention, x = RelativeAttention(rngs(2), 8, 2, 0.0), randn(2, 1, 5, 8)
    mask = torch.tensor([1, 1, 1, 1, 0], dtype=torch.bool).expand(2, 1, -1)
    out = attention(x, mask, None)
    for s in range(2):
        query, value = (x[s, 0] @ attention.query_value.weight[s]).chunk(2, -1)
        for h in range(2):
            part = slice(4 * h, 4 * h + 4)
            u, w = attention.u[s, 0, 0, h], attention.w[s, 0, 0, h]
            for i in range(5):
                score = []
                for j in range(4):  # the fifth is padding
                    r = torch.tensor([math.sin((j - i) * 1.0), math.sin((j - i) / 10000), math.cos((j - i) * 1.0), math.cos((j - i) / 10000)])
                    score.append((query[i, part] + u) @ x[s, 0, j, part] + (query[i, part] + w) @ r)
                alpha = torch.stack(score).softmax(0)
                torch.testing.assert_close(out[s, 0, i, part], alpha @ value[:4, part], rtol=1e-4, atol=1e-5)


def test_positions_are_sines_then_cosines():
    table = sinusoids(torch.tensor([0, 2]), 6)
    assert table[0].tolist() == [0, 0, 0, 1, 1, 1]
    torch.testing.assert_close(table[1, :3], torch.tensor([math.sin(2), math.sin(2 / 100), math.sin(2 / 10000)]))


def test_direction_matters_and_padding_does_not():
    model, x = Transformer(rngs(), 8, 2, 1, 0.0), randn(1, 1, 4, 8)
    mask = torch.ones(1, 1, 4, dtype=torch.bool)
    out = model(x, mask, None)
    assert not torch.allclose(model(x.flip(2), mask, None).flip(2), out, atol=1e-3)
    longer = torch.cat([x, 9 * randn(1, 1, 3, 8, seed=1)], 2)
    padded = model(longer, torch.tensor([1, 1, 1, 1, 0, 0, 0], dtype=torch.bool).view(1, 1, -1), None)
    torch.testing.assert_close(padded[:, :, :4], out)


@pytest.mark.parametrize("name", ["tener", "transformer", "lstm"])
def test_every_encoder_ignores_padding(name):
    model, x = encoder(name, rngs(2), 8, 2, 1, 0.0), randn(2, 2, 5, 8)
    mask = (torch.arange(5) < torch.tensor([[5], [3]])).expand(2, -1, -1)
    other = torch.where(mask[..., None], x, x + 7)
    torch.testing.assert_close(model(x, mask, None)[mask], model(other, mask, None)[mask])


def augmentation(value_init="random", kind="attention", members=1, sources=9):
    vectors = randn(sources, 6, seed=3)
    vectors[0] = 0
    return Augmentation(rngs(members), Architecture(**{**TINY, "d": 8, "heads": 1, "value_init": value_init, "augmentation": kind}), vectors)


@pytest.mark.parametrize("value_init", ["random", "source"])
def test_augmentation_masks_and_weights(value_init):
    layer, h = augmentation(value_init), 3 * randn(1, 1, 5, 8)
    near = torch.tensor([[[[3, 3, 3, 3], [5, 0, 0, 0], [0, 0, 0, 0], [1, 2, 0, 4], [4, 0, 1, 2]]]])
    v, p = layer(h, near)
    value = (layer.vectors @ layer.project.weight[0] if value_init == "source" else layer.values.weight[0]).detach()
    torch.testing.assert_close(v[0, 0, 0], value[3])  # equal neighbours: their value
    assert p[0, 0, 1].tolist() == [1, 0, 0, 0] and torch.equal(p[0, 0, 3] == 0, torch.tensor([False, False, True, False]))
    assert (v[0, 0, 2] == 0).all() and (p[0, 0, 2] == 0).all()  # none: v = 0
    expected = ((value[[1, 2, 4]] @ h[0, 0, 3]) / math.sqrt(8)).softmax(0)
    torch.testing.assert_close(p[0, 0, 3][[0, 1, 3]], expected)
    torch.testing.assert_close(v[0, 0, 3], expected @ value[[1, 2, 4]])
    torch.testing.assert_close(layer(h[:, :, 3:4], near[:, :, 4:5])[0], v[:, :, 3:4])  # their order does not matter


def test_source_values_have_entries_as_large_as_those_of_a_table():
    unit = torch.nn.functional.normalize(randn(400, 6), dim=1)
    source, table = (Augmentation(rngs(), Architecture(**{**TINY, "value_init": kind}), unit) for kind in ("source", "random"))
    assert source.vectors.square().mean().item() == pytest.approx(TINY["value_std"] ** 2)
    assert table.values.weight.square().mean().item() == pytest.approx(TINY["value_std"] ** 2, rel=0.1)


def test_direct_summation_is_the_mean_of_those_there():
    layer, h = augmentation(kind="mean"), randn(1, 1, 1, 8)
    v, p = layer(h, torch.tensor([[[[1, 2, 0, 4]]]]))
    torch.testing.assert_close(v[0, 0, 0], layer.values.weight[0, [1, 2, 4]].mean(0))


def test_padding_row_of_a_value_table_gets_no_gradient():
    layer = augmentation()
    v, _ = layer(randn(1, 1, 1, 8), torch.tensor([[[[1, 0, 0, 2]]]]))
    v.sum().backward()
    assert (layer.values.weight[0, 0] == 0).all() and (layer.values.weight.grad[0, 0] == 0).all()


def test_gate():
    gate, h, v = Gate(rngs(), 4), randn(1, 2, 3, 4), randn(1, 2, 3, 4, seed=1)
    u, g = gate(h, v)
    assert u.shape == (1, 2, 3, 8) and ((g > 0) & (g < 1)).all()
    torch.testing.assert_close(g, (h @ gate.w1[0] + v @ gate.w2[0] + gate.b[0]).sigmoid())
    with torch.no_grad():
        for p in gate.parameters():
            p.zero_()
    torch.testing.assert_close(gate(h, v)[0], torch.cat([h / 2, v / 2], -1))
    gate.additive = True
    torch.testing.assert_close(gate(h, v)[0], (h + v) / 2)


def test_character_encoder_is_a_convolution_and_a_maximum():
    layer = CharCNN(rngs(2), 9, 5, 6, 3)
    letters = torch.tensor([[1, 2, 3, 4], [7, 8, 0, 0]])
    out = layer(letters)
    for s in range(2):
        weight = torch.stack([linear.weight[s].T for linear in layer.slices], -1)  # filters x size x width
        for u, word in enumerate(([1, 2, 3, 4], [7, 8])):
            x = layer.letters.weight[s][word].T[None]
            y = torch.nn.functional.conv1d(x, weight, layer.slices[0].bias[s, 0], padding=1)
            torch.testing.assert_close(out[s, u], y[0].amax(-1), rtol=1e-4, atol=1e-5)


def test_embedding_rows_belong_to_their_member():
    table = Embedding(rngs(3), 4, 2, 1.0)
    ids = torch.tensor([[1], [1], [3]])
    torch.testing.assert_close(table(ids)[:, 0], torch.stack([table.weight[0, 1], table.weight[1, 1], table.weight[2, 3]]))


@pytest.mark.parametrize("change", [{}, {"encoder": "lstm"}, {"encoder": "transformer"}, {"input": "static", "value_init": "source"}, {"augmentation": "none", "fusion": "none"}, {"fusion": "add"}, {"fusion": "concat"}])
def test_a_member_of_a_stack_is_the_model_alone(change):
    """Three seeds at once are three models: the same first parameters, outputs and gradients."""
    a, vectors = Architecture(**{**TINY, **change}), randn(30, 6, seed=4)
    stack = Tagger(rngs(3), a, SIZES, vectors)
    loss = stack.loss(some_batch(3), None)
    loss.sum().backward()
    alone = Tagger(rngs(1, seed=1), a, SIZES, vectors)
    single = alone.loss(some_batch(1), None)
    single.sum().backward()
    torch.testing.assert_close(loss[1:2], single)
    for (name, many), (_, one) in zip(stack.named_parameters(), alone.named_parameters()):
        assert torch.equal(many[1], one[0]), name
        torch.testing.assert_close(many.grad[1], one.grad[0], rtol=1e-3, atol=1e-5, msg=name)


def test_variants_pair_by_seed():
    """What two variants have in common starts equal: encoder, CRF, character and word vectors."""
    base, full = (Tagger(rngs(2), Architecture(**{**TINY, **c}), SIZES, randn(30, 6)) for c in ({"augmentation": "none", "fusion": "none"}, {}))
    theirs = dict(full.named_parameters())
    for name, value in base.named_parameters():
        assert name.startswith("output") or torch.equal(value, theirs[name]), name


def test_dropout_comes_from_the_generator_given_and_only_while_training():
    tagger, batch = Tagger(rngs(), Architecture(**TINY), SIZES, randn(30, 6)), some_batch()
    once, again, other = (tagger(batch, np.random.default_rng(s))[0] for s in (1, 1, 2))
    assert torch.equal(once, again) and not torch.equal(once, other)
    assert torch.equal(tagger(batch)[0], tagger(batch)[0])


@pytest.mark.parametrize("p", [0.0, 0.1, 0.52, 0.9])
def test_dropout_keeps_its_share_and_the_mean(p):
    rng = np.random.default_rng(0)
    assert kept((501, 399), p, rng).mean() == pytest.approx(1 - p, abs=0.004)
    out = dropout(torch.ones(501, 399), p, rng)
    assert out.dtype == torch.float32 and out.mean().item() == pytest.approx(1, abs=0.03)
    assert sorted(set(out.flatten().tolist())) == pytest.approx([0, 1 / (1 - p)][p == 0 :])


@pytest.mark.parametrize("wrong", [{"fusion": "none"}, {"augmentation": "none"}, {"d": 18}, {"m": 0}])
def test_contradictory_architecture_is_refused(wrong):
    with pytest.raises(ValueError):
        Architecture(**{**TINY, **wrong})
