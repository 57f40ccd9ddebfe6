"""Training: all seeds of a variant at once, selection on the development set."""

import json
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from safetensors.torch import save_file
from torch.optim.adam import adam

from reprise.papers.saner.corpus import Corpus
from reprise.papers.saner.metrics import corpus_f1
from reprise.papers.saner.model import Architecture, Tagger
from reprise.stage import Stage
from reprise.training import Loop


class Train(Architecture):
    """Parameters of `train`."""

    corpora: list[str] = Field(description="corpora to train on")
    changes: dict[str, dict[str, Any]] = Field(default={}, description="corpus -> the parameters that it changes")
    neighbours: Literal["similar", "random"] = Field(description="the similar words, or as a control as many drawn at random")
    seeds: int = Field(gt=0, description="members, trained at once")
    batch: int = Field(gt=0, description="sentences of a batch")
    epochs: int = Field(gt=0, description="passes over the training set")
    lr: float = Field(gt=0, description="highest learning rate of Adam")
    warmup: float = Field(ge=0, lt=1, description="share of the steps in which the learning rate rises; then it falls to 0, both linearly")
    clip: float = Field(gt=0, description="gradients are clipped to this value")

    def on(self, corpus: str) -> "Train":
        """The parameters for one corpus."""
        return Train.model_validate({**self.model_dump(), **self.changes.get(corpus, {}), "changes": {}})

    @model_validator(mode="after")
    def _changes_are_valid(self):
        for corpus in self.changes:
            self.on(corpus)
        return self


def train(params: Train, stage: Stage) -> None:
    """Train on each corpus; writes settings.json and, for each corpus, its model, history and similar words."""
    (stage.out / "settings.json").write_text(json.dumps({name: params.on(name).model_dump() for name in params.corpora}, indent=1))
    for name in params.corpora:
        fit(params.on(name), Corpus(stage.path("prepared") / name, stage.device, params.on(name).input == "features"), stage, name)


def similar_words(params: Train, near_WM: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The first m similar words of each word (0: none), or the control: words drawn at random from all that are anyone's."""
    near_WM = near_WM[:, : params.m]
    if params.neighbours == "random":
        return np.where(near_WM > 0, rng.choice(np.unique(near_WM[near_WM > 0]), near_WM.shape), 0)
    return near_WM


def fit(params: Train, corpus: Corpus, stage: Stage, name: str) -> None:
    """Adam with warm-up and linear decay, Viterbi on dev after each epoch, the best parameters of each member kept."""
    near_WM = similar_words(params, corpus.near_WM, stage.rng("random neighbours", name))
    tagger = Tagger([stage.generator("init", name, seed) for seed in range(params.seeds)], params, corpus.sizes, corpus.vectors_RV).to(stage.device)
    parameters = list(tagger.parameters())
    moments = [[torch.zeros_like(p) for p in parameters] for _ in range(2)]
    counts = [torch.zeros((), device=stage.device) for _ in parameters]
    tags, gold = corpus.tags("train"), corpus.tags("dev")
    best = {key: value.detach().clone() for key, value in tagger.named_parameters()}
    state = {"tagger": tagger, "adam": [*moments, counts], "dropout": stage.rng("dropout", name), "best": best, "best_f1": np.full(params.seeds, -1.0)}
    per_epoch, current, order = -(-len(corpus.lengths["train"]) // params.batch), None, []
    steps = params.epochs * per_epoch
    for step in (loop := Loop(stage, steps, state, name=name)):
        epoch, k = divmod(step, per_epoch)
        if epoch != current:
            current, order = epoch, corpus.order(params.batch, params.seeds, stage.rng("order", name, epoch))
        rising, falling = (step + 1) / max(params.warmup * steps, 1), (steps - step) / (steps - params.warmup * steps)
        loss_S = tagger.loss(corpus.batch("train", order[k], near_WM, tags), state["dropout"])
        gradients = [g.contiguous().clamp_(-params.clip, params.clip) for g in torch.autograd.grad(loss_S.sum(), parameters)]
        with torch.no_grad():  # the function behind torch.optim.Adam, whose class loads a compiler first; it reads memory as it lies
            adam(parameters, gradients, *moments, [], counts, lr=params.lr * min(rising, falling, 1.0), beta1=0.9, beta2=0.99, eps=1e-8, weight_decay=0, amsgrad=False, maximize=False, fused=True)
        loop.log(loss=loss_S)
        if k == per_epoch - 1:
            predicted_SN, _ = corpus.predict(tagger, "dev", params.seeds, near_WM)
            f1_S = np.array([corpus_f1(gold, tags_N, corpus.first_N["dev"]) for tags_N in predicted_SN])
            better = f1_S > state["best_f1"]
            state["best_f1"][better] = f1_S[better]
            with torch.no_grad():
                for key, value in tagger.named_parameters():
                    best[key][better] = value[better]
            loop.log(dev_f1=f1_S)
    save_file({**{key: value.cpu() for key, value in best.items()}, "near": torch.from_numpy(np.ascontiguousarray(near_WM))}, stage.out / f"{name}.safetensors")
