"""The shared bottom, main and auxiliary towers, and their loss (sections 3 and 4), for M models at once.

Every parameter carries a leading member axis, so one batched product trains all of them; gradients of members never mix.

    M members   B batch   T = 2 tasks   K towers of a task   D features   C classes   I, O in and out of a layer
"""

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field

from reprise.kits.notation import rearrange, reduce
from reprise.params import Params

TASKS = 2
Tensors = dict[str, torch.Tensor]


class Architecture(Params):
    """The network: sizes of bottom and towers, and the auxiliary towers that exist while training."""

    classes: int = Field(gt=1, description="classes C of each task")
    bottom: Literal["mlp", "lenet"] = Field(description="mlp on the pixels, or the LeNet convolutions before it")
    bottom_layers: int = Field(gt=0, description="shared dense layers")
    bottom_width: int = Field(gt=0, description="their width, the size of h")
    tower_layers: int = Field(gt=0, description="layers of a main tower, the output layer included")
    tower_width: int = Field(gt=0, description="width of a main tower's hidden layers")
    aux: Literal["none", "neck", "linear", "tower"] = Field(description="auxiliary tower: two linear layers through a neck, one linear layer, or a copy of the main tower")
    neck: int = Field(8, gt=0, description="rank r of the neck")
    copies: int = Field(1, ge=1, description="auxiliary towers of each task (pseudo-task augmentation has several)")


def sizes(arch: Architecture, inputs: int) -> dict[str, list[tuple[int, int]]]:
    """(in, out) of every dense layer: bottom, main tower, auxiliary tower."""
    bottom = [inputs] + [arch.bottom_width] * arch.bottom_layers
    main = [arch.bottom_width] + [arch.tower_width] * (arch.tower_layers - 1) + [arch.classes]
    aux = {"none": [], "neck": [main[0], arch.neck, main[-1]], "linear": [main[0], main[-1]], "tower": main}[arch.aux]
    return {name: list(zip(chain, chain[1:])) for name, chain in {"bottom": bottom, "main": main, "aux": aux}.items()}


def init(arch: Architecture, inputs: int, generators: dict[str, torch.Generator]) -> Tensors:
    """Glorot uniform weights and zero biases of one model, as in Keras: `<part>.<layer>.w` (towers, I, O), `.b` (towers, 1, O).

    `generators` has one stream for each part, so that the main model starts alike with and without auxiliary towers.
    """
    params: Tensors = {}
    towers = {"bottom": 1, "main": TASKS, "aux": TASKS * arch.copies}
    if arch.bottom == "lenet":
        for layer, (i, o) in enumerate([(1, 10), (10, 20)]):
            params[f"conv.{layer}.w"] = glorot((o, i, 5, 5), 25 * i, 25 * o, generators["bottom"])
            params[f"conv.{layer}.b"] = torch.zeros(o)
    for part, layers in sizes(arch, 720 if arch.bottom == "lenet" else inputs).items():
        for layer, (i, o) in enumerate(layers):
            params[f"{part}.{layer}.w"] = glorot((towers[part], i, o), i, o, generators[part])
            params[f"{part}.{layer}.b"] = torch.zeros(towers[part], 1, o)
    return params


def glorot(shape: tuple[int, ...], fan_in: int, fan_out: int, generator: torch.Generator) -> torch.Tensor:
    """Uniform in +-sqrt(6 / (fan_in + fan_out))."""
    bound = (6 / (fan_in + fan_out)) ** 0.5
    return torch.rand(shape, generator=generator) * (2 * bound) - bound


