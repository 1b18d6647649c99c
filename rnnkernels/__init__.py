"""Fused recurrent layers for PyTorch: drop-in for torch.nn's RNN, LSTM, GRU and their cells.

Convert what you have, or build with `rk.LSTM`, `rk.GRU`, ...:

    import rnnkernels as rk

    model = rk.convert(model)
"""

import importlib
from typing import Any

import torch

try:
    from . import _C
except ImportError as error:
    raise ImportError(f"rnnkernels._C: expected the compiled extension (run `make build`), got: {error}") from error

from . import flops, functional, reference
from .modules import (
    GRU,
    GRU1,
    GRU2,
    GRU3,
    LSTM,
    LSTM1997,
    NTM,
    RNN,
    CoupledLSTM,
    CoupledLSTMCell,
    GRU1Cell,
    GRU2Cell,
    GRU3Cell,
    GRUCell,
    IndRNN,
    IndRNNCell,
    LayerNormGRU,
    LayerNormGRUCell,
    LayerNormLSTM,
    LayerNormLSTMCell,
    LSTM1997Cell,
    LSTMCell,
    MinimalGRU,
    MinimalGRUCell,
    NTMState,
    NTMTrace,
    PeepholeLSTM,
    PeepholeLSTMCell,
    RNNCell,
    convert,
)
from .options import Conventions, Masks, Options

__all__ = [
    "RNN",
    "LSTM",
    "GRU",
    "MinimalGRU",
    "PeepholeLSTM",
    "CoupledLSTM",
    "LayerNormLSTM",
    "LayerNormGRU",
    "GRU1",
    "GRU2",
    "GRU3",
    "IndRNN",
    "LSTM1997",
    "NTM",
    "NTMState",
    "NTMTrace",
    "RNNCell",
    "LSTMCell",
    "GRUCell",
    "MinimalGRUCell",
    "PeepholeLSTMCell",
    "CoupledLSTMCell",
    "LayerNormLSTMCell",
    "LayerNormGRUCell",
    "GRU1Cell",
    "GRU2Cell",
    "GRU3Cell",
    "IndRNNCell",
    "LSTM1997Cell",
    "Conventions",
    "Masks",
    "Options",
    "convert",
    "flops",
    "functional",
    "get_isa",
    "info",
    "reference",
    "set_isa",
]

__version__: str = _C.build_info()["version"]


def __getattr__(name: str) -> Any:
    """`rk.tasks` and `rk.training`, imported when they are first asked for: layers need neither."""
    if name in ("tasks", "training"):
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class Info(dict):
    """A dict that prints one readable line per entry."""

    def __str__(self) -> str:
        def text(value: Any) -> str:
            if isinstance(value, dict):
                return ", ".join(f"{k} {text(v)}" for k, v in value.items()) or "none yet"
            return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)

        width = max(map(len, self))
        return "\n".join(f"{key:{width}}  {text(value)}" for key, value in self.items())


def info() -> Info:
    """What was built, what this machine has and which kernel the last call ran, as a dict that prints well.

    Keys: version, torch (running), isa (in use), built, available (ISAs, best last), threads (torch's), cells, build
    (compiler, flags, ...), last_kernel (op, isa, dtype, threads, split; empty before the first call).
    """
    isas = _C.isas()
    return Info(
        version=__version__,
        torch=torch.__version__,
        isa=_C.get_isa(),
        built=isas["built"],
        available=isas["available"],
        threads=torch.get_num_threads(),
        cells=[cell["name"] for cell in _C.cells()],
        build=_C.build_info(),
        last_kernel=_C.last_kernel(),
    )


def set_isa(name: str | None) -> None:
    """Forces the kernels of one instruction set: "scalar", "avx2" or "avx512".

    Args:
        name: one of `info()["available"]`; None goes back to $RNNKERNELS_ISA or else the best available.

    Raises:
        ValueError: this machine or this build does not have it.
    """
    _C.set_isa(name)


def get_isa() -> str:
    """The instruction set whose kernels run."""
    return _C.get_isa()
