"""The headers of cells and memory compile as they stand under nvcc, one lane to a CUDA thread, all in registers."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from rnnkernels import _C

CSRC = Path(__file__).resolve().parent.parent / "csrc"

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


@pytest.mark.skipif(nvcc() is None, reason="no nvcc here")
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
def test_cells_compile_under_nvcc(tmp_path, architecture):
    (tmp_path / "cells.cu").write_text(SOURCE)
    command = [nvcc(), "-std=c++20", "-Werror", "all-warnings", f"-arch={architecture}", "-Xcompiler", "-Wall,-Wextra"]
    command += ["-Xptxas", "-v", "-I", CSRC, "-c", "cells.cu"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-4000:]
    # An array of a Unit that is indexed at run time would go to local memory.
    frames = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", said)
    assert len(frames) == 2 * (len(_C.cells()) + 2) and set(frames) == {("0", "0", "0")}, said[-4000:]
