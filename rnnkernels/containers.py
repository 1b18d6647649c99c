"""Named tuples of tensors that torch can store: in exported programs and in files read with `weights_only`."""

from torch.serialization import add_safe_globals
from torch.utils import _pytree

__all__ = ["container"]


def container(kind: type) -> type:
    """Registers a NamedTuple class with torch, under its public name.

    torch takes any named tuple apart by itself, but `torch.export.save` writes, and `torch.load(weights_only=True)`
    reads, only registered classes.
    """
    _pytree._register_namedtuple(kind, serialized_type_name=f"rnnkernels.{kind.__name__}")
    add_safe_globals([kind])
    return kind
