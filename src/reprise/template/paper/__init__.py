"""Some Methods of Speeding up the Convergence of Iteration Methods (Polyak, 1964): the stand-in to replace.

- Section 2, the method of the heavy ball: x_{k+1} = x_k - alpha grad f(x_k) + beta (x_k - x_{k-1}) -> `model.step`
- Theorem 9, its rate on a quadratic with spectrum in [m, L]: (sqrt L - sqrt m) / (sqrt L + sqrt m) -> `model.optimal`
"""
