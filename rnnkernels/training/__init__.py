"""Training on the tasks of `rnnkernels.tasks.algorithmic`: what `python -m rnnkernels train` does.

A `Config` is all that a training depends on, and `train` does it:

    from rnnkernels.training import Config, train

    training = train(Config("copy", sequences=20_000))
    print(training.converged, training.evaluate(640, length=50))
"""

from . import pictures
from .config import LAYERS, MODELS, PAPER, Config, paper
from .loop import CONVERGED, Scores, Training, evaluate, train
from .optimisers import OPTIMISERS, GravesRMSprop
from .store import Store

__all__ = [
    "CONVERGED",
    "LAYERS",
    "MODELS",
    "OPTIMISERS",
    "PAPER",
    "Config",
    "GravesRMSprop",
    "Scores",
    "Store",
    "Training",
    "evaluate",
    "paper",
    "pictures",
    "train",
]
