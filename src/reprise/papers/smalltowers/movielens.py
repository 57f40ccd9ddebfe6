"""The second application: will a user watch a movie (cross-entropy), and how will they rate it (squared error, masked).

Ratings are simulated, so the best attainable losses are known: user and movie factors, some shared by both tasks, some
private to one; watch ~ Bernoulli(sigmoid(u.v + popularity)), rating = clip(round(3.5 + u.v' + noise), 1, 5) if watched.
"""

from itertools import product
from typing import Literal

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from pydantic import Field
from scipy.stats import norm

from reprise.papers.smalltowers.model import glorot
from reprise.params import Params
from reprise.stage import Stage
from reprise.training import Loop

METHODS = ("mtl", "aux", "aux_pool")
Tensors = dict[str, torch.Tensor]


class MovieLens(Params):
    """Parameters of `movielens`."""

    users: int = Field(gt=0, description="number of users")
    movies: int = Field(gt=0, description="number of movies")
    genres: int = Field(gt=0, description="number of genres, one for each movie")
    examples: int = Field(gt=0, description="user-movie impressions; 80 % train, 10 % validation, 10 % test")
    embedding: int = Field(gt=0, description="width of each embedding")
    width: int = Field(gt=0, description="width of the shared layer and of each tower")
    window: int = Field(gt=0, description="units of h that the pooled tower averages")
    gamma: dict[Literal["aux", "aux_pool"], float] = Field(description="weight of the auxiliary loss")
    alphas: tuple[float, ...] = Field(description="weight of the watch task")
    seeds: int = Field(gt=0, description="seeds of initialisation and dropout")
    epochs: int = Field(gt=0, description="passes over the training examples")
    batch: int = Field(gt=0, description="batch size; losses are sums over it")
    rate: float = Field(gt=0, description="Adagrad's learning rate")
    dropout: float = Field(ge=0, lt=1, description="dropout before a main tower's output")


def simulate(params: MovieLens, rng: np.random.Generator) -> pd.DataFrame:
    """Impressions: user, movie, genre, watch in {0, 1}, rating (0 where not watched), p (watch's probability), mean (rating's, before noise)."""
    shared, private = 6, 2
    user, movie = (rng.standard_normal((n, shared + 2 * private)) for n in (params.users, params.movies))
    popularity = rng.standard_normal(params.movies)
    genre = rng.integers(params.genres, size=params.movies)
    movie += rng.standard_normal((params.genres, movie.shape[1]))[genre]
    u, v = rng.integers(params.users, size=params.examples), rng.integers(params.movies, size=params.examples)
    product_ND = user[u] * movie[v] / 3
    p = 1 / (1 + np.exp(-(product_ND[:, : shared + private].sum(1) + popularity[v])))
    mean = 3.5 + product_ND[:, np.r_[:shared, shared + private : shared + 2 * private]].sum(1) / 2
    watch = (rng.random(params.examples) < p).astype(np.float32)
    rating = np.clip(np.round(mean + rng.normal(0, 0.5, params.examples)), 1, 5) * watch
    return pd.DataFrame({"user": u, "movie": v, "genre": genre[v], "watch": watch, "rating": rating.astype(np.float32), "p": p, "mean": mean})


def best_losses(frame: pd.DataFrame) -> tuple[float, float]:
    """The Bayes losses: mean entropy of watch, and mean variance of the rounded, clipped rating over watched rows."""
    p = frame.p.to_numpy()
    entropy = -(p * np.log(p) + (1 - p) * np.log1p(-p)).mean()
    mean = frame.loc[frame.watch == 1, "mean"].to_numpy()
    upper = norm.cdf((np.arange(1, 5) + 0.5 - mean[:, None]) / 0.5)
    mass = np.diff(upper, axis=1, prepend=0.0, append=1.0)  # of ratings 1..5
    values = np.arange(1, 6)
    return float(entropy), float(((mass * values**2).sum(1) - (mass * values).sum(1) ** 2).mean())


