// Walks time: owns the products, and applies the cell to what they leave in L1. It never names a cell.
// sweep_<isa>.cpp defines RNN_ISA, its vectors and its tile, and includes this file.
#include <cstring>

#include "../cells/list.h"
#include "../simd/math.h"
#include "call.h"

#define RNN_LAMBDA __attribute__((always_inline))

namespace rnn::RNN_ISA {

#include "tile-inl.h"
#include "stage-inl.h"

// Deals a block of memory out in pieces; from null it only measures.
struct Arena {
  char* base;
  size_t used = 0;

  template <class T> T* take(int64_t n) {
    size_t at = used;
    used += (static_cast<size_t>(n) * sizeof(T) + 63) / 64 * 64;
    return base ? reinterpret_cast<T*>(base + at) : nullptr;
  }
};

// The length of a scratch row of n: whole vectors, and an odd line or so, or the rows of a tile would meet in the few
// ways of one cache set.
template <class Real> int64_t padded_row(int64_t n) {
  int64_t line = 64 / sizeof(Real), row = ceil_div(n, kTileCols<Real>) * kTileCols<Real>;
  return row % (4 * line) == 0 ? row + line : row;
}

template <class Real> Product<Real> forward_product(const Real* w, const Real* bias, int64_t K, int64_t n, int gates,
                                                    bool packed) {
  return {.w = w, .ld = K, .K = K, .columns = {n}, .gates = gates, .transposed = true, .bias = bias, .packed = packed};
}

template <class Real> Product<Real> backward_product(const Real* w, int64_t K, int64_t n, bool packed) {
  return {.w = w, .ld = n, .K = K, .columns = {n}, .transposed = false, .packed = packed};
}

template <class Real> void place(Arena& arena, Product<Real>& p, bool with_bias) {
  p.panels = arena.take<Real>(p.panels_size());
  if (with_bias) p.biases = arena.take<Real>(p.biases_size());
}

// Calls f(block) for each, in one order at this tick and in the other at the next: what a cache still holds of weights
// larger than itself is then what is read first.
template <class F> RNN_FN void to_and_fro(Slice blocks, int back, F&& f) {
  for (int64_t i = blocks.from; i < blocks.to; ++i) f(back ? blocks.from + blocks.to - 1 - i : i);
}

// What a thread owns of the grid.
template <class Real> struct Share {
  Slice rows;
  int row_slice, col_slice, cols;

  Share(const Plan& plan, int64_t batch, int thread)
      : rows(batch, plan.grid_rows, thread / plan.grid_cols),
        row_slice(thread / plan.grid_cols),
        col_slice(thread % plan.grid_cols),
        cols(plan.grid_cols) {}

  Slice blocks(const Columns<Real>& columns) const { return Slice(columns.blocks(), cols, col_slice); }
  void meet(Meeting& meeting) const {
    if (cols > 1) meeting.row(row_slice);
  }
};

// ---------------------------------------------------------------------------------------------------------- forward

template <class Real> struct ForwardSpace {
  Product<Real> input, recurrent, projection;
  int64_t ld_x, ld_h, ld_unit;    // scratch rows of I, P and H
  Real* h[2];                     // before and after a tick, in turn
  Real* state[kMaxStates];        // the others, in place
  Real* operand[kMaxStages + 1];  // of stage s, s > 0; of the projection at `stages`
  Real* saved;                    // of one tick, where the caller keeps none
  Real* thread_base;
  int64_t thread_size, projected_size, x_size;

  ForwardSpace(Arena& arena, const Facts& f, const Call<Real>& c, const Plan& plan) {
    int64_t B = c.time.batch, H = c.hidden, P = c.outputs;
    input = forward_product(c.w_ih, c.b_ih, c.inputs, H, f.gates, plan.packed);
    recurrent = forward_product(c.w_hh, c.b_hh, P, H, f.gates, plan.packed);
    place(arena, input, true);
    place(arena, recurrent, true);
    if (c.w_hr) {
      projection = forward_product<Real>(c.w_hr, nullptr, H, P, 1, plan.packed);
      place(arena, projection, false);
    }
    ld_h = padded_row<Real>(P);
    ld_unit = padded_row<Real>(H);
    for (int i = 0; i < 2; ++i) h[i] = arena.take<Real>(B * ld_h);
    for (int s = 1; s < f.states; ++s) state[s] = arena.take<Real>(B * ld_unit);
    for (int s = 1; s < f.stages + (c.w_hr != nullptr); ++s) operand[s] = arena.take<Real>(B * ld_unit);
    saved = f.stages > 1 && !c.saved ? arena.take<Real>(B * f.saved * H) : nullptr;

    int64_t cols = ceil_div(recurrent.columns.blocks(), plan.grid_cols) * kTileCols<Real>;
    int64_t rows = ceil_div(B, plan.grid_rows) * plan.block_ticks;
    ld_x = padded_row<Real>(c.inputs);
    x_size = rows * ld_x;
    projected_size = rows * cols * f.gates;
    thread_size = x_size + projected_size + f.gates * kTileRows * kTileCols<Real>;
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
        arena_{space},
        m_(arena_, f, c, plan),
        meeting_(meeting),
        share_(plan, c.time.batch, thread),
        thread_(thread),
        blocks_(share_.blocks(m_.recurrent.columns)) {
    x_ = m_.thread_base + thread * m_.thread_size;
    projected_ = x_ + m_.x_size;
    tile_ = projected_ + m_.projected_size;
    const auto& columns = m_.recurrent.columns;
    for (int64_t b = blocks_.from; b < blocks_.to; ++b) ld_projected_ += columns.width(b) * f.gates;
  }

  void run() {
    const Timeline& time = c_.time;
    m_.input.pack(thread_, plan_.threads());
    m_.recurrent.pack(thread_, plan_.threads());
    if (c_.w_hr) m_.projection.pack(thread_, plan_.threads());
    Slice mine(time.batch, plan_.threads(), thread_);
    for (int64_t b = mine.from; b < mine.to; ++b) {
      for (int i = 0; i < 2; ++i) copy(m_.h[i] + b * m_.ld_h, c_.first[0] + b * c_.outputs, c_.outputs);
      for (int s = 1; s < f_.states; ++s) copy(m_.state[s] + b * m_.ld_unit, c_.first[s] + b * c_.hidden, c_.hidden);
    }
    meeting_.all();

    for (int64_t step = 0; step < time.ticks; step += plan_.block_ticks) {
      int64_t end = min_of(time.ticks, step + plan_.block_ticks);
      project(step, end);
      int64_t first_row = 0;
      for (int64_t s = step; s < end; ++s) {
        tick(time.tick(s), first_row);
        first_row += rows_at(time.tick(s)).size();
      }
    }
    meeting_.all();
    for (int64_t b = mine.from; b < mine.to; ++b) {
      copy(c_.final[0] + b * c_.outputs, m_.h[now_] + b * m_.ld_h, c_.outputs);
      for (int s = 1; s < f_.states; ++s) copy(c_.final[s] + b * c_.hidden, m_.state[s] + b * m_.ld_unit, c_.hidden);
    }
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

  static void copy(Real* to, const Real* from, int64_t n) { memcpy(to, from, n * sizeof(Real)); }

  // W x + b of this thread's rows and hidden units for a block of ticks. The caller's rows may lie any distance apart,
  // at worst a multiple of 4 KiB: they are copied together first.
  void project(int64_t step, int64_t end) {
    int64_t held = 0;
    for (int64_t s = step; s < end; ++s) {
      int64_t t = c_.time.tick(s);
      Rows mine = rows_at(t);
      for (int64_t b = mine.from; b < mine.to; ++b) copy(x_ + held++ * m_.ld_x, c_.x_at(t, b), c_.inputs);
    }
    for (int64_t block = blocks_.from; block < blocks_.to; ++block)
      for (int g = 0; g < f_.gates; ++g)
        row_groups(0, held, [&](int64_t row, int rows) {
          m_.input(rows, rows_from(x_, m_.ld_x, row).at, block, g,
                   projected_ + row * ld_projected_ + projected_at(block, g), ld_projected_);
        });
  }

  int64_t projected_at(int64_t block, int gate) const {
    const auto& columns = m_.recurrent.columns;
    return (columns.from(block) - columns.from(blocks_.from)) * f_.gates + int64_t(gate) * columns.width(block);
  }

  void tick(int64_t t, int64_t first_row) {
    Rows mine = rows_at(t);
    for (int stage = 0; stage < f_.stages; ++stage) {
      to_and_fro(blocks_, now_, [&](int64_t block) {
        row_groups(mine.from, mine.to,
                   [&](int64_t b, int rows) { apply(t, stage, block, b, rows, first_row + b - mine.from); });
      });
      share_.meet(meeting_);
    }
    if (c_.w_hr) {
      project_output(t, mine);
      share_.meet(meeting_);
    }
    now_ ^= 1;
    settle(t);
  }

  void apply(int64_t t, int stage, int64_t block, int64_t b, int rows, int64_t projected_row) {
    const Columns<Real>& columns = m_.recurrent.columns;
    int64_t unit = columns.from(block), frame = c_.time.frame(t) + b;
    ForwardTile<Real> a{};
    a.rows = rows;
    a.units = columns.units(block);
    a.width = columns.width(block);
    a.hidden = c_.hidden;
    a.u = tile_;
    a.x = projected_ + projected_row * ld_projected_ + projected_at(block, 0);
    a.ld_x = ld_projected_;
    a.s[0] = m_.h[now_] + b * m_.ld_h + unit;
    a.next[0] = m_.h[now_ ^ 1] + b * m_.ld_h + unit;
    a.ld_state[0] = m_.ld_h;
    for (int s = 1; s < f_.states; ++s) {
      a.s[s] = a.next[s] = m_.state[s] + b * m_.ld_unit + unit;
      a.ld_state[s] = m_.ld_unit;
    }
    bool projects = c_.w_hr != nullptr;
    a.out = projects ? nullptr : c_.out + frame * c_.outputs + unit;
    a.ld_out = c_.outputs;
    a.operand = stage + 1 < f_.stages || projects ? m_.operand[stage + 1] + b * m_.ld_unit + unit : nullptr;
    a.ld_operand = m_.ld_unit;
    if (c_.saved) {
      a.ld_saved = c_.saved_rows * c_.hidden;
      a.saved = c_.saved + frame * a.ld_saved + unit;
      a.kept_states = a.saved + f_.kept_state(1) * c_.hidden;
      a.kept_operand = a.operand ? a.saved + f_.kept_operand(stage + 1) * c_.hidden : nullptr;
    } else if (m_.saved) {
      a.ld_saved = f_.saved * c_.hidden;
      a.saved = m_.saved + b * a.ld_saved + unit;
    }

    prefetch(a.x, a.ld_x, rows, f_.gates * a.width);
    if (a.out) prefetch(a.out, a.ld_out, rows, a.units);
    RowPointers<Real> left =
        stage == 0 ? rows_from(m_.h[now_], m_.ld_h, b) : rows_from(m_.operand[stage], m_.ld_unit, b);
    int first = f_.first_gate(stage), end = f_.stage_end[stage];
    for (int g = first; g < end; ++g)
      m_.recurrent(rows, left.at, block, g, tile_ + (g - first) * kTileRows * kTileCols<Real>, kTileCols<Real>);
    cell_.forward[stage](a);
  }

  void project_output(int64_t t, Rows mine) {
    const Columns<Real>& columns = m_.projection.columns;
    Slice blocks = share_.blocks(columns);
    for (int64_t block = blocks.from; block < blocks.to; ++block)
      row_groups(mine.from, mine.to, [&](int64_t b, int rows) {
        int64_t unit = columns.from(block);
        Real* to = m_.h[now_ ^ 1] + b * m_.ld_h + unit;
        m_.projection(rows, rows_from(m_.operand[f_.stages], m_.ld_unit, b).at, block, 0, to, m_.ld_h);
        for (int i = 0; i < rows; ++i)
          copy(c_.out + (c_.time.frame(t) + b + i) * c_.outputs + unit, to + i * m_.ld_h, columns.units(block));
      });
  }

  // Rows that end at tick t stay as they are, whichever buffer comes next.
  void settle(int64_t t) {
    if (!c_.time.rows_at || c_.time.reverse || t + 1 >= c_.time.ticks) return;
    const Columns<Real>& columns = c_.w_hr ? m_.projection.columns : m_.recurrent.columns;
    Slice blocks = share_.blocks(columns);
    if (blocks.from == blocks.to) return;
    int64_t from = columns.from(blocks.from), n = columns.from(blocks.to - 1) + columns.units(blocks.to - 1) - from;
    for (int64_t b = max_of(share_.rows.from, c_.time.rows(t + 1)); b < min_of(share_.rows.to, c_.time.rows(t)); ++b)
      copy(m_.h[now_ ^ 1] + b * m_.ld_h + from, m_.h[now_] + b * m_.ld_h + from, n);
  }

  const CellStages<Real>& cell_;
  const Facts& f_;
  const Call<Real>& c_;
  const Plan& plan_;
  Arena arena_;
  ForwardSpace<Real> m_;
  Meeting& meeting_;
  Share<Real> share_;
  int thread_;
  Slice blocks_;
  Real *x_, *projected_, *tile_;
  int64_t ld_projected_ = 0;
  int now_ = 0;
};

// --------------------------------------------------------------------------------------------------------- backward

inline constexpr int64_t kDepth = 256;  // frames a weight gradient sums at a time: their panels fit L2

template <class Real> struct BackwardSpace {
  Product<Real> recurrent[kMaxStages];  // du of stage s to its operand
  Product<Real> projection, input;
  int64_t ld_h, ld_unit, ld_du, ld_dx;
  Real* du[2];  // of the tick after and of this tick, in turn
  Real* carry[kMaxStates];
  Real* dnext;
  Real* dh;        // with a projection: gradient of h, (B,P) ...
  Real* dh_block;  // ... and of the block's frames
  Real* dx;        // gradients of the gates of the block's frames
  // Right sides of the weight gradients, kDepth frames of each: what the products of the forward read.
  Columns<Real> columns_x, columns_h, columns_unit;
  Real *panels_x, *panels_h, *panels_operand[kMaxStages + 1];
  Real* thread_base;
  int64_t thread_size;

  BackwardSpace(Arena& arena, const Facts& f, const Call<Real>& c, const Plan& plan) {
    int64_t B = c.time.batch, I = c.inputs, H = c.hidden, P = c.outputs;
    for (int s = 0; s < f.stages; ++s) {
      recurrent[s] =
          backward_product(c.w_hh + f.first_gate(s) * H * P, (f.stage_end[s] - f.first_gate(s)) * H, P, plan.packed);
      place(arena, recurrent[s], false);
    }
    if (c.w_hr) {
      projection = backward_product(c.w_hr, P, H, plan.packed);
      place(arena, projection, false);
    }
    if (c.grad_x) {
      input = backward_product(c.w_ih, f.gates * H, I, plan.packed);
      place(arena, input, false);
    }
    ld_h = padded_row<Real>(P);
    ld_unit = padded_row<Real>(H);
    ld_du = padded_row<Real>(f.gates * H);
    ld_dx = padded_row<Real>((f.gates + f.split_gates()) * H);
    for (int i = 0; i < 2; ++i) du[i] = arena.take<Real>(B * ld_du);
    carry[0] = arena.take<Real>(B * ld_h);
    for (int s = 1; s < f.states; ++s) carry[s] = arena.take<Real>(B * ld_unit);
    dnext = f.stages > 1 ? arena.take<Real>(B * ld_unit) : nullptr;

    int64_t frames = plan.block_ticks * B;
    if (c.w_hr) {
      dh = arena.take<Real>(B * ld_h);
      dh_block = arena.take<Real>(frames * P);
    }
    dx = arena.take<Real>(frames * ld_dx);
    if (c.grad_w_hh) {
      columns_x = {I}, columns_h = {P}, columns_unit = {H};
      panels_x = arena.take<Real>(columns_x.padded() * kDepth);
      panels_h = arena.take<Real>(columns_h.padded() * kDepth);
      for (int s = 1; s < f.stages + (c.w_hr != nullptr); ++s)
        panels_operand[s] = arena.take<Real>(columns_unit.padded() * kDepth);
    }
    thread_size = kTileRows * (kDepth + 1 + kTileCols<Real>)+2 * kLanes<Real>;
    thread_base = arena.take<Real>(thread_size * plan.threads());
  }
};

template <class Real> class Backward {
 public:
  Backward(int cell, const Facts& f, const Call<Real>& c, const Plan& plan, char* space, Meeting& meeting, int thread)
      : cell_(kCells<Real>[cell]),
        f_(f),
        c_(c),
        plan_(plan),
        arena_{space},
        m_(arena_, f, c, plan),
        meeting_(meeting),
        share_(plan, c.time.batch, thread),
        thread_(thread),
        threads_(plan.threads()) {
    scratch_ = m_.thread_base + thread * m_.thread_size;
  }

  void run() {
    const Timeline& time = c_.time;
    start();
    meeting_.all();
    for (int64_t step = 0; step < time.ticks; step += plan_.block_ticks) {
      int64_t end = min_of(time.ticks, step + plan_.block_ticks);
      // Ticks of the block in the order of the tensor, whichever way the sweep went.
      int64_t one = time.tick(time.ticks - 1 - step), other = time.tick(time.ticks - end);
      first_frame_ = time.frame(min_of(one, other));
      for (int64_t s = step; s < end; ++s) tick(time.tick(time.ticks - 1 - s), s == 0);
      meeting_.all();
      int64_t first_tick = min_of(one, other), last_tick = max_of(one, other) + 1;
      if (c_.grad_x) grad_inputs(last_tick);
      if (c_.grad_w_hh) grad_weights(first_tick, last_tick);
      meeting_.all();
    }
    finish();
  }

 private:
  // Everything a thread reads before somebody else has written it.
  void start() {
    for (int s = 0; s < f_.stages; ++s) m_.recurrent[s].pack(thread_, threads_);
    if (c_.w_hr) m_.projection.pack(thread_, threads_);
    if (c_.grad_x) m_.input.pack(thread_, threads_);
    Slice mine(c_.time.batch, threads_, thread_);
    for (int64_t b = mine.from; b < mine.to; ++b) {
      for (int i = 0; i < 2; ++i) memset(m_.du[i] + b * m_.ld_du, 0, m_.ld_du * sizeof(Real));
      for (int s = 0; s < f_.states; ++s) {
        int64_t ld = s ? m_.ld_unit : m_.ld_h, n = s ? c_.hidden : c_.outputs;
        Real* to = m_.carry[s] + b * ld;
        if (c_.grad_final[s])
          memcpy(to, c_.grad_final[s] + b * n, n * sizeof(Real));
        else
          memset(to, 0, n * sizeof(Real));
      }
    }
  }

  void tick(int64_t t, bool first) {
    int64_t to = min_of(share_.rows.to, c_.time.rows(t)), from = min_of(share_.rows.from, to);
    int64_t started = max_of(from, min_of(to, c_.time.rows_before(t)));  // rows before it have a tick before t
    auto groups = [&](auto&& f) {
      row_groups(from, started, f);
      row_groups(started, to, f);
    };
    if (c_.w_hr) {
      Slice blocks = share_.blocks(m_.recurrent[0].columns);
      for (int64_t block = blocks.from; block < blocks.to; ++block)
        groups([&](int64_t b, int rows) { grad_projected(t, block, b, rows); });
      share_.meet(meeting_);
    }
    for (int stage = f_.stages - 1; stage >= 0; --stage) {
      // The last stage gets the gradient of h, the others that of the operand they left to the stage after.
      bool last = stage == f_.stages - 1;
      const Product<Real>& product = !last ? m_.recurrent[stage + 1] : c_.w_hr ? m_.projection : m_.recurrent[0];
      const Real* left = !last ? m_.du[now_ ^ 1] + f_.first_gate(stage + 1) * c_.hidden : c_.w_hr ? m_.dh : m_.du[now_];
      int64_t ld = last && c_.w_hr ? m_.ld_h : m_.ld_du;
      bool nothing = last && first && !c_.w_hr;
      to_and_fro(share_.blocks(product.columns), now_, [&](int64_t block) {
        groups([&](int64_t b, int rows) {
          BackwardTile<Real> a = tile_at(t, product.columns, block, b, rows, b < started);
          prefetch_tile(a);
          if (!nothing) product(rows, rows_from(left, ld, b).at, block, 0, scratch_, kTileCols<Real>);
          a.product = nothing ? nullptr : scratch_;
          cell_.backward[stage](a);
        });
      });
      share_.meet(meeting_);
    }
    now_ ^= 1;
    settle(t);
  }

  void grad_projected(int64_t t, int64_t block, int64_t b, int rows) {
    using V = Vector<Real>;
    const Columns<Real>& columns = m_.recurrent[0].columns;
    int64_t unit = columns.from(block), frame = c_.time.frame(t) + b;
    m_.recurrent[0](rows, rows_from(m_.du[now_], m_.ld_du, b).at, block, 0, scratch_, kTileCols<Real>);
    over_tile<Real>(rows, columns.units(block), [&](int i, int j, auto... width) RNN_LAMBDA {
      Real* carry = m_.carry[0] + (b + i) * m_.ld_h + unit + j;
      V d = V::load(scratch_ + i * kTileCols<Real> + j) + V::load(carry);
      V(0).store(carry);
      if (c_.grad_out) d = d + V::load(c_.grad_out + (frame + i) * c_.outputs + unit + j, width...);
      d.store(m_.dh + (b + i) * m_.ld_h + unit + j);
      d.store(m_.dh_block + (frame + i - first_frame_) * c_.outputs + unit + j, width...);
    });
  }

  BackwardTile<Real> tile_at(int64_t t, const Columns<Real>& columns, int64_t block, int64_t b, int rows,
                             bool started) const {
    int64_t unit = columns.from(block), frame = c_.time.frame(t) + b, H = c_.hidden;
    BackwardTile<Real> a{};
    a.rows = rows;
    a.units = columns.units(block);
    a.hidden = H;
    a.grad_out = c_.grad_out && !c_.w_hr ? c_.grad_out + frame * c_.outputs + unit : nullptr;
    a.ld_out = c_.outputs;
    a.projected = c_.w_hr != nullptr;
    a.dnext = m_.dnext ? m_.dnext + b * m_.ld_unit + unit : nullptr;
    a.ld_saved = c_.saved_rows * H;
    a.saved = c_.saved + frame * a.ld_saved + unit;
    int64_t before = started ? c_.time.frame(c_.time.before(t)) + b : 0;
    for (int s = 0; s < f_.states; ++s) {
      int64_t ld = s ? m_.ld_unit : m_.ld_h, n = s ? H : c_.outputs;
      a.carry[s] = m_.carry[s] + b * ld + unit;
      a.ld_state[s] = ld;
      if (!started) {
        a.s[s] = c_.first[s] + b * n + unit;
        a.ld_s[s] = n;
      } else if (s == 0) {
        a.s[s] = c_.out + before * n + unit;
        a.ld_s[s] = n;
      } else {
        a.s[s] = c_.saved + before * a.ld_saved + f_.kept_state(s) * H + unit;
        a.ld_s[s] = a.ld_saved;
      }
      if (s > 0) a.next[s] = a.saved + f_.kept_state(s) * H;
    }
    a.dx = m_.dx + (frame - first_frame_) * m_.ld_dx + unit;
    a.ld_dx = m_.ld_dx;
    a.du = m_.du[now_ ^ 1] + b * m_.ld_du + unit;
    a.ld_du = m_.ld_du;
    return a;
  }

  void prefetch_tile(const BackwardTile<Real>& a) const {
    if (a.grad_out) prefetch(a.grad_out, a.ld_out, a.rows, a.units);
    for (int s = 0; s < f_.states; ++s) prefetch(a.s[s], a.ld_s[s], a.rows, a.units);
    for (int k = 0; k < f_.kept_state(f_.states); ++k) prefetch(a.saved + k * a.hidden, a.ld_saved, a.rows, a.units);
    for (int g = 0; g < f_.gates + f_.split_gates(); ++g) prefetch(a.dx + g * a.hidden, a.ld_dx, a.rows, a.units);
  }

  // Rows whose gradient has left at tick t keep their last du in both buffers, for finish().
  void settle(int64_t t) {
    if (!c_.time.rows_at || !c_.time.reverse || t + 1 >= c_.time.ticks) return;
    for (int64_t b = max_of(share_.rows.from, c_.time.rows(t + 1)); b < min_of(share_.rows.to, c_.time.rows(t)); ++b)
      if (share_.col_slice == 0)
        memcpy(m_.du[now_ ^ 1] + b * m_.ld_du, m_.du[now_] + b * m_.ld_du, f_.gates * c_.hidden * sizeof(Real));
  }

  void grad_inputs(int64_t last_tick) {
    const Columns<Real>& columns = m_.input.columns;
    int64_t frames = c_.time.frame(last_tick) - first_frame_;
    Slice mine(frames, threads_, thread_);
    for (int64_t block = 0; block < columns.blocks(); ++block)
      row_groups(mine.from, mine.to, [&](int64_t frame, int rows) {
        m_.input(rows, rows_from(m_.dx, m_.ld_dx, frame).at, block, 0, scratch_, kTileCols<Real>);
        Real* to = c_.grad_x + (first_frame_ + frame) * c_.inputs + columns.from(block);
        for (int i = 0; i < rows; ++i)
          memcpy(to + i * c_.inputs, scratch_ + i * kTileCols<Real>, columns.units(block) * sizeof(Real));
      });
  }

  void grad_weights(int64_t first_tick, int64_t last_tick) {
    int64_t frames = c_.time.frame(last_tick) - first_frame_, t = first_tick;
    for (int64_t at = 0; at < frames; at += kDepth) {
      int64_t depth = min_of(kDepth, frames - at);
      const bool projects = c_.w_hr != nullptr;
      const Real *x[kDepth], *h[kDepth], *kept[kDepth];
      for (int64_t k = 0; k < depth; ++k) {
        int64_t frame = first_frame_ + at + k;
        while (frame >= c_.time.frame(t + 1)) ++t;
        int64_t b = frame - c_.time.frame(t);
        x[k] = c_.x_at(t, b);
        h[k] = c_.h_before(t, b);
        kept[k] = c_.saved + frame * c_.saved_rows * c_.hidden;
      }
      pack_frames(x, 0, depth, m_.columns_x, m_.panels_x);
      pack_frames(h, 0, depth, m_.columns_h, m_.panels_h);
      for (int s = 1; s < f_.stages + projects; ++s)
        pack_frames(kept, f_.kept_operand(s) * c_.hidden, depth, m_.columns_unit, m_.panels_operand[s]);
      meeting_.all();

      bool fresh = fresh_weights_;
      const Real* dx = m_.dx + at * m_.ld_dx;
      int split = 0;
      for (int stage = 0; stage < f_.stages; ++stage)
        for (int g = f_.first_gate(stage); g < f_.stage_end[stage]; ++g) {
          int64_t row = g * c_.hidden;
          const Real* du = f_.splits(g) ? dx + (f_.gates + split++) * c_.hidden : dx + row;
          grad_weight(depth, dx + row, m_.ld_dx, c_.hidden, m_.panels_x, m_.columns_x, fresh,
                      c_.grad_w_ih + row * c_.inputs, c_.grad_b_ih ? c_.grad_b_ih + row : nullptr);
          grad_weight(depth, du, m_.ld_dx, c_.hidden, stage ? m_.panels_operand[stage] : m_.panels_h, m_.columns_h,
                      fresh, c_.grad_w_hh + row * c_.outputs, c_.grad_b_hh ? c_.grad_b_hh + row : nullptr);
        }
      if (projects)
        grad_weight(depth, m_.dh_block + at * c_.outputs, c_.outputs, c_.outputs, m_.panels_operand[f_.stages],
                    m_.columns_unit, fresh, c_.grad_w_hr, nullptr);
      fresh_weights_ = false;
      meeting_.all();
    }
  }

  void pack_frames(const Real* const* rows, int64_t from, int64_t depth, const Columns<Real>& columns, Real* panels) {
    Slice mine(columns.blocks(), threads_, thread_);
    for (int64_t block = mine.from; block < mine.to; ++block)
      pack_rows([&](int64_t k) { return rows[k] + from + columns.from(block); }, depth, columns.units(block),
                columns.width(block), panels + columns.from(block) * depth);
  }

  // This thread's rows of one weight's gradient.
  void grad_weight(int64_t depth, const Real* left, int64_t ld, int64_t n, const Real* panels,
                   const Columns<Real>& columns, bool fresh, Real* to, Real* sums) {
    Slice mine(n, threads_, thread_);
    row_groups(mine.from, mine.to, [&](int64_t row, int rows) {
      outer_rows(depth, left + row, ld, rows, panels, columns, fresh, to + row * columns.n, columns.n,
                 sums ? sums + row : nullptr, scratch_);
    });
  }

  // The gradient of the initial states: what the first tick of each row left.
  void finish() {
    const Columns<Real>& columns = m_.recurrent[0].columns;
    Slice blocks = share_.blocks(columns);
    for (int64_t block = blocks.from; block < blocks.to; ++block)
      row_groups(share_.rows.from, share_.rows.to, [&](int64_t b, int rows) {
        int64_t unit = columns.from(block);
        m_.recurrent[0](rows, rows_from(m_.du[now_], m_.ld_du, b).at, block, 0, scratch_, kTileCols<Real>);
        for (int i = 0; i < rows; ++i)
          for (int j = 0; j < columns.units(block); ++j)
            c_.grad_first[0][(b + i) * c_.outputs + unit + j] =
                m_.carry[0][(b + i) * m_.ld_h + unit + j] + scratch_[i * kTileCols<Real> + j];
      });
    Slice mine(c_.time.batch, threads_, thread_);
    for (int s = 1; s < f_.states; ++s)
      for (int64_t b = mine.from; b < mine.to; ++b)
        memcpy(c_.grad_first[s] + b * c_.hidden, m_.carry[s] + b * m_.ld_unit, c_.hidden * sizeof(Real));
  }

  const CellStages<Real>& cell_;
  const Facts& f_;
  const Call<Real>& c_;
  const Plan& plan_;
  Arena arena_;
  BackwardSpace<Real> m_;
  Meeting& meeting_;
  Share<Real> share_;
  int thread_, threads_;
  Real* scratch_;
  int64_t first_frame_ = 0;
  bool fresh_weights_ = true;
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

template <class Real> const Kernels<Real>& table() {
  static constexpr Kernels<Real> kTable = {{kLanes<Real>, kTileVectors, kTileRows},
                                           &space_of<Real, ForwardSpace<Real>>,
                                           &space_of<Real, BackwardSpace<Real>>,
                                           &sweep<Real, Forward<Real>>,
                                           &sweep<Real, Backward<Real>>,
                                           &map<Real>,
                                           &fma_chain<Real>};
  return kTable;
}

template const Kernels<float>& table();
template const Kernels<double>& table();

}  // namespace rnn::RNN_ISA
