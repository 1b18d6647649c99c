"""Who may include whom (csrc/README.md), what objects of two instruction sets share, and that nothing is missing."""

import ast
import functools
import re
import subprocess
import sys
from fnmatch import fnmatch
from itertools import combinations, product
from pathlib import Path

import pytest

import rnnkernels as rk
from rnnkernels import _C, modules, reference

ROOT = Path(__file__).resolve().parent.parent
CSRC = ROOT / "csrc"
TREE = f"cmake-{sys.implementation.cache_tag}" + "-cuda" * bool(_C.build_info()["cuda"])
OBJECTS = ROOT / "build" / TREE / "CMakeFiles/rnn_core.dir/csrc/cpu"
FILES = sorted(p.relative_to(CSRC).as_posix() for p in CSRC.rglob("*") if p.suffix in {".h", ".cpp", ".cu", ".cuh"})

STD = r"<[a-z_]+>"
# The first row that matches a file says what it may include: of csrc by path, of the system in angle brackets.
MAY_INCLUDE = [
    ("cells/vocabulary.h", []),
    ("cells/list.h", [r"cells/\w+\.h"]),
    ("cells/*.h", [r"cells/vocabulary\.h"]),
    ("memory/*.h", [r"cells/vocabulary\.h"]),
    ("simd/avx512.h", [r"cells/vocabulary\.h", r"simd/avx512_simde\.h", r"<(immintrin\.h|cstdint)>"]),
    ("simd/*.h", [r"cells/vocabulary\.h", r"<(immintrin\.h|simde/x86/\w+\.h|cmath|cstdint|cstring)>"]),
    ("walk/*-inl.h", []),
    ("walk/*.h", [r"cells/vocabulary\.h", r"memory/\w+\.h", r"walk/call\.h", r"<(cstddef|cstdint)>"]),
    ("cpu/lanes_*.h", [r"simd/{isa}\.h"]),
    ("cpu/sweep_*.cpp", [r"cpu/lanes_{isa}\.h", r"cpu/sweep-inl\.h"]),
    ("cpu/ntm_*.cpp", [r"cpu/lanes_{isa}\.h", r"cpu/ntm-inl\.h"]),
    (
        "cpu/*-inl.h",
        [r"(cells/list|memory/\w+|simd/math|walk/(draw|\w+-inl)|cpu/(kernels|\w+-inl))\.h", r"<(cstring|cstdint)>"],
    ),
    ("cpu/kernels.h", [r"walk/ntm\.h", r"cpu/threads\.h"]),
    ("cpu/threads.*", [r"cpu/threads\.h", STD, r"<(omp\.h|linux/futex\.h|sys/syscall\.h|unistd\.h)>"]),
    ("cpu/pages.*", [r"cpu/pages\.h", STD, r"<sys/mman\.h>"]),
    ("cpu/*", [r"cells/(vocabulary|list)\.h", r"walk/facts\.h", r"cpu/(isa|kernels|plan|threads)\.h", STD]),
    ("cuda/*.h", [r"(walk|cuda)/\w+\.h", r"<(c10/core/Device\.h|cstddef|string)>"]),
    ("cuda/*.cpp", [r"cuda/\w+\.h", STD, r"<((ATen|c10)/.*|cuda_runtime_api\.h)>"]),
    (
        "cuda/*",
        [r"(cells|memory|walk|cuda)/.*", r"simd/(math|scalar)\.h", r"<(cuda|cooperative_groups|mma).*>"],
    ),
    ("tensors.h", [r"ops\.h", r"cpu/(pages|threads)\.h", r"walk/call\.h", STD, r"<ATen/.*>"]),
    ("ops.*", [r"(ops|tensors)\.h", r"cpu/(isa|plan)\.h", r"cuda/layer\.h", STD, r"<(ATen|c10|torch)/.*>"]),
    ("ntm.cpp", [r"tensors\.h", r"cpu/isa\.h", r"cuda/layer\.h", STD, r"<(ATen|c10|torch)/.*>"]),
    ("bind.cpp", [r"ops\.h", r"cpu/isa\.h", r"cells/list\.h", STD, r"<pybind11/.*>"]),
]
LISTED = re.findall(r"^\s+X\((\w+)\)", (CSRC / "cells/list.h").read_text().split("RNN_CONTROLLERS")[0], re.M)
# What may not be said at all, include or not.
NO_MACHINE = r"std::|\b_mm|\b__m\d|torch|\bat::|__global__|__shared__|#ifn?def\b|\b[A-Z]\w*::_mm"
NO_INTRINSICS = r"\b_mm\d*_|\b__m\d|pybind11|immintrin"
MUST_NOT_SAY = {
    "cells/*.h": NO_MACHINE,
    "memory/*.h": NO_MACHINE,
    "walk/*.h": NO_MACHINE,
    "simd/*.h": r"torch|\bat::|std::",
    "cuda/*.cu*": r"torch|\bat::|std::",
    "cpu/*-inl.h": rf"torch|\bat::|std::|\b_mm|\b({'|'.join(LISTED)})\b",
    "cpu/*": r"torch/|\bat::|c10::",
    "ops.cpp": NO_INTRINSICS,
    "ntm.cpp": NO_INTRINSICS,
    "tensors.h": NO_INTRINSICS,
    "bind.cpp": r"\bTensor\b|\bat::",
}


