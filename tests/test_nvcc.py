"""What nvcc says of the kernels, no card needed.

The headers of cells and memory compile as they stand, one lane to a CUDA thread, all in registers. So do the kernels of
csrc/cuda, all for one architecture, and those of LSTM and NTM for others; what they take there stays within
csrc/cuda/limits.toml. `python tests/test_nvcc.py` writes that file anew.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

CSRC = Path(__file__).resolve().parent.parent / "csrc"
LIMITS = CSRC / "cuda/limits.toml"
FILES = sorted(p.name for p in (CSRC / "cuda").glob("*.cu"))
HOST = ("-Xcompiler", "-Wall,-Wextra")
RELAXED = "-expt-relaxed-constexpr"  # facts of a cell are worked out by functions of the host
FULL, OTHERS = ("sm_80",), ("sm_75", "sm_90", "sm_120")

SOURCE = """
#include "cells/list.h"
#include "memory/content.h"
#include "memory/interpolation.h"
#include "memory/rows.h"
#include "memory/sharpening.h"
#include "memory/shift.h"
#include "simd/math.h"
#include "simd/scalar.h"

namespace rnn {

template <class Cell, class V, int S> __device__ void stages_from(Unit<Cell, V>& t) {
  constexpr int kStages = sizeof(Cell::kStageEnd) / sizeof(int);
  if constexpr (S < kStages) {
    Cell::forward(Stage<S>{}, t);
    stages_from<Cell, V, S + 1>(t);
    Cell::backward(Stage<S>{}, t);
  }
}

template <class Cell, class V> __global__ void tick(Unit<Cell, V>* t) { stages_from<Cell, V, 0>(t[threadIdx.x]); }
template <class V> __global__ void words(V* x) {
  x[threadIdx.x] = softplus(log(exp(tanh(sigmoid(x[threadIdx.x])))));
}

// One row of a memory: forward and backward of everything a head does, sums over rows left out.
template <class V> __global__ void row(V* x, Guard guard, Shift shift, const typename V::Real* distribution) {
  auto at = [&](int n) { return x[threadIdx.x + 64 + n]; };
  Cosine<V> cosine{guard, x[0]};
  V K = cosine.forward(x[1], x[2], x[3]), ddot, dkey, along;
  cosine.backward(x[4], K, x[2], x[3], ddot, dkey, along);
  V w = Interpolation::forward(x[5], K, x[6]), dgate, dcontent, dbefore;
  Interpolation::backward(x[7], x[5], K, x[6], dgate, dcontent, dbefore);
  w = w + shift.forward<V>(distribution, at) + shift.backward<V>(distribution, at);
  V ratio = Sharpening::log_ratio(w, x[8]), power = Sharpening::power(ratio, x[9]), dshifted, dgamma;
  Sharpening::backward(x[10], x[11], power, w, ratio, x[9], dshifted, dgamma);
  V memory = Add::forward(Erase::forward(x[12], power, x[13]), power, x[14]), d = x[15], dw = x[16], de(0), da(0);
  Add::backward(d, power, x[14], dw, da);
  Erase::backward(x[12], power, x[13], d, dw, de);
  Read::backward(x[17], power, memory, dw, d);
  V sum = Read::forward(ddot + dkey + along + dgate + dcontent + dbefore, power, memory);
  x[threadIdx.x] = sum + dshifted + dgamma + dw + d + de + da;
}

#define TICK(Cell)                                               \\
  template __global__ void tick(Unit<Cell, Lane<float>>* units); \\
  template __global__ void tick(Unit<Cell, Lane<double>>* units);
RNN_CELLS(TICK)
template __global__ void words(Lane<float>*);
template __global__ void words(Lane<double>*);
template __global__ void row(Lane<float>*, Guard, Shift, const float*);
template __global__ void row(Lane<double>*, Guard, Shift, const double*);

}  // namespace rnn
"""


def nvcc():
    """The toolkit's own nvcc where CUDA_HOME names it, else the one on PATH, which may be a wrapper."""
    home = os.environ.get("CUDA_HOME")
    own = Path(home, "bin", "nvcc") if home else None
    return str(own) if own and own.exists() else shutil.which("nvcc")


