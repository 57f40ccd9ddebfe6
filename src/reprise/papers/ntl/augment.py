"""The auxiliary domain of the source-only case (section 3.3): a GAN on the source, bent to several distances and directions."""

import copy

import pandas as pd
import torch
import torch.nn.functional as F
from pydantic import Field
from safetensors.torch import save_file

from reprise.papers.ntl.data import Domains
from reprise.papers.ntl.fit import order
from reprise.papers.ntl.gan import Discriminator, Gan, Generator, Trainer, augmentation_loss, descend, draw, freeze_direction
from reprise.params import Params
from reprise.stage import Stage
from reprise.training import Loop


class Level(Params):
    """One set of distances."""

    distances: tuple[float, ...] = Field(description="dis: the MMD up to which the generator is driven")
    steps: int = Field(gt=0, description="training steps of each")
    rate: float = Field(gt=0, description="learning rate of Adam")


class Augment(Params):
    """Parameters of `augment`."""

    sources: tuple[str, ...] = Field(description="domains to augment")
    classes: int = Field(10, gt=1, description="K")
    gans: tuple[Gan, ...] = Field(description="the GANs of each source; the auxiliary domain takes images of all")
    levels: tuple[Level, ...] = Field(description="sets of distances")
    directions: int = Field(4, ge=1, le=4, description="directions: d freezes the first d/4 of the channels")
    images: int = Field(gt=0, description="images of each distance and direction")


def augment(params: Augment, stage: Stage) -> None:
    """gan.safetensors and transforms.safetensors: `<source>/x` (N, S, S, 3) uint8 and `/y`, shuffled; reached.parquet: the MMD of each generator."""
    domains = Domains(stage)
    generated, transforms, reached = {}, {}, []
    for source in params.sources:
        x, y = domains[source, "train"]
        images, labels = [], []
        for gan in params.gans:
            name = f"{source}_{gan.judged}"
            generator, discriminator = fit_gan(params, gan, stage, name, to_tanh(x), y)
            (bent, own), rows = bend(params, gan, stage, name, generator, discriminator, to_tanh(x), y)
            images.append(bent)
            labels.append(own)
            reached += [{"source": source, "judged": gan.judged, **row} for row in rows]
        generated |= shuffled(source, torch.cat(images), torch.cat(labels), stage.generator("shuffle", source))
        transforms |= shuffled(source, transformed(x, stage.generator("transforms", source)), y, stage.generator("shuffle", source))
    save_file(generated, stage.out / "gan.safetensors")
    save_file(transforms, stage.out / "transforms.safetensors")
    pd.DataFrame(reached).to_parquet(stage.out / "reached.parquet", index=False)


def to_tanh(x_NHWC: torch.Tensor) -> torch.Tensor:
    """uint8 images as (N, C, H, W) in [-1, 1]."""
    return (x_NHWC / 127.5 - 1).permute(0, 3, 1, 2)


def to_uint8(x_NCHW: torch.Tensor) -> torch.Tensor:
    """The way back, with the blur of section 3.3 (3x3, binomial)."""
    return (blurred(x_NCHW) * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def blurred(x_NCHW: torch.Tensor) -> torch.Tensor:
    """(1 2 1)/4 along both axes, edges repeated."""
    line = x_NCHW.new_tensor([0.25, 0.5, 0.25])
    kernel = (line[:, None] * line).expand(3, 1, 3, 3)
    return F.conv2d(F.pad(x_NCHW, (1, 1, 1, 1), mode="replicate"), kernel, groups=3)


def shuffled(name: str, x: torch.Tensor, y: torch.Tensor, rng: torch.Generator) -> dict[str, torch.Tensor]:
    """Images and labels in one random order."""
    rows = torch.randperm(len(y), generator=rng)
    return {f"{name}/x": x.cpu()[rows].contiguous(), f"{name}/y": y.cpu()[rows]}


def fit_gan(params: Augment, gan: Gan, stage: Stage, name: str, x_NCHW: torch.Tensor, y_N: torch.Tensor) -> tuple[Generator, Discriminator]:
    """Step A: the conditional GAN on the source images."""
    side, rng = x_NCHW.shape[-1], stage.generator("gan", name)
    generator = Generator(gan, params.classes, side, stage.generator("init", "G", name)).to(stage.device)
    discriminator = Discriminator(gan, params.classes, side, stage.generator("init", "D", name)).to(stage.device)
    trainer = Trainer(gan, generator, discriminator, rng)
    loop = Loop(stage, gan.epochs, {"G": generator, "D": discriminator, "adam": trainer.optimisers, "rng": rng}, name)
    for _ in loop:
        batches = torch.randperm(len(y_N), generator=rng).to(y_N.device).split(gan.batch)[: len(y_N) // gan.batch]
        rows = [trainer.step(x_NCHW[rows], y_N[rows]) for rows in batches]
        loop.log(**{key: torch.stack([row[key] for row in rows]).mean() for key in rows[0]})
    return generator, discriminator.requires_grad_(False)


def bend(params: Augment, gan: Gan, stage: Stage, name: str, generator: Generator, discriminator: Discriminator, x_NCHW: torch.Tensor, y_N: torch.Tensor) -> tuple[tuple[torch.Tensor, torch.Tensor], list[dict]]:
    """Step B: from the trained G, one generator for each distance and direction; their images, labels and what they reached.

    D is frozen and judges as it did while the GAN was trained, with dropout and the batch norm of the batch. Apart, as released,
    the batch norm takes out what sets the two apart, and the MMD stays where it was whatever `dis`; together, `dis` acts.
    """
    images, labels, rows = [], [], []
    for level in params.levels:
        for distance in level.distances:
            for direction in range(params.directions):
                rng = stage.generator("bend", name, distance, direction)
                bent = copy.deepcopy(generator)
                adam = torch.optim.Adam(bent.parameters(), level.rate, betas=(0.5, 0.999), fused=True)
                for batch in order(len(y_N), level.steps * gan.batch, rng).split(gan.batch):
                    batch = batch.to(y_N.device)
                    fake, y = draw(bent, len(batch), gan.noise, rng, y_N[batch])
                    loss, reached = augmentation_loss(gan, discriminator, x_NCHW[batch], fake, y, distance, rng)
                    adam.zero_grad()
                    loss.backward()
                    freeze_direction(bent, direction)
                    adam.step()
                with torch.no_grad():
                    x, y = draw(bent, params.images, gan.noise, rng)
                images.append(to_uint8(x))
                labels.append(y)
                rows.append({"distance": distance, "direction": direction, "mmd": reached.item()})
    return (torch.cat(images), torch.cat(labels)), rows


def transformed(x_NHWC: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """The baseline without a GAN: each image gets noise, a strong blur or other colours, drawn at random."""
    x = x_NHWC.cpu().float().permute(0, 3, 1, 2)
    n = len(x)
    noisy = x + torch.randn(x.shape, generator=rng) * (20 + 60 * torch.rand(n, 1, 1, 1, generator=rng))
    smooth = blurred(blurred(blurred(x)))
    gain, offset = 2 * torch.rand(n, 3, 1, 1, generator=rng) - 1, 255 * torch.rand(n, 3, 1, 1, generator=rng)
    kind = torch.randint(3, (n,), generator=rng)
    out = torch.stack([noisy, smooth, x * gain + offset])[kind, torch.arange(n)]
    return out.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
