"""Six ways to remove an ownership mark (section 4.2): what a thief with part of the clean source data can try.

FTAL fine-tunes all layers; RTAL draws the last layer anew before; EWC holds on to the weights that mattered; AU adds
unlabelled images, labelled by the model itself; overwriting trains a mark of the thief's own; pruning cuts small weights.
Each is tried on NTL and on a conventional watermark: an attack that removes neither proves nothing. Two more are ours: `hard`
is FTAL by long steps of SGD, and `scratch` is no attack but what the thief can have without the model.
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

SIX = ("ftal", "rtal", "ewc", "au", "overwriting", "pruning")


class Attack(Params):
    """Parameters of `attack`."""

    released: tuple[str, ...] = Field(description="variants whose models are attacked")
    architecture: Architecture = Field(description="the network")
    patch: Patch = Field(description="the patch that verification shows to a suspect")
    label: int = Field(ge=0, description="the class that the conventional watermark answers with")
    share: float = Field(gt=0, le=1, description="share of the clean source data that the thief has")
    schedule: Schedule = Field(description="fine-tuning in the six attacks")
    rates: tuple[float, ...] = Field(description="learning rates of the six, up to where clean accuracy falls")
    hard: Schedule = Field(description="fine-tuning in the seventh")
    scratch: Schedule = Field(description="training of a new model on the thief's images")
    tolerance: float = Field(gt=0, description="clean validation accuracy, in points, that a thief gives up at most")
    ewc_lambda: float = Field(ge=0, description="lambda of EWC")
    fisher_images: int = Field(gt=0, description="images that the Fisher information is measured on")
    unlabelled: tuple[str, ...] = Field(description="domains of AU's unlabelled images; of the source, those that the thief has no labels of")
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


def booty(params: Attack, domains: Domains, source: str, rng: torch.Generator) -> tuple[Labelled, torch.Tensor]:
    """What the thief has: labelled images of the source, and unlabelled ones."""
    x, y = domains[source, "train"]
    labelled = round(params.share * len(y))
    rows = torch.randperm(len(y), generator=rng).to(x.device)
    mine, rest = rows[:labelled], rows[labelled:]
    each = params.unlabelled_images // len(params.unlabelled)
    return (x[mine], y[mine]), torch.cat([(x[rest] if other == source else domains[other, "train"][0])[:each] for other in params.unlabelled])


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


def verdict(model: VGG, domains: Domains, source: str, params: Attack, part: str) -> dict[str, float]:
    """Accuracy on clean and on patched images, and how often the watermark answers."""
    x, y = domains[source, part]
    answer = predictions(model, patched(x, params.patch))
    hits = {"clean": predictions(model, x) == y, "patched": answer == y, "answers": answer[y != params.label] == params.label}
    return {name: hit.double().mean().item() for name, hit in hits.items()}


def best_for_thief(attacks: pd.DataFrame, tolerance: float) -> pd.DataFrame:
    """Of each model and attack, the setting that removes most: highest patched accuracy (NTL), rarest answer (watermark).

    `attacks` holds validation images alone. A setting is open to the thief if it keeps clean accuracy within `tolerance` points
    of the released model; if none does, the one that keeps most is taken. No thief knows the patch: this is the most that any
    choice of the learning rate could bring.
    """
    chosen = []
    before = attacks[attacks.attack == "none"].set_index(["variant", "source", "seed"]).clean
    for (variant, source, seed, _), rows in attacks.groupby(["variant", "source", "seed", "attack"]):
        open_ = rows[rows.clean >= before[variant, source, seed] - tolerance / 100]
        if open_.empty:
            open_ = rows[rows.clean == rows.clean.max()]
        chosen.append(open_.loc[open_.answers.idxmin() if variant == "watermark" else open_.patched.idxmax()])
    return pd.DataFrame(chosen)


def attack(params: Attack, stage: Stage) -> None:
    """attacks.parquet: a row for each model, attack and setting, on validation images; thief.parquet: the best of each, on test images.

    `none` is before any attack; `cut` is pruning alone, by ratio; the variant `scratch` holds the models without a past.
    """
    domains = Domains(stage)
    tried: list[tuple[dict, VGG]] = []
    members: dict[str, list[tuple[dict, Member]]] = {name: [] for name in (*SIX, "hard", "scratch")}
    for variant in params.released:
        for own, model in load(stage.path("models", variant) / "model.safetensors", params.architecture, domains.side, stage.device).items():
            source, _, seed = own.rpartition("-")
            key = {"variant": variant, "source": source, "seed": int(seed)}
            tried.append((key | {"attack": "none", "setting": 0.0}, model))
            tried += [(key | {"attack": "cut", "setting": ratio}, pruned(model, ratio)) for ratio in params.prune_ratios]
            data, others = booty(params, domains, source, stage.generator("thief", seed))
            for name in SIX:
                start, auxiliary, loss = prepare(params, name, model, data, others, stage.generator("reset", own))
                for rate in params.rates:
                    members[name].append((key | {"attack": name, "setting": rate}, Member(f"{variant}-{own}-{rate}", copy.deepcopy(start), data, auxiliary, loss, rate)))
            members["hard"].append((key | {"attack": "hard", "setting": params.hard.rate}, Member(f"{variant}-{own}", copy.deepcopy(model), data, None, supervised)))
            if variant == params.released[0]:
                new = VGG(params.architecture, domains.side, stage.generator("scratch", own)).to(stage.device)
                members["scratch"].append((key | {"variant": "scratch", "attack": "none", "setting": 0.0}, Member(own, new, data, None, supervised)))
    for name, each in members.items():
        fit(stage, name, [member for _, member in each], {"hard": params.hard, "scratch": params.scratch}.get(name, params.schedule))
        tried += [(key, member.model) for key, member in each]
    attacks = pd.DataFrame([key | verdict(model, domains, key["source"], params, "validation") for key, model in tried])
    best = best_for_thief(attacks, params.tolerance)
    names = ["variant", "source", "seed", "attack", "setting"]
    tests = [verdict(tried[i][1], domains, tried[i][0]["source"], params, "test") for i in best.index]
    attacks.to_parquet(stage.out / "attacks.parquet", index=False)
    pd.concat([best[names].reset_index(drop=True), pd.DataFrame(tests)], axis=1).to_parquet(stage.out / "thief.parquet", index=False)
