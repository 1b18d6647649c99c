"""`Settings`: attributes of a module that are checked whenever they are set, in the constructor and later."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from torch import nn

from ..messages import shown

__all__ = ["Check", "Settings"]

Check = Callable[[str, Any], Any]  # (name, value): the value, or a ValueError that names the attribute


class Settings(nn.Module):
    """A module whose class says, by name, how an attribute is checked and which cannot change once it is built.

    Attributes:
        checks: of each checked attribute what accepts its value. A class adds to those of its bases.
        fixed: attributes that shaped the parameters: a later assignment of another value is an AttributeError. A class
            adds to those of its bases.
    """

    checks: ClassVar[Mapping[str, Check]] = {}
    fixed: ClassVar[frozenset[str]] = frozenset()

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        bases = [vars(base) for base in reversed(cls.__mro__)]  # mixins, too, which are no subclasses of this class
        cls.checks = {name: check for base in bases for name, check in base.get("checks", {}).items()}
        cls.fixed = frozenset().union(*(base.get("fixed", ()) for base in bases))

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.checks:
            value = self.checks[name](name, value)
        if not self._is_built or (name not in self.checks and name not in self.fixed):
            super().__setattr__(name, value)
            return
        before = getattr(self, name)
        if name in self.fixed and value != before:
            raise AttributeError(f"{name}: expected no change of it once the module is built, got {shown(value)}")
        super().__setattr__(name, value)
        try:
            self._check_settings()
        except ValueError:
            super().__setattr__(name, before)
            raise
        self._settle()

    @property
    def _is_built(self) -> bool:
        """Whether the constructor is through with the settings, from when on a change is checked against the others."""
        return False

    def _name_parameter(self, error: RuntimeError) -> None:
        """Raises RuntimeError naming the parameter whose dtype or device made an op raise `error`, if one did.

        The op names its own argument, in which several parameters may have come together.
        """
        if "dtype" not in str(error) and "device" not in str(error):
            return
        own = [(name, t) for name, t in (*self.named_parameters(), *self.named_buffers()) if t is not None]
        for name, t in own[1:]:
            first, expected = own[0]
            for what in ("dtype", "device"):
                if getattr(t, what) != getattr(expected, what):
                    got = f"{getattr(expected, what)}, as {first} has, got {getattr(t, what)}"
                    raise RuntimeError(f"{name}: expected {what} {got}") from None

    def _check_settings(self) -> None:
        """Raises ValueError where settings, each valid by itself, exclude each other."""

    def _settle(self) -> None:
        """Prepares what calls need of the settings."""
