"""`convert`: from torch.nn's recurrent modules to the ones here and back, without touching a parameter."""

import copy
import logging
import re
import warnings
import weakref
from typing import NamedTuple

import torch
from torch import jit, nn
from torch.nn.utils import parametrize

from ..messages import shown
from ..ops import LAYERS
from . import cells, layers
from .base import PREPARED, SETTINGS, Base

__all__ = ["Conversion", "convert"]

_PAIRS = {getattr(nn, name): getattr(layers, name) for name in ("RNN", "LSTM", "GRU")}
_PAIRS |= {getattr(nn, name): getattr(cells, name) for name in ("RNNCell", "LSTMCell", "GRUCell")}
_KINDS = {"rnnkernels": _PAIRS, "torch": {ours: theirs for theirs, ours in _PAIRS.items()}}
_ROOTS = {
    "rnnkernels": (nn.RNNBase, nn.RNNCellBase),
    "torch": (Base,),
}

logger = logging.getLogger("rnnkernels")


class Conversion(NamedTuple):
    """What `convert` did with one recurrent module."""

    name: str  # the module's qualified name in the model, "" for the model itself
    before: str  # class
    after: str | None  # class, None where it stayed as it was
    reason: str | None  # why it stayed, None where it was replaced

    def __str__(self) -> str:
        what = f"{self.name or 'model'}: {self.before}"
        return f"{what} stays: {self.reason}" if self.after is None else f"{what} -> {self.after}"


def convert(
    model: nn.Module, to: str = "rnnkernels", report: list[Conversion] | None = None, cuda: str = "cudnn"
) -> nn.Module:
    """Replaces every torch.nn recurrent module in `model` by its drop-in from this package, or the other way round.

    The replacement takes over the very same Parameter objects, buffers, hooks, parametrizations and training mode; a
    module registered in several places stays shared. What an optimizer or a hook handle refers to stays valid.
    References to a replaced module outside the model's registered children (in a plain list, say) are not followed.

    The layers here are no subclasses of torch.nn's. Code that asks `isinstance(m, nn.LSTM)` (initialisation by class,
    wrappers that check their argument) runs before the conversion. What replaces classes by a table, such as
    `quantize_dynamic`, silently leaves ours as they are: first convert with to="torch". More in docs/tools.md.

    Args:
        model: changed in place, unless it is itself a recurrent module (then a new one is returned).
        to: "rnnkernels" or "torch".
        report: a list to which one `Conversion` per recurrent module is appended. Each is also logged at INFO level by
            the logger "rnnkernels", and what had to stay is warned about in one warning naming the reasons.
        cuda: "cudnn" leaves torch.nn's LSTM and GRU layers whose weights are on CUDA as they are, since no open kernel
            trains those faster than cuDNN; "fused" replaces them all the same.

    Returns:
        `model`, or its replacement where the model itself is recurrent.

    Raises:
        ValueError: unknown `to` or `cuda`.
        TypeError: `model` is no module.
    """
    if to not in _KINDS:
        raise ValueError(f"to: expected 'rnnkernels' or 'torch', got {shown(to)}")
    if cuda not in ("cudnn", "fused"):
        raise ValueError(f"cuda: expected 'cudnn' or 'fused', got {shown(cuda)}")
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    done: dict[nn.Module, nn.Module] = {}
    conversions: list[Conversion] = []

    def visit(module: nn.Module, name: str) -> nn.Module:
        if module not in done:
            done[module] = module
            kind, reason = _target(module, to, cuda)
            if kind is not None:
                done[module] = _replace(module, kind)
            if kind is not None or reason is not None:
                after = None if kind is None else _label(kind)
                conversions.append(Conversion(name, _label(_class_of(module)), after, reason))
            for key, child in done[module]._modules.items():
                if child is not None:
                    done[module]._modules[key] = visit(child, f"{name}.{key}" if name else key)
        return done[module]

    model = visit(model, "")
    for conversion in conversions:
        logger.info("%s", conversion)
    if stayed := [str(c) for c in conversions if c.after is None]:
        warnings.warn(f"rnnkernels.convert: {'; '.join(stayed)}", stacklevel=2)
    if report is not None:
        report.extend(conversions)
    return model


