"""MMD by the Gram matrix against the difference tensor, and a step of NTL against a supervised one. Ratios from one run.

    python benchmarks/ntl.py
"""

import time
from functools import partial

import torch

from reprise import determinism
from reprise.papers.ntl.fit import supervised
from reprise.papers.ntl.loss import Objective, mmd
from reprise.papers.ntl.model import VGG, Architecture
from reprise.papers.ntl.train import step


def difference_tensor(s_nD: torch.Tensor, a_mD: torch.Tensor) -> torch.Tensor:
    """The same value from all differences t_i - t_j at once, (N, N, D), one exponential for each kernel: the peer."""
    n, t = len(s_nD), torch.cat([s_nD, a_mD])
    distance = (t[None] - t[:, None]).square().sum(2)
    w = distance.detach().sum() / (len(t) ** 2 - len(t))
    k = sum(torch.exp(-distance / (w / 4 * 2**r)) for r in range(5))
    return k[:n, :n].mean() + k[n:, n:].mean() - 2 * k[:n, n:].mean()


def seconds(call, repeat: int) -> float:
    """CPU seconds of a call, the least of several."""
    best = float("inf")
    for _ in range(repeat):
        start = time.process_time()
        call()
        best = min(best, time.process_time() - start)
    return best


def main() -> None:
    determinism.configure_torch()
    g = torch.Generator().manual_seed(0)
    for size, name in ((16384, "digits"), (32768, "CIFAR-10")):  # d at the split layer; 32 + 32 features
        s, a = (torch.randn(32, size, generator=g, requires_grad=True) for _ in range(2))
        values = {f.__name__: f(s, a) for f in (mmd, difference_tensor)}
        gradients = {key: torch.autograd.grad(value, s)[0] for key, value in values.items()}
        times = {f.__name__: seconds(lambda f=f: torch.autograd.grad(f(s, a), (s, a)), 3 if f is difference_tensor else 20) for f in (mmd, difference_tensor)}
        apart = abs(values["mmd"] - values["difference_tensor"]).item()
        slope = ((gradients["mmd"] - gradients["difference_tensor"]).norm() / gradients["difference_tensor"].norm()).item()
        print(f"MMD, {name} (64 x {size}): {1e3 * times['mmd']:.1f} ms against {1e3 * times['difference_tensor']:.0f} ms, ratio {times['difference_tensor'] / times['mmd']:.0f}; values differ by {apart:.1e}, gradients by {slope:.1e}")

    objective = Objective(alpha=0.1, beta=1, alpha_dis=0.1, beta_dis=1)
    for net, side, width in (("mini", 16, 128), ("vgg11", 32, 256)):
        model = VGG(Architecture(name=net, width=width), side, g)
        adam = torch.optim.Adam(model.parameters(), 1e-4, fused=True)
        batches = [(torch.randint(256, (32, side, side, 3), generator=g, dtype=torch.uint8), torch.randint(10, (32,), generator=g)) for _ in range(2)]

        def descend(loss, auxiliary, model=model, adam=adam, source=batches[0]):
            adam.zero_grad()
            loss(model, source, auxiliary, g)["loss"].backward()
            adam.step()

        sl = seconds(lambda: descend(supervised, None), 15)
        ntl = seconds(lambda: descend(partial(step, objective=objective), batches[1]), 15)
        print(f"step, {net} at {side} px, 32 images a domain: NTL {1e3 * ntl:.1f} ms, supervised {1e3 * sl:.1f} ms, ratio {ntl / sl:.2f}")


if __name__ == "__main__":
    determinism.enter("portable", [__file__])
    main()