def includes(file):
    """What a file of csrc includes: paths relative to csrc, or <...>."""
    for quote, name in re.findall(r'^\s*#\s*include\s*(["<])([^">]+)[">]', (CSRC / file).read_text(), re.M):
        if quote == "<":
            yield f"<{name}>"
            continue
        beside = (CSRC / file).parent / name
        found = beside if beside.exists() else CSRC / name
        yield found.resolve().relative_to(CSRC).as_posix()


def without_comments(text):
    return re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.S)


@pytest.mark.parametrize("file", FILES)
def test_includes(file):
    row, allowed = next(((row, allowed) for row, allowed in MAY_INCLUDE if fnmatch(file, row)), (None, None))
    assert row, f"{file}: no row of the table says what it may include"
    isa = Path(file).stem.rpartition("_")[2]
    for name in includes(file):
        assert any(re.fullmatch(a.replace("{isa}", isa), name) for a in allowed), f"{file} includes {name}"
    text = without_comments((CSRC / file).read_text())
    for row, words in MUST_NOT_SAY.items():
        if fnmatch(file, row):
            assert not re.search(words, text), f"{file} says {re.search(words, text).group()!r}"


SHARED = ("options", "containers")  # what the reference and the ops both import
ORACLE = [*(ROOT / "rnnkernels/reference").glob("*.py"), *(ROOT / f"rnnkernels/{name}.py" for name in SHARED)]


@pytest.mark.parametrize("file", sorted(ORACLE), ids=lambda p: p.name)
def test_the_oracle_does_not_know_the_accused(file):
    """It imports itself, torch, the standard library, and of the package what is SHARED, for which the same holds."""
    standard, depth = set(sys.stdlib_module_names), len(file.relative_to(ROOT / "rnnkernels").parts) - 1
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            inside = node.level <= depth or (node.level == depth + 1 and node.module in SHARED)
            assert inside, f"line {node.lineno} imports {'.' * node.level}{node.module or ''}"
            names = [] if node.level else [node.module]
        else:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for name in names:
            assert name.split(".")[0] in standard | {"torch"}, f"line {node.lineno} imports {name}"
        assert not (isinstance(node, ast.Attribute) and node.attr == "ops"), f"line {node.lineno} reaches for ops"


def weak_symbols(files):
    lines = subprocess.run(["nm", "-C", *files], capture_output=True, text=True, check=True).stdout.splitlines()
    symbols = [
        re.fullmatch(r"([0-9a-f]* +)(\w) (.*)", line).groups() for line in lines if line.strip() and line[-1] != ":"
    ]
    return {name for address, kind, name in symbols if kind in "WVwvu" and address.strip()}


def objects():
    """By instruction set: all objects compiled for it."""
    files = {}
    for file in sorted(OBJECTS.glob("*_*.cpp.o")):
        files.setdefault(file.name.split(".")[0].rpartition("_")[2], []).append(file)
    assert set(files) == set(_C.isas()["built"]), f"no objects under {OBJECTS}: make build"
    assert all(len(of) == 2 for of in files.values())
    return files


def test_two_isas_share_no_weak_symbol():
    weak = {isa: weak_symbols(files) for isa, files in objects().items()}
    assert all(weak.values()), "an object of templates without weak symbols: nothing was looked at"
    for (one, a), (other, b) in combinations(weak.items(), 2):
        assert not a & b, f"{one} and {other} share {sorted(a & b)[:3]}"


def test_isa_objects_define_only_their_own_namespace():
    for isa, files in objects().items():
        strangers = [name for name in weak_symbols(files) if f"rnn::{isa}::" not in name]
        assert not strangers, f"{isa}: {strangers[:3]}"


def test_the_linker_keeps_no_std_template_of_an_isa_object():
    for isa, files in objects().items():
        owned = {re.sub(r"^(guard variable for|vtable for|typeinfo.* for) ", "", name) for name in weak_symbols(files)}
        assert not [name for name in owned if re.match(r"(\w+ )?(std|__gnu_cxx)::", name)], isa


CELLS = [cell["name"] for cell in _C.cells()]
# Arguments of the modules that choose among cells.
CHOICES = {
    "RNN": {"nonlinearity": ("tanh", "relu", "logistic")},
    "GRU": {"reset_after": (True, False)},
    "LayerNormLSTM": {"norm": ("ba2016", "carry", "gate")},
    "LayerNormGRU": {"norm": ("ba2016", "gate")},
    "LSTM1997": {"forget_gate": (False, True), "output_gate": (True, False)},
}


def test_every_cell_of_the_list_is_in_the_table():
    assert len(LISTED) == len(CELLS) == len(set(CELLS))


@functools.cache
def run_by(kind):
    """The cells that public modules of a kind run."""
    public = [getattr(rk, n) for n in rk.__all__ if isinstance(getattr(rk, n), type)]
    cells = set()
    for module in (k for k in public if issubclass(k, kind)):
        choices = CHOICES.get(module.__name__.removesuffix("Cell"), {})
        for values in product(*choices.values()):
            cells.add(module(1, 1, **dict(zip(choices, values))).cell)
    return cells


@pytest.mark.parametrize("name", CELLS)
def test_every_cell_has_ops_reference_and_modules(name):
    import torch

    from rnnkernels.ops import LAYERS

    assert name in reference.CELLS and name in LAYERS
    assert hasattr(torch.ops.rnnkernels, name) and hasattr(torch.ops.rnnkernels, f"{name}_backward")
    for kind in (modules.recurrent.Recurrent, modules.cells.RecurrentCell):
        assert name in run_by(kind), f"no public {kind.__name__} runs {name}"


def test_no_reference_without_a_cell():
    assert set(reference.CELLS) == set(CELLS)
