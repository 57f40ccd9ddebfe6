"""All trainings behind a method's frontier as one stack: members are every task weight alpha, seed and learning rate."""

import json
from dataclasses import asdict, dataclass
from itertools import product
from typing import Literal

import pandas as pd
import torch
from pydantic import Field
from safetensors.torch import load_file, save_file

from reprise.errors import ReproError
from reprise.papers.smalltowers import model, weighting
from reprise.papers.smalltowers.frontier import SIDES, final, volumes
from reprise.papers.smalltowers.model import Architecture, Tensors
from reprise.params import Params
from reprise.stage import Stage
from reprise.training import Loop

PARTS = ("bottom", "main", "aux")
STUDIED = ("tower_layers", "bottom_width")


class Study(Params):
    """Frontiers of the same method at other sizes (section 5: capacity)."""

    tower_layers: tuple[int, ...] = Field(description="depths of the towers to try besides the model's own")
    bottom_width: tuple[int, ...] = Field(description="widths of the bottom to try besides the model's own")
    alphas: tuple[float, ...] = Field(description="task weights of the study, a subset of the frontier's")


class Train(Params):
    """Parameters of `train`."""

    architecture: Architecture = Field(description="the network")
    weighting: Literal["scalarisation", "uncertainty", "mgda", "mgda_released"] = Field(description="how the two losses are weighed")
    gamma: float = Field(ge=0, description="weight of the auxiliary loss")
    tau: float = Field(gt=0, description="temperature of the auxiliary logits")
    frozen: bool = Field(False, description="leave the auxiliary towers at their random start, as the released code does by accident")
    alphas: tuple[float, ...] = Field(description="task weights of the frontier; one unused value where the weighting finds its own")
    seeds: int = Field(gt=0, description="seeds of initialisation and data order")
    rates: tuple[float, ...] = Field(description="learning rates to choose from on validation, the same for every method")
    tune_alphas: tuple[float, ...] = Field(description="task weights of the tuning runs")
    tune_seeds: int = Field(gt=0, description="seeds of the tuning runs, not those of the frontier")
    epochs: int = Field(gt=0, description="passes over the training pairs")
    average: int = Field(gt=0, description="last epochs whose metrics are averaged")
    batch: int = Field(gt=0, description="batch size B")
    momentum: float = Field(ge=0, lt=1, description="momentum of SGD")
    study: Study | None = Field(None, description="capacity study, for the methods that have one")


@dataclass(frozen=True)
class Members:
    """One entry a member: its task weight, learning rate and the name of its seed."""

    alpha: list[float]
    rate: list[float]
    seed: list[str]


def grid(alphas: tuple[float, ...], rates: tuple[float, ...], seeds: list[str]) -> Members:
    """All combinations, seeds fastest."""
    rows = list(product(alphas, rates, seeds))
    return Members(*([row[i] for row in rows] for i in range(3)))


def stack(arch: Architecture, inputs: int, members: Members, stage: Stage) -> Tensors:
    """Initial parameters with a leading member axis; members of one seed start alike, whatever the method."""
    each = {seed: model.init(arch, inputs, {part: stage.generator("init", part, seed) for part in PARTS}) for seed in set(members.seed)}
    return {name: torch.stack([each[seed][name] for seed in members.seed]) for name in each[members.seed[0]]}


