"""Training: all members of a stack side by side, on batches of whole graphs."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from reprise.errors import ReproError
from reprise.kits.graphs.graph import Graph
from reprise.papers.bigg.blocks import backward_in_blocks, plan_blocks
from reprise.papers.bigg.data import load
from reprise.papers.bigg.dense import GraphRNN, plan_dense, window_of
from reprise.papers.bigg.model import BiGG
from reprise.papers.bigg.plan import Rows, moved, plan_batch, plan_trees
from reprise.params import Params
from reprise.stage import Stage
from reprise.training import Loop


class Tree(Params):
    """BiGG's own parameters."""

    d: int = Field(gt=0, description="width of a state")
    cell: Literal["light", "mlp"] = Field(description="TreeLSTM with one linear map and sigmoid forget gates, or with the authors' five MLPs")
    bits: int = Field(ge=0, description="B: intervals up to B columns are given as bits; 0: all are embedded")
    history: bool = Field(description="rows know the rows before them; false: the ablation")


class Recurrent(Params):
    """The dense baseline's own parameters."""

    width: int = Field(gt=0, description="width of the recurrent net over rows")
    entry_width: int = Field(gt=0, description="width of the recurrent net over the entries of a row")


class Run(Params):
    """Training on one data set."""

    order: str = Field(description="node order")
    steps: int = Field(ge=0, description="optimiser steps; 0: not trained on this data set")
    rate: float = Field(gt=0, description="learning rate of Adam")
    batch: int = Field(gt=0, description="graphs per batch")
    accumulate: int = Field(1, gt=0, description="batches per step")
    block: int = Field(0, ge=0, description="rows per block of recomputation; 0: whole graphs, all at once")


class Train(Params):
    """Parameters of `train`."""

    model: Literal["bigg", "dense"] = Field(description="the paper's model, or the dense baseline")
    members: int = Field(gt=0, description="models with weights of their own, trained on the same batches")
    bigg: Tree
    dense: Recurrent
    decay: list[tuple[float, float]] = Field(description="(share of the steps, factor on the rate from there on)")
    weight_decay: float = Field(ge=0, description="L2 penalty in Adam")
    clip: float = Field(gt=0, description="largest norm of a member's gradient")
    validate_every: int = Field(gt=0, description="steps between measurements on the validation graphs")
    sets: dict[str, Run] = Field(description="data set -> how to train on it")


def train(params: Train, stage: Stage) -> None:
    """Minimise -log p(graphs) / number of nodes (section 3), on each data set in turn; equally for the dense baseline."""
    for name, run in params.sets.items():
        if run.steps:
            _train_on(name, run, params, stage)


def _train_on(name: str, run: Run, params: Train, stage: Stage) -> None:
    path = stage.path("prepared") / f"{name}.parquet"
    graphs, validation = load(path, run.order, "train", first_copy_only=False), load(path, run.order, "validation")
    if run.batch > len(graphs):
        raise ReproError(f"{name}: a batch of {run.batch} graphs cannot be drawn from {len(graphs)}: lower train.sets.{name}.batch")
    generator = stage.generator("weights", name)
    if params.model == "bigg":
        config = {"members": params.members, **params.bigg.model_dump()}
    else:
        everything = [rows for part in ("train", "validation", "test") for rows in load(path, run.order, part)]
        config = {"members": params.members, **params.dense.model_dump(), "window": window_of(as_graphs(everything))}
    model = build(params.model, config, generator).to(stage.device)
    nll = likelihood(model, graphs, stage.device)
    held_out = likelihood(model, validation, stage.device)
    blocks = [plan_blocks(rows, run.block, params.bigg.bits) for rows in graphs] if run.block and params.model == "bigg" else None
    optimiser = torch.optim.Adam(model.parameters(), lr=run.rate, weight_decay=params.weight_decay, fused=True)
    order = stage.rng("batches", name)  # not named after the variant: all variants see the same batches
    loop = Loop(stage, run.steps, {"model": model, "optimiser": optimiser, "order": order}, name=name)
    for step in loop:
        optimiser.param_groups[0]["lr"] = run.rate * min([f for share, f in params.decay if step >= share * run.steps], default=1.0)
        optimiser.zero_grad()
        total = torch.zeros(params.members, device=stage.device)
        for _ in range(run.accumulate):
            chosen = order.choice(len(graphs), run.batch, replace=False)
            weight = 1 / (run.accumulate * sum(graphs[k].n for k in chosen))
            if blocks is None:
                loss_S = weight * nll(chosen).sum(1)
                loss_S.sum().backward()  # members share nothing: each one's gradient is that of its own loss
                total += loss_S.detach()
            else:
                total += weight * sum(backward_in_blocks(model, blocks[k], weight, stage.device) for k in chosen)
        clip(model, params.clip)
        optimiser.step()
        loop.log(loss=total)
        if validation and (step + 1) % params.validate_every == 0:
            loop.log(validation=per_node(held_out, validation))
    tensors = {key: value.cpu().contiguous() for key, value in model.state_dict().items()}
    about = json.dumps({"model": params.model, "order": run.order, "config": config}, sort_keys=True)  # one entry: several would be written in random order
    save_file(tensors, stage.out / f"model_{name}.safetensors", metadata={"about": about})


def build(kind: str, config: dict, generator: torch.Generator) -> BiGG | GraphRNN:
    """A model from its parameters."""
    return (BiGG if kind == "bigg" else GraphRNN)(**config, generator=generator)


def restore(path: Path) -> tuple[BiGG | GraphRNN, str]:
    """A trained stack and the node order that it was trained on."""
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["about"])
    model = build(about["model"], about["config"], torch.Generator())
    model.load_state_dict(load_file(path))
    return model.requires_grad_(False), about["order"]


def likelihood(model: BiGG | GraphRNN, graphs: Sequence[Rows], device: str) -> Callable[[Sequence[int]], torch.Tensor]:
    """A function from chosen graphs to -log p, [S, chosen]; the trees are planned once per graph."""
    if isinstance(model, BiGG):
        trees = [plan_trees(rows, model.bits) for rows in graphs]
        return lambda chosen: model(moved(plan_batch([trees[k] for k in chosen], model.bits), device))
    plain = as_graphs(graphs)
    return lambda chosen: model(moved(plan_dense([plain[k] for k in chosen], model.window), device))


@torch.no_grad()
def per_node(measure: Callable[[Sequence[int]], torch.Tensor], rows: Sequence[Rows], batch: int = 16) -> torch.Tensor:
    """-log p per node in nats over `rows`, of which `measure` is the likelihood; a few graphs at a time. -> float64 [S]."""
    parts = [measure(range(k, min(k + batch, len(rows)))).sum(1).double() for k in range(0, len(rows), batch)]
    return (sum(parts) / sum(r.n for r in rows)).cpu()


def as_graphs(rows: Sequence[Rows]) -> list[Graph]:
    """The graphs that rows describe."""
    return [Graph(r.n, r.edges_E2) for r in rows]


def clip(model: torch.nn.Module, most: float) -> None:
    """Scale each member's gradient down to norm `most`, taken over all of its parameters."""
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    norm_S = torch.stack([g.flatten(1).norm(dim=1) for g in grads]).norm(dim=0)
    factor_S = (most / norm_S.clamp_min(1e-12)).clamp_max(1)
    for g in grads:
        g.mul_(factor_S.view(-1, *[1] * (g.dim() - 1)))
