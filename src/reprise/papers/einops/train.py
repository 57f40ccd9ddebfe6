"""Train the network in one way of writing it; all ways start from the same weights and see the same batches."""

import torch
import torch.nn.functional as F
from pydantic import Field
from safetensors.torch import load_file, save_file

from reprise.papers.einops.model import OPERATIONS, Network
from reprise.params import Params
from reprise.stage import Stage
from reprise.training import Loop


class Train(Params):
    """Parameters of `train`."""

    implementation: str = Field(description="raw, official or ours")
    patch: int = Field(gt=0, description="side of a patch, pixels")
    features: int = Field(gt=0, description="features of a token")
    hidden: int = Field(gt=0, description="hidden features of the mixers")
    heads: int = Field(gt=0, description="attention heads")
    blocks: int = Field(gt=0, description="blocks")
    batch: int = Field(gt=0, description="images a step")
    steps: int = Field(gt=0, description="steps")
    rate: float = Field(gt=0, description="learning rate of AdamW")
    seeds: int = Field(gt=0, description="networks trained one after the other")


def train(params: Train, stage: Stage) -> None:
    """Train one network for each seed in double precision; writes its loss by step and its logits on the test images."""
    data = {name: tensor.to(stage.device) for name, tensor in load_file(stage.path("prepared") / "digits.safetensors").items()}
    images, labels = data["train_images"], data["train_labels"]
    logits = []
    for seed in range(params.seeds):
        shape = {"side": images.shape[-1], **params.model_dump(include={"patch", "features", "hidden", "heads", "blocks"})}
        network = Network(OPERATIONS[params.implementation], **shape).double().start(stage.generator("weights", seed)).to(stage.device)
        optimiser = torch.optim.AdamW(network.parameters(), lr=params.rate, fused=True)
        order = stage.generator("batches", seed)
        loop = Loop(stage, params.steps, {"network": network, "optimiser": optimiser, "order": order}, name=f"seed{seed}")
        for _ in loop:
            chosen = torch.randint(len(labels), (params.batch,), generator=order).to(stage.device)
            loss = F.cross_entropy(network(images[chosen]), labels[chosen])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            loop.log(loss=loss)
        with torch.no_grad():
            logits.append(network(data["test_images"]).cpu())
    save_file({"logits": torch.stack(logits)}, stage.out / "logits.safetensors")
