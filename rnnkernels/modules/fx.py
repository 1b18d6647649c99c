"""Layers as leaves of graphs that `torch.fx` traces symbolically."""

from typing import Any

from torch import nn
from torch.fx import Proxy

__all__ = ["Proxy", "as_leaf"]


def as_leaf(module: nn.Module, arguments: dict[str, Any]) -> Proxy:
    """A node of the graph that calls `module`, as fx makes of torch.nn's own layers.

    A layer's forward branches on shapes, which a Proxy does not know, so that it cannot be traced through.

    Args:
        arguments: `locals()` of forward at its beginning.
    """
    values = {name: v for name, v in arguments.items() if name not in ("self", "__class__")}
    name, first = next(iter(values.items()))
    given = {k: v for k, v in values.items() if k != name and v is not None and v is not False}
    tracer = next(v.tracer for v in values.values() if isinstance(v, Proxy))
    kind = type(module)
    if tracer.root is module:
        raise TypeError(f"torch.fx: expected a module that contains the layer, got the {kind.__name__} itself")
    if not kind.forward.__module__.startswith(__package__):
        raise TypeError(
            f"torch.fx: expected {kind.__name__}, which has a forward of its own, to be a leaf: subclass Tracer and "
            "override is_leaf_module"
        )
    return tracer.create_proxy("call_module", tracer.path_of_module(module), (first,), given)