def objective(params: Train, arch: Architecture, tensors: Tensors, x_MBI: torch.Tensor, y_MBT: torch.Tensor, alpha_M: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What each member minimises, (M,), and the losses of its main towers, (M, T)."""
    h_MBD = model.representation(tensors, x_MBI)
    both_MT, main_MT = model.task_losses(arch, tensors, h_MBD, y_MBT, params.gamma, params.tau)
    if params.weighting == "uncertainty":
        return weighting.uncertainty(both_MT, tensors["s"]), main_MT
    if params.weighting.startswith("mgda"):  # MGDA-UB: gradients with respect to h stand in for those of the bottom
        g1, g2 = (torch.autograd.grad(both_MT[:, t].sum(), h_MBD, retain_graph=True)[0].flatten(1) for t in range(model.TASKS))
        alpha_M = 1 - weighting.mgda_weight(g1, g2, released=params.weighting == "mgda_released")
    return weighting.scalarise(both_MT, alpha_M), main_MT


def fit(params: Train, arch: Architecture, members: Members, data: Tensors, stage: Stage, name: str, splits: tuple[str, ...]) -> tuple[Tensors, pd.DataFrame]:
    """Train the stack; logs the training loss of each epoch and the metrics of `splits` after each of the last epochs.

    SGD with momentum, v <- mu v + g, theta <- theta - rate v, with a learning rate of its own for each member.
    """
    device = stage.device
    tensors = stack(arch, data["x_train"].shape[1], members, stage)
    if params.weighting == "uncertainty":
        tensors["s"] = torch.full((len(members.seed), model.TASKS), weighting.S_START)
    tensors = {key: value.to(device).requires_grad_() for key, value in tensors.items()}
    moving = [key for key in tensors if not (params.frozen and key.startswith("aux."))]
    velocity = {key: torch.zeros_like(tensors[key]) for key in moving}
    data = {key: value.to(device) for key, value in data.items()}
    alpha_M, rate_M = (torch.tensor(values, device=device) for values in (members.alpha, members.rate))
    orders = {seed: stage.generator("order", seed) for seed in sorted(set(members.seed))}
    row_M = [sorted(orders).index(seed) for seed in members.seed]
    examples = len(data["x_train"])

    loop = Loop(stage, params.epochs, {"params": tensors, "velocity": velocity, "orders": orders}, name=name)
    for epoch in loop:
        order_MN = torch.stack([torch.randperm(examples, generator=g) for g in orders.values()])[row_M].to(device)
        total_MT = torch.zeros(len(members.seed), model.TASKS, device=device)
        for start in range(0, examples - params.batch + 1, params.batch):
            rows_MB = order_MN[:, start : start + params.batch]
            loss_M, main_MT = objective(params, arch, tensors, data["x_train"][rows_MB], data["y_train"][rows_MB], alpha_M)
            gradients = torch.autograd.grad(loss_M.sum(), [tensors[key] for key in moving])
            with torch.no_grad():
                for key, gradient in zip(moving, gradients):
                    velocity[key].mul_(params.momentum).add_(gradient)
                    tensors[key].sub_(velocity[key] * rate_M.view(-1, *[1] * (gradient.dim() - 1)))
                if "s" in tensors:
                    tensors["s"].clamp_(weighting.S_LEAST, weighting.S_MOST)
            total_MT += main_MT.detach()
        steps = examples // params.batch
        prefix = "tuning_" if name.startswith("tune") else ""  # a rate that diverges loses the choice, it does not end the run
        loop.log(**{f"{prefix}loss_left": total_MT[:, 0] / steps, f"{prefix}loss_right": total_MT[:, 1] / steps})
        if epoch >= params.epochs - params.average:
            for split in splits:
                accuracy_MT, loss_MT = measure(tensors, data[f"x_{split}"], data[f"y_{split}"])
                for t, side in enumerate(SIDES):
                    loop.log(**{f"{split}_accuracy_{side}": accuracy_MT[:, t], f"{split}_loss_{side}": loss_MT[:, t]})
    return {key: value.detach().cpu() for key, value in tensors.items()}, loop.history()


@torch.no_grad()
def measure(tensors: Tensors, x_NI: torch.Tensor, y_NT: torch.Tensor, chunk: int = 500) -> tuple[torch.Tensor, torch.Tensor]:
    """Accuracy and cross-entropy of the served model on a split, both (M, T)."""
    served = model.export(tensors)
    members = len(served["main.0.w"])
    hits, losses = (torch.zeros(members, model.TASKS, device=x_NI.device) for _ in range(2))
    for x, y in zip(x_NI.split(chunk), y_NT.split(chunk)):
        logits = model.main_towers(served, model.representation(served, x.expand(members, -1, -1)))
        y_MBT = y.expand(members, -1, -1)
        hits += (logits.argmax(-1) == y_MBT.transpose(1, 2)).sum(-1)
        losses += model.cross_entropy(logits, y_MBT) * len(x)
    return hits / len(x_NI), losses / len(x_NI)


def tuned(params: Train, arch: Architecture, data: Tensors, stage: Stage, name: str = "tune") -> float:
    """The learning rate that is best on validation, with seeds of its own."""
    members = grid(params.tune_alphas if len(params.alphas) > 1 else params.alphas, params.rates, [f"tune{i}" for i in range(params.tune_seeds)])
    _, history = fit(params, arch, members, data, stage, name, ("validation",))
    score = validation_score(history, members)
    stage.log(f"{name}: validation score by learning rate: " + ", ".join(f"{rate}: {value:.4f}" for rate, value in score.items()))
    return max(score, key=score.get)


def validation_score(history: pd.DataFrame, members: Members) -> dict[float, float]:
    """What a learning rate is worth: the hypervolume of its frontier, mean over seeds; of a single point, its mean accuracy.

    That is what the method is judged by afterwards. Mean accuracy over all task weights would rank a frontier by its ends.
    A rate at which a run diverged is left out.

    Raises:
        ReproError: all of them diverged.
    """
    points = final(history, pd.DataFrame(asdict(members)))
    diverged = points[[f"validation_loss_{side}" for side in SIDES]].isna().any(axis=1)
    points = points[~points.rate.isin(points.rate[diverged])]
    if points.empty:
        raise ReproError(f"every learning rate diverged while tuning ({', '.join(map(str, sorted(set(members.rate))))}): add a smaller one to `rates`")
    if points.alpha.nunique() == 1:
        return points.groupby("rate")[[f"validation_accuracy_{side}" for side in SIDES]].mean().mean(axis=1).to_dict()
    return {rate: volumes(rows, "validation").mean() for rate, rows in points.groupby("rate")}


def train(params: Train, stage: Stage) -> None:
    """Train the frontier at the tuned learning rate, then the capacity study, each size at a rate of its own."""
    data = load_file(stage.path("prepared") / "pairs.safetensors")
    arch = params.architecture
    seeds = [str(i) for i in range(params.seeds)]
    rate = tuned(params, arch, data, stage)
    members = grid(params.alphas, (rate,), seeds)
    tensors, _ = fit(params, arch, members, data, stage, "", ("train", "validation", "test"))
    served = model.export(tensors)
    save_file(served, stage.out / "model.safetensors")
    pd.DataFrame(asdict(members)).to_parquet(stage.out / "members.parquet", index=False)
    count = {"served": sum(t[0].numel() for t in served.values()), "aux": sum(t[0].numel() for name, t in tensors.items() if name.startswith("aux."))}
    (stage.out / "summary.json").write_text(json.dumps({"rate": rate, "parameters": count}, indent=1) + "\n")
    if params.study:
        frames = []
        for key in STUDIED:
            for value in getattr(params.study, key):
                sized = arch.model_copy(update={key: value})
                members = grid(params.study.alphas, (tuned(params, sized, data, stage, f"tune_{key}_{value}"),), seeds)
                fit(params, sized, members, data, stage, f"{key}_{value}", ("train", "test"))
                frames.append(pd.DataFrame(asdict(members)).assign(size=f"{key}_{value}"))
        pd.concat(frames).to_parquet(stage.out / "study.parquet", index=False)
