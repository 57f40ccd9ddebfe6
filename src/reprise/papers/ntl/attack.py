"""Six ways to remove an ownership mark (section 4.2): what a thief with part of the clean source data can try.

FTAL fine-tunes all layers; RTAL draws the last layer anew before; EWC holds on to the weights that mattered; AU adds
unlabelled images of other domains, labelled by the model itself; overwriting trains a mark of the thief's own; pruning
cuts small weights. Each is tried on NTL and on a conventional watermark: an attack that removes neither proves nothing.
"""

import copy
from functools import partial

import pandas as pd
import torch
import torch.nn.functional as F
from pydantic import Field
from torch.nn.utils import prune

from reprise.papers.ntl.data import Domains, Patch, patched
from reprise.papers.ntl.fit import Labelled, Losses, Member, Schedule, fit, load, supervised
from reprise.papers.ntl.model import VGG, Architecture, predictions, reset
from reprise.params import Params
from reprise.stage import Stage

FINE_TUNING = ("ftal", "rtal", "ewc", "au", "overwriting", "pruning")


class Attack(Params):
    """Parameters of `attack`."""

    released: tuple[str, ...] = Field(description="variants whose models are attacked")
    architecture: Architecture = Field(description="the network")
    patch: Patch = Field(description="the patch that verification shows to a suspect")
    label: int = Field(ge=0, description="the class that the conventional watermark answers with")
    share: float = Field(gt=0, le=1, description="share of the clean source data that the thief has")
    schedule: Schedule = Field(description="epochs and batch of the fine-tuning")
    rates: tuple[float, ...] = Field(description="learning rates of the sweep, up to where clean accuracy falls")
    ewc_lambda: float = Field(ge=0, description="lambda of EWC")
    fisher_images: int = Field(gt=0, description="images that the Fisher information is measured on")
    unlabelled: tuple[str, ...] = Field(description="domains of AU's unlabelled images")
    unlabelled_images: int = Field(gt=0, description="how many of them, in all")
    own_patch: Patch = Field(description="the thief's patch in overwriting")
    own_label: int = Field(ge=0, description="the thief's class in overwriting")
    prune_ratio: float = Field(gt=0, lt=1, description="share of the weights pruned before fine-tuning")
    prune_ratios: tuple[float, ...] = Field(description="shares pruned without fine-tuning, for the curve")


def fisher(model: VGG, x_NHWC: torch.Tensor) -> dict[str, torch.Tensor]:
    """Diagonal Fisher information: the mean over images, and over classes drawn from the model, of the squared gradient of log p(y | x)."""
    parameters = {key: value.detach() for key, value in model.named_parameters()}

    def log_p(parameters, x_HWC):
        return torch.func.functional_call(model, parameters, (x_HWC[None],))[1][0].log_softmax(0)

    jacobian = torch.func.jacrev(log_p)  # a row for each class
    total = {key: torch.zeros_like(value) for key, value in parameters.items()}
    for x_HWC in x_NHWC:
        p_K = log_p(parameters, x_HWC).exp()
        for key, g_K in jacobian(parameters, x_HWC).items():
            total[key] += torch.einsum("k,k...->...", p_K, g_K.square())
    return {key: value / len(x_NHWC) for key, value in total.items()}


def ewc(model: VGG, source: Labelled, auxiliary: None, dropout: torch.Generator, anchor: dict[str, torch.Tensor], information: dict[str, torch.Tensor], weight: float) -> Losses:
    """Cross-entropy + lambda/2 sum_i F_i (theta_i - theta*_i)^2."""
    penalty = sum((information[key] * (value - anchor[key]).square()).sum() for key, value in model.named_parameters())
    return {"loss": F.cross_entropy(model(source[0], dropout)[1], source[1]) + weight / 2 * penalty}


def pruned(model: VGG, ratio: float) -> VGG:
    """A copy without the `ratio` smallest weights of all layers together; the mask stays while it is fine-tuned."""
    model = copy.deepcopy(model)
    layers = [(layer, "weight") for layer in model.modules() if isinstance(layer, (torch.nn.Conv2d, torch.nn.Linear))]
    prune.global_unstructured(layers, prune.L1Unstructured, amount=ratio)
    for layer, _ in layers:
        layer.weight = layer.weight.detach()  # mask times weight, taken anew in every pass; as it is, it could not be copied
    return model


def prepare(params: Attack, name: str, model: VGG, data: Labelled, others: torch.Tensor, rng: torch.Generator) -> tuple[VGG, Labelled | None, object]:
    """The model that an attack starts from, its auxiliary images and its loss."""
    x, y = data
    start, auxiliary, loss = copy.deepcopy(model), None, supervised
    if name == "rtal":
        reset(start.head[-1], rng)
    elif name == "ewc":
        anchor = {key: value.detach().clone() for key, value in model.named_parameters()}
        loss = partial(ewc, anchor=anchor, information=fisher(model, x[: params.fisher_images]), weight=params.ewc_lambda)
    elif name == "au":
        auxiliary = others, predictions(model, others)
    elif name == "overwriting":
        auxiliary = patched(x, params.own_patch), torch.full_like(y, params.own_label)
    elif name == "pruning":
        start = pruned(model, params.prune_ratio)
    return start, auxiliary, loss


def verdict(model: VGG, domains: Domains, source: str, params: Attack) -> dict[str, float]:
    """Accuracy on clean and on patched images and how often the watermark answers, on test images and on `_validation` ones."""
    row = {}
    for part, suffix in (("test", ""), ("validation", "_validation")):
        x, y = domains[source, part]
        answer = predictions(model, patched(x, params.patch))
        row[f"clean{suffix}"] = (predictions(model, x) == y).double().mean().item()
        row[f"patched{suffix}"] = (answer == y).double().mean().item()
        row[f"answers{suffix}"] = (answer[y != params.label] == params.label).double().mean().item()
    return row


def attack(params: Attack, stage: Stage) -> None:
    """attacks.parquet: a row for each released model, attack, learning rate; `none` is before; `cut` is pruning alone, by ratio."""
    domains = Domains(stage)
    rows, members = [], {name: [] for name in FINE_TUNING}
    for variant in params.released:
        for own, model in load(stage.path("models", variant) / "model.safetensors", params.architecture, domains.side, stage.device).items():
            source, _, seed = own.rpartition("-")
            key = {"variant": variant, "source": source, "seed": int(seed)}
            rows.append(key | {"attack": "none", "setting": 0.0} | verdict(model, domains, source, params))
            rows += [key | {"attack": "cut", "setting": ratio} | verdict(pruned(model, ratio), domains, source, params) for ratio in params.prune_ratios]
            x, y = domains[source, "train"]
            mine = torch.randperm(len(y), generator=stage.generator("thief", seed))[: round(params.share * len(y))].to(x.device)
            data = x[mine], y[mine]
            parts = [domains[other, "train"][0][: params.unlabelled_images // len(params.unlabelled)] for other in params.unlabelled]
            for name in FINE_TUNING:
                start, auxiliary, loss = prepare(params, name, model, data, torch.cat(parts), stage.generator("reset", own))
                for rate in params.rates:
                    members[name].append((key | {"attack": name, "setting": rate}, Member(f"{variant}-{own}-{rate}", copy.deepcopy(start), data, auxiliary, loss, rate)))
    for name, each in members.items():
        fit(stage, name, [member for _, member in each], params.schedule)
        rows += [key | verdict(member.model, domains, key["source"], params) for key, member in each]
    pd.DataFrame(rows).to_parquet(stage.out / "attacks.parquet", index=False)
