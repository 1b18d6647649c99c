"""Drop-in modules for torch.nn's recurrent ones, and the way there and back."""

from .cells import GRUCell, LSTMCell, MinimalGRUCell, RNNCell
from .convert import Conversion, convert
from .layers import GRU, LSTM, RNN, MinimalGRU

__all__ = [
    "RNN",
    "LSTM",
    "GRU",
    "MinimalGRU",
    "RNNCell",
    "LSTMCell",
    "GRUCell",
    "MinimalGRUCell",
    "Conversion",
    "convert",
]