def run(*arguments, cwd):
    command = [nvcc(), "-std=c++20", "-Werror", "all-warnings", "-Xptxas", "-v", "-I", CSRC, *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-4000:]
    return said


needs_nvcc = pytest.mark.skipif(nvcc() is None, reason="no nvcc here")


@needs_nvcc
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
def test_cells_compile_under_nvcc(tmp_path, architecture):
    from rnnkernels import _C

    (tmp_path / "cells.cu").write_text(SOURCE)
    said = run(f"-arch={architecture}", *HOST, "-c", "cells.cu", cwd=tmp_path)
    # An array of a Unit that is indexed at run time would go to local memory.
    frames = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", said)
    assert len(frames) == 2 * (len(_C.cells()) + 2) and set(frames) == {("0", "0", "0")}, said[-4000:]


# ------------------------------------------------------------------------------------------------ kernels of csrc/cuda

# A layer's file with the list of cells cut down.
CUT = """
#include "cells/list.h"
#undef RNN_CELLS
#define RNN_CELLS(X) {cells}
#include "cuda/{file}"
"""
# Of those that walk in one launch: the others' kernels are no larger, and take nvcc minutes.
WALKING = ("Lstm", "Gru", "Lstm1997Forget")

PTXAS = re.compile(
    r"Compiling entry function '(?P<kernel>\w+)' for '(?P<architecture>\w+)'(?P<text>.*?)"
    r"Used (?P<registers>\d+) registers(?:[^\n]*?(?P<shared>\d+) bytes smem)?",
    re.S,
)
FRAME = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")


def plain(name):
    """A demangled kernel without its arguments and our namespaces: forward_run<Lstm, float, 0>."""
    depth, end = 0, len(name)
    while name.endswith(")") and (depth or end == len(name)):  # what the last parenthesis closes is the arguments
        end -= 1
        depth += (name[end] == ")") - (name[end] == "(")
    return re.sub(r"^void |\b(rnn|cuda)::|\(anonymous namespace\)::", "", name[:end])


def usage(said):
    """By architecture and kernel: registers, in the eights that cards allot, static shared memory, stack, spills."""
    found, entries = {}, list(PTXAS.finditer(said))
    names = subprocess.run(["c++filt"], input="\n".join(e["kernel"] for e in entries), capture_output=True, text=True)
    for entry, name in zip(entries, names.stdout.splitlines()):
        frames = [[int(n) for n in frame] for frame in FRAME.findall(entry["text"])]
        found.setdefault(entry["architecture"], {})[plain(name)] = {
            "registers": -int(entry["registers"]) // 8 * -8,
            "shared": int(entry["shared"] or 0),
            "stack": sum(stack for stack, _, _ in frames),
            "spills": sum(stores + loads for _, stores, loads in frames),
        }
    return found


def compiled(file, architectures):
    """What the kernels of a file take. A layer's file is compiled with all cells for one architecture alone."""
    cells = ("Lstm",) if architectures != FULL else WALKING if file.startswith("persistent") else ()
    with tempfile.TemporaryDirectory() as folder:
        source = CSRC / "cuda" / file
        if cells:
            source = Path(folder, file)
            source.write_text(CUT.format(file=file, cells=" ".join(f"X({cell})" for cell in cells)))
        if architectures == FULL:
            return usage(run(f"-arch={FULL[0]}", RELAXED, *HOST, "-c", source, cwd=folder))
        targets = [f"-gencode=arch=compute_{a[3:]},code={a}" for a in architectures]
        return usage(run(*targets, RELAXED, "-fatbin", source, cwd=folder))  # no host code, which is the same


def release():
    return re.search(r"release (\S+),", subprocess.run([nvcc(), "--version"], capture_output=True, text=True).stdout)[1]


def excess(found, limits):
    """Lines that say which kernel takes more than its limit, or has none."""
    for architecture, of in found.items():
        for kernel, takes in of.items():
            allowed = limits.get(architecture, {}).get(kernel)
            if allowed is None:
                yield f"{architecture} {kernel}: no limit"
                continue
            allowed = dict(zip(("registers", "shared"), allowed)) | {k: limits[k] for k in ("stack", "spills")}
            for what, limit in allowed.items():
                if takes[what] > limit:
                    yield f"{architecture} {kernel}: {what} {takes[what]}, limit {limit}"


