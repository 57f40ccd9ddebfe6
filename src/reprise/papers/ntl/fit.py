"""One training loop for everything that descends on batches: supervised learning, NTL, watermarks, attacks (section 3, algorithm 1).

Members of a loop (pairs, seeds, learning rates) train side by side, each with its own streams of random numbers.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from pydantic import Field
from safetensors.torch import load_file, save_file

from reprise.determinism import exact_sqrt
from reprise.papers.ntl.model import VGG, Architecture, accuracy
from reprise.params import Params
from reprise.stage import Stage
from reprise.training import Loop

Labelled = tuple[torch.Tensor, torch.Tensor]  # uint8 images (N, S, S, 3) and labels (N,)
Losses = dict[str, torch.Tensor]  # "loss" is minimised, the rest is logged


class Schedule(Params):
    """How long and how fast."""

    epochs: int = Field(gt=0, description="passes over the source images")
    batch: int = Field(gt=0, description="images in the batch of each domain")
    rate: float = Field(gt=0, description="learning rate at the start")
    final: float = Field(0.02, gt=0, le=1, description="learning rate at the end, as a share of that at the start; it falls exponentially, step by step")
    decay: float = Field(0, ge=0, description="weight of an L2 penalty")
    momentum: float | None = Field(None, ge=0, lt=1, description="momentum of SGD on gradients cut to length 1; without it Adam descends")

    def optimiser(self, model: torch.nn.Module, rate: float | None = None) -> torch.optim.Optimizer:
        """What descends, at `rate` if one is given."""
        kind = torch.optim.Adam if self.momentum is None else partial(torch.optim.SGD, momentum=self.momentum)
        return kind(model.parameters(), lr=rate or self.rate, weight_decay=self.decay, fused=True)


@dataclass
class Member:
    """One model to train.

    Attributes:
        loss: (model, source batch, auxiliary batch or None, generator of the dropout masks) -> losses.
        watch: validation images whose accuracy is logged after each epoch.
    """

    name: str
    model: VGG
    source: Labelled
    auxiliary: Labelled | None
    loss: Callable[..., Losses]
    rate: float | None = None
    watch: dict[str, Labelled] = field(default_factory=dict)


def supervised(model: VGG, source: Labelled, auxiliary: Labelled | None, dropout: torch.Generator) -> Losses:
    """L_S alone; with an auxiliary batch the mean over both: SL, the conventional watermark, fine-tuning."""
    x, y = source if auxiliary is None else (torch.cat(parts) for parts in zip(source, auxiliary))
    return {"loss": F.cross_entropy(model(x, dropout)[1], y)}


def order(images: int, count: int, generator: torch.Generator) -> torch.Tensor:
    """`count` indices below `images`: random permutations, one after the other."""
    return torch.cat([torch.randperm(images, generator=generator) for _ in range(-(-count // images))])[:count]


def fit(stage: Stage, name: str, members: list[Member], schedule: Schedule) -> None:
    """Train every member; source and auxiliary images are each shuffled with a permutation of their own."""
    generators = {kind: [stage.generator(kind, name, member.name) for member in members] for kind in ("source", "auxiliary", "dropout")}
    optimisers, schedulers, steps = [], [], []
    for member in members:
        steps.append(max(1, len(member.source[1]) // schedule.batch))
        optimisers.append(schedule.optimiser(member.model, member.rate))
        schedulers.append(torch.optim.lr_scheduler.ExponentialLR(optimisers[-1], schedule.final ** (1 / (schedule.epochs * steps[-1]))))
    state = {"models": [member.model for member in members], "optimisers": optimisers, "schedulers": schedulers, "generators": generators}
    loop = Loop(stage, schedule.epochs, state, name)
    for _ in loop:
        rows = []
        for i, member in enumerate(members):
            mean = one_epoch(member, optimisers[i], schedulers[i], schedule, steps[i], {kind: each[i] for kind, each in generators.items()})
            rows.append(mean | {f"accuracy_{key}": torch.tensor(accuracy(member.model, *images)) for key, images in member.watch.items()})
        loop.log(**{key: torch.stack([row[key] for row in rows]) for key in rows[0]})


def one_epoch(member: Member, optimiser, scheduler, schedule: Schedule, steps: int, generators: dict[str, torch.Generator]) -> Losses:
    """One pass over the source images; returns the mean of each loss."""
    total: Losses = {}
    streams = []
    for kind, images in (("source", member.source), ("auxiliary", member.auxiliary)):
        streams.append(None if images is None else order(len(images[1]), steps * schedule.batch, generators[kind]).to(images[1].device).split(schedule.batch))
    for step in range(steps):
        source, auxiliary = (None if rows is None else (images[0][rows[step]], images[1][rows[step]]) for images, rows in zip((member.source, member.auxiliary), streams))
        losses = member.loss(member.model, source, auxiliary, generators["dropout"])
        optimiser.zero_grad()
        losses["loss"].backward()
        if schedule.momentum is not None:
            shorten(member.model)
        optimiser.step()
        scheduler.step()
        total = {key: total.get(key, 0) + value.detach() for key, value in losses.items()}
    return {key: value / steps for key, value in total.items()}


def shorten(model: VGG) -> None:
    """Cut the gradient of all parameters together to length 1, if it is longer."""
    gradients = [parameter.grad for parameter in model.parameters()]
    length = exact_sqrt(sum(g.square().sum() for g in gradients))
    for g in gradients:
        g /= length.clamp_min(1)


def save(members: dict[str, VGG], path: Path) -> None:
    """All members in one file: `<member>/<parameter>`."""
    save_file({f"{name}/{key}": value.cpu().contiguous() for name, model in members.items() for key, value in model.state_dict().items()}, path)


def load(path: Path, arch: Architecture, side: int, device: str) -> dict[str, VGG]:
    """What `save` wrote."""
    states: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in load_file(path).items():
        name, _, parameter = key.partition("/")
        states.setdefault(name, {})[parameter] = value
    models = {}
    for name, state in states.items():
        models[name] = VGG(arch, side, torch.Generator())
        models[name].load_state_dict(state)
        models[name].to(device)
    return models
