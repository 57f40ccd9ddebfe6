"""The function for other people's logs: equal to the machinery behind it, whatever the labels, and clear about bad input."""

import doctest

import numpy as np
import pandas as pd
import pytest

from reprise.errors import ReproError
from reprise.kits.offpolicy import simulate, tables
from reprise.papers.coindice import interval as module
from reprise.papers.coindice import linear, tabular
from reprise.papers.coindice.interval import interval, interval_with_features


@pytest.fixture(scope="module")
def case():
    """(trajectories, log as a data frame with words for states, policy as an array, policy as a data frame)."""
    rng = np.random.default_rng(0)
    table = tables.random_mdp(3, 2, rng)
    log = simulate.rollout(table, np.full((3, 2), 0.5), 20, 8, rng)
    policy = rng.dirichlet(np.ones(2), 3)
    states, actions = np.array(["low", "middle", "high"]), np.array(["wait", "buy"])
    frame = pd.DataFrame(
        {
            "trajectory": np.repeat([f"user {i}" for i in range(20)], 8),
            "state": states[log.s].ravel(),
            "action": actions[log.a].ravel(),
            "reward": log.r.ravel(),
            "next_state": states[log.s_next].ravel(),
        }
    )
    return log, frame, policy, pd.DataFrame(policy, index=states, columns=actions)


def shop(visits=60, steps=6):
    """A log of visits to a shop whose price is low or high, by a customer who buys at random."""
    rng, rows = np.random.default_rng(0), []
    for visit in range(visits):
        state = rng.choice(["low", "high"])
        for _ in range(steps):
            action = rng.choice(["wait", "buy"])
            price = {"low": 1.0, "high": 3.0}[state]
            after = rng.choice(["low", "high"], p=[0.7, 0.3] if state == "low" else [0.4, 0.6])
            rows.append((visit, state, action, 2.0 - price if action == "buy" else 0.0, after))
            state = after
    return pd.DataFrame(rows, columns=list(module.COLUMNS))


def test_the_worked_examples(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shop().to_csv("log.csv", index=False)
    result = doctest.testmod(module)
    assert result.attempted >= 9 and result.failed == 0


def test_the_worked_example_holds_the_exact_value():
    P, r = np.array([[0.7, 0.3], [0.4, 0.6]]), np.array([0.8 * 1.0, 0.1 * -1.0])  # the policy of the example, which buys at 1 rather than at 3
    rho = 0.1 * np.array([0.5, 0.5]) @ np.linalg.solve(np.eye(2) - 0.9 * P, r)
    found = interval(shop(), {"low": {"wait": 0.2, "buy": 0.8}, "high": {"wait": 0.9, "buy": 0.1}}, gamma=0.9)
    assert found.lower < rho < found.upper


@pytest.mark.parametrize("pairing", ["two_sample", "per_transition"])
def test_words_for_states_change_nothing(case, pairing):
    log, frame, policy, named = case
    cells = tabular.compress(log.s[None], log.a[None], log.s_next[None], log.r[None], 3, 2, pairing)
    expected = tabular.bounds(cells, policy, 0.9, np.array([0.95]), pairing=pairing)
    found = interval(frame, named, 0.9, pairing=pairing)
    assert (found.lower, found.upper) == pytest.approx((expected.lower.item(), expected.upper.item()), abs=1e-9)
    assert found.lower < found.estimate < found.upper and (found.transitions, found.trajectories, found.uncovered) == (160, 20, 0.0)
    mapping = {state: dict(row) for state, row in named.iterrows()}
    again = interval({key: frame[key].tolist() for key in frame}, mapping, 0.9, pairing=pairing)
    assert again == found


def test_interleaved_trajectories_and_ends_of_episodes(case):
    _, frame, _, named = case
    order = np.argsort(np.tile(np.arange(8), 20), kind="stable")  # all first steps, then all second steps
    assert interval(frame.iloc[order], named, 0.9).estimate == pytest.approx(interval(frame, named, 0.9).estimate, abs=1e-12)
    done = interval(frame.assign(done=True, next_state="never mind"), named, 0.9)
    first = frame.groupby(["state", "action"]).reward.mean()
    start = frame.drop_duplicates("trajectory").state.value_counts(normalize=True)
    plug_in = sum(share * sum(named.loc[s, a] * first[s, a] for a in named.columns) for s, share in start.items())
    assert done.estimate == pytest.approx(0.1 * plug_in, rel=1e-9)


def test_what_the_log_does_not_cover_is_told(case):
    _, frame, _, named = case
    part = frame[(frame.state != "low") | (frame.action != "buy")]
    found = interval(part, named, 0.9)
    assert found.uncovered == pytest.approx(named.loc["low", "buy"] * (part.state == "low").mean())


def test_features(case):
    rng = np.random.default_rng(1)
    s, a, gamma = rng.normal(size=(300, 2)), rng.normal(size=(300, 1)), 0.8
    after, r = 0.5 * s + rng.normal(size=s.shape), -(s**2).sum(-1)
    phi, phi_next, phi_start = linear.quadratic(s, a), linear.quadratic(after, 0 * a, 1.0), linear.quadratic(s[:30], 0 * a[:30], 1.0)
    found = interval_with_features(phi, r, phi_next, phi_start, gamma)
    true = -0.2 * ((s[:30] ** 2).sum(-1).mean() + gamma / (1 - gamma) * 2) / (1 - 0.25 * gamma)  # V = -(|s|^2 + 2 gamma / (1 - gamma)) / (1 - gamma / 4)
    assert found.lower < true < found.upper
    with pytest.raises(ReproError, match=r"shapes do not fit"):
        interval_with_features(phi, r[:-1], phi_next, phi_start, gamma)
    with pytest.raises(ReproError, match="not a finite number"):
        interval_with_features(phi, np.full(300, np.nan), phi_next, phi_start, gamma)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f, p: (f.drop(columns="reward"), p), "no column 'reward'"),
        (lambda f, p: (f.iloc[:0], p), "the log is empty"),
        (lambda f, p: (f.assign(state=[None] + f.state.tolist()[1:]), p), "column 'state' of the log has missing values"),
        (lambda f, p: (f.assign(reward="much"), p), "reward 'much' is not a finite number"),
        (lambda f, p: (f.assign(reward=np.inf), p), "is not a finite number"),
        (lambda f, p: (f, p.drop(index="high")), "no row for state 'high'"),
        (lambda f, p: (f, p * 2), "must sum to 1"),
        (lambda f, p: (f, p.assign(wait=-0.5, buy=1.5)), "-0.5.*: they must not be negative"),
    ],
)
def test_bad_input_gets_one_clear_line(case, change, message):
    _, frame, _, named = case
    with pytest.raises(ReproError, match=message) as error:
        interval(*change(frame, named), 0.9)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("gamma", "level", "message"), [(1.0, 0.9, r"gamma is 1.0, it must lie in \[0, 1\)"), (0.9, 95, "level is 95, it must lie between 0 and 1")])
def test_impossible_numbers(case, gamma, level, message):
    _, frame, _, named = case
    with pytest.raises(ReproError, match=message):
        interval(frame, named, gamma, level)
