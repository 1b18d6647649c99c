// Walks a Neural Turing Machine through time. Rows of the batch know nothing of each other: a thread takes its rows in
// groups, and a group through all ticks, so that the memories of a group stay in the cache. ntm_<isa>.cpp includes
// this.
#include <cstring>

#include "../cells/list.h"
#include "../memory/interpolation.h"
#include "../memory/rows.h"
#include "../memory/sharpening.h"
#include "../simd/math.h"
#include "kernels.h"

namespace rnn::RNN_ISA {

#include "tile-inl.h"
#include "scratch-inl.h"
#include "../walk/stage-inl.h"
#include "cells-inl.h"
#include "rows-inl.h"
#include "../walk/heads-inl.h"

#define RNN_CONTROLLER(Cell) stages_of<Cell, Real>(MakeIndices<kStages<Cell>>()),
template <class Real> inline constexpr CellStages<Real> kControllers[] = {RNN_CONTROLLERS(RNN_CONTROLLER)};
#undef RNN_CONTROLLER

// Of a row, as the caller has it (N, M), to (M, padded N), and back.
template <class Real> void memory_from(const Machine& m, const Real* from, Real* to) {
  int64_t rows = m.padded_rows();
  for (int64_t j = 0; j < m.width; ++j)
    for (int64_t i = 0; i < rows; ++i) to[j * rows + i] = i < m.rows ? from[i * m.width + j] : Real(0);
}
template <class Real> void memory_to(const Machine& m, const Real* from, Real* to) {
  for (int64_t i = 0; i < m.rows; ++i)
    for (int64_t j = 0; j < m.width; ++j) to[i * m.width + j] = from[j * m.padded_rows() + i];
}
template <class Real> void weightings_from(const Machine& m, const Real* from, Real* to) {
  int64_t rows = m.padded_rows();
  for (int h = 0; h < m.heads(); ++h) {
    copy_or_zero(to + h * rows, from + h * m.rows, m.rows);
    copy_or_zero<Real>(to + h * rows + m.rows, nullptr, rows - m.rows);
  }
}
template <class Real> void weightings_to(const Machine& m, const Real* from, Real* to) {
  for (int h = 0; h < m.heads(); ++h) copy(to + h * m.rows, from + h * m.padded_rows(), m.rows);
}

// The scratch of a thread that both directions need: states, which walk along, of the rows of a group.
template <class Real> struct NtmRows {
  const Facts& f;
  const NtmCall<Real>& c;
  const Machine& m;
  const Record record;
  int64_t ld_unit;
  Real *state, *memory, *weighting, *tile;

  NtmRows(Arena& arena, const Facts& facts, const NtmCall<Real>& call)
      : f(facts), c(call), m(call.machine), record(call.machine, facts), ld_unit(padded_row<Real>(m.hidden)) {
    state = arena.take<Real>(m.layers * f.states * kTileRows * ld_unit);
    memory = arena.take<Real>(kTileRows * m.memory_numbers());
    weighting = arena.take<Real>(kTileRows * m.heads() * m.padded_rows());
    tile = arena.take<Real>(f.gates * kTileRows * kTileCols<Real>);
  }

  Real* state_of(int layer, int s, int row) const {
    return state + ((layer * f.states + s) * kTileRows + row) * ld_unit;
  }
  Real* memory_of(int row) const { return memory + row * m.memory_numbers(); }
  Real* weighting_of(int row) const { return weighting + row * m.heads() * m.padded_rows(); }

  // The states of the rows from b on, or their gradients, before or after the call: what is absent is zero.
  template <class Pointers> void load(const Pointers& from, int64_t b, int rows) const {
    for (int i = 0; i < rows; ++i) {
      int64_t row = c.time.caller(b + i);
      for (int l = 0; l < m.layers; ++l)
        for (int s = 0; s < f.states; ++s)
          copy_or_zero(state_of(l, s, i), from[s] ? from[s] + (l * c.time.batch + row) * m.hidden : nullptr, m.hidden);
      load_memory(from[kMemory], row, memory_of(i));
      load_weightings(from[kWeightings], row, weighting_of(i));
    }
  }
  void load_memory(const Real* from, int64_t row, Real* to) const {
    from ? memory_from(m, from + row * m.rows * m.width, to) : copy_or_zero<Real>(to, nullptr, m.memory_numbers());
  }
  void load_weightings(const Real* from, int64_t row, Real* to) const {
    from ? weightings_from(m, from + row * m.heads() * m.rows, to)
         : copy_or_zero<Real>(to, nullptr, m.heads() * m.padded_rows());
  }
  template <class Pointers> void store(const Pointers& to, int64_t b, int i, const Real* mem, const Real* w) const {
    int64_t row = c.time.caller(b + i);
    for (int l = 0; l < m.layers; ++l)
      for (int s = 0; s < f.states; ++s)
        if (to[s]) copy(to[s] + (l * c.time.batch + row) * m.hidden, state_of(l, s, i), m.hidden);
    if (to[kMemory]) memory_to(m, mem, to[kMemory] + row * m.rows * m.width);
    if (to[kWeightings]) weightings_to(m, w, to[kWeightings] + row * m.heads() * m.rows);
  }

  // The rows from b on that are alive at tick t: the first of them.
  int alive(int64_t t, int64_t b, int rows) const {
    return static_cast<int>(max_of<int64_t>(0, min_of<int64_t>(rows, c.time.rows(t) - b)));
  }
  int64_t frame(int64_t t, int64_t b) const { return c.time.frame(t) + b; }
};

// ------------------------------------------------------------------------------------------------------------ forward

template <class Real> struct ForwardProducts {
  Product<Real> layer[kMaxControllerLayers], heads;

  ForwardProducts(Arena& arena, const Facts& f, const NtmCall<Real>& c, const NtmPlan& plan) {
    const Machine& m = c.machine;
    for (int l = 0; l < m.layers; ++l) {
      layer[l] = forward_product(c.weight[l], m.layer_width(l), m.hidden, f.gates, plan.packed);
      for (int g = 0; g < f.gates && c.bias[l]; ++g) layer[l].bias[g][0] = c.bias[l] + g * m.hidden;
      place(arena, layer[l], true);
    }
    if (!m.layers) return;
    heads = forward_product(c.head_weight, m.hidden, m.parameters(), 1, plan.packed);
    heads.bias[0][0] = c.head_bias;
    place(arena, heads, true);
  }
};

template <class Real> struct NtmForward {
  using Products = ForwardProducts<Real>;

  NtmRows<Real> rows_;
  HeadRow<Real> heads_;
  Real* scratch_;  // records, where none are kept
  Real* zeros_;    // a tile of them

  NtmForward(Arena& arena, const Facts& f, const NtmCall<Real>& c)
      : rows_(arena, f, c),
        heads_(arena, c.machine, rows_.record, false),
        scratch_(arena.take_if<Real>(!c.saved, kTileRows * rows_.record.numbers)),
        zeros_(arena.take<Real>(zeros())) {}

  // Rows [b, b + rows) from the first tick to the last.
  void group(const Products& products, int64_t b, int rows) {
    const NtmCall<Real>& c = rows_.c;
    const Machine& m = c.machine;
    const Record& at = rows_.record;
    rows_.load(c.first, b, rows);
    copy_or_zero<Real>(zeros_, nullptr, zeros());
    const Real *weighting[kTileRows], *reads[kTileRows];
    for (int i = 0; i < rows; ++i) {
      weighting[i] = rows_.weighting_of(i);
      reads[i] = c.first[kReads] ? c.first[kReads] + c.time.caller(b + i) * m.read_numbers() : nullptr;
    }
    for (int64_t t = c.time.begin; t < c.time.end; ++t) {
      int n = rows_.alive(t, b, rows);
      if (n == 0) break;
      Real* record = c.saved ? c.saved + rows_.frame(t, b) * at.numbers : scratch_;
      Real* features = c.features + rows_.frame(t, b) * c.ld_features;
      const int64_t step = t - c.time.begin;
      if (c.saved && step && step % Record::kTicks == 0)
        for (int i = 0; i < n; ++i) keep(step / Record::kTicks - 1, b + i, rows_.memory_of(i));
      if (m.layers) control(products, t, b, n, reads, record, features);
      for (int i = 0; i < n; ++i, record += at.numbers, features += c.ld_features) {
        if (!m.layers) copy(record + at.parameters, c.x_at(t, b + i), m.parameters());
        copy_or_zero<Real>(record + at.filled, nullptr, at.weightings - at.filled);
        Real* to = features + m.features() - m.read_numbers();
        heads_.forward(record, weighting[i], rows_.memory_of(i), to);
        weighting[i] = record + at.weightings;
        reads[i] = to;
      }
    }
    for (int i = 0; i < rows; ++i) {
      rows_.store(c.final, b, i, rows_.memory_of(i), weighting[i]);
      if (c.final[kReads]) copy(c.final[kReads] + c.time.caller(b + i) * m.read_numbers(), reads[i], m.read_numbers());
    }
  }

 private:
  int64_t zeros() const { return rows_.f.gates * kTileRows * kTileCols<Real>; }

  void keep(int64_t k, int64_t b, const Real* memory) {
    const NtmCall<Real>& c = rows_.c;
    const Record& at = rows_.record;
    at.over_chunks(c.machine, c.time.steps(), c.time.batch, k, b, [&](int64_t from, int64_t n, int64_t row) {
      Real* to = c.saved + row * at.numbers;
      copy(to, memory + from, n);
      copy_or_zero<Real>(to + n, nullptr, at.numbers - n);
    });
  }

  // The controller, whose last h goes to the features, and what the heads take of it.
  void control(const Products& products, int64_t t, int64_t b, int n, const Real* const* reads, Real* record,
               Real* features) {
    const NtmCall<Real>& c = rows_.c;
    const Machine& m = c.machine;
    const Record& at = rows_.record;
    for (int l = 0; l < m.layers; ++l) {
      RowPointers<Real> inputs;
      for (int i = 0; i < n; ++i) {
        Real* z = record + i * at.numbers + at.layer[l];
        inputs.at[i] = z;
        if (l == 0) {
          copy(z, c.x_at(t, b + i), m.inputs);
          copy(z + m.inputs, reads[i], m.read_numbers());
        } else {
          copy(z, rows_.state_of(l - 1, 0, i), m.hidden);
        }
        if (m.recurrent) copy(z + m.layer_inputs(l), rows_.state_of(l, 0, i), m.hidden);
      }
      tick(products.layer[l], l, n, inputs, record);
    }
    RowPointers<Real> top;
    for (int i = 0; i < n; ++i) {
      top.at[i] = features + i * c.ld_features;
      copy(features + i * c.ld_features, rows_.state_of(m.layers - 1, 0, i), m.hidden);
    }
    Columns<Real> columns = products.heads.columns;
    for (int64_t block = 0; block < columns.blocks(); ++block) {
      products.heads(n, top.at, block, 0, rows_.tile, kTileCols<Real>);
      for (int i = 0; i < n; ++i)
        copy(record + i * at.numbers + at.parameters + columns.from(block), rows_.tile + i * kTileCols<Real>,
             columns.units(block));
    }
  }

  // One layer of the controller. The cell finds the sum of both products where others find their inputs', and a
  // recurrent product of zero.
  void tick(const Product<Real>& product, int l, int n, const RowPointers<Real>& inputs, Real* record) {
    const Facts& f = rows_.f;
    const Machine& m = rows_.m;
    const int64_t ld_tile = f.gates * kTileCols<Real>;
    for (int64_t block = 0; block < product.columns.blocks(); ++block) {
      for (int g = 0; g < f.gates; ++g) product(n, inputs.at, block, g, rows_.tile + g * kTileCols<Real>, ld_tile);
      const int64_t unit = product.columns.from(block);
      ForwardTile<Real> a{};
      a.knobs = unbounded<Real>();
      a.rows = n;
      a.units = product.columns.units(block);
      a.width = kTileCols<Real>;
      a.hidden = m.hidden;
      a.u = zeros_;
      a.x = rows_.tile;
      a.ld_x = ld_tile;
      a.reads_h = true;
      for (int s = 0; s < f.states; ++s) {
        a.s[s] = a.next[s] = rows_.state_of(l, s, 0) + unit;
        a.ld_state[s] = rows_.ld_unit;
      }
      a.saved = record + rows_.record.layer[l] + m.layer_width(l) + unit;
      a.kept_states = a.saved + f.saved * m.hidden;
      a.ld_saved = rows_.record.numbers;
      kControllers<Real>[m.controller].forward[0](a);
    }
  }

 public:
  template <class R> static Knobs<R> unbounded() { return {R(__builtin_inf()), R(1), {0, 0}}; }
};

// ----------------------------------------------------------------------------------------------------------- backward

template <class Real> struct BackwardProducts {
  Product<Real> layer[kMaxControllerLayers], heads;

  BackwardProducts(Arena& arena, const Facts& f, const NtmCall<Real>& c, const NtmPlan& plan) {
    const Machine& m = c.machine;
    for (int l = 0; l < m.layers; ++l) {
      int64_t width = m.layer_width(l);
      layer[l] = backward_product(c.weight[l], width, f.gates * m.hidden, width, plan.packed);
      place(arena, layer[l], false);
    }
    if (!m.layers) return;
    heads = backward_product(c.head_weight, m.hidden, m.parameters(), m.hidden, plan.packed);
    place(arena, heads, false);
  }
};

template <class Real> struct NtmBackward {
  using Products = BackwardProducts<Real>;

  NtmRows<Real> rows_;  // of gradients
  HeadRow<Real> heads_;
  Real *versions_, *first_weighting_, *dreads_, *wide_;
  int64_t ld_reads_, ld_wide_ = 0;

  NtmBackward(Arena& arena, const Facts& f, const NtmCall<Real>& c)
      : rows_(arena, f, c),
        heads_(arena, c.machine, rows_.record, true),
        versions_(arena.take<Real>(kTileRows * versions_size(c.machine))),
        first_weighting_(arena.take<Real>(kTileRows * c.machine.heads() * c.machine.padded_rows())),
        ld_reads_(padded_row<Real>(c.machine.read_numbers())) {
    dreads_ = arena.take<Real>(kTileRows * ld_reads_);
    for (int l = 0; l < c.machine.layers; ++l) ld_wide_ = max_of(ld_wide_, padded_row<Real>(c.machine.layer_width(l)));
    wide_ = arena.take<Real>(kTileRows * ld_wide_);
  }

  void group(const Products& products, int64_t b, int rows) {
    const NtmCall<Real>& c = rows_.c;
    const Machine& m = c.machine;
    rows_.load(c.grad_final, b, rows);
    for (int i = 0; i < rows; ++i) {
      int64_t row = c.time.caller(b + i);
      rows_.load_weightings(c.first[kWeightings], row, first_weighting(i));
      copy_or_zero(dreads(i), c.grad_final[kReads] ? c.grad_final[kReads] + row * m.read_numbers() : nullptr,
                   m.read_numbers());
    }
    for (int64_t k = (c.time.steps() - 1) / Record::kTicks; k >= 0; --k) {
      const int64_t begin = c.time.begin + k * Record::kTicks, end = min_of(c.time.end, begin + Record::kTicks);
      for (int i = 0, n = rows_.alive(begin, b, rows); i < n; ++i) remember(k, begin, end, b + i, versions(i));
      for (int64_t t = end - 1; t >= begin; --t) tick(products, t, t - begin, b, rows_.alive(t, b, rows));
    }
    for (int i = 0; i < rows; ++i) {
      rows_.store(c.grad_first, b, i, rows_.memory_of(i), rows_.weighting_of(i));
      if (c.grad_first[kReads])
        copy(c.grad_first[kReads] + c.time.caller(b + i) * m.read_numbers(), dreads(i), m.read_numbers());
    }
  }

 private:
  // Of a row: the memory before the ticks from one that is kept to the next, and after each write that a later phase
  // sees.
  static int64_t versions_size(const Machine& m) {
    return ((Record::kTicks - 1) * m.versions() + m.versions(m.phases() - 1) + 1) * m.memory_numbers();
  }
  Real* versions(int i) const { return versions_ + i * versions_size(rows_.m); }
  Real* first_weighting(int i) const { return first_weighting_ + i * rows_.m.heads() * rows_.m.padded_rows(); }
  Real* dreads(int i) const { return dreads_ + i * ld_reads_; }
  Real* wide(int i) const { return wide_ + i * ld_wide_; }

  // The k-th memory of row b, kept or the first, and what writes made of it up to tick `end` or the row's own.
  void remember(int64_t k, int64_t begin, int64_t end, int64_t b, Real* to) {
    const NtmCall<Real>& c = rows_.c;
    const Machine& m = c.machine;
    const Record& at = rows_.record;
    if (k > 0)
      at.over_chunks(m, c.time.steps(), c.time.batch, k - 1, b,
                     [&](int64_t from, int64_t n, int64_t row) { copy(to + from, c.saved + row * at.numbers, n); });
    else
      rows_.load_memory(c.first[kMemory], c.time.caller(b), to);
    while (end > begin && c.time.rows(end - 1) <= b) --end;
    for (int64_t t = begin; t < end; ++t, to += m.versions() * m.memory_numbers())
      heads_.replay(c.saved + rows_.frame(t, b) * at.numbers, to,
                    t + 1 < end ? m.versions() : m.versions(m.phases() - 1));
  }

  // Backward through tick t, the `step`-th from one whose memory is kept, for n rows from b on.
  void tick(const Products& products, int64_t t, int64_t step, int64_t b, int n) {
    if (n == 0) return;
    const NtmCall<Real>& c = rows_.c;
    const Machine& m = c.machine;
    const Record& at = rows_.record;
    const int64_t frame = rows_.frame(t, b);
    const Real* last = t > c.time.begin ? c.saved + rows_.frame(t - 1, b) * at.numbers : nullptr;
    const Real* features = c.grad_features + frame * m.features() + m.features() - m.read_numbers();
    for (int i = 0; i < n; ++i) {
      for (int64_t j = 0; j < m.read_numbers(); ++j) dreads(i)[j] += features[i * m.features() + j];
      Real* parameters = m.layers ? c.grad_parameters + (frame + i) * m.parameters()
                                  : c.grad_x + c.time.place(t, b + i) * m.parameters();
      heads_.backward(c.saved + (frame + i) * at.numbers,
                      last ? last + i * at.numbers + at.weightings : first_weighting(i),
                      versions(i) + step * m.versions() * m.memory_numbers(), dreads(i), rows_.weighting_of(i),
                      rows_.memory_of(i), parameters);
      if (!m.layers) copy_or_zero<Real>(dreads(i), nullptr, m.read_numbers());
    }
    if (m.layers) control(products, t, b, n);
  }

  // Calls put(row, first column, columns, numbers) for the product of rows with a matrix.
  template <class Put> void multiply(const Product<Real>& product, int n, const Real* const* left, Put&& put) {
    for (int64_t block = 0; block < product.columns.blocks(); ++block) {
      product(n, left, block, 0, rows_.tile, kTileCols<Real>);
      for (int i = 0; i < n; ++i)
        put(i, product.columns.from(block), product.columns.units(block), rows_.tile + i * kTileCols<Real>);
    }
  }

  void control(const Products& products, int64_t t, int64_t b, int n) {
    const NtmCall<Real>& c = rows_.c;
    const Machine& m = c.machine;
    const int64_t frame = rows_.frame(t, b);
    auto add = [](Real* to, const Real* from, int64_t count) {
      for (int64_t j = 0; j < count; ++j) to[j] += from[j];
    };
    for (int i = 0; i < n; ++i)
      add(rows_.state_of(m.layers - 1, 0, i), c.grad_features + (frame + i) * m.features(), m.hidden);
    multiply(products.heads, n, rows_from<Real>(c.grad_parameters, m.parameters(), frame).at,
             [&](int i, int64_t from, int units, const Real* d) {
               add(rows_.state_of(m.layers - 1, 0, i) + from, d, units);
             });
    for (int l = m.layers - 1; l >= 0; --l) {
      cell(l, t, b, n);
      multiply(products.layer[l], n, rows_from<Real>(c.grad_gates[l], rows_.f.gates * m.hidden, frame).at,
               [&](int i, int64_t from, int units, const Real* d) { copy(wide(i) + from, d, units); });
      for (int i = 0; i < n; ++i) {
        const Real* dz = wide(i);
        if (l > 0) {
          add(rows_.state_of(l - 1, 0, i), dz, m.hidden);
        } else {
          if (c.grad_x) copy(c.grad_x + c.time.place(t, b + i) * m.inputs, dz, m.inputs);
          copy(dreads(i), dz + m.inputs, m.read_numbers());
        }
        copy_or_zero(rows_.state_of(l, 0, i), m.recurrent ? dz + m.layer_inputs(l) : nullptr, m.hidden);
      }
    }
  }

  // The cell's gradients of layer l: of its gates, and of its states but h, which the product gives.
  void cell(int l, int64_t t, int64_t b, int n) {
    const NtmCall<Real>& c = rows_.c;
    const Facts& f = rows_.f;
    const Machine& m = c.machine;
    const Record& at = rows_.record;
    const int64_t frame = rows_.frame(t, b), states = at.layer[l] + m.layer_width(l) + f.saved * m.hidden;
    Columns<Real> columns{m.hidden};
    for (int64_t block = 0; block < columns.blocks(); ++block) {
      const int64_t unit = columns.from(block);
      BackwardTile<Real> a{};
      a.knobs = NtmForward<Real>::template unbounded<Real>();
      a.rows = n;
      a.units = columns.units(block);
      a.hidden = m.hidden;
      for (int s = 0; s < f.states; ++s) {
        a.carry[s] = rows_.state_of(l, s, 0) + unit;
        a.ld_state[s] = rows_.ld_unit;
        a.s[s].given = true;
        for (int i = 0; i < n; ++i) {
          int64_t row = c.time.caller(b + i);
          const Real* first = c.first[s] ? c.first[s] + (l * c.time.batch + row) * m.hidden + unit : nullptr;
          const Real* record = c.saved + (frame + i) * at.numbers;
          const Real* last = c.saved + (rows_.frame(t - (t > c.time.begin), b) + i) * at.numbers;
          // h before the tick lies in what the product read, where it is recurrent; else no cell asks for it
          a.s[s].at[i] = s == 0             ? record + at.layer[l] + (m.recurrent ? m.layer_inputs(l) : 0) + unit
                         : t > c.time.begin ? last + states + (s - 1) * m.hidden + unit
                                            : first;
        }
        if (s > 0) a.next[s] = c.saved + frame * at.numbers + states + (s - 1) * m.hidden + unit;
      }
      a.saved = c.saved + frame * at.numbers + at.layer[l] + m.layer_width(l) + unit;
      a.ld_saved = at.numbers;
      a.dx = a.du = c.grad_gates[l] + frame * f.gates * m.hidden + unit;
      a.ld_dx = a.ld_du = f.gates * m.hidden;
      kControllers<Real>[m.controller].backward[0](a);
    }
  }
};

// -------------------------------------------------------------------------------------------------------------- table

template <class Real, class Walk> size_t ntm_space(const Facts& f, const NtmCall<Real>& c, const NtmPlan& plan) {
  Arena shared{nullptr}, own{nullptr};
  typename Walk::Products products(shared, f, c, plan);
  Walk walk(own, f, c);
  return shared.used + plan.threads * own.used;
}

template <class Real, class Walk>
void ntm_walk(const Facts& f, const NtmCall<Real>& c, const NtmPlan& plan, char* space, Meeting& meeting, int thread) {
  Arena shared{space}, size{nullptr};
  typename Walk::Products products(shared, f, c, plan);
  Walk measured(size, f, c);
  Arena own{space + shared.used + thread * size.used};
  Walk walk(own, f, c);
  for (int l = 0; l < c.machine.layers; ++l) products.layer[l].pack(thread, plan.threads);
  if (c.machine.layers) products.heads.pack(thread, plan.threads);
  meeting.all();
  row_groups(plan.row_from[thread], plan.row_from[thread + 1],
             [&](int64_t b, int rows) { walk.group(products, b, rows); });
}

template <class Real> const NtmKernels<Real>& ntm_table() {
  static constexpr NtmKernels<Real> kTable = {&ntm_space<Real, NtmForward<Real>>, &ntm_space<Real, NtmBackward<Real>>,
                                              &ntm_walk<Real, NtmForward<Real>>, &ntm_walk<Real, NtmBackward<Real>>};
  return kTable;
}

template const NtmKernels<float>& ntm_table();
template const NtmKernels<double>& ntm_table();

}  // namespace rnn::RNN_ISA