@pytest.fixture(scope="module")
def limits():
    limits = tomllib.loads(LIMITS.read_text())
    if limits["nvcc"] != release():
        pytest.skip(f"{LIMITS.name} is of nvcc {limits['nvcc']}, this is {release()}")
    return limits


seen = {}  # by architecture, of the tests that ran


@needs_nvcc
@pytest.mark.ahead(work=compiled)
@pytest.mark.parametrize("architectures", [FULL, OTHERS], ids=" ".join)
@pytest.mark.parametrize("file", FILES)
def test_kernels_stay_within_limits(file, architectures, limits, ahead):
    assert set(ahead) == set(architectures)
    for architecture, of in ahead.items():
        seen.setdefault(architecture, {}).setdefault(file, set()).update(of)
    assert not list(excess(ahead, limits)), "\n".join(
        [*excess(ahead, limits), "accepted by: python tests/test_nvcc.py"]
    )


@needs_nvcc
@pytest.mark.ahead
def test_no_limit_without_a_kernel(limits):
    for architecture, files in seen.items():
        if set(files) == set(FILES):
            stale = set(limits[architecture]) - set().union(*files.values())
            assert not stale, f"{architecture} has none of {sorted(stale)}: python tests/test_nvcc.py"


def test_usage_is_read_and_limits_hold():
    kernel = "_ZN3rnn4cuda11forward_runINS_4LstmEfLi0EEEvNS0_4StepIT0_EElllj"
    said = f"""
ptxas info    : Compiling entry function '{kernel}' for 'sm_80'
ptxas info    : Function properties for {kernel}
    16 bytes stack frame, 12 bytes spill stores, 20 bytes spill loads
ptxas info    : Used 74 registers, used 1 barriers, 16 bytes cumulative stack size, 64 bytes smem, 1652 bytes cmem[0]
ptxas info    : Compiling entry function 'other' for 'sm_80'
ptxas info    : Function properties for other
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 8 registers, used 0 barriers, 1652 bytes cmem[0]
"""
    found, name = usage(said), "forward_run<Lstm, float, 0>"
    assert found["sm_80"] == {
        name: {"registers": 80, "shared": 64, "stack": 16, "spills": 32},
        "other": {"registers": 8, "shared": 0, "stack": 0, "spills": 0},
    }
    within = {"stack": 16, "spills": 32, "sm_80": {name: [80, 64], "other": [8, 0]}}
    assert not list(excess(found, within))
    assert list(excess(found, within | {"stack": 0})) == [f"sm_80 {name}: stack 16, limit 0"]
    assert list(excess(found, within | {"sm_80": {name: [72, 0]}})) == [
        f"sm_80 {name}: registers 80, limit 72",
        f"sm_80 {name}: shared 64, limit 0",
        "sm_80 other: no limit",
    ]


def write():
    found = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for takes in pool.map(compiled, FILES * 2, [FULL] * len(FILES) + [OTHERS] * len(FILES)):
            for architecture, of in takes.items():
                found.setdefault(architecture, {}).update(of)
    lines = [
        "# What kernels may take, by `nvcc -Xptxas -v`. tests/test_nvcc.py checks it and, run as a script, writes it."
    ]
    lines += [f'nvcc = "{release()}"', "# Bytes, of every kernel.", "stack = 0", "spills = 0", ""]
    lines += ["# By architecture: [registers, in the eights that cards allot, bytes of static shared memory]."]
    for architecture in sorted(found, key=lambda a: int(a[3:])):
        of = found[architecture]
        lines += [f"[{architecture}]", *(f'"{k}" = [{of[k]["registers"]}, {of[k]["shared"]}]' for k in sorted(of)), ""]
    LIMITS.write_text("\n".join(lines[:-1]) + "\n")
    over = list(excess(found, tomllib.loads(LIMITS.read_text())))
    print(f"{LIMITS}: {sum(map(len, found.values()))} kernels", *over, sep="\n")
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(write())
