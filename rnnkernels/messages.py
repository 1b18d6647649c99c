"""How error messages show a value."""

from typing import Any

__all__ = ["shown"]


def shown(value: Any) -> str:
    """`repr(value)` in one line of at most 80 characters, whatever the value: a tensor's takes as many as it has."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:77]}..."
