"""A frontier's models as one stack against the same trainings one by one (nn.Module, torch.optim.SGD, DataLoader), one core.

Both run in this process, alternating, under the profile given (default portable); in double precision the final weights must agree.
"""

import sys
import tempfile
import time
from pathlib import Path

from reprise import determinism

if __name__ == "__main__":
    determinism.enter(sys.argv[1] if len(sys.argv) > 1 else "portable", sys.argv)

import torch
from torch.utils.data import DataLoader, TensorDataset

from reprise import params
from reprise.papers.smalltowers import train
from reprise.stage import Stage

EPOCHS, EXAMPLES = 2, 3000


class Net(torch.nn.Module):
    """The one-model code that the stack replaces, from the same initial weights."""

    def __init__(self, start: dict[str, torch.Tensor]):
        super().__init__()

        def chain(part: str, tower: int, relu: bool) -> torch.nn.Sequential:
            layers = []
            for i in range(sum(k.startswith(part) and k.endswith(".w") for k in start)):
                w, b = start[f"{part}.{i}.w"][tower], start[f"{part}.{i}.b"][tower, 0]
                layer = torch.nn.Linear(*w.shape)
                layer.weight.data, layer.bias.data = w.T.clone(), b.clone()
                layers += [layer] + [torch.nn.ReLU()] * relu
            return torch.nn.Sequential(*layers[: -1 if relu and part != "bottom" else None])

        self.bottom = chain("bottom", 0, True)
        self.towers = torch.nn.ModuleList(torch.nn.ModuleList([chain("main", t, True), chain("aux", t, False)]) for t in range(2))

    def forward(self, x: torch.Tensor) -> list[list[torch.Tensor]]:
        h = self.bottom(x)
        return [[tower(h) for tower in task] for task in self.towers]


def one_by_one(settings: train.Train, members: train.Members, data: dict[str, torch.Tensor], stage: Stage) -> list[Net]:
    ce = torch.nn.functional.cross_entropy
    nets = []
    for alpha, rate, seed in zip(members.alpha, members.rate, members.seed):
        alone = train.Members([alpha], [rate], [seed])
        net = Net({k: v[0] for k, v in train.stack(settings.architecture, data["x_train"].shape[1], alone, stage).items()})
        optimiser = torch.optim.SGD(net.parameters(), lr=rate, momentum=settings.momentum)
        order = stage.generator("order", seed)
        for _ in range(EPOCHS):
            rows = torch.randperm(EXAMPLES, generator=order).tolist()
            loader = DataLoader(TensorDataset(data["x_train"], data["y_train"]), batch_size=settings.batch, sampler=rows, drop_last=True)
            for x, y in loader:
                task = [ce(main, y[:, t]) + settings.gamma * ce(aux / settings.tau, y[:, t]) for t, (main, aux) in enumerate(net(x))]
                optimiser.zero_grad()
                ((1 - alpha) * task[0] + alpha * task[1]).backward()
                optimiser.step()
        nets.append(net)
    return nets


def both(settings: train.Train, members: train.Members) -> tuple[float, float, float]:
    """CPU seconds of the stack and of one by one, and how far apart the weights of the first layer are in the end."""
    g = torch.Generator().manual_seed(0)
    data = {"x_train": torch.randn(EXAMPLES, 144, generator=g), "y_train": torch.randint(10, (EXAMPLES, 2), generator=g)}
    with tempfile.TemporaryDirectory() as folder:
        stage = Stage("smalltowers", "train", "small", "aux_neck", root=Path(folder))
        start = time.process_time()
        stacked, _ = train.fit(settings, settings.architecture, members, data, stage, "", ())
        between = time.process_time()
        nets = one_by_one(settings, members, data, stage)
        end = time.process_time()
    apart = max((stacked["bottom.0.w"][i, 0] - net.bottom[0].weight.T).abs().max().item() for i, net in enumerate(nets))
    return between - start, end - between, apart


def main() -> None:
    settings = params.validate(train.Train, params.block("smalltowers", "train", "small", "aux_neck"), "benchmark").model_copy(update={"epochs": EPOCHS, "average": 1})
    members = train.grid(settings.alphas, (0.02,), [str(i) for i in range(3)])
    torch.set_default_dtype(torch.float64)  # in single precision rounding grows with every step, and a mistake could hide in it
    _, _, apart = both(settings, members)
    assert apart < 1e-9, apart
    torch.set_default_dtype(torch.float32)
    stack, alone = (min(values) for values in list(zip(*(both(settings, members) for _ in range(3))))[:2])
    print(f"{len(members.seed)} models, {EPOCHS} epochs: stack {stack:.2f} s, one by one {alone:.2f} s CPU: ratio {alone / stack:.1f} (goal >= 2); in double precision weights differ by at most {apart:.1g}")


if __name__ == "__main__":
    main()
