// What a call is run with on the CPU: how it is laid over threads, and the table of an instruction set's kernels.
#pragma once
#include "../walk/ntm.h"
#include "threads.h"

namespace rnn {

// How the work is laid over threads: a grid of row slices by hidden slices. Threads of one row slice meet once a stage.
struct Plan {
  int grid_rows, grid_cols;
  bool packed;          // weights are repacked into panels: worth it from a few ticks on
  int64_t block_ticks;  // ticks whose inputs are projected, or whose gradients are kept, at a time
  int threads() const { return grid_rows * grid_cols; }
};

// The register tile of an instruction set: rows by vectors of lanes.
struct TileShape {
  int lanes, vectors, rows;
  int cols() const { return lanes * vectors; }
};

struct NtmPlan {
  int threads;
  const int64_t* row_from;  // (threads + 1) rows of each
  bool packed;
};

template <class Real> struct NtmKernels {
  size_t (*forward_space)(const Facts&, const NtmCall<Real>&, const NtmPlan&);
  size_t (*backward_space)(const Facts&, const NtmCall<Real>&, const NtmPlan&);
  void (*forward)(const Facts&, const NtmCall<Real>&, const NtmPlan&, char* space, Meeting&, int thread);
  void (*backward)(const Facts&, const NtmCall<Real>&, const NtmPlan&, char* space, Meeting&, int thread);
};

// One instruction set's kernels for one precision.
template <class Real> struct Kernels {
  TileShape tile;
  size_t (*forward_space)(const Facts&, const Call<Real>&, const Plan&);
  size_t (*backward_space)(const Facts&, const Call<Real>&, const Plan&);
  void (*forward)(int cell, const Facts&, const Call<Real>&, const Plan&, char* space, Meeting&, int thread);
  void (*backward)(int cell, const Facts&, const Call<Real>&, const Plan&, char* space, Meeting&, int thread);
  // n numbers of a drawn mask, from number `from` of row b at tick t.
  void (*draw)(MaskKind, const Mask<Real>&, uint64_t seed, uint32_t stream, int64_t t, int64_t b, int64_t from,
               int64_t n, Real* to);
  bool (*map)(const char* word, int64_t n, const Real* x, Real* y);
  double (*fma_chain)(int64_t iterations);  // runs that many rounds of independent FMAs, returns the operations done
  const NtmKernels<Real>& (*ntm)();
};

}  // namespace rnn