def dense(params: Tensors, part: str, x_MKBI: torch.Tensor, hidden=F.relu) -> torch.Tensor:
    """A chain of dense layers of every member and tower, `hidden` between them: (M, K, B, I) -> (M, K, B, O)."""
    layers = sum(name.startswith(f"{part}.") and name.endswith(".w") for name in params)
    for layer in range(layers):
        w_MKIO, b_MK1O = params[f"{part}.{layer}.w"], params[f"{part}.{layer}.b"]
        m, k, b, _ = x_MKBI.shape
        out = torch.baddbmm(b_MK1O.flatten(0, 1), x_MKBI.flatten(0, 1), w_MKIO.flatten(0, 1))
        x_MKBI = out.unflatten(0, (m, k)) if layer == layers - 1 else hidden(out).unflatten(0, (m, k))
    return x_MKBI


def representation(params: Tensors, x_MBI: torch.Tensor) -> torch.Tensor:
    """The shared bottom h(x; th_sh) of every member, ReLU after its last layer too: (M, B, D)."""
    if "conv.0.w" in params:
        x_MBI = lenet(params, x_MBI)
    return F.relu(dense(params, "bottom", x_MBI[:, None])[:, 0])


def lenet(params: Tensors, x_MBI: torch.Tensor) -> torch.Tensor:
    """Two valid 5x5 convolutions, each with ReLU and 2x2 max-pooling, one group of channels a member: (M, B, 720)."""
    m, _, pixels = x_MBI.shape
    x = rearrange(x_MBI, "m b (h w) -> b m h w", h=round(pixels**0.5))
    for layer in range(2):
        w, bias = params[f"conv.{layer}.w"], params[f"conv.{layer}.b"]
        x = F.relu(F.conv2d(x, w.flatten(0, 1), bias.flatten(), groups=m))
        x = reduce(x, "b c (h dy) (w dx) -> b c h w", "max", dy=2, dx=2)  # max_pool2d's gradient is not deterministic on a GPU
    return rearrange(x, "b (m c) h w -> m b (c h w)", m=m)


def main_towers(params: Tensors, h_MBD: torch.Tensor) -> torch.Tensor:
    """Logits of the served model f_t(h; th_t): (M, T, B, C)."""
    return dense(params, "main", h_MBD[:, None].expand(-1, TASKS, -1, -1))


def aux_towers(arch: Architecture, params: Tensors, h_MBD: torch.Tensor) -> torch.Tensor:
    """Logits of the auxiliary towers g_t(h; a_t), of all copies: (M, T * copies, B, C). Affine in h but for `tower`."""
    hidden = F.relu if arch.aux == "tower" else (lambda x: x)
    return dense(params, "aux", h_MBD[:, None].expand(-1, TASKS * arch.copies, -1, -1), hidden)


def cross_entropy(logits_MKBC: torch.Tensor, y_MBT: torch.Tensor) -> torch.Tensor:
    """Mean over the batch, for each member and task, summed over the copies of a task's tower: (M, T)."""
    m, towers, b, c = logits_MKBC.shape
    y = y_MBT.transpose(1, 2)[:, :, None].expand(m, TASKS, towers // TASKS, b)
    nll = -logits_MKBC.log_softmax(-1).unflatten(1, (TASKS, -1)).gather(-1, y[..., None])[..., 0]
    return nll.mean(-1).sum(-1)


def task_losses(arch: Architecture, params: Tensors, h_MBD: torch.Tensor, y_MBT: torch.Tensor, gamma: float, tau: float) -> tuple[torch.Tensor, torch.Tensor]:
    """l_t(f_t) + gamma l_t(g_t / tau) of section 4 with no stop-gradient anywhere, and its first term alone: both (M, T)."""
    main_MT = cross_entropy(main_towers(params, h_MBD), y_MBT)
    if arch.aux == "none":
        return main_MT, main_MT
    return main_MT + gamma * cross_entropy(aux_towers(arch, params, h_MBD) / tau, y_MBT), main_MT


def export(params: Tensors) -> Tensors:
    """The served model: bottom and main towers, nothing that only training needs."""
    return {name: tensor for name, tensor in params.items() if name.startswith(("conv.", "bottom.", "main."))}
