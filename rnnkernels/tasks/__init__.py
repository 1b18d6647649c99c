"""The tasks recurrent networks were tried on, and the networks: seeded generators, exact to their papers.

Every generator takes a `torch.Generator` and draws from nothing else.
"""

from . import algorithmic, data, languages, long_lags, networks, reber, sequences
from .sequences import Batch

__all__ = ["Batch", "algorithmic", "data", "languages", "long_lags", "networks", "reber", "sequences"]
