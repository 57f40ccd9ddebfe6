"""Off-Policy Evaluation via the Regularized Lagrangian (Yang, Nachum, Dai, Li, Schuurmans; NeurIPS 2020).

A policy's value rho = (1 - gamma) E[sum gamma^t r_t] is the optimum of a linear programme whose primal variable is Q and whose
dual variable is the visitation ratio zeta = d^pi / d^D. All "DICE" estimators are saddle points of its regularised Lagrangian.

- section 2, the estimators that reweight whole trajectories          -> reprise.kits.offpolicy.estimators
- section 3, the Lagrangian, its regularisers and redundant constraints -> objective.lagrangian, objective.Switches
- section 3, the three read-outs of a saddle point                     -> objective.readouts
- section 4, DualDICE, GenDICE, GradientDICE, MQL and MWL as switches  -> objective.ESTIMATORS
- theorem 2 and its table of biases; appendix, the saddles themselves  -> closed_form, exact
- section 5, tables with finite data                                   -> finite
- section 5, neural networks; environments and policies                -> neural, train; environments, data
- what came out, as numbers and as a page                              -> evaluate, report
"""
