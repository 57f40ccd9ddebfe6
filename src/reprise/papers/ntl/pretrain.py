"""Supervised learning (SL): the baseline of every comparison, and the start of NTL in place of ImageNet's weights."""

from pydantic import Field

from reprise.papers.ntl.data import Domains
from reprise.papers.ntl.fit import Member, Schedule, fit, save, supervised
from reprise.papers.ntl.model import VGG, Architecture
from reprise.params import Params
from reprise.stage import Stage


class Pretrain(Params):
    """Parameters of `pretrain`."""

    architecture: Architecture = Field(description="the network")
    sources: tuple[str, ...] = Field(description="domains to train on")
    seeds: int = Field(gt=0, description="seeds of initialisation and order")
    schedule: Schedule = Field(description="epochs, batch, learning rate")


def pretrain(params: Pretrain, stage: Stage) -> None:
    """model.safetensors: a supervised model for each source and seed, named `<source>-<seed>`."""
    domains = Domains(stage)
    members = []
    for source in params.sources:
        for seed in range(params.seeds):
            train, validation = domains[source, "train"], domains[source, "validation"]
            model = VGG(params.architecture, train[0].shape[1], stage.generator("init", source, seed)).to(stage.device)
            members.append(Member(f"{source}-{seed}", model, train, None, supervised, watch={"source": validation}))
    fit(stage, "", members, params.schedule)
    save({member.name: member.model for member in members}, stage.out / "model.safetensors")
