"""Confidence intervals for your own logged data.

    >>> import pandas as pd
    >>> from reprise.papers.coindice.interval import interval

    The log has a row for each transition, in the order of time within each trajectory:

    >>> log = pd.read_csv("log.csv")
    >>> log.head(2)
       trajectory state action  reward next_state
    0           0  high    buy    -1.0        low
    1           0   low   wait     0.0        low

    The policy to judge: the probability of each action (columns) in each state (rows).

    >>> policy = pd.DataFrame({"wait": [0.2, 0.9], "buy": [0.8, 0.1]}, index=["low", "high"])
    >>> found = interval(log, policy, gamma=0.9, level=0.95)
    >>> print(f"between {found.lower:.3f} and {found.upper:.3f}, at best guess {found.estimate:.3f}")
    between 0.305 and 0.444, at best guess 0.376
    >>> found.transitions, found.trajectories, found.uncovered
    (360, 60, 0.0)

Neither the policies that made the log nor their probabilities are needed. The interval is for the normalised discounted value
rho = (1 - gamma) E[sum_t gamma^t r_t] of the policy from the log's distribution of initial states: the scale of one reward.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from reprise.errors import ReproError
from reprise.papers.coindice import linear, tabular
from reprise.papers.coindice.bounds import Bounds, Pairing
from reprise.papers.coindice.gel import DivergenceName

COLUMNS = ("trajectory", "state", "action", "reward", "next_state")


@dataclass(frozen=True)
class Interval:
    """[lower, upper] holds the policy's value with probability `level`; estimate and standard error of the value; how many
    transitions and trajectories it rests on, and `uncovered`: the policy's probability, averaged over the states of the log, of
    actions that the log never shows in that state. These are left out (the policy is renormalised), so where it is not small
    the interval speaks of another policy."""

    lower: float
    upper: float
    estimate: float
    standard_error: float
    level: float
    transitions: int
    trajectories: int
    uncovered: float = 0.0


def interval(
    transitions: pd.DataFrame | Mapping[str, object],
    policy: pd.DataFrame | Mapping[object, Mapping[object, float]],
    gamma: float,
    level: float = 0.95,
    divergence: DivergenceName = "kl",
    pairing: Pairing = "two_sample",
) -> Interval:
    """The interval for the value of `policy`, with finitely many states and actions.

    Args:
        transitions: a data frame, or a mapping of arrays, one row a transition, in order of time within each trajectory. Columns:
            trajectory, state, action, next_state (labels of any kind), reward (a number), and, optionally, done (True where the
            episode ends: nothing follows then, whatever next_state says).
        policy: pi(action | state): a data frame with a row for each state and a column for each action, or {state: {action: p}}.
        gamma: the discount, 0 <= gamma < 1; level: the probability that the interval should hold the value.
        divergence: the shape of the ball; all have the same limit. pairing: `two_sample` is right in general, `per_transition`
            is the paper's (too short where the value of initial states varies).

    Raises:
        ReproError: a column, a state of the policy or a number is missing or impossible, or the data are too few for the level.

    >>> log = {"trajectory": [1, 1, 2, 2, 3, 3], "state": list("ababab"), "action": [0, 0, 0, 1, 1, 1], "reward": [1.0, 0, 0, 1, 1, 0], "next_state": list("bababa")}
    >>> found = interval(log, {"a": {0: 0.5, 1: 0.5}, "b": {0: 0.5, 1: 0.5}}, gamma=0.5, level=0.8)
    >>> round(found.estimate, 3), found.lower < found.estimate < found.upper
    (0.583, True)
    """
    _within(gamma, level)
    log = pd.DataFrame(transitions)
    if missing := [name for name in COLUMNS if name not in log]:
        raise ReproError(f"the log has no column {missing[0]!r}: it needs {', '.join(COLUMNS)}")
    if log[list(COLUMNS)].isna().any(axis=None) or not len(log):
        column = log[list(COLUMNS)].isna().any().idxmax()
        raise ReproError(f"column {column!r} of the log has missing values: drop or mend these rows" if len(log) else "the log is empty")
    reward_n = pd.to_numeric(log.reward, errors="coerce").to_numpy(float)
    if not np.isfinite(reward_n).all():
        raise ReproError(f"reward {log.reward.iloc[int(np.argmin(np.isfinite(reward_n)))]!r} is not a finite number")
    done_n = log["done"].to_numpy(bool) if "done" in log else np.zeros(len(log), bool)
    policy = policy if isinstance(policy, pd.DataFrame) else pd.DataFrame.from_dict(policy, orient="index")

    states, code = _codes(log.state, log.next_state[~done_n])
    actions, _ = _codes(log.action, pd.Series(policy.columns))
    policy_SA = _probabilities(policy, states, actions)
    s_n, next_n = code[: len(log)], np.full(len(log), -1)
    next_n[~done_n] = code[len(log) :]
    a_n = actions.get_indexer(log.action)
    first = ~log.trajectory.duplicated().to_numpy()
    trajectory_n = pd.factorize(log.trajectory)[0]
    start_n = s_n[first][trajectory_n] if pairing == "per_transition" else np.full(len(log), -1)
    start_BS = np.bincount(s_n[first], minlength=len(states))[None]
    cells = tabular.count(np.zeros(len(log), int), start_n, s_n, a_n, next_n, reward_n, start_BS, len(states), len(actions))
    found = tabular.bounds(cells, policy_SA, gamma, np.array([level]), divergence, pairing)
    seen_SA = np.zeros(policy_SA.shape, bool)
    seen_SA[s_n, a_n] = True
    uncovered = (policy_SA * ~seen_SA).sum(-1)[s_n].mean()
    return _single(found, level, len(log), int(first.sum()), float(uncovered))


def interval_with_features(
    features: np.ndarray, rewards: np.ndarray, next_features: np.ndarray, start_features: np.ndarray, gamma: float, level: float = 0.95, divergence: DivergenceName = "kl"
) -> Interval:
    """The interval for continuous states, with Q sought in the span of features.

    Args:
        features: phi(s, a), [n, F]; rewards: [n].
        next_features: phi(s', a') averaged over the policy's a', [n, F], zero where the episode ends.
        start_features: phi(s0, a0) averaged over the policy's a0, one row for each trajectory, [N, F].
        gamma, level, divergence: as in `interval`.

    Raises:
        ReproError: shapes do not fit, a number is not finite, features are linearly dependent, or the data are too few.
    """
    _within(gamma, level)
    phi, r, after, start = (np.asarray(x, float) for x in (features, rewards, next_features, start_features))
    if phi.ndim != 2 or after.shape != phi.shape or r.shape != phi.shape[:1] or start.ndim != 2 or start.shape[1:] != phi.shape[1:]:
        raise ReproError(f"shapes do not fit: features {phi.shape} and next_features {after.shape} must be (n, F), rewards {r.shape} (n,), start_features {start.shape} (N, F)")
    if not all(np.isfinite(x).all() for x in (phi, r, after, start)):
        raise ReproError("a feature or reward is not a finite number")
    found = linear.bounds(linear.Features(phi[None], r[None], after[None], start[None], gamma), np.array([level]), divergence)
    return _single(found, level, len(r), len(start))


def _within(gamma: float, level: float) -> None:
    if not 0 <= gamma < 1:
        raise ReproError(f"gamma is {gamma}, it must lie in [0, 1)")
    if not 0 < level < 1:
        raise ReproError(f"level is {level}, it must lie between 0 and 1, such as 0.95")


def _codes(*labels: pd.Series) -> tuple[pd.Index, np.ndarray]:
    """The distinct labels in order of appearance, and the index of each."""
    code, distinct = pd.factorize(pd.concat([pd.Series(x) for x in labels], ignore_index=True))
    return pd.Index(distinct), code


def _probabilities(policy: pd.DataFrame, states: pd.Index, actions: pd.Index) -> np.ndarray:
    """policy_SA in the order of `states` and `actions`."""
    if missing := [s for s in states if s not in policy.index]:
        raise ReproError(f"the policy has no row for state {missing[0]!r} of the log: its index holds {', '.join(map(repr, policy.index[:5]))}, ...")
    policy_SA = policy.reindex(index=states, columns=actions).fillna(0.0).to_numpy(float)
    wrong = ~(np.abs(policy_SA.sum(-1) - 1) < 1e-6) | (policy_SA < 0).any(-1)
    if wrong.any():
        state = int(wrong.argmax())
        raise ReproError(f"the policy's probabilities in state {states[state]!r} are {policy_SA[state].round(6).tolist()}: they must not be negative and must sum to 1")
    return policy_SA


def _single(found: Bounds, level: float, transitions: int, trajectories: int, uncovered: float = 0.0) -> Interval:
    """The one interval of `found`."""
    lower, upper = float(found.lower[0, 0]), float(found.upper[0, 0])
    scale = max(1.0, abs(lower), abs(upper))
    if not found.moved[0] <= 1e-6 * scale:
        moves = f"the bounds still move by {found.moved[0]:.2g} after {found.rounds} rounds"
        raise ReproError(f"no interval at level {level} from {transitions} transitions: {moves}. Collect more data, or try a lower level")
    return Interval(lower, upper, float(found.estimate[0]), float(found.se[0]), level, transitions, trajectories, uncovered)
