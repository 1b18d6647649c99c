// What one call works on, in plain structs: below this line nothing knows torch.
#pragma once
#include <cstddef>
#include <cstdint>

#include "../cells/vocabulary.h"

namespace rnn {

// The compile-time facts of a cell, for code that is written once for all cells; meanings in CellDefaults.
struct Facts {
  const char* name;
  int gates, states, saved, stages;
  int stage_end[kMaxStages];  // one past the last gate of each stage
  unsigned split, shared;
  bool projection;
  int fed, cell, first_input, first_bias_ih, first_bias_hh, parameters;
  bool norm_input;
  int norms, groups;
  int norm_group[kMaxNorms], group_stage[kMaxNorms];

  RNN_FN constexpr int first_gate(int stage) const { return stage ? stage_end[stage - 1] : 0; }
  RNN_FN constexpr int gates_of(int stage) const { return stage_end[stage] - first_gate(stage); }
  // Whether a product stands before a stage; that of stage 0 is over the states that feed back.
  RNN_FN constexpr bool has_product(int stage) const { return gates_of(stage) > 0; }
  // Products that stand before stages less than `stage`, but the first stage's.
  RNN_FN constexpr int products(int stage) const {
    int n = 0;
    for (int s = 1; s < stage; ++s) n += has_product(s);
    return n;
  }
  RNN_FN constexpr bool splits(int gate) const { return split >> gate & 1u; }
  RNN_FN constexpr int split_gates() const { return __builtin_popcount(split); }
  RNN_FN constexpr int input_gates() const { return gates - first_input; }
  RNN_FN constexpr int stage_of_norm(int norm) const { return group_stage[norm_group[norm]]; }
  RNN_FN constexpr bool leaves_norms(int stage) const {
    for (int g = 0; g < groups; ++g)
      if (group_stage[g] == stage) return true;
    return false;
  }
};

// What is kept of a frame for the backward: so many rows of H, then the scales (1 / standard deviation) of what was
// normalised. Rows: what the cell saves, its states but h, what each product after the first read, and what some calls
// ask for.
struct Kept {
  int states, operands, projected, raw_cell, norms, inputs, rows, scales;

  RNN_FN constexpr Kept(const Facts& f, bool projects, bool keeps_raw_cell) : Kept() {
    states = f.saved;
    operands = states + f.states - 1;
    projected = operands + f.products(f.stages);
    norms = projected;
    inputs = norms + f.norms;
    rows = inputs + (f.norm_input ? f.gates : 0);
    scales = f.groups + f.norm_input;
    *this = with(projects, keeps_raw_cell);
  }
  // With rows for what a projection reads, and for the new cell state before its zoneout.
  RNN_FN constexpr Kept with(bool projects, bool keeps_raw_cell) const {
    Kept kept = *this;
    kept.raw_cell = projected + projects;
    kept.norms = kept.raw_cell + keeps_raw_cell;
    kept.inputs = kept.norms + (inputs - norms);
    kept.rows = kept.inputs + (rows - inputs);
    return kept;
  }
  RNN_FN constexpr int state(int s) const { return states + s - 1; }
  RNN_FN constexpr int operand(const Facts& f, int stage) const { return operands + f.products(stage); }
  RNN_FN int64_t numbers(int64_t hidden) const { return rows * hidden + scales; }

 private:
  RNN_FN constexpr Kept()
      : states(0), operands(0), projected(0), raw_cell(0), norms(0), inputs(0), rows(0), scales(0) {}
};

// Ticks and rows. Rows are sorted by length, as in a PackedSequence: tick t has rows [0, rows(t)), consecutive frames
// of what is kept. Where a frame lies in the caller's tensors is a sum of a tick's place and a row's. A call walks the
// ticks [begin, end).
struct Timeline {
  int64_t ticks, batch;
  const int64_t* rows_at;   // (T) active rows, or null: all
  const int64_t* frame_at;  // (T + 1) first frame, or null: t * batch
  bool reverse;
  int64_t begin, end;
  const int64_t* tick_place;  // (T), or null: t
  const int64_t* row_place;   // (B), or null: b
  int64_t tick_stride;        // of tick_place, in frames
  const int64_t* order;       // (B) the caller's row of each row, or null: b

  RNN_FN int64_t rows(int64_t t) const { return rows_at ? rows_at[t] : batch; }
  RNN_FN int64_t frame(int64_t t) const { return frame_at ? frame_at[t] - frame_at[begin] : (t - begin) * batch; }
  RNN_FN int64_t steps() const { return end - begin; }
  RNN_FN int64_t tick(int64_t step) const { return reverse ? end - 1 - step : begin + step; }  // of the forward sweep
  RNN_FN int64_t before(int64_t t) const { return reverse ? t + 1 : t - 1; }
  RNN_FN int64_t after(int64_t t) const { return reverse ? t - 1 : t + 1; }
  // Rows of tick t that are also alive at tick `other`, where this call walks that too.
  RNN_FN int64_t rows_shared(int64_t t, int64_t other) const {
    if (other < begin || other >= end) return 0;
    return rows(other) < rows(t) ? rows(other) : rows(t);
  }
  // Rows of tick t that had a tick before it; the others start there from the initial state.
  RNN_FN int64_t rows_before(int64_t t) const { return rows_shared(t, before(t)); }
  RNN_FN int64_t rows_after(int64_t t) const { return rows_shared(t, after(t)); }

