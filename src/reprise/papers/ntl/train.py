"""Non-transferable learning: target-specified, ownership, source-only and authorisation differ only in the two sets of images."""

from functools import partial
from typing import Literal

import torch
from pydantic import Field
from safetensors.torch import load_file

from reprise.errors import ReproError
from reprise.papers.ntl.data import Domains, Patch, patched
from reprise.papers.ntl.fit import Labelled, Losses, Member, Schedule, fit, load, save, supervised
from reprise.papers.ntl.loss import Objective, ntl
from reprise.papers.ntl.model import VGG, Architecture
from reprise.params import Params
from reprise.stage import Stage


WATCHED = 200  # about as many validation images of each kind are read after an epoch


class Train(Params):
    """Parameters of `train`."""

    task: Literal["target", "ownership", "watermark", "source_only", "authorisation"] = Field(description="what the source and auxiliary images are")
    pairs: tuple[tuple[str, ...], ...] = Field(description="[source, target] for the task `target`, else [source]")
    seeds: int = Field(gt=0, description="seeds; each starts from the supervised model of its number")
    architecture: Architecture = Field(description="the network")
    objective: Objective = Field(description="the loss")
    schedule: Schedule = Field(description="epochs, batch, learning rate")
    patch: Patch = Field(description="the patch of ownership, watermark and authorisation")
    label: int = Field(0, ge=0, description="the class that the conventional watermark answers to its trigger with")
    augmentation: Literal["gan", "transforms"] = Field("gan", description="auxiliary images of the tasks that see no target: generated, or noise, blur and colour as a baseline")


def concat(*parts: Labelled) -> Labelled:
    """Several labelled sets as one."""
    return torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])


def streams(params: Train, source: Labelled, target: Labelled | None, augmented: Labelled | None) -> tuple[Labelled, Labelled]:
    """The labelled images that keep their labels, and those that lose them (sections 3.3, 4.2, 4.3).

    The watermark is no NTL: its auxiliary images, the patched ones of all other classes, get the label of the watermark.
    """
    x, y = source
    stamp = partial(patched, patch=params.patch)
    match params.task:
        case "target":
            return source, target
        case "ownership":
            return source, (stamp(x), y)
        case "watermark":
            other = y != params.label
            return source, (stamp(x[other]), torch.full_like(y[other], params.label))
        case "source_only":
            return source, augmented
        case "authorisation":  # half plain source images, a quarter each of plain and patched augmented ones
            half = len(y) // 2
            a, labels = augmented
            plain, rest = (a[:half], labels[:half]), (a[half : 2 * half], labels[half : 2 * half])
            return (stamp(x), y), concat(source, plain, (stamp(rest[0]), rest[1]))


def step(model: VGG, source: Labelled, auxiliary: Labelled, dropout: torch.Generator, objective: Objective) -> Losses:
    """Both batches in one pass, which without batch norm is the same as two."""
    (x_s, y_s), (x_a, y_a) = source, auxiliary
    n = len(y_s)
    z, logits = model(torch.cat([x_s, x_a]), dropout)
    losses = ntl(objective, (z[:n], logits[:n], y_s), (z[n:], logits[n:], y_a))
    # The MMD does not see the features' scale but its gradient does, so they can grow without the value telling.
    return losses | {"feature_norm": z.detach().norm(dim=1).mean()}


def train(params: Train, stage: Stage) -> None:
    """model.safetensors: a model for each pair and seed, named `<source>[_<target>]-<seed>`; history.parquet: losses and validation accuracies."""
    domains = Domains(stage)
    starts = load(stage.path("pretrain") / "model.safetensors", params.architecture, domains.side, stage.device)
    members = []
    for pair in params.pairs:
        if len(pair) != (2 if params.task == "target" else 1):
            raise ReproError(f"{stage.id}: pairs: {list(pair)} does not suit task '{params.task}', which takes {'[source, target]' if params.task == 'target' else '[source]'}")
        for seed in range(params.seeds):
            own = f"{pair[0]}-{seed}"
            if own not in starts:
                raise ReproError(f"{stage.id}: no supervised model '{own}': add it to pretrain.sources or raise pretrain.seeds")
            model = VGG(params.architecture, domains.side, torch.Generator())
            model.load_state_dict(starts[own].state_dict())
            sets = {}
            for part in ("train", "validation"):
                augmented = augmentation(params, stage, pair[0], part) if params.task in ("source_only", "authorisation") else None
                sets[part] = streams(params, domains[pair[0], part], domains[pair[1], part] if params.task == "target" else None, augmented)
            loss = supervised if params.task == "watermark" else partial(step, objective=params.objective)
            members.append(Member(f"{'_'.join(pair)}-{seed}", model.to(stage.device), *sets["train"], loss, watch={kind: (x[:: len(y) // WATCHED or 1], y[:: len(y) // WATCHED or 1]) for kind, (x, y) in zip(("source", "auxiliary"), sets["validation"])}))
    fit(stage, "", members, params.schedule)
    save({member.name: member.model for member in members}, stage.out / "model.safetensors")


def augmentation(params: Train, stage: Stage, source: str, part: str) -> Labelled:
    """The augmented images of a source: the tenth kept for validation, or the others."""
    file = load_file(stage.path("augment") / f"{params.augmentation}.safetensors")
    x, y = file[f"{source}/x"].to(stage.device), file[f"{source}/y"].to(stage.device)
    held_out = len(y) // 10
    return (x[:held_out], y[:held_out]) if part == "validation" else (x[held_out:], y[held_out:])
