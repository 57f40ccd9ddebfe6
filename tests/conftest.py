"""The tests see the numeric environment of the portable profile, set before a library is loaded."""

import os

from reprise import determinism

os.environ.update({key: value for key, value in determinism.PROFILES["portable"].items() if value})
os.environ["REPRISE_TRACKING"] = "off"

import torch  # noqa: E402, F401

determinism.configure_torch()