def init(params: MovieLens, method: str, generators: dict[str, torch.Generator]) -> Tensors:
    """One model: three embeddings, the shared layer, two towers, and the method's auxiliary read-outs."""
    e, w = params.embedding, params.width
    tables = {"user": params.users, "movie": params.movies, "genre": params.genres}
    tensors = {name: torch.rand(n, e, generator=generators["main"]) * 0.1 - 0.05 for name, n in tables.items()}
    shapes = {"bottom": (1, 3 * e, w), "hidden": (2, w, w), "out": (2, w, 1)}
    if method != "mtl":
        shapes["aux"] = (2, w if method == "aux" else w // params.window, 1)
    for name, (k, i, o) in shapes.items():
        tensors[f"{name}.w"] = glorot((k, i, o), i, o, generators["aux" if name == "aux" else "main"])
        tensors[f"{name}.b"] = torch.zeros(k, 1, o)
    return tensors


def layer(tensors: Tensors, name: str, x_MKBI: torch.Tensor) -> torch.Tensor:
    """(M, K, B, I) -> (M, K, B, O)."""
    m, k, _, _ = x_MKBI.shape
    return torch.baddbmm(tensors[f"{name}.b"].flatten(0, 1), x_MKBI.flatten(0, 1), tensors[f"{name}.w"].flatten(0, 1)).unflatten(0, (m, k))


def forward(tensors: Tensors, ids_B3: torch.Tensor, window: int, keep_MTBW: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Main and auxiliary outputs, (M, 2, B): the watch logit and the rating. The pooled tower sees means of `window` units of h."""
    x = torch.cat([tensors[name][:, ids_B3[:, i]] for i, name in enumerate(("user", "movie", "genre"))], -1)
    h = F.relu(layer(tensors, "bottom", x[:, None]))  # (M, 1, B, W)
    hidden = F.relu(layer(tensors, "hidden", h.expand(-1, 2, -1, -1)))
    main = layer(tensors, "out", hidden if keep_MTBW is None else hidden * keep_MTBW)[..., 0]
    if "aux.w" not in tensors:
        return main, None
    if tensors["aux.w"].shape[2] != h.shape[-1]:
        h = h.unflatten(-1, (-1, window)).mean(-1)
    return main, layer(tensors, "aux", h.expand(-1, 2, -1, -1))[..., 0]


def losses(out_MTB: torch.Tensor, watch_B: torch.Tensor, rating_B: torch.Tensor) -> torch.Tensor:
    """Sums over the batch, (M, 2): cross-entropy of watch, and squared error of the rating times the watch label."""
    watch = F.binary_cross_entropy_with_logits(out_MTB[:, 0], watch_B.expand_as(out_MTB[:, 0]), reduction="none").sum(-1)
    rating = (watch_B * (out_MTB[:, 1] + 3.5 - rating_B).square()).sum(-1)
    return torch.stack([watch, rating], 1)


def movielens(params: MovieLens, stage: Stage) -> None:
    """Train the three methods, each as one stack over alphas and seeds; results.parquet has one row per method, alpha and seed."""
    frame = simulate(params, stage.rng("movielens"))
    cut = [int(len(frame) * 0.8), int(len(frame) * 0.9)]
    train, test = frame.iloc[: cut[0]], frame.iloc[cut[1] :]
    ids, watch, rating = (torch.tensor(train[columns].to_numpy()) for columns in (["user", "movie", "genre"], "watch", "rating"))
    members = list(product(params.alphas, range(params.seeds)))
    alpha_M = torch.tensor([alpha for alpha, _ in members])
    rows = []
    for method in METHODS:
        each = [init(params, method, {part: stage.generator("movielens", part, seed) for part in ("main", "aux")}) for _, seed in members]
        tensors = {name: torch.stack([one[name] for one in each]).requires_grad_() for name in each[0]}
        optimiser = torch.optim.Adagrad(tensors.values(), lr=params.rate, initial_accumulator_value=0.1, fused=True)
        order, noise = stage.generator("movielens", "order"), stage.generator("movielens", "dropout")
        steps = len(train) // params.batch
        loop = Loop(stage, params.epochs, {"params": tensors, "opt": optimiser, "order": order, "noise": noise}, name=method)
        for _ in loop:
            total = torch.zeros(len(members))
            for rows_B in torch.randperm(len(train), generator=order)[: steps * params.batch].split(params.batch):
                keep = torch.rand(len(members), 2, params.batch, params.width, generator=noise) >= params.dropout
                main, aux = forward(tensors, ids[rows_B], params.window, keep / (1 - params.dropout))
                loss_MT = losses(main, watch[rows_B], rating[rows_B])
                if aux is not None:
                    loss_MT = loss_MT + params.gamma[method] * losses(aux, watch[rows_B], rating[rows_B])
                loss_M = alpha_M * loss_MT[:, 0] + (1 - alpha_M) * loss_MT[:, 1]
                optimiser.zero_grad()
                loss_M.sum().backward()
                optimiser.step()
                total += loss_M.detach()
            loop.log(loss=total / (steps * params.batch))
        with torch.no_grad():
            out, _ = forward(tensors, torch.tensor(test[["user", "movie", "genre"]].to_numpy()), params.window)
            measured = losses(out, torch.tensor(test.watch.to_numpy()), torch.tensor(test.rating.to_numpy()))
        for (alpha, seed), (watch_loss, rating_loss) in zip(members, measured.tolist()):
            rows.append({"method": method, "alpha": alpha, "seed": seed, "watch": watch_loss / len(test), "rating": rating_loss / test.watch.sum()})
    entropy, variance = best_losses(test)
    rows.append({"method": "best attainable", "alpha": 0.5, "seed": 0, "watch": entropy, "rating": variance})
    pd.DataFrame(rows).to_parquet(stage.out / "results.parquet", index=False)
