"""CoinDICE: Off-Policy Confidence Interval Estimation (Dai, Nachum, Chow, Li, Szepesvari, Schuurmans, NeurIPS 2020).

From transitions that other policies logged, an interval [l, u] for the value rho = (1 - gamma) E[sum_t gamma^t r_t] of a target
policy. The value is a saddle point over Q and a density ratio tau of

    ell(x; tau, Q) = (1 - gamma) Q(s0, a0) + tau(s, a) (r + gamma Q(s', a') - Q(s, a)),     a0, a' from the target policy,

averaged over the data; the bounds are the least and the largest saddle value when the data are reweighted within a divergence ball.

- Section 3: the divergence ball and its optimal weights in closed form -> `gel`
- Sections 3, 4: the interval as a fixed point of weights and saddle point; which samples are independent -> `bounds`
- Section 4: saddle points, tabular in closed form -> `tabular`, `solve`; in the span of features -> `linear`; networks -> `neural`
- The released code's damped iteration, as a reference -> `damped`
- Section 6: environments, policies and true values -> `data`; baselines -> `baselines`; all intervals -> `train`; coverage -> `evaluate`
- For your own logs -> `interval`
"""