def _class_of(module: nn.Module) -> type[nn.Module]:
    return parametrize.type_before_parametrizations(module)


def _label(kind: type[nn.Module]) -> str:
    return f"{kind.__module__.split('.modules')[0]}.{kind.__name__}"


def _is_on_cuda(module: nn.Module) -> bool:
    return any(p.is_cuda for p in module.parameters(recurse=False))


def _unsupported(module: nn.Module) -> str | None:
    """What no kernel can run of the module's own parameters, None where all is well."""
    own = [p for p in module.parameters() if p is not None]
    kinds = {p.dtype for p in own}
    if other := kinds - set(LAYERS["lstm"].dtypes):
        return f"there are no kernels for {' and '.join(sorted(map(str, other)))}"
    if len(kinds) > 1:
        return f"its parameters are of several dtypes, {' and '.join(sorted(map(str, kinds)))}"
    if len({p.device for p in own}) > 1:
        return "its parameters are on several devices"
    if any(p.layout != torch.strided for p in own):
        return "its parameters are not dense"
    return None


def _target(module: nn.Module, to: str, cuda: str) -> tuple[type[nn.Module] | None, str | None]:
    """The class that replaces `module`, or why none does, or neither where it is not recurrent."""
    old = _class_of(module)
    new = _KINDS[to].get(old)
    if new is not None:
        if "forward" in module.__dict__:
            return None, "its forward was replaced on the instance"
        if to == "rnnkernels" and (reason := _unsupported(module)):
            return None, reason
        if cuda == "cudnn" and old in (nn.LSTM, nn.GRU) and _is_on_cuda(module):
            return None, "on CUDA it is left to cuDNN (cuda='fused' replaces it)"
        # forget_bias has done its work when the parameters were made
        changed = module._changed() if isinstance(module, Base) else ()
        active = [f"{name}={value}" for name, value in changed if name != "forget_bias"]
        if active:
            return None, f"torch.nn has no {', '.join(active)}"
        return new, None
    if isinstance(module, jit.ScriptModule):
        scripted = getattr(module, "original_name", "") in [kind.__name__ for kind in _KINDS[to]]
        return None, "a scripted module has no Python class to replace" if scripted else None
    if old.__module__.startswith("torch.ao.") and re.search("RNN|LSTM|GRU", old.__name__):
        return None, "quantised modules are not supported"
    if isinstance(module, _ROOTS[to]):
        if old.__module__.startswith(__package__):
            return None, "torch.nn has no such module"
        known = {*_KINDS[to], *_ROOTS[to]}
        base = next(kind for kind in old.__mro__ if kind in known or kind.__module__.startswith(__package__))
        return None, f"a subclass of {_label(base)} may override what a replacement would lose"
    return None, None


def _replace(old: nn.Module, kind: type[nn.Module]) -> nn.Module:
    """A module of class `kind` with everything that `old` has."""
    if parametrize.is_parametrized(old):
        members = {
            k: v for k, v in vars(type(old)).items() if k not in ("__module__", "__dict__", "__weakref__", "__doc__")
        }
        kind = type(f"Parametrized{kind.__name__}", (kind,), members)
    new = kind.__new__(kind)
    new.__dict__.update(old.__dict__)
    for name in ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"):
        new.__dict__[name] = copy.copy(old.__dict__[name])
    for hook in new._load_state_dict_pre_hooks.values():
        if getattr(hook, "with_module", False):
            hook.module = weakref.ref(new)
    if isinstance(new, Base):
        for name in ("_flat_weights", "_flat_weights_names", "_flat_weight_refs", "_all_weights"):
            new.__dict__.pop(name, None)
        new._name_weights()
        return new
    for name in (*SETTINGS, *PREPARED, *old.own):
        new.__dict__.pop(name, None)
    if isinstance(new, nn.RNNBase):
        new._all_weights = [[n for n in names if n is not None] for names in old._weight_names]
        new._flat_weights_names = [name for names in new._all_weights for name in names]
        new.mode = old.mode
        new._init_flat_weights()
    return new
