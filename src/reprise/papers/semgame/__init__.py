"""Provably Efficient Neural Estimation of Structural Equation Models: An Adversarial Approach (Liao et al., NeurIPS 2020).

A structural equation is a linear operator equation A f = b known only through samples. Its Tikhonov-regularised solution is
the equilibrium of a min-max game of two networks, f and an adversary u, that single samples can play without bias.

- The game, both network families, the projected simultaneous steps, the function average -> `game`
- The theorems, measured where every error is exact: the circle -> `circle`, `rates`
- The practical variant (perceptrons, optimistic Adam) and its neural peers AGMM, DeepGMM, regression -> `neural`, `stacks`
- Closed forms: fixed features, two-stage least squares; kernel IV -> `linear`, `kiv`, `estimators`
- Structural equations with a known truth, policies, real econometric data -> `designs`, `policies`, `real`, `data`
- All methods on the same data -> `train`; errors, slopes, scores -> `evaluate`; the page -> `report`
"""
