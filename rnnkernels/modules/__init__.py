"""Drop-in modules for torch.nn's recurrent ones, and the way there and back."""

from .cells import GRUCell, LSTMCell, RNNCell
from .convert import Conversion, convert
from .layers import GRU, LSTM, RNN

__all__ = [
    "RNN",
    "LSTM",
    "GRU",
    "RNNCell",
    "LSTMCell",
    "GRUCell",
    "Conversion",
    "convert",
]
