"""The conditional random field of the tagging procedure, S of them at once.

The score of a path y is start[y1] + sum of emissions + sum of transitions + end[yn]. The BIOES constraints hold in the
likelihood as well as in Viterbi: an illegal transition, first or last tag scores -10000, which leaves it no probability.

Shapes: S members (seeds), B sentences, T tokens, K tags. Sentences are padded on the right.
"""

import torch
from torch import nn

from reprise.papers.saner.text import legal

ILLEGAL = -10000.0


def _scan(weight_STBK: torch.Tensor, transition_SKK: torch.Tensor, start_SBK: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """a_1 = start * w_1, a_t = (a_(t-1) A) * w_t, each divided by its sum: returns a (S, T, B, K) and log of the sums (S, T, B).

    In double precision the probabilities of one token may lie a factor e^700 apart before one is lost.
    """
    states, sums = [], []
    state = start_SBK
    for t in range(weight_STBK.shape[1]):
        state = (state if t == 0 else torch.bmm(state, transition_SKK)) * weight_STBK[:, t]
        total = state.sum(-1, keepdim=True)
        state = state / total
        states.append(state)
        sums.append(total[..., 0])
    return torch.stack(states, 1), torch.stack(sums, 1).log()


class LogPartition(torch.autograd.Function):
    """log Z (S, B); its gradient, the marginal probabilities, comes from the backward chain, run beside the forward one.

    Read from its end, a sentence has the same recursion with A transposed and start and end exchanged. So both chains
    are one loop over twice as many members, a matrix product each step instead of a log-sum-exp over K x K.
    """

    @staticmethod
    def forward(ctx, emission_SBTK, mask_BT, transition_SKK, start_SK, end_SK):
        members, sentences, length, tags = emission_SBTK.shape
        emission_STBK = emission_SBTK.double().transpose(1, 2)
        highest_STB = emission_STBK.amax(-1)
        weight_STBK = (emission_STBK - highest_STB[..., None]).exp()
        transition, start, end = (x.double().exp() for x in (transition_SKK, start_SK, end_SK))
        mask_STB = mask_BT.transpose(-1, -2).expand(members, length, sentences)
        steps_STB = torch.arange(length, device=mask_BT.device)[:, None]
        last_SB = mask_STB.sum(1) - 1
        turned_STB = (last_SB[:, None] - steps_STB).clamp_min(0)  # the token at each step from the end

        def turn(x_STBK):
            return x_STBK.take_along_dim(turned_STB[..., None], 1)

        first = torch.cat([start, end])[:, None].expand(-1, sentences, -1)
        both, sums = _scan(torch.cat([weight_STBK, turn(weight_STBK)]), torch.cat([transition, transition.mT]), first)
        forward_STBK, backward_STBK = both[:members], turn(both[members:])
        final_SBK = forward_STBK.take_along_dim(last_SB[:, None, :, None], 1)[:, 0]
        final_SB = (final_SBK * end[:, None]).sum(-1)
        log_z_SB = ((sums[:members] + highest_STB) * mask_STB).sum(1) + final_SB.log()

        # p(y_t) ~ forward_t backward_t / w_t,   p(y_(t-1), y_t) ~ forward_(t-1) A backward_t
        joint_STBK = forward_STBK * backward_STBK / weight_STBK.clamp_min(1e-300)
        node_STBK = joint_STBK / joint_STBK.sum(-1, keepdim=True) * mask_STB[..., None]
        before, after = forward_STBK[:, :-1], backward_STBK[:, 1:]
        reach = torch.bmm(before.flatten(1, 2), transition).view_as(after)
        after = after / (reach * after).sum(-1, keepdim=True) * mask_STB[:, 1:, :, None]
        ctx.save_for_backward(node_STBK, before, after, transition, final_SB, final_SBK, end, last_SB)
        return log_z_SB.to(emission_SBTK.dtype)

    @staticmethod
    def backward(ctx, grad_SB):
        node_STBK, before, after, transition, final_SB, final_SBK, end, _ = ctx.saved_tensors
        weight = grad_SB.double()[:, None, :, None]
        edge_SKK = torch.bmm(before.flatten(1, 2).mT, (after * weight).flatten(1, 2)) * transition
        start_SK = (node_STBK[:, 0] * weight[:, 0]).sum(1)
        end_SK = (final_SBK * end[:, None] / final_SB[..., None] * weight[:, 0]).sum(1)
        emission_SBTK = (node_STBK * weight).transpose(1, 2)
        dtype = grad_SB.dtype
        return emission_SBTK.to(dtype), None, edge_SKK.to(dtype), start_SK.to(dtype), end_SK.to(dtype)


class CRF(nn.Module):
    """S linear-chain CRFs over the BIOES tags of `types` entity types, or without constraints if `constrained` is False."""

    def __init__(self, rngs: list[torch.Generator], types: int, constrained: bool = True):
        super().__init__()
        transition, start, end = (torch.as_tensor(x) for x in legal(types))
        tags = len(start)

        def scores(*shape):
            return nn.Parameter(torch.stack([torch.empty(shape).uniform_(-0.1, 0.1, generator=rng) for rng in rngs]))

        self.transition, self.start, self.end = scores(tags, tags), scores(tags), scores(tags)
        for name, allowed in (("transition", transition), ("start", start), ("end", end)):
            self.register_buffer(f"legal_{name}", allowed | (not constrained), persistent=False)

    def scores(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """transition (S, K, K), start and end (S, K) with the illegal ones at -10000."""
        return tuple(torch.where(getattr(self, f"legal_{name}"), getattr(self, name), ILLEGAL) for name in ("transition", "start", "end"))

    def loss(self, emission_SBTK: torch.Tensor, tag_SBT: torch.Tensor, mask_SBT: torch.Tensor) -> torch.Tensor:
        """log Z - score of the gold path (S, B): the negative log-likelihood of each sentence."""
        transition, start, end = self.scores()
        log_z_SB = LogPartition.apply(emission_SBTK, mask_SBT, transition, start, end)
        # one-hot products instead of gathers: their gradient is the same on every device
        gold_SBTK = nn.functional.one_hot(tag_SBT, emission_SBTK.shape[-1]).to(emission_SBTK.dtype) * mask_SBT[..., None]
        last_SBT = mask_SBT & ~nn.functional.pad(mask_SBT[..., 1:], (0, 1))
        moves = torch.einsum("sbti,sij->sbtj", gold_SBTK[:, :, :-1], transition) * gold_SBTK[:, :, 1:]
        score_SB = (emission_SBTK * gold_SBTK).sum((-1, -2)) + moves.sum((-1, -2))
        score_SB = score_SB + (start[:, None] * gold_SBTK[:, :, 0]).sum(-1) + (end[:, None, None] * gold_SBTK * last_SBT[..., None]).sum((-1, -2))
        return log_z_SB - score_SB

    @torch.no_grad()
    def viterbi(self, emission_SBTK: torch.Tensor, mask_SBT: torch.Tensor) -> torch.Tensor:
        """The best legal path of each sentence (S, B, T), O on padding."""
        transition, start, end = self.scores()
        length = emission_SBTK.shape[2]
        best, pointers = start[:, None] + emission_SBTK[:, :, 0], []
        for t in range(1, length):
            score, pointer = (best[..., None] + transition[:, None]).max(2)
            goes_on = mask_SBT[:, :, t, None]
            best = torch.where(goes_on, score + emission_SBTK[:, :, t], best)
            pointers.append(torch.where(goes_on, pointer, torch.arange(pointer.shape[-1], device=pointer.device)))
        path = [(best + end[:, None]).argmax(-1)]
        for pointer in reversed(pointers):
            path.append(pointer.gather(-1, path[-1][..., None])[..., 0])
        return torch.stack(path[::-1], -1) * mask_SBT
