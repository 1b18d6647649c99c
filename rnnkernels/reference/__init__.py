"""The oracle: every cell and the walk through time in plain, differentiable torch.

Everything fused is held against this; it knows nothing of the ops, and is the derivative of last resort
(double backward, forward mode) and the layer on devices without kernels.
"""

from . import ntm, random
from .cells import CELLS, STATES, Tick
from .layer import layer

__all__ = ["CELLS", "STATES", "Tick", "layer", "ntm", "random"]