  // The tick of a frame of this call.
  RNN_FN int64_t tick_of(int64_t frame) const {
    if (!frame_at) return begin + frame / batch;
    int64_t low = begin, high = end;
    while (high - low > 1) {
      int64_t middle = low + (high - low) / 2;
      (this->frame(middle) <= frame ? low : high) = middle;
    }
    return low;
  }

  RNN_FN int64_t tick_at(int64_t t) const { return tick_place ? tick_place[t] : t; }
  RNN_FN int64_t row_at(int64_t b) const { return row_place ? row_place[b] : b; }
  RNN_FN int64_t place(int64_t t, int64_t b) const { return tick_at(t) * tick_stride + row_at(b); }
  RNN_FN int64_t caller(int64_t b) const { return order ? order[b] : b; }
};

enum MaskKind { kZoneH, kZoneCell, kDropFed, kDropInput, kDropWeight, kMasks };

// One mask: given, drawn, or its expectation. Rows of it are indexed by the caller's row and tick.
template <class Real> struct Mask {
  enum Source { kNone, kGiven, kDrawn, kConstant } source;
  const Real* given;
  int64_t tick, row;  // strides of `given`; tick 0: one mask for all ticks
  bool each_tick;     // drawn anew at every tick
  double probability;
  RNN_FN bool on() const { return source != kNone; }
};

// What a weight's numbers are, as Real: any, or halves of a kind.
enum class Halves { kNone, kBfloat16, kFloat16 };

// One direction of one layer. Shapes in the axis letters of README.md; F numbers feed back (P, or the fed states side
// by side), P outputs (H without projection), contiguous unless strides are named. Null where absent.
template <class Real> struct Call {
  Timeline time;
  int64_t inputs, hidden, outputs, fed;  // I, H, P, F

  const Real* x;  // rows of I contiguous
  int64_t x_tick, x_row;
  const Real *w_ih, *w_hh, *b_ih, *b_hh, *w_hr;  // (rows H,I) (GH,F) (rows H) (rows H) (P,H), rows as Facts has them
  Halves w_hh_halves;
  const Real* unit;               // (parameters, H)
  const Real* first[kMaxStates];  // states before the sweep: (B,P), the others (B,H)
  const Real* reset[kMaxStates];  // what they are reset to, or null: zero
  const bool* resets;             // by place
  Real* out;                      // (T,B,P) by place
  Real* all[kMaxStates];          // sequences of the states but the first, as `out`
  Real* final[kMaxStates];
  Real* saved;  // (frames of this call, saved_numbers)
  int64_t saved_numbers;

  const Real* grad_out;
  const Real* grad_all[kMaxStates];
  const Real* grad_final[kMaxStates];
  Real *grad_x, *grad_w_ih, *grad_w_hh, *grad_b_ih, *grad_b_hh, *grad_w_hr, *grad_unit;
  Real* grad_first[kMaxStates];
  Real* grad_reset[kMaxStates];
  bool accumulate;  // gradients of weights, parameters and reset states are added to what is there

  Mask<Real> masks[kMasks];
  uint64_t seed;
  const int64_t* seed_at;  // or null: where the seed lies on a machine that this one does not wait for
  uint32_t stream;
  Real cell_clip, gradient_clip;  // infinite where there is none
  Real eps;
  bool truncated;
  int squash[2];

  RNN_FN uint64_t seed_now() const { return seed_at ? static_cast<uint64_t>(*seed_at) : seed; }
  RNN_FN bool wants_weights() const { return grad_w_ih || grad_w_hh || grad_b_ih || grad_b_hh; }  // any may be empty
  RNN_FN Kept kept(const Facts& f) const { return Kept(f, w_hr != nullptr, masks[kZoneCell].on()); }
  RNN_FN int64_t units(int state) const { return state ? hidden : outputs; }
  RNN_FN const Real* x_at(int64_t t, int64_t b) const { return x + time.tick_at(t) * x_tick + time.row_at(b) * x_row; }
  RNN_FN Real* out_at(int64_t t, int64_t b) const { return out + time.place(t, b) * outputs; }
  RNN_FN const Real* first_at(int s, int64_t b) const { return first[s] + time.caller(b) * units(s); }
  RNN_FN const Real* kept_at(int64_t t, int64_t b, int row) const {
    return saved + (time.frame(t) + b) * saved_numbers + row * hidden;
  }
  // State s of row b before tick t, which row b lives through.
  RNN_FN const Real* state_before(const Kept& kept, int s, int64_t t, int64_t b, const Real* zeros) const {
    if (is_cut(t, b)) return reset[s] ? reset[s] : zeros;
    if (b >= time.rows_before(t)) return first_at(s, b);
    int64_t before = time.before(t);
    return s ? kept_at(before, b, kept.state(s)) : out_at(before, b);
  }
  // Whether the states are reset between tick t of row b, which is alive there, and the tick before.
  RNN_FN bool is_cut(int64_t t, int64_t b) const {
    if (!resets) return false;
    if (!time.reverse) return resets[time.place(t, b)];
    return t + 1 < time.ticks && b < time.rows(t + 1) && resets[time.place(t + 1, b)];
  }
};

}  // namespace rnn
