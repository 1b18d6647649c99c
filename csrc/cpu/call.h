// What one call works on, in plain structs: below this line nothing knows torch.
#pragma once
#include <cstddef>
#include <cstdint>

#include "../cells/vocabulary.h"
#include "threads.h"

namespace rnn {

// The compile-time facts of a cell, for code that is written once for all cells.
struct Facts {
  const char* name;
  int gates, states, saved, stages;
  int stage_end[kMaxStages];  // one past the last gate of each stage
  unsigned split;             // gates whose recurrent part has a gradient of its own
  bool projection;            // w_hr allowed

  RNN_FN int first_gate(int stage) const { return stage ? stage_end[stage - 1] : 0; }
  RNN_FN bool splits(int gate) const { return split >> gate & 1u; }
  RNN_FN int split_gates() const { return __builtin_popcount(split); }

  // What is kept of a tick for the backward, in rows of H: Saved, the states but h, and what each product after the
  // first read: the operands of later stages and, last, of a projection (operand number `stages`).
  RNN_FN int kept_state(int state) const { return saved + state - 1; }
  RNN_FN int kept_operand(int number) const { return saved + states - 1 + number - 1; }
  RNN_FN int kept_rows(bool projects) const { return kept_operand(stages + projects); }
};

// Ticks and rows. Rows are sorted by length, as in a PackedSequence: tick t has rows [0, rows(t)), consecutive frames.
struct Timeline {
  int64_t ticks, batch;
  const int64_t* rows_at;   // (T) active rows, or null: all
  const int64_t* frame_at;  // (T + 1) first frame, or null: t * batch
  bool reverse;

  RNN_FN int64_t rows(int64_t t) const { return rows_at ? rows_at[t] : batch; }
  RNN_FN int64_t frame(int64_t t) const { return frame_at ? frame_at[t] : t * batch; }
  RNN_FN int64_t tick(int64_t step) const { return reverse ? ticks - 1 - step : step; }  // of the forward sweep
  RNN_FN int64_t before(int64_t t) const { return reverse ? t + 1 : t - 1; }
  // Rows of tick t that had a tick before it; the others start there from the initial state.
  RNN_FN int64_t rows_before(int64_t t) const {
    int64_t p = before(t);
    if (p < 0 || p >= ticks) return 0;
    return rows(p) < rows(t) ? rows(p) : rows(t);
  }
};

// One direction of one layer. Shapes in the axis letters of README.md; P outputs (H without projection), contiguous
// unless strides are named. Null where absent.
template <class Real> struct Call {
  Timeline time;
  int64_t inputs, hidden, outputs;  // I, H, P

  const Real* x;  // (T,B,I), rows of I contiguous
  int64_t x_tick, x_row;
  const Real *w_ih, *w_hh, *b_ih, *b_hh, *w_hr;  // (GH,I) (GH,P) (GH) (GH) (P,H)
  const Real* first[kMaxStates];                 // states before the sweep: (B,P), the others (B,H)
  Real* out;                                     // (frames,P)
  Real* final[kMaxStates];
  Real* saved;  // (frames, saved_rows, H), of which the kernels use the first kept_rows
  int64_t saved_rows;

  const Real* grad_out;
  const Real* grad_final[kMaxStates];
  Real *grad_x, *grad_w_ih, *grad_w_hh, *grad_b_ih, *grad_b_hh, *grad_w_hr;
  Real* grad_first[kMaxStates];

  RNN_FN const Real* x_at(int64_t t, int64_t b) const {
    return time.frame_at ? x + (time.frame_at[t] + b) * x_row : x + t * x_tick + b * x_row;
  }
  // h before tick t of row b.
  RNN_FN const Real* h_before(int64_t t, int64_t b) const {
    return b < time.rows_before(t) ? out + (time.frame(time.before(t)) + b) * outputs : first[0] + b * outputs;
  }
};

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

// One instruction set's kernels for one precision.
template <class Real> struct Kernels {
  TileShape tile;
  size_t (*forward_space)(const Facts&, const Call<Real>&, const Plan&);
  size_t (*backward_space)(const Facts&, const Call<Real>&, const Plan&);
  void (*forward)(int cell, const Facts&, const Call<Real>&, const Plan&, char* space, Meeting&, int thread);
  void (*backward)(int cell, const Facts&, const Call<Real>&, const Plan&, char* space, Meeting&, int thread);
  bool (*map)(const char* word, int64_t n, const Real* x, Real* y);
  double (*fma_chain)(int64_t iterations);  // runs that many rounds of independent FMAs, returns the operations done
};

}  // namespace rnn
