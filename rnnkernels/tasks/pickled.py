"""Arrays of lists of integers, from the pickles in which numpy keeps them.

They are read without Python's unpickler. That one makes whatever objects a file asks for, numpy's own among them, and
a damaged file may give those a shape and no content. Here the few opcodes and names that numpy uses lead to values of
this module, and everything else is refused.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
from collections.abc import Sequence
from typing import Any

import numpy

__all__ = ["array_of", "lists_of"]


def array_of(content: bytes, dtype: numpy.dtype, shape: Sequence[int], fortran: bool) -> numpy.ndarray:
    """Integers of this shape, whose bytes are `content`, the first index being the fastest where `fortran` says so."""
    if dtype.kind not in "iu":
        raise ValueError(f"expected integers, found {dtype}")
    if math.prod(shape) * dtype.itemsize != len(content):
        raise ValueError(f"expected {' x '.join(map(str, shape))} numbers of {dtype}, found {len(content)} bytes")
    return numpy.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C")


class _Dtype:
    """numpy.dtype: of objects, or of integers."""

    def __init__(self, code: str, align: Any = False, copy: Any = False) -> None:
        if not re.fullmatch("O[48]?|[iu][1248]", code):
            raise ValueError(f"expected lists of integers, found {code!r}")
        self.code, self.order = code, "<"

    def build(self, version: int, order: str, *rest: int | None) -> None:
        if order not in ("<", ">", "=", "|") or not all(value is None or type(value) is int for value in rest):
            raise ValueError("expected lists of integers, found another dtype")
        self.order = order

    def array(self, content: bytes | bytearray | str, shape: tuple[int, ...]) -> Any:
        """A row of integers, or, of shape (), one."""
        content = content.encode("latin1") if type(content) is str else content  # text: of Python 2
        if type(content) not in (bytes, bytearray) or len(shape) > 1 or not all(type(n) is int for n in shape):
            raise ValueError("expected the bytes of a row of integers, found something else")
        return array_of(content, numpy.dtype(self.order + self.code), shape, False).tolist()


class _Array:
    """numpy.ndarray: `value` is the list of what it holds."""

    value: list[Any]

    def build(self, *state: Any) -> None:
        shape, dtype, _, content = state[-4:]  # before them a version, in all but the oldest
        if dtype.code[0] != "O":
            self.value = dtype.array(content, shape)
        elif type(content) is list and shape == (len(content),):
            self.value = content
        else:
            raise ValueError("expected a row of lists, found another shape")


_NDARRAY = object()


def _reconstruct(kind: Any, shape: tuple[int], code: bytes | str) -> _Array:
    if kind is not _NDARRAY:
        raise ValueError("expected an array, found something else")
    return _Array()


def _frombuffer(content: bytes, dtype: _Dtype, shape: tuple[int, ...], order: str) -> _Array:
    array = _Array()
    array.build(shape, dtype, order, content)
    return array


_NAMES: dict[tuple[str, str], Any] = {
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.multiarray", "scalar"): lambda dtype, content: dtype.array(content, ()),
    ("numpy.core.numeric", "_frombuffer"): _frombuffer,
    ("_codecs", "encode"): lambda text, _: text.encode("latin1"),  # protocols 0 to 2 have no bytes
    ("builtins", "bytes"): lambda: b"",
}
_VALUES = frozenset(
    (
        *("NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
        *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    )
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_RUN = re.compile(rb"(?:K.|M..|J....)++", re.S)  # BININT1, BININT2, BININT: all that most of the file consists of


def _named(module: str, name: str) -> Any:
    place = module.replace("numpy._core", "numpy.core").replace("__builtin__", "builtins"), name
    if type(name) is not str or place not in _NAMES:
        raise ValueError(f"lists of numbers expected, found {module}.{name}")
    return _NAMES[place]


def lists_of(content: bytes) -> list[Any]:
    """The lists of numbers in a pickle of any protocol that numpy wrote of an array of them, or of rows."""
    file, stack, marks, memo = io.BytesIO(content), [], [], {}

    def marked() -> list[Any]:
        """What lies above the last mark, taken off with it."""
        start = marks.pop()
        found = stack[start:]
        del stack[start:]
        return found

    for opcode, value, _ in pickletools.genops(file):
        name = opcode.name
        if name in _VALUES:
            stack.append(_CONSTANTS.get(name, value))
        elif name == "MARK":
            marks.append(len(stack))
            if run := _RUN.match(content, file.tell()):  # numbers alone, which the quick unpickler may have
                stack += pickle.loads(b"(" + run[0] + b"l.")
                file.seek(run.end())
        elif name in ("EMPTY_LIST", "EMPTY_TUPLE"):
            stack.append([] if name == "EMPTY_LIST" else ())
        elif name in ("LIST", "TUPLE"):
            found = marked()
            stack.append(found if name == "LIST" else tuple(found))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            stack[-count:] = [tuple(stack[-count:])]
        elif name in ("APPEND", "APPENDS"):
            found = marked() if name == "APPENDS" else [stack.pop()]
            if type(stack[-1]) is not list:
                raise ValueError("expected a list, found something else")
            stack[-1].extend(found)
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if value is None else value] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[value])
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            words = value.split(" ", 1) if name == "GLOBAL" else [stack.pop(-2), stack.pop()]
            stack.append(_named(*words))
        elif name == "REDUCE":
            arguments, called = stack.pop(), stack.pop()
            stack.append(called(*arguments))  # nothing can be called but what `_NAMES` has
        elif name == "BUILD":
            state = stack.pop()
            if type(stack[-1]) not in (_Dtype, _Array):
                raise ValueError("expected an array, found something else")
            stack[-1].build(*state)
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise ValueError(f"expected what numpy writes of lists of numbers, found opcode {name}")
    if marks or file.read(1):
        raise ValueError("expected a pickle's end after its array, found more")
    (array,) = stack
    return [item.value if type(item) is _Array else item for item in array.value]
