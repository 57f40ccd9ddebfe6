"""With which power one figure grows with another."""

import numpy as np


def exponent(x, y) -> float:
    """The power of x with which y grows: the slope of a least-squares line through the logarithms."""
    return float(np.polyfit(np.log(np.asarray(x, dtype=np.float64)), np.log(np.asarray(y, dtype=np.float64)), 1)[0])
