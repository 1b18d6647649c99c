// Walks time: owns the products, and applies the cell to what they leave in L1. It never names a cell.
// sweep_<isa>.cpp defines RNN_ISA, its vectors and its tile, and includes this file.
#include <cstring>

#include "../cells/list.h"
#include "../simd/math.h"
#include "../walk/draw.h"
#include "kernels.h"

namespace rnn::RNN_ISA {

#include "tile-inl.h"
#include "scratch-inl.h"
#include "random-inl.h"
#include "../walk/stage-inl.h"
#include "cells-inl.h"
#include "moments-inl.h"

// Calls f(block) for each, in one order at this tick and in the other at the next: what a cache still holds of weights
// larger than itself is then what is read first.
template <class F> RNN_FN void to_and_fro(Slice blocks, int back, F&& f) {
  for (int64_t i = blocks.from; i < blocks.to; ++i) f(back ? blocks.from + blocks.to - 1 - i : i);
}

// States that feed back through the recurrent matrix: with a projection the projected h alone.
template <class Real> int fed_states(const Call<Real>& c) {
  return c.w_hr ? 1 : c.hidden ? static_cast<int>(c.fed / c.hidden) : 0;
}

// Numbers side by side.
struct Range {
  int64_t from, n;
};

// What a thread owns of the grid: rows by hidden units, and by outputs, which differ from them under a projection.
template <class Real> struct Share {
  Slice rows;
  int row_slice, col_slice, cols;
  Columns<Real> columns;
  Slice blocks;
  Range units, outputs;

  Share(const Plan& plan, const Call<Real>& c, int thread)
      : rows(c.time.batch, plan.grid_rows, thread / plan.grid_cols),
        row_slice(thread / plan.grid_cols),
        col_slice(thread % plan.grid_cols),
        cols(plan.grid_cols),
        columns{c.hidden},
        blocks(blocks_of(columns)),
        units(range(columns)),
        outputs(range({c.outputs})) {}

  Slice blocks_of(const Columns<Real>& of) const { return Slice(of.blocks(), cols, col_slice); }
  Range range(const Columns<Real>& of) const {
    Slice mine = blocks_of(of);
    int64_t from = min_of(of.from(mine.from), of.n);
    return {from, min_of(of.from(mine.to), of.n) - from};
  }
  void meet(Meeting& meeting) const {
    if (cols > 1) meeting.row(row_slice);
  }
};

// Numbers in a scratch row of what a thread owns, and its rows.
template <class Real> int64_t owned_columns(const Call<Real>& c, const Plan& plan) {
  return ceil_div(Columns<Real>{max_of(c.hidden, c.outputs)}.blocks(), plan.grid_cols) * kTileCols<Real>;
}
template <class Real> int64_t owned_rows(const Call<Real>& c, const Plan& plan) {
  return ceil_div(c.time.batch, plan.grid_rows);
}

// ---------------------------------------------------------------------------------------------------------- forward

template <class Real> struct ForwardSpace {
  Product<Real> input, recurrent, projection;
  int64_t ld_x, ld_h, ld_unit, ld_own;  // scratch rows of I, of what feeds back, of H, of a thread's columns
  Real* h[2];                           // h and other fed states side by side, before and after a tick, in turn
  Real* masked[2];                      // the same as products read them, where recurrent dropout is on
  Real* state[kMaxStates];              // the others, in place
  Real* operand[kMaxStages + 1];        // of stage s, s > 0; of the projection at `stages`
  Real* saved;                          // of one tick, where the caller keeps none
  Real* parameters;
  Real* norm;           // (B, norms, ld_unit)
  double* parts;        // (B, cols, groups) Moments of each thread's columns
  double* input_parts;  // (row slices, rows of a block of ticks, cols) the same of projected inputs
  Real* thread_base;
  int64_t thread_size, projected_size, x_size, mask_size, block_rows;

  ForwardSpace(Arena& arena, const Facts& f, const Call<Real>& c, const Plan& plan) {
    int64_t B = c.time.batch, H = c.hidden;
    input = forward_product(c.w_ih, c.inputs, H, f.input_gates(), plan.packed);
    recurrent = forward_product(c.w_hh, c.fed, H, f.gates, plan.packed);
    for (int g = 0; g < f.gates; ++g) {
      const Real* b_ih = c.b_ih && g >= f.first_bias_ih ? c.b_ih + (g - f.first_bias_ih) * H : nullptr;
      // A gate without inputs has its b_ih in the recurrent part.
      (g < f.first_input ? recurrent.bias[g][1] : input.bias[g - f.first_input][0]) = b_ih;
      if (c.b_hh && g >= f.first_bias_hh) recurrent.bias[g][0] = c.b_hh + (g - f.first_bias_hh) * H;
    }
    place(arena, input, true);
    place(arena, recurrent, true);
    if (c.w_hr) {
      projection = forward_product<Real>(c.w_hr, H, c.outputs, 1, plan.packed);
      place(arena, projection, false);
    }
    // Whole vectors are read past the end of the last of several fed states: not into a row that others write.
    ld_h = padded_row<Real>(max_of(c.fed + (fed_states(c) > 1 ? kLanes<Real> : 0), c.outputs));
    ld_unit = padded_row<Real>(H);
    bool drops = c.masks[kDropFed].on();
    for (int i = 0; i < 2; ++i) {
      h[i] = arena.take<Real>(B * ld_h);
      masked[i] = arena.take_if<Real>(drops, B * ld_h);
    }
    for (int s = 1; s < f.states; ++s) state[s] = arena.take_if<Real>(s >= fed_states(c), B * ld_unit);
    for (int s = 1; s < f.stages + (c.w_hr != nullptr); ++s) operand[s] = arena.take<Real>(B * ld_unit);
    saved = arena.take_if<Real>(f.stages > 1 && !c.saved, B * f.saved * H);
    parameters = arena.take<Real>(f.parameters * ld_unit);

    ld_own = owned_columns(c, plan);
    block_rows = owned_rows(c, plan) * plan.block_ticks;
    norm = arena.take<Real>(B * f.norms * ld_unit);
    parts = arena.take<double>(B * plan.grid_cols * f.groups * Moments::kNumbers);
    input_parts = arena.take_if<double>(f.norm_input, plan.grid_rows * block_rows * plan.grid_cols * Moments::kNumbers);
    ld_x = padded_row<Real>(c.inputs);
    x_size = (block_rows + c.masks[kDropInput].on()) * ld_x;  // and a row for a mask
    projected_size = block_rows * ld_own * f.input_gates();
    mask_size = owned_rows(c, plan) * ld_own;
    int masks = c.masks[kZoneH].on() + c.masks[kZoneCell].on() + drops;
    thread_size = x_size + projected_size + f.gates * kTileRows * kTileCols<Real> + masks * mask_size +
                  owned_rows(c, plan) * f.groups * 2;
    thread_base = arena.take<Real>(thread_size * plan.threads());
  }
};

template <class Real> class Forward {
 public:
  Forward(int cell, const Facts& f, const Call<Real>& c, const Plan& plan, char* space, Meeting& meeting, int thread)
      : cell_(kCells<Real>[cell]),
        f_(f),
        c_(c),
        plan_(plan),
        kept_(c.kept(f)),
        arena_{space},
        m_(arena_, f, c, plan),
        meeting_(meeting),
        share_(plan, c, thread),
        thread_(thread),
        fed_(fed_states(c)) {
    Real* at = m_.thread_base + thread * m_.thread_size;
    auto take = [&](int64_t n) { return at += n, at - n; };
    x_ = take(m_.x_size);
    projected_ = take(m_.projected_size);
    tile_ = take(f.gates * kTileRows * kTileCols<Real>);
    for (MaskKind kind : {kZoneH, kZoneCell, kDropFed}) mask_[kind] = c.masks[kind].on() ? take(m_.mask_size) : nullptr;
    moments_ = take(0);
    for (int64_t b = share_.blocks.from; b < share_.blocks.to; ++b)
      ld_projected_ += share_.columns.width(b) * f.input_gates();
  }

  void run() {
    const Timeline& time = c_.time;
    m_.input.pack(thread_, plan_.threads());
    m_.recurrent.pack(thread_, plan_.threads());
    if (c_.w_hr) m_.projection.pack(thread_, plan_.threads());
    for (int k = thread_; k < f_.parameters; k += plan_.threads())
      copy(m_.parameters + k * m_.ld_unit, c_.unit + k * c_.hidden, c_.hidden);
    Slice mine(time.batch, plan_.threads(), thread_);
    for (int64_t b = mine.from; b < mine.to; ++b)
      for (int s = 0; s < f_.states; ++s) {
        copy(state_row(s, b, 0), c_.first_at(s, b), c_.units(s));
        if (in_h(s)) copy(state_row(s, b, 1), c_.first_at(s, b), c_.units(s));
      }
    meeting_.all();
    if (prepares() && time.steps() > 0) {
      prepare(time.tick(0), 0);
      share_.meet(meeting_);
    }

    for (int64_t step = 0; step < time.steps(); step += plan_.block_ticks) {
      int64_t end = min_of(time.steps(), step + plan_.block_ticks);
      project(step, end);
      int64_t first_row = 0;
      for (int64_t s = step; s < end; ++s) {
        tick(time.tick(s), first_row, s + 1 < time.steps());
        first_row += rows_at(time.tick(s)).size();
      }
    }
    meeting_.all();
    for (int64_t b = mine.from; b < mine.to; ++b)
      for (int s = 0; s < f_.states; ++s)
        copy(c_.final[s] + time.caller(b) * c_.units(s), state_row(s, b, now_), c_.units(s));
  }

 private:
  struct Rows {
    int64_t from, to;
    int64_t size() const { return to - from; }
  };
  Rows rows_at(int64_t t) const {
    int64_t end = min_of(share_.rows.to, c_.time.rows(t));
    return {min_of(share_.rows.from, end), end};
  }

  // Whether a state lies in the rows of h, twice, and where it is for row b.
  bool in_h(int s) const { return s == 0 || s < fed_; }
  Real* state_row(int s, int64_t b, int which) const {
    return in_h(s) ? m_.h[which] + b * m_.ld_h + s * c_.hidden : m_.state[s] + b * m_.ld_unit;
  }
  Range owned(int s) const { return s ? share_.units : share_.outputs; }
  Real* mask_row(MaskKind kind, int64_t b) const { return mask_[kind] + (b - share_.rows.from) * m_.ld_own; }
  Real* saved_at(int64_t t, int64_t b) const { return c_.saved + (c_.time.frame(t) + b) * c_.saved_numbers; }

  // W x + b of this thread's rows and hidden units for a block of ticks. The caller's rows may lie any distance apart,
  // at worst a multiple of 4 KiB: they are copied together first.
  void project(int64_t step, int64_t end) {
    int64_t held = 0;
    Real* mask = x_ + m_.block_rows * m_.ld_x;
    for (int64_t s = step; s < end; ++s) {
      int64_t t = c_.time.tick(s);
      Rows mine = rows_at(t);
      for (int64_t b = mine.from; b < mine.to; ++b, ++held) {
        copy(x_ + held * m_.ld_x, c_.x_at(t, b), c_.inputs);
        if (!c_.masks[kDropInput].on()) continue;
        fill(c_, kDropInput, t, c_.time.caller(b), 0, c_.inputs, mask);
        multiply(x_ + held * m_.ld_x, mask, c_.inputs, x_ + held * m_.ld_x);
      }
    }
    for (int64_t block = share_.blocks.from; block < share_.blocks.to; ++block)
      for (int g = 0; g < f_.input_gates(); ++g)
        row_groups(0, held, [&](int64_t row, int rows) {
          m_.input(rows, rows_from(x_, m_.ld_x, row).at, block, g,
                   projected_ + row * ld_projected_ + projected_at(block, g), ld_projected_);
        });
    if (f_.norm_input) normalise_inputs(step, end);
  }

  int64_t projected_at(int64_t block, int gate) const {
    return (share_.columns.from(block) - share_.columns.from(share_.blocks.from)) * f_.input_gates() +
           int64_t(gate) * share_.columns.width(block);
  }

  template <class F> void over_projected(Real* row, F&& f) const {
    for (int64_t block = share_.blocks.from; block < share_.blocks.to; ++block)
      for (int g = 0; g < f_.gates; ++g) f(block, g, row + projected_at(block, g), share_.columns.units(block));
  }

  // The projected inputs of each row over all gates; every thread measures its columns, then knows the others'.
  void normalise_inputs(int64_t step, int64_t end) {
    constexpr int kNumbers = Moments::kNumbers;
    double* parts = m_.input_parts + share_.row_slice * m_.block_rows * share_.cols * kNumbers;
    int64_t held = 0;
    for (int64_t s = step; s < end; ++s) held += rows_at(c_.time.tick(s)).size();
    for (int64_t i = 0; i < held; ++i) {
      Moments part;
      over_projected(projected_ + i * ld_projected_, [&](int64_t, int, Real* at, int units) { part.add(at, units); });
      part.store(parts + (i * share_.cols + share_.col_slice) * kNumbers);
    }
    share_.meet(meeting_);
    int64_t i = 0;
    for (int64_t s = step; s < end; ++s) {
      int64_t t = c_.time.tick(s);
      Rows mine = rows_at(t);
      for (int64_t b = mine.from; b < mine.to; ++b, ++i) {
        Moments whole;
        for (int k = 0; k < share_.cols; ++k) whole.merge(parts + (i * share_.cols + k) * kNumbers);
        Real scale = static_cast<Real>(whole.scale(c_.eps));
        if (c_.saved && share_.col_slice == 0) saved_at(t, b)[kept_.rows * c_.hidden + f_.groups] = scale;
        over_projected(projected_ + i * ld_projected_, [&](int64_t block, int g, Real* at, int units) {
          normalise(at, units, static_cast<Real>(whole.mean), scale);
          if (c_.saved) copy(saved_at(t, b) + (kept_.inputs + g) * c_.hidden + share_.columns.from(block), at, units);
        });
      }
    }
  }

  // What stands between two ticks: states are reset, and h is masked as the products of tick t will read it. Every
  // thread does what it owns, and all of a row slice meet before the product.
  bool prepares() const { return c_.resets || c_.masks[kDropFed].on(); }
  void prepare(int64_t t, int which) {
    Rows mine = rows_at(t);
    for (int64_t b = mine.from; b < mine.to; ++b) {
      if (c_.is_cut(t, b))
        for (int s = 0; s < f_.states; ++s)
          copy_or_zero(state_row(s, b, which) + owned(s).from, c_.reset[s] ? c_.reset[s] + owned(s).from : nullptr,
                       owned(s).n);
      if (!mask_[kDropFed]) continue;
      Real *mask = mask_row(kDropFed, b), *masked = m_.masked[which] + b * m_.ld_h;
      fill(c_, kDropFed, t, c_.time.caller(b), share_.outputs.from, share_.outputs.n, mask);
      for (int s = 0; s < max_of(fed_, 1); ++s) {
        Real* to = masked + s * c_.hidden + owned(s).from;
        const Real* from = state_row(s, b, which) + owned(s).from;
        s ? copy(to, from, owned(s).n) : multiply(from, mask, owned(s).n, to);
      }
    }
  }

  void tick(int64_t t, int64_t first_row, bool goes_on) {
    Rows mine = rows_at(t);
    for (MaskKind kind : {kZoneH, kZoneCell})
      if (mask_[kind])
        for (int64_t b = mine.from; b < mine.to; ++b)
          fill(c_, kind, t, c_.time.caller(b), share_.units.from, share_.units.n, mask_row(kind, b));
    for (int stage = 0; stage < f_.stages; ++stage) {
      if (stage > 0 && f_.leaves_norms(stage - 1)) gather(t, stage - 1, mine);
      if (f_.leaves_norms(stage))
        for (int64_t b = mine.from; b < mine.to; ++b)
          for (int g = 0; g < f_.groups; ++g)
            if (f_.group_stage[g] == stage) Moments().store(part_at(b, share_.col_slice, g));
      to_and_fro(share_.blocks, now_, [&](int64_t block) {
        row_groups(mine.from, mine.to,
                   [&](int64_t b, int rows) { apply(t, stage, block, b, rows, first_row + b - mine.from); });
      });
      if (stage + 1 == f_.stages && !c_.w_hr && goes_on && prepares()) prepare(c_.time.after(t), now_ ^ 1);
      share_.meet(meeting_);
    }
    if (c_.w_hr) {
      project_output(t, mine);
      if (goes_on && prepares()) prepare(c_.time.after(t), now_ ^ 1);
      share_.meet(meeting_);
    }
    now_ ^= 1;
    settle(t);
  }

  double* part_at(int64_t b, int col, int group) const {
    return m_.parts + ((b * share_.cols + col) * f_.groups + group) * Moments::kNumbers;
  }

  // Mean and scale of what stage `from` left to be normalised, from what every thread measured of it.
  void gather(int64_t t, int from, Rows mine) {
    for (int64_t b = mine.from; b < mine.to; ++b)
      for (int g = 0; g < f_.groups; ++g) {
        if (f_.group_stage[g] != from) continue;
        Moments whole;
        for (int k = 0; k < share_.cols; ++k) whole.merge(part_at(b, k, g));
        Real* to = moments_ + ((b - share_.rows.from) * f_.groups + g) * 2;
        to[0] = static_cast<Real>(whole.mean);
        to[1] = static_cast<Real>(whole.scale(c_.eps));
        if (c_.saved && share_.col_slice == 0) saved_at(t, b)[kept_.rows * c_.hidden + g] = to[1];
      }
  }

  void apply(int64_t t, int stage, int64_t block, int64_t b, int rows, int64_t projected_row) {
    const Columns<Real>& columns = share_.columns;
    int64_t unit = columns.from(block), own = unit - share_.units.from, local = b - share_.rows.from;
    const StageFacts of(f_, stage);
    ForwardTile<Real> a{};
    a.units = columns.units(block);
    place_tile(a, of, c_, kept_, t, b, rows, unit);
    a.width = columns.width(block);
    a.u = tile_;
    a.x = projected_ + projected_row * ld_projected_ + projected_at(block, 0);
    a.ld_x = ld_projected_;
    a.parameters = m_.parameters + unit;
    a.ld_parameters = m_.ld_unit;
    for (int s = 0; s < f_.states; ++s) {
      a.s[s] = state_row(s, b, now_) + unit;
      a.next[s] = state_row(s, b, now_ ^ 1) + unit;
      a.ld_state[s] = in_h(s) ? m_.ld_h : m_.ld_unit;
    }
    a.several_fed = fed_ > 1;
    a.ld_mask = m_.ld_own;
    auto mask = [&](MaskKind kind) { return mask_[kind] ? mask_[kind] + local * m_.ld_own + own : nullptr; };
    a.zone_h = mask(kZoneH);
    a.zone_cell = mask(kZoneCell);
    a.drop = c_.w_hr ? nullptr : mask(kDropFed);
    if (leaves_operand(of, c_)) a.operand = m_.operand[stage + 1] + b * m_.ld_unit + unit;
    a.ld_operand = m_.ld_unit;
    if (!c_.saved && m_.saved) {
      a.ld_saved = f_.saved * c_.hidden;
      a.saved = m_.saved + b * a.ld_saved + unit;
    }
    a.norm = m_.norm + b * f_.norms * m_.ld_unit + unit;
    a.ld_norm = f_.norms * m_.ld_unit;
    a.ld_unit = m_.ld_unit;
    a.moments = moments_ + local * f_.groups * 2;

    prefetch(a.x, a.ld_x, rows, f_.input_gates() * a.width);
    if (a.out.given)
      for (int i = 0; i < rows; ++i) prefetch(a.out.at[i], 0, 1, a.units);
    RowPointers<Real> left = stage > 0         ? rows_from(m_.operand[stage], m_.ld_unit, b)
                             : mask_[kDropFed] ? rows_from(m_.masked[now_], m_.ld_h, b)
                                               : rows_from(m_.h[now_], m_.ld_h, b);
    int first = f_.first_gate(stage), end = f_.stage_end[stage];
    for (int g = first; g < end; ++g)
      m_.recurrent(rows, left.at, block, g, tile_ + (g - first) * kTileRows * kTileCols<Real>, kTileCols<Real>);
    cell_.forward[stage](a);
    if (f_.leaves_norms(stage)) measure(stage, a, b);
  }

  // Adds a tile of what a stage left to be normalised to this thread's part.
  void measure(int stage, const ForwardTile<Real>& a, int64_t b) {
    for (int i = 0; i < a.rows; ++i)
      for (int g = 0; g < f_.groups; ++g) {
        if (f_.group_stage[g] != stage) continue;
        Moments part;
        part.merge(part_at(b + i, share_.col_slice, g));
        for (int k = 0; k < f_.norms; ++k)
          if (f_.norm_group[k] == g) part.add(a.norm + i * a.ld_norm + k * a.ld_unit, a.units);
        part.store(part_at(b + i, share_.col_slice, g));
      }
  }

  void project_output(int64_t t, Rows mine) {
    const Columns<Real>& columns = m_.projection.columns;
    Slice blocks = share_.blocks_of(columns);
    for (int64_t block = blocks.from; block < blocks.to; ++block)
      row_groups(mine.from, mine.to, [&](int64_t b, int rows) {
        int64_t unit = columns.from(block);
        Real* to = m_.h[now_ ^ 1] + b * m_.ld_h + unit;
        m_.projection(rows, rows_from(m_.operand[f_.stages], m_.ld_unit, b).at, block, 0, to, m_.ld_h);
        for (int i = 0; i < rows && c_.out; ++i)
          copy(c_.out_at(t, b + i) + unit, to + i * m_.ld_h, columns.units(block));
      });
  }

  // Rows that end at tick t stay as they are, whichever buffer comes next.
  void settle(int64_t t) {
    if (!c_.time.rows_at || c_.time.reverse || t + 1 >= c_.time.end) return;
    for (int64_t b = max_of(share_.rows.from, c_.time.rows(t + 1)); b < min_of(share_.rows.to, c_.time.rows(t)); ++b)
      for (int s = 0; s < max_of(fed_, 1); ++s)
        copy(state_row(s, b, now_ ^ 1) + owned(s).from, state_row(s, b, now_) + owned(s).from, owned(s).n);
  }

  const CellStages<Real>& cell_;
  const Facts& f_;
  const Call<Real>& c_;
  const Plan& plan_;
  const Kept kept_;
  Arena arena_;
  ForwardSpace<Real> m_;
  Meeting& meeting_;
  Share<Real> share_;
  int thread_, fed_;
  Real *x_, *projected_, *tile_, *moments_;
  Real* mask_[kMasks] = {};
  int64_t ld_projected_ = 0;
  int now_ = 0;
};

// --------------------------------------------------------------------------------------------------------- backward

inline constexpr int64_t kDepth = 256;  // frames a weight gradient sums at a time: their panels fit L2

template <class Real> struct BackwardSpace {
  Product<Real> fed[kMaxStates];        // du of stage 0 to each state that feeds back
  Product<Real> recurrent[kMaxStages];  // du of stage s > 0 to its operand
  Product<Real> projection, input;
  int64_t ld_h, ld_unit, ld_du, ld_dx, ld_own, ld_x;
  Real* du[2];  // of the tick after and of this tick, in turn
  Real* carry[kMaxStates];
  Real* dnext;
  Real* dh;        // with a projection: gradient of h, (B,P) ...
  Real* dh_block;  // ... and of the block's frames
  Real* dx;        // gradients of the gates of the block's frames
  Real* parameters;
  Real* dnorm;  // (B, norms, ld_unit)
  Real* parts;  // (B, cols, groups, 2): each thread's sums of the gradients of normalised values, and of both's product
  // Right sides of the weight gradients, kDepth frames of each: what the products of the forward read.
  Columns<Real> columns_x, columns_fed, columns_unit;
  Real *panels_x, *panels_fed[kMaxStates], *panels_operand[kMaxStages + 1];
  const Real** frame_rows;    // (threads, 2 + states that feed back, kDepth): rows of frames; 15 kB, a lot for a stack
  Real *masked_x, *masked_h;  // kDepth frames as the products read them, where they are masked
  Real* zeros;
  Real* thread_base;
  bool* flags;  // of each thread: rows whose gradient is clamped, rows that were reset after the tick
  int64_t thread_size, tile_size, mask_size, flags_size;

  BackwardSpace(Arena& arena, const Facts& f, const Call<Real>& c, const Plan& plan) {
    int64_t B = c.time.batch, I = c.inputs, H = c.hidden, P = c.outputs;
    int fed_n = fed_states(c);
    int64_t width = c.w_hr ? P : H;  // of a fed state
    if (f.has_product(0) && !c.truncated)
      for (int s = 0; s < fed_n; ++s) {
        fed[s] = backward_product(c.w_hh + s * width, c.fed, f.gates_of(0) * H, width, plan.packed);
        place(arena, fed[s], false);
      }
    for (int s = 1; s < f.stages; ++s)
      if (f.has_product(s) && !c.truncated) {
        recurrent[s] = backward_product(c.w_hh + f.first_gate(s) * H * H, H, f.gates_of(s) * H, H, plan.packed);
        place(arena, recurrent[s], false);
      }
    if (c.w_hr) {
      projection = backward_product(c.w_hr, H, P, H, plan.packed);
      place(arena, projection, false);
    }
    if (c.grad_x) {
      input = backward_product(c.w_ih, I, f.input_gates() * H, I, plan.packed);
      place(arena, input, false);
    }
    ld_h = padded_row<Real>(P);
    ld_unit = padded_row<Real>(H);
    ld_du = padded_row<Real>(f.gates * H);
    ld_dx = padded_row<Real>((f.gates + f.split_gates()) * H);
    ld_own = owned_columns(c, plan);
    ld_x = padded_row<Real>(I);
    for (int i = 0; i < 2; ++i) du[i] = arena.take<Real>(B * ld_du);
    carry[0] = arena.take<Real>(B * ld_h);
    for (int s = 1; s < f.states; ++s) carry[s] = arena.take<Real>(B * ld_unit);
    dnext = arena.take_if<Real>(f.stages > 1, B * ld_unit);
    parameters = arena.take<Real>(f.parameters * ld_unit);
    dnorm = arena.take<Real>(B * f.norms * ld_unit);
    parts = arena.take<Real>(B * plan.grid_cols * f.groups * 2);

    int64_t frames = plan.block_ticks * B;
    if (c.w_hr) {
      dh = arena.take<Real>(B * ld_h);
      dh_block = arena.take<Real>(frames * P + kLanes<Real>);  // of which outer_rows reads whole vectors
    }
    dx = arena.take<Real>(frames * ld_dx + kLanes<Real>);
    columns_x = {I}, columns_fed = {width}, columns_unit = {H};
    if (c.wants_weights()) {
      panels_x = arena.take<Real>(columns_x.padded() * kDepth);
      for (int s = 0; s < fed_n; ++s) panels_fed[s] = arena.take<Real>(columns_fed.padded() * kDepth);
      for (int s = 1; s < f.stages + (c.w_hr != nullptr); ++s)
        panels_operand[s] = arena.take<Real>(columns_unit.padded() * kDepth);
      frame_rows = arena.take<const Real*>((2 + fed_n) * kDepth * plan.threads());
      masked_x = arena.take_if<Real>(c.masks[kDropInput].on(), kDepth * ld_x);
      masked_h = arena.take_if<Real>(c.masks[kDropFed].on(), kDepth * ld_h);
    }
    zeros = arena.take_if<Real>(c.resets != nullptr, max_of(H, P));

    tile_size = max_of<int64_t>(kTileRows * (kDepth + 1 + kTileCols<Real>)+2 * kLanes<Real>,
                                max_of(fed_n, 1) * kTileRows * kTileCols<Real>);
    mask_size = owned_rows(c, plan) * ld_own;
    int masks = c.masks[kZoneH].on() + c.masks[kZoneCell].on() + 2 * c.masks[kDropFed].on();
    thread_size =
        tile_size + masks * mask_size + sums_size(f, c) + owned_rows(c, plan) * f.groups * 3 + max_of(ld_x, ld_own);
    thread_base = arena.take<Real>(thread_size * plan.threads());
    flags_size = ceil_div(owned_rows(c, plan), 64) * 64;
    flags = arena.take<bool>(2 * flags_size * plan.threads());
  }

  // Parameters and, where states are reset, what they are reset to: a sum and what it has lost so far.
  int64_t sums_size(const Facts& f, const Call<Real>& c) const {
    return 2 * ld_own * (f.parameters + (c.resets ? f.states : 0));
  }
};

template <class Real> class Backward {
 public:
  Backward(int cell, const Facts& f, const Call<Real>& c, const Plan& plan, char* space, Meeting& meeting, int thread)
      : cell_(kCells<Real>[cell]),
        f_(f),
        c_(c),
        plan_(plan),
        kept_(c.kept(f)),
        arena_{space},
        m_(arena_, f, c, plan),
        meeting_(meeting),
        share_(plan, c, thread),
        thread_(thread),
        threads_(plan.threads()),
        fed_(fed_states(c)),
        fresh_weights_(!c.accumulate) {
    Real* at = sums_of(thread);
    auto take = [&](int64_t n) { return at += n, at - n; };
    sums_ = take(m_.sums_size(f, c));
    scratch_ = take(m_.tile_size);
    for (MaskKind kind : {kZoneH, kZoneCell, kDropFed}) mask_[kind] = c.masks[kind].on() ? take(m_.mask_size) : nullptr;
    drop_after_ = c.masks[kDropFed].on() ? take(m_.mask_size) : nullptr;
    row_ = take(max_of(m_.ld_x, m_.ld_own));
    moments_ = take(0);
    clips_ = m_.flags + 2 * m_.flags_size * thread;
    cuts_ = clips_ + m_.flags_size;
  }

  void run() {
    const Timeline& time = c_.time;
    start();
    meeting_.all();
    for (int64_t step = 0; step < time.steps(); step += plan_.block_ticks) {
      int64_t end = min_of(time.steps(), step + plan_.block_ticks);
      // Ticks of the block in the order of the tensor, whichever way the sweep went.
      int64_t one = time.tick(time.steps() - 1 - step), other = time.tick(time.steps() - end);
      int64_t first_tick = min_of(one, other), last_tick = max_of(one, other) + 1;
      first_frame_ = time.frame(first_tick);
      for (int64_t s = step; s < end; ++s) tick(time.tick(time.steps() - 1 - s), s == 0);
      meeting_.all();
      if (f_.norm_input) {
        unnormalise_inputs(last_tick);
        meeting_.all();
      }
      if (c_.grad_x) grad_inputs(first_tick, last_tick);
      if (c_.wants_weights()) grad_weights(first_tick, last_tick);
      meeting_.all();
    }
    finish();
    meeting_.all();
    reduce();
  }

 private:
  Real* sums_of(int thread) const { return m_.thread_base + thread * m_.thread_size; }
  Real* reset_sums_of(int thread) const { return sums_of(thread) + 2 * f_.parameters * m_.ld_own; }
  Real* mask_at(Real* mask, int64_t b, int64_t own) const {
    return mask ? mask + (b - share_.rows.from) * m_.ld_own + own : nullptr;
  }

  // Everything a thread reads before somebody else has written it.
  void start() {
    if (f_.has_product(0) && !c_.truncated)
      for (int s = 0; s < fed_; ++s) m_.fed[s].pack(thread_, threads_);
    for (int s = 1; s < f_.stages; ++s)
      if (f_.has_product(s) && !c_.truncated) m_.recurrent[s].pack(thread_, threads_);
    if (c_.w_hr) m_.projection.pack(thread_, threads_);
    if (c_.grad_x) m_.input.pack(thread_, threads_);
    for (int k = thread_; k < f_.parameters; k += threads_)
      copy(m_.parameters + k * m_.ld_unit, c_.unit + k * c_.hidden, c_.hidden);
    if (m_.zeros && thread_ == 0) memset(m_.zeros, 0, max_of(c_.hidden, c_.outputs) * sizeof(Real));
    memset(sums_, 0, m_.sums_size(f_, c_) * sizeof(Real));
    for (Real* mask : {mask_[kDropFed], drop_after_})
      if (mask) memset(mask, 0, m_.mask_size * sizeof(Real));
    Slice mine(c_.time.batch, threads_, thread_);
    for (int64_t b = mine.from; b < mine.to; ++b) {
      for (int i = 0; i < 2; ++i) memset(m_.du[i] + b * m_.ld_du, 0, m_.ld_du * sizeof(Real));
      for (int s = 0; s < f_.states; ++s)
        copy_or_zero(m_.carry[s] + b * ld_carry(s),
                     c_.grad_final[s] ? c_.grad_final[s] + c_.time.caller(b) * c_.units(s) : nullptr, c_.units(s));
    }
  }
  int64_t ld_carry(int s) const { return s ? m_.ld_unit : m_.ld_h; }

  void tick(int64_t t, bool first) {
    int64_t to = min_of(share_.rows.to, c_.time.rows(t)), from = min_of(share_.rows.from, to);
    read_masks(t, from, to);
    if (c_.w_hr) {
      Slice blocks = share_.blocks_of({c_.outputs});
      for (int64_t block = blocks.from; block < blocks.to; ++block)
        row_groups(from, to, [&](int64_t b, int rows) { grad_projected(t, block, b, rows); });
      share_.meet(meeting_);
    }
    for (int stage = f_.stages - 1; stage >= 0; --stage) {
      // The last stage gets the gradients of the states that feed back, the others that of the operand they left.
      bool last = stage == f_.stages - 1;
      const Product<Real>* products = !last ? &m_.recurrent[stage + 1] : c_.w_hr ? &m_.projection : m_.fed;
      const Real* left = !last ? m_.du[now_ ^ 1] + f_.first_gate(stage + 1) * c_.hidden : c_.w_hr ? m_.dh : m_.du[now_];
      int64_t ld = last && c_.w_hr ? m_.ld_h : m_.ld_du;
      int count = last && c_.w_hr               ? 1
                  : c_.truncated                ? 0
                  : !last                       ? f_.has_product(stage + 1)
                  : first || !f_.has_product(0) ? 0
                                                : fed_;
      if (f_.leaves_norms(stage)) gather(t, stage, from, to);
      if (stage > 0 && f_.leaves_norms(stage - 1)) clear_parts(stage - 1, from, to);
      to_and_fro(share_.blocks, now_, [&](int64_t block) {
        row_groups(from, to, [&](int64_t b, int rows) {
          BackwardTile<Real> a = tile_at(t, stage, block, b, rows);
          prefetch_tile(a);
          for (int s = 0; s < count; ++s)
            products[s](rows, rows_from(left, ld, b).at, block, 0, scratch_ + s * kTileRows * kTileCols<Real>,
                        kTileCols<Real>);
          a.fed = count;
          cell_.backward[stage](a);
          if (stage > 0 && f_.leaves_norms(stage - 1)) measure(stage - 1, a, b);
        });
      });
      share_.meet(meeting_);
    }
    now_ ^= 1;
    settle(t);
  }

  // The masks of tick t, and which rows' gradients of h are clamped, or belong to a reset state.
  void read_masks(int64_t t, int64_t from, int64_t to) {
    Real* drop = mask_[kDropFed];
    mask_[kDropFed] = drop_after_;
    drop_after_ = drop;
    int64_t shared = c_.time.rows_after(t);
    for (int64_t b = from; b < to; ++b) {
      int64_t row = c_.time.caller(b);
      for (MaskKind kind : {kZoneH, kZoneCell, kDropFed}) {
        Range own = kind == kDropFed ? share_.outputs : share_.units;
        if (mask_[kind]) fill(c_, kind, t, row, own.from, own.n, mask_at(mask_[kind], b, 0));
      }
      clips_[b - share_.rows.from] = b < shared;
      cuts_[b - share_.rows.from] = b < shared && c_.is_cut(c_.time.after(t), b);
    }
  }
  bool is_clipping() const { return c_.gradient_clip - c_.gradient_clip == 0; }  // finite

  void grad_projected(int64_t t, int64_t block, int64_t b, int rows) {
    using V = Vector<Real>;
    const Columns<Real> columns{c_.outputs};
    int64_t unit = columns.from(block), frame = c_.time.frame(t) + b, own = unit - share_.outputs.from;
    if (!c_.truncated) m_.fed[0](rows, rows_from(m_.du[now_], m_.ld_du, b).at, block, 0, scratch_, kTileCols<Real>);
    BackwardTile<Real> a{};
    set_arrival(a, b, own);
    over_tile<Real>(rows, columns.units(block), [&](int i, int j, auto... width) RNN_LAMBDA {
      Real* carry = m_.carry[0] + (b + i) * m_.ld_h + unit + j;
      V d = c_.truncated ? V(0) : V::load(scratch_ + i * kTileCols<Real> + j);
      if (a.drop_fed) d = d * V::load(a.drop_fed + i * a.ld_mask + j);
      d = arrived<Real>(a, d + V::load(carry), 0, a.reset_sums, i, j);
      V(0).store(carry);
      if (c_.grad_out) d = d + V::load(c_.grad_out + c_.time.place(t, b + i) * c_.outputs + unit + j, width...);
      d.store(m_.dh + (b + i) * m_.ld_h + unit + j);
      d.store(m_.dh_block + (frame + i - first_frame_) * c_.outputs + unit + j, width...);
    });
  }

  void set_arrival(BackwardTile<Real>& a, int64_t b, int64_t own) const {
    a.ld_mask = m_.ld_own;
    a.drop_fed = mask_at(drop_after_, b, own);
    a.clips = is_clipping() ? clips_ + (b - share_.rows.from) : nullptr;
    a.clip = c_.gradient_clip;
    a.cuts = c_.resets ? cuts_ + (b - share_.rows.from) : nullptr;
    a.sums = sums_ + own;
    a.reset_sums = c_.resets ? reset_sums_of(thread_) + own : nullptr;
    a.ld_sums = m_.ld_own;
  }

  const Real* state_before(int s, int64_t t, int64_t b) const { return c_.state_before(kept_, s, t, b, m_.zeros); }

  // State s of a tile's rows before tick t. Without resets, those that had a tick before lie evenly in what was kept.
  void set_before(CallersRows<const Real>& to, int s, int64_t t, int64_t b, int rows, int64_t unit) const {
    int64_t before = c_.time.before(t);
    if (c_.resets || b + rows > c_.time.rows_before(t)) {
      for (int i = 0; i < rows; ++i) to.at[i] = state_before(s, t, b + i) + unit;
    } else if (s) {
      const Real* kept = c_.kept_at(before, b, kept_.state(s)) + unit;
      for (int i = 0; i < rows; ++i) to.at[i] = kept + i * c_.saved_numbers;
    } else {
      for (int i = 0; i < rows; ++i) to.at[i] = c_.out_at(before, b + i) + unit;
    }
  }

  BackwardTile<Real> tile_at(int64_t t, int stage, int64_t block, int64_t b, int rows) const {
    int64_t unit = share_.columns.from(block), own = unit - share_.units.from, frame = c_.time.frame(t) + b;
    BackwardTile<Real> a{};
    a.units = share_.columns.units(block);
    place_tile(a, StageFacts(f_, stage), c_, kept_, t, b, rows, unit);
    set_arrival(a, b, own);
    a.product = scratch_;
    a.parameters = m_.parameters + unit;
    a.ld_parameters = m_.ld_unit;
    if (a.projected) a.drop_fed = nullptr;  // grad_projected was here
    a.zone_h = mask_at(mask_[kZoneH], b, own);
    a.zone_cell = mask_at(mask_[kZoneCell], b, own);
    a.drop = a.projected ? nullptr : mask_at(mask_[kDropFed], b, own);
    a.dnext = m_.dnext ? m_.dnext + b * m_.ld_unit + unit : nullptr;
    for (int s = 0; s < f_.states; ++s) {
      a.carry[s] = m_.carry[s] + b * ld_carry(s) + unit;
      a.ld_state[s] = ld_carry(s);
      set_before(a.s[s], s, t, b, rows, unit);
    }
    a.dx = m_.dx + (frame - first_frame_) * m_.ld_dx + unit;
    a.ld_dx = m_.ld_dx;
    a.du = m_.du[now_ ^ 1] + b * m_.ld_du + unit;
    a.ld_du = m_.ld_du;
    a.dnorm = m_.dnorm + b * f_.norms * m_.ld_unit + unit;
    a.ld_norm = f_.norms * m_.ld_unit;
    a.ld_unit = m_.ld_unit;
    a.moments = moments_ + (b - share_.rows.from) * f_.groups * 3;
    return a;
  }

  void prefetch_tile(const BackwardTile<Real>& a) const {
    for (int i = 0; i < a.rows; ++i) {
      if (a.grad_out.given) prefetch(a.grad_out.at[i], 0, 1, a.units);
      for (int s = 0; s < f_.states; ++s) prefetch(a.s[s].at[i], 0, 1, a.units);
    }
    for (int k = 0; k < kept_.rows; ++k) prefetch(a.saved + k * a.hidden, a.ld_saved, a.rows, a.units);
    for (int g = 0; g < f_.gates + f_.split_gates(); ++g) prefetch(a.dx + g * a.hidden, a.ld_dx, a.rows, a.units);
  }

  Real* part_at(int64_t b, int col, int group) const {
    return m_.parts + ((b * share_.cols + col) * f_.groups + group) * 2;
  }
  void clear_parts(int stage, int64_t from, int64_t to) {
    for (int64_t b = from; b < to; ++b)
      for (int g = 0; g < f_.groups; ++g)
        if (f_.group_stage[g] == stage) part_at(b, share_.col_slice, g)[0] = part_at(b, share_.col_slice, g)[1] = 0;
  }

  // Adds a tile of gradients of what `stage` left to be normalised to this thread's part.
  void measure(int stage, const BackwardTile<Real>& a, int64_t b) {
    using V = Vector<Real>;
    for (int i = 0; i < a.rows; ++i)
      for (int k = 0; k < f_.norms; ++k) {
        if (f_.stage_of_norm(k) != stage) continue;
        const Real *d = a.dnorm + i * a.ld_norm + k * a.ld_unit, *y = a.norms + i * a.ld_saved + k * a.hidden;
        Real* part = part_at(b + i, share_.col_slice, f_.norm_group[k]);
        part[0] += sum_over<Real>(a.units, [&](int64_t j, auto... w) RNN_LAMBDA { return V::load(d + j, w...); });
        part[1] += sum_over<Real>(
            a.units, [&](int64_t j, auto... w) RNN_LAMBDA { return V::load(d + j, w...) * V::load(y + j, w...); });
      }
  }

  void gather(int64_t t, int stage, int64_t from, int64_t to) {
    for (int64_t b = from; b < to; ++b)
      for (int g = 0; g < f_.groups; ++g) {
        if (f_.group_stage[g] != stage) continue;
        Real sum = 0, along = 0, n = 0;
        for (int k = 0; k < share_.cols; ++k) {
          sum += part_at(b, k, g)[0];
          along += part_at(b, k, g)[1];
        }
        for (int k = 0; k < f_.norms; ++k) n += f_.norm_group[k] == g ? c_.hidden : 0;
        Real* m = moments_ + ((b - share_.rows.from) * f_.groups + g) * 3;
        m[0] = c_.kept_at(t, b, kept_.rows)[g];
        m[1] = sum / n;
        m[2] = along / n;
      }
  }

  // Rows whose gradient has left at tick t keep their last du in both buffers, for finish().
  void settle(int64_t t) {
    if (!c_.time.rows_at || !c_.time.reverse || t + 1 >= c_.time.end) return;
    for (int64_t b = max_of(share_.rows.from, c_.time.rows(t + 1)); b < min_of(share_.rows.to, c_.time.rows(t)); ++b)
      if (share_.col_slice == 0) copy(m_.du[now_ ^ 1] + b * m_.ld_du, m_.du[now_] + b * m_.ld_du, f_.gates * c_.hidden);
  }

  // From the gradient of the normalised inputs to that of W x, for the block's frames.
  void unnormalise_inputs(int64_t last_tick) {
    int64_t frames = c_.time.frame(last_tick) - first_frame_;
    Slice mine(frames, threads_, thread_);
    for (int64_t i = mine.from; i < mine.to; ++i) {
      const Real* kept = c_.saved + (first_frame_ + i) * c_.saved_numbers;
      normalise_gradient(m_.dx + i * m_.ld_dx, kept + kept_.inputs * c_.hidden, f_.gates * c_.hidden,
                         kept[kept_.rows * c_.hidden + f_.groups]);
    }
  }

  // Calls f(i, t, b) for frames [from, to) of the block that begins with tick t.
  template <class F> RNN_FN void over_frames(int64_t t, int64_t from, int64_t to, F&& f) const {
    for (int64_t i = from; i < to; ++i) {
      while (first_frame_ + i >= c_.time.frame(t + 1)) ++t;
      f(i, t, first_frame_ + i - c_.time.frame(t));
    }
  }

  void grad_inputs(int64_t first_tick, int64_t last_tick) {
    const Columns<Real>& columns = m_.input.columns;
    int64_t frames = c_.time.frame(last_tick) - first_frame_;
    const Real* left = m_.dx + f_.first_input * c_.hidden;
    Slice mine(frames, threads_, thread_);
    row_groups(mine.from, mine.to, [&](int64_t frame, int rows) {
      int64_t tick[kTileRows], row[kTileRows];
      over_frames(first_tick, frame, frame + rows, [&](int64_t i, int64_t t, int64_t b) {
        tick[i - frame] = t;
        row[i - frame] = b;
      });
      for (int64_t block = 0; block < columns.blocks(); ++block) {
        m_.input(rows, rows_from(left, m_.ld_dx, frame).at, block, 0, scratch_, kTileCols<Real>);
        for (int i = 0; i < rows; ++i) {
          Real* to = c_.grad_x + c_.time.place(tick[i], row[i]) * c_.inputs + columns.from(block);
          const Real* from = scratch_ + i * kTileCols<Real>;
          if (c_.masks[kDropInput].on()) {
            fill(c_, kDropInput, tick[i], c_.time.caller(row[i]), columns.from(block), columns.units(block), row_);
            multiply(from, row_, columns.units(block), to);
          } else {
            copy(to, from, columns.units(block));
          }
        }
      }
    });
  }

  void grad_weights(int64_t first_tick, int64_t last_tick) {
    int64_t frames = c_.time.frame(last_tick) - first_frame_;
    const bool projects = c_.w_hr != nullptr;
    const Real** x = m_.frame_rows + thread_ * (2 + fed_) * kDepth;
    const Real **kept = x + kDepth, **fed = kept + kDepth;
    for (int64_t at = 0; at < frames; at += kDepth) {
      int64_t depth = min_of(kDepth, frames - at);
      over_frames(first_tick, at, at + depth, [&](int64_t i, int64_t t, int64_t b) {
        int64_t k = i - at;
        x[k] = m_.masked_x ? m_.masked_x + k * m_.ld_x : c_.x_at(t, b);
        for (int s = 0; s < fed_; ++s)
          fed[s * kDepth + k] = s == 0 && m_.masked_h ? m_.masked_h + k * m_.ld_h : state_before(s, t, b);
        kept[k] = c_.saved + (first_frame_ + i) * c_.saved_numbers;
        if (k % threads_ != thread_ || !(m_.masked_x || m_.masked_h)) return;
        int64_t row = c_.time.caller(b);
        if (m_.masked_x) {
          fill(c_, kDropInput, t, row, 0, c_.inputs, m_.masked_x + k * m_.ld_x);
          multiply(c_.x_at(t, b), m_.masked_x + k * m_.ld_x, c_.inputs, m_.masked_x + k * m_.ld_x);
        }
        if (m_.masked_h) {
          fill(c_, kDropFed, t, row, 0, c_.outputs, m_.masked_h + k * m_.ld_h);
          multiply(state_before(0, t, b), m_.masked_h + k * m_.ld_h, c_.outputs, m_.masked_h + k * m_.ld_h);
        }
      });
      if (m_.masked_x || m_.masked_h) meeting_.all();
      pack_frames(x, 0, depth, m_.columns_x, m_.panels_x);
      for (int s = 0; s < fed_; ++s) pack_frames(fed + s * kDepth, 0, depth, m_.columns_fed, m_.panels_fed[s]);
      for (int s = 1; s < f_.stages; ++s)
        if (f_.has_product(s))
          pack_frames(kept, kept_.operand(f_, s) * c_.hidden, depth, m_.columns_unit, m_.panels_operand[s]);
      if (projects)
        pack_frames(kept, kept_.projected * c_.hidden, depth, m_.columns_unit, m_.panels_operand[f_.stages]);
      meeting_.all();

      const Real* dx = m_.dx + at * m_.ld_dx;
      int split = 0;
      for (int stage = 0; stage < f_.stages; ++stage)
        for (int g = f_.first_gate(stage); g < f_.stage_end[stage]; ++g) {
          const Real* dxg = dx + g * c_.hidden;
          const Real* du = f_.splits(g) ? dx + (f_.gates + split++) * c_.hidden : dxg;
          grad_gate(stage, g, depth, dxg, du);
        }
      if (projects)
        grad_weight(depth, m_.dh_block + at * c_.outputs, c_.outputs, c_.outputs, m_.panels_operand[f_.stages],
                    m_.columns_unit, c_.grad_w_hr, c_.hidden, nullptr);
      fresh_weights_ = false;
      meeting_.all();
    }
  }

  // What one gate's gradients add to its rows of the weights and biases.
  void grad_gate(int stage, int g, int64_t depth, const Real* dx, const Real* du) {
    int64_t H = c_.hidden;
    Real* bias_ih = c_.grad_b_ih && g >= f_.first_bias_ih ? c_.grad_b_ih + (g - f_.first_bias_ih) * H : nullptr;
    Real* bias_hh = c_.grad_b_hh && g >= f_.first_bias_hh ? c_.grad_b_hh + (g - f_.first_bias_hh) * H : nullptr;
    if (g >= f_.first_input) {
      grad_weight(depth, dx, m_.ld_dx, H, m_.panels_x, m_.columns_x,
                  c_.grad_w_ih + (g - f_.first_input) * H * c_.inputs, c_.inputs, bias_ih);
      bias_ih = nullptr;
    }
    Real* to = c_.grad_w_hh + g * H * c_.fed;
    if (bias_ih || fed_ == 0)  // no weight's gradient comes with them
      for (Real* bias : {bias_ih, bias_hh})
        if (bias) grad_weight(depth, du, m_.ld_dx, H, nullptr, Columns<Real>{0}, to, 0, bias);
    if (bias_ih) bias_hh = nullptr;
    if (stage > 0)
      grad_weight(depth, du, m_.ld_dx, H, m_.panels_operand[stage], m_.columns_unit, to, c_.fed, bias_hh);
    else
      for (int s = 0; s < fed_; ++s)
        grad_weight(depth, du, m_.ld_dx, H, m_.panels_fed[s], m_.columns_fed, to + s * m_.columns_fed.n, c_.fed,
                    s ? nullptr : bias_hh);
  }

  void pack_frames(const Real* const* rows, int64_t from, int64_t depth, const Columns<Real>& columns, Real* panels) {
    Slice mine(columns.blocks(), threads_, thread_);
    for (int64_t block = mine.from; block < mine.to; ++block)
      pack_rows([&](int64_t k) { return rows[k] + from + columns.from(block); }, depth, columns.units(block),
                columns.width(block), panels + columns.from(block) * depth);
  }

  // This thread's rows of one weight's gradient.
  void grad_weight(int64_t depth, const Real* left, int64_t ld, int64_t n, const Real* panels,
                   const Columns<Real>& columns, Real* to, int64_t ld_to, Real* sums) {
    Slice mine(n, threads_, thread_);
    row_groups(mine.from, mine.to, [&](int64_t row, int rows) {
      outer_rows(depth, left + row, ld, rows, panels, columns, fresh_weights_, to + row * ld_to, ld_to,
                 sums ? sums + row : nullptr, scratch_);
    });
  }

  // The gradient of the initial states: what the first tick of each row left.
  void finish() {
    const Timeline& time = c_.time;
    for (int s = 0; s < f_.states; ++s) {
      bool has_product = s < fed_ && f_.has_product(0) && !c_.truncated;
      Columns<Real> columns{c_.units(s)};
      Slice blocks = share_.blocks_of(columns);
      Range own = s ? share_.units : share_.outputs;
      Real* sums = c_.resets ? reset_sums_of(thread_) + 2 * s * m_.ld_own : nullptr;
      for (int64_t block = blocks.from; block < blocks.to; ++block)
        row_groups(share_.rows.from, share_.rows.to, [&](int64_t b0, int rows) {
          int64_t unit = columns.from(block);
          if (has_product)
            m_.fed[s](rows, rows_from(m_.du[now_], m_.ld_du, b0).at, block, 0, scratch_, kTileCols<Real>);
          for (int i = 0; i < rows; ++i) {
            int64_t b = b0 + i, t = first_tick(b);
            bool lives = time.steps() > 0 && b < time.rows(time.begin), cut = lives && c_.is_cut(t, b);
            bool clips = s == 0 && lives && is_clipping(), masks = s == 0 && lives && drop_after_;
            if (masks) fill(c_, kDropFed, t, time.caller(b), unit, columns.units(block), row_);
            Real* to = c_.grad_first[s] + time.caller(b) * c_.units(s) + unit;
            for (int j = 0; j < columns.units(block); ++j) {
              Real d = has_product && lives ? scratch_[i * kTileCols<Real> + j] : 0;
              if (masks) d *= row_[j];
              d += m_.carry[s][b * ld_carry(s) + unit + j];
              if (clips) d = d > c_.gradient_clip ? c_.gradient_clip : d < -c_.gradient_clip ? -c_.gradient_clip : d;
              to[j] = cut ? 0 : d;
              if (cut) add_one(sums + unit - own.from + j, m_.ld_own, d);
            }
          }
        });
    }
  }

  // Where the forward sweep entered row b, which is alive somewhere in this call.
  int64_t first_tick(int64_t b) const {
    if (!c_.time.reverse) return c_.time.begin;
    int64_t t = c_.time.end - 1;
    while (t > c_.time.begin && b >= c_.time.rows(t)) --t;
    return t;
  }

  // The gradients of parameters and reset states, from what every row slice has summed of them.
  void reduce() {
    if (share_.row_slice != 0) return;
    auto total = [&](auto&& sums_of_thread, int number, Range own, Real* to) {
      if (!to) return;
      for (int64_t j = 0; j < own.n; ++j) {
        Real sum = c_.accumulate ? to[own.from + j] : 0;
        for (int r = 0; r < plan_.grid_rows; ++r) {
          const Real* s = sums_of_thread(r * share_.cols + share_.col_slice) + 2 * number * m_.ld_own + j;
          sum += s[0] - s[m_.ld_own];
        }
        to[own.from + j] = sum;
      }
    };
    for (int k = 0; k < f_.parameters; ++k)
      total([&](int thread) { return sums_of(thread); }, k, share_.units,
            c_.grad_unit ? c_.grad_unit + k * c_.hidden : nullptr);
    for (int s = 0; s < f_.states && c_.resets; ++s)
      total([&](int thread) { return reset_sums_of(thread); }, s, s ? share_.units : share_.outputs, c_.grad_reset[s]);
  }

  const CellStages<Real>& cell_;
  const Facts& f_;
  const Call<Real>& c_;
  const Plan& plan_;
  const Kept kept_;
  Arena arena_;
  BackwardSpace<Real> m_;
  Meeting& meeting_;
  Share<Real> share_;
  int thread_, threads_, fed_;
  bool fresh_weights_;
  Real *sums_, *scratch_, *row_, *moments_, *drop_after_;
  Real* mask_[kMasks] = {};
  bool *clips_, *cuts_;
  int64_t first_frame_ = 0;
  int now_ = 0;
};

// ------------------------------------------------------------------------------------------------------------ table

template <class Real, class Space> size_t space_of(const Facts& f, const Call<Real>& c, const Plan& plan) {
  Arena arena{nullptr};
  Space space(arena, f, c, plan);
  return arena.used;
}

template <class Real, class Sweep>
void sweep(int cell, const Facts& f, const Call<Real>& c, const Plan& plan, char* space, Meeting& meeting, int thread) {
  Sweep(cell, f, c, plan, space, meeting, thread).run();
}

template <class Real, class F> void map_with(int64_t n, const Real* x, Real* y, F&& f) {
  over_tile<Real>(1, static_cast<int>(n), [&](int, int j, auto... width) RNN_LAMBDA {
    f(Vector<Real>::load(x + j, width...)).store(y + j, width...);
  });
}

// Applies a word of the vocabulary to n < 2^31 numbers; false if there is no such word.
template <class Real> bool map(const char* word, int64_t n, const Real* x, Real* y) {
  using V = Vector<Real>;
  if (!strcmp(word, "exp")) return map_with(n, x, y, [](V v) RNN_LAMBDA { return exp(v); }), true;
  if (!strcmp(word, "tanh")) return map_with(n, x, y, [](V v) RNN_LAMBDA { return tanh(v); }), true;
  if (!strcmp(word, "sigmoid")) return map_with(n, x, y, [](V v) RNN_LAMBDA { return sigmoid(v); }), true;
  if (!strcmp(word, "log")) return map_with(n, x, y, [](V v) RNN_LAMBDA { return log(v); }), true;
  if (!strcmp(word, "softplus")) return map_with(n, x, y, [](V v) RNN_LAMBDA { return softplus(v); }), true;
  return false;
}

template <class Real> double fma_chain(int64_t iterations) {
  using V = Vector<Real>;
  constexpr int kChains = 12;
  V sum[kChains];
  volatile Real seed = 0;
  for (int i = 0; i < kChains; ++i) sum[i] = V(Real(seed));
  V a = V(Real(seed) + 1), b = V(Real(seed));
  for (int64_t k = 0; k < iterations; ++k)
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) sum[i] = V::fma(a, sum[i], b);
  V total = sum[0];
  for (int i = 1; i < kChains; ++i) total = total + sum[i];
  seed = V::sum(total);
  return 2.0 * kChains * V::kLanes * static_cast<double>(iterations);
}

template <class Real> const NtmKernels<Real>& ntm_table();  // of ntm-inl.h, compiled beside this

template <class Real> const Kernels<Real>& table() {
  static constexpr Kernels<Real> kTable = {{kLanes<Real>, kTileVectors, kTileRows},
                                           &space_of<Real, ForwardSpace<Real>>,
                                           &space_of<Real, BackwardSpace<Real>>,
                                           &sweep<Real, Forward<Real>>,
                                           &sweep<Real, Backward<Real>>,
                                           &draw<Real>,
                                           &map<Real>,
                                           &fma_chain<Real>,
                                           &ntm_table<Real>};
  return kTable;
}

template const Kernels<float>& table();
template const Kernels<double>& table();

}  // namespace rnn::RNN_ISA
