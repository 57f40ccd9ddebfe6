"""Off-policy evaluation: what papers of this field share.

- `tables`      finite Markov decision processes that never end, as arrays; exact values and occupancies
- `policies`    target and behaviour policies, computed from the environment
- `simulate`    batched trajectories of tables, CartPole, LQR and Reacher; Monte Carlo truths
- `estimators`  importance sampling, plug-in model, fitted Q evaluation, behaviour average
- `intervals`   confidence intervals for means of trajectory returns
- `networks`    stacks of small networks trained side by side, and their optimiser

The value of a policy is normalised throughout: rho = (1 - gamma) E[sum_t gamma^t r_t].

Shape suffixes: S states, A actions, B datasets (or any leading axes), N trajectories, T steps, D state variables,
K action variables, E members of a stack, I inputs, H hidden units, R rows.
"""
