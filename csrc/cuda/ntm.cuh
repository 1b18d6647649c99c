// Walks a Neural Turing Machine through time: a block of threads has one row of the batch, whose memory stays with it
// from the first tick to the last. No block waits for another.
#pragma once
#include "../memory/interpolation.h"
#include "../memory/rows.h"
#include "../memory/sharpening.h"
#include "ntm.h"
#include "shared.h"
#include "team.cuh"

namespace rnn::cuda {

#include "../walk/heads-inl.h"

// What both directions keep of a row: states, which walk along, or their gradients.
template <class Real> struct NtmRow {
  const NtmStep<Real>& step;
  const NtmCall<Real>& c;
  const Machine& m;
  const Record& at;
  int64_t b, row;  // in the order of the walk, and the caller's
  HeadRow<Real> heads;
  Real *state, *memory, *weighting;

  RNN_FN NtmRow(Arena& arena, const NtmStep<Real>& of, int64_t of_row, bool backward)
      : step(of), c(of.c), m(of.c.machine), at(of.record), b(of_row), row(0), heads(arena, m, at, backward) {
    state = arena.take<Real>(m.layers * step.f.states * m.hidden);
    memory = arena.take<Real>(m.memory_numbers());
    weighting = arena.take<Real>(m.heads() * m.padded_rows());
  }

  __device__ Real* state_of(int layer, int s) const { return state + (layer * step.f.states + s) * m.hidden; }
  __device__ Real* record_of(int64_t t) const { return c.saved + (c.time.frame(t) + b) * at.numbers; }
  __device__ bool lives(int64_t t) const { return b < c.time.rows(t); }
  __device__ const Real* layer_state(const Real* of, int layer) const {
    return of ? of + (layer * c.time.batch + row) * m.hidden : nullptr;
  }

  // The states of the row, or their gradients, before or after the call: what is absent is zero.
  template <class Pointers> __device__ void load(const Pointers& from) {
    row = c.time.caller(b);
    for (int l = 0; l < m.layers; ++l)
      for (int s = 0; s < step.f.states; ++s) copy_or_zero(state_of(l, s), layer_state(from[s], l), m.hidden);
    load_memory(from[kMemory], memory);
    load_weightings(from[kWeightings], weighting);
  }
  __device__ void load_memory(const Real* from, Real* to) const {
    const int64_t rows = m.padded_rows(), N = m.rows;
    if (from) from += row * N * m.width;
    over_numbers(0, m.memory_numbers(),
                 [&](int64_t i) { to[i] = from && i % rows < N ? from[i % rows * m.width + i / rows] : Real(0); });
  }
  __device__ void load_weightings(const Real* from, Real* to) const {
    const int64_t rows = m.padded_rows(), N = m.rows;
    if (from) from += row * m.heads() * N;
    over_numbers(0, m.heads() * rows,
                 [&](int64_t i) { to[i] = from && i % rows < N ? from[i / rows * N + i % rows] : Real(0); });
  }
  template <class Pointers> __device__ void store(const Pointers& to, const Real* weightings) const {
    const int64_t rows = m.padded_rows(), N = m.rows;
    for (int l = 0; l < m.layers; ++l)
      for (int s = 0; s < step.f.states; ++s)
        if (to[s]) copy(to[s] + (l * c.time.batch + row) * m.hidden, state_of(l, s), m.hidden);
    if (Real* of = to[kMemory] ? to[kMemory] + row * N * m.width : nullptr)
      over_numbers(0, N * m.width, [&](int64_t i) { of[i] = memory[i % m.width * rows + i / m.width]; });
    if (Real* of = to[kWeightings] ? to[kWeightings] + row * m.heads() * N : nullptr)
      over_numbers(0, m.heads() * N, [&](int64_t i) { of[i] = weightings[i / N * rows + i % N]; });
  }

  __device__ static Knobs<Real> unbounded() { return {Real(__builtin_inf()), Real(1), {0, 0}}; }
};

// ----------------------------------------------------------------------------------------------------------- forward

template <class Cell, class Real> struct NtmForward : NtmRow<Real> {
  using Base = NtmRow<Real>;
  using Base::at, Base::b, Base::c, Base::heads, Base::m, Base::memory, Base::row, Base::step;
  Real *scratch, *inputs, *gates;  // a record, where none are kept; what a layer's product reads, and leaves

  RNN_FN NtmForward(Arena& arena, const NtmStep<Real>& of, int64_t of_row) : Base(arena, of, of_row, false) {
    scratch = arena.take_if<Real>(!c.saved, at.numbers);
    int64_t widest = 0;
    for (int l = 0; l < m.layers; ++l) widest = max_of(widest, m.layer_width(l));
    inputs = arena.take<Real>(widest);
    gates = arena.take<Real>(m.layers ? Cell::kGates * m.hidden : 0);
  }

  __device__ void run() {
    this->load(c.first);
    const Real* weighting = this->weighting;
    const Real* reads = c.first[kReads] ? c.first[kReads] + row * m.read_numbers() : nullptr;
    for (int64_t t = c.time.begin; t < c.time.end && this->lives(t); ++t) {
      const int64_t ticks = t - c.time.begin;
      Real* record = c.saved ? this->record_of(t) : scratch;
      Real* features = c.features + (c.time.frame(t) + b) * c.ld_features;
      if (c.saved && ticks && ticks % Record::kTicks == 0) keep(ticks / Record::kTicks - 1);
      if (m.layers)
        control(t, reads, record, features);
      else
        copy(record + at.parameters, c.x_at(t, b), m.parameters());
      copy_or_zero<Real>(record + at.filled, nullptr, at.weightings - at.filled);
      Real* read = features + m.features() - m.read_numbers();
      heads.forward(record, weighting, memory, read);
      weighting = record + at.weightings;
      reads = read;
    }
    this->store(c.final, weighting);
    if (c.final[kReads]) copy_or_zero(c.final[kReads] + row * m.read_numbers(), reads, m.read_numbers());
  }

 private:
  __device__ void keep(int64_t k) const {
    at.over_chunks(m, c.time.steps(), c.time.batch, k, b, [&](int64_t from, int64_t n, int64_t place) {
      Real* to = c.saved + place * at.numbers;
      over_numbers(0, at.numbers, [&](int64_t i) { to[i] = i < n ? memory[from + i] : Real(0); });
    });
  }

  // The controller, whose last h goes to the features, and what the heads take of it.
  __device__ void control(int64_t t, const Real* reads, Real* record, Real* features) {
    for (int l = 0; l < m.layers; ++l) {
      const int64_t width = m.layer_width(l), own = m.layer_inputs(l);
      Real* kept = record + at.layer[l];
      const Real *x = l ? this->state_of(l - 1, 0) : c.x_at(t, b), *h = this->state_of(l, 0);
      const int64_t first = l ? m.hidden : m.inputs;
      over_numbers(0, width, [&](int64_t i) {
        inputs[i] = kept[i] = i < first ? x[i] : i < own ? reads[i - first] : h[i - own];
      });
      multiply(step.columns[l], width, Cell::kGates * m.hidden, inputs, c.bias[l], gates);
      over_numbers(0, m.hidden, [&](int64_t unit) { tick(l, unit, kept + width + unit); });
    }
    const Real* h = this->state_of(m.layers - 1, 0);
    copy(features, h, m.hidden);
    multiply(step.head_columns, m.hidden, m.parameters(), h, c.head_bias, record + at.parameters);
  }

  // The cell finds the sum of both products where others find their inputs', and a recurrent product of zero.
  __device__ void tick(int l, int64_t unit, Real* saved) const {
    Real x[Cell::kGates], none[Cell::kGates] = {};
    RNN_UNROLL(8)
    for (int g = 0; g < Cell::kGates; ++g) x[g] = gates[g * m.hidden + unit];
    ForwardTile<Real> a{};
    a.knobs = Base::unbounded();
    a.rows = a.units = a.width = 1;
    a.hidden = m.hidden;
    a.u = none;
    a.x = x;
    a.reads_h = true;
    RNN_UNROLL(5)
    for (int s = 0; s < Cell::kStates; ++s) a.s[s] = a.next[s] = this->state_of(l, s) + unit;
    a.saved = saved;
    a.kept_states = saved + Cell::kSaved * m.hidden;
    forward_stage<Cell, Real, 0>(a);
  }
};

// ---------------------------------------------------------------------------------------------------------- backward

template <class Cell, class Real> struct NtmBackward : NtmRow<Real> {
  using Base = NtmRow<Real>;
  using Base::at, Base::b, Base::c, Base::heads, Base::m, Base::memory, Base::row, Base::step, Base::weighting;
  Real *versions, *first_weighting, *dreads, *wide;

  RNN_FN NtmBackward(Arena& arena, const NtmStep<Real>& of, int64_t of_row) : Base(arena, of, of_row, true) {
    // The memory before the ticks from one that is kept to the next, and after each write that a later phase sees.
    versions =
        arena.take<Real>(((Record::kTicks - 1) * m.versions() + m.versions(m.phases() - 1) + 1) * m.memory_numbers());
    first_weighting = arena.take<Real>(m.heads() * m.padded_rows());
    dreads = arena.take<Real>(m.read_numbers());
    int64_t widest = 0;
    for (int l = 0; l < m.layers; ++l) widest = max_of(widest, m.layer_width(l));
    wide = arena.take<Real>(widest);
  }

  __device__ void run() {
    this->load(c.grad_final);
    this->load_weightings(c.first[kWeightings], first_weighting);
    copy_or_zero(dreads, c.grad_final[kReads] ? c.grad_final[kReads] + row * m.read_numbers() : nullptr,
                 m.read_numbers());
    for (int64_t k = (c.time.steps() - 1) / Record::kTicks; k >= 0; --k) {
      const int64_t begin = c.time.begin + k * Record::kTicks;
      int64_t end = min_of(c.time.end, begin + Record::kTicks);
      while (end > begin && !this->lives(end - 1)) --end;
      if (end == begin) continue;
      remember(k, begin, end);
      for (int64_t t = end - 1; t >= begin; --t) tick(t, versions + (t - begin) * m.versions() * m.memory_numbers());
    }
    this->store(c.grad_first, weighting);
    if (c.grad_first[kReads]) copy(c.grad_first[kReads] + row * m.read_numbers(), dreads, m.read_numbers());
  }

 private:
  // The k-th memory, kept or the first, and what writes made of it up to tick `end`.
  __device__ void remember(int64_t k, int64_t begin, int64_t end) {
    Real* to = versions;
    if (k > 0)
      at.over_chunks(m, c.time.steps(), c.time.batch, k - 1, b,
                     [&](int64_t from, int64_t n, int64_t place) { copy(to + from, c.saved + place * at.numbers, n); });
    else
      this->load_memory(c.first[kMemory], to);
    for (int64_t t = begin; t < end; ++t, to += m.versions() * m.memory_numbers())
      heads.replay(this->record_of(t), to, t + 1 < end ? m.versions() : m.versions(m.phases() - 1));
  }

  __device__ void tick(int64_t t, const Real* found) {
    const int64_t frame = c.time.frame(t) + b;
    const Real* dfeatures = c.grad_features + frame * m.features();
    const Real* dread = dfeatures + m.features() - m.read_numbers();
    over_numbers(0, m.read_numbers(), [&](int64_t j) { dreads[j] += dread[j]; });
    Real* dparameters =
        m.layers ? c.grad_parameters + frame * m.parameters() : c.grad_x + c.time.place(t, b) * m.parameters();
    const Real* before = t > c.time.begin ? this->record_of(t - 1) + at.weightings : first_weighting;
    heads.backward(this->record_of(t), before, found, dreads, weighting, memory, dparameters);
    if (m.layers)
      control(t, frame, dfeatures, dparameters);
    else
      copy_or_zero<Real>(dreads, nullptr, m.read_numbers());
  }

  __device__ void control(int64_t t, int64_t frame, const Real* dfeatures, const Real* dparameters) {
    Real* dh = this->state_of(m.layers - 1, 0);
    over_numbers(0, m.hidden, [&](int64_t i) { dh[i] += dfeatures[i]; });
    multiply(c.head_weight, m.parameters(), m.hidden, dparameters, dh, dh);
    for (int l = m.layers - 1; l >= 0; --l) {
      Real* dgates = c.grad_gates[l] + frame * Cell::kGates * m.hidden;
      over_numbers(0, m.hidden, [&](int64_t unit) { cell(l, t, unit, dgates); });
      multiply(c.weight[l], Cell::kGates * m.hidden, m.layer_width(l), dgates, static_cast<const Real*>(nullptr), wide);
      const int64_t first = l ? m.hidden : m.inputs, own = m.layer_inputs(l);
      Real *below = l ? this->state_of(l - 1, 0) : nullptr,
           *dx = c.grad_x && !l ? c.grad_x + c.time.place(t, b) * m.inputs : nullptr;
      over_numbers(0, own, [&](int64_t i) {
        if (below)
          below[i] += wide[i];
        else if (i >= first)
          dreads[i - first] = wide[i];
        else if (dx)
          dx[i] = wide[i];
      });
      copy_or_zero<Real>(this->state_of(l, 0), m.recurrent ? wide + own : nullptr, m.hidden);
    }
  }

  // The cell's gradients of layer l: of its gates, and of its states but h, which the product gives.
  __device__ void cell(int l, int64_t t, int64_t unit, Real* dgates) const {
    const int64_t width = m.layer_width(l), states = at.layer[l] + width + Cell::kSaved * m.hidden + unit;
    const bool fresh = t == c.time.begin;
    const Real *record = this->record_of(t), *last = this->record_of(fresh ? t : t - 1);
    BackwardTile<Real> a{};
    a.knobs = Base::unbounded();
    a.rows = a.units = 1;
    a.hidden = m.hidden;
    RNN_UNROLL(5)
    for (int s = 0; s < Cell::kStates; ++s) {
      a.carry[s] = this->state_of(l, s) + unit;
      a.s[s].given = true;
      const Real* first = this->layer_state(c.first[s], l);
      // h before the tick lies in what the product read, where it is recurrent; else no cell asks for it
      a.s[s].at[0] = s == 0  ? record + at.layer[l] + (m.recurrent ? m.layer_inputs(l) : 0) + unit
                     : fresh ? first + unit
                             : last + states + (s - 1) * m.hidden;
      if (s > 0) a.next[s] = record + states + (s - 1) * m.hidden;
    }
    a.saved = record + at.layer[l] + width + unit;
    a.dx = a.du = dgates + unit;
    backward_stage<Cell, Real, 0>(a);
  }
};

// ------------------------------------------------------------------------------------------------------------- table

static_assert(sizeof(NtmStep<double>) <= 4096);  // what a kernel of any card takes
template <class Walk, class Real, bool kShared>
__global__ void __launch_bounds__(kTeam, 1) ntm_walk(const __grid_constant__ NtmStep<Real> m) {
  extern __shared__ __align__(64) char shared[];
  Arena arena{kShared ? shared : m.space + blockIdx.x * m.space_size};
  Walk(arena, m, blockIdx.x).run();
}

template <class Walk, class Real> size_t ntm_space(const NtmStep<Real>& m) {
  Arena arena{nullptr};
  Walk walk(arena, m, 0);
  return arena.used;
}

template <class Walk, class Real> void ntm_launch(const NtmStep<Real>& m, Stream stream) {
  const auto blocks = static_cast<unsigned>(m.c.time.batch);
  const auto s = static_cast<cudaStream_t>(stream);
  if (m.space) {
    ntm_walk<Walk, Real, false><<<blocks, kTeam, 0, s>>>(m);
  } else {
    allow_shared_memory<&ntm_walk<Walk, Real, true>>();
    ntm_walk<Walk, Real, true><<<blocks, kTeam, m.space_size, s>>>(m);
  }
}

// Calls f with the walk of the machine's controller.
template <template <class, class> class Walk, class Real, class F> auto with_controller(const NtmStep<Real>& m, F&& f) {
  int controller = 0;
#define RNN_CONTROLLER(Cell) \
  if (controller++ == m.c.machine.controller) return f.template operator()<Walk<Cell, Real>>();
  RNN_CONTROLLERS(RNN_CONTROLLER)
#undef RNN_CONTROLLER
  return f.template operator()<Walk<Lstm, Real>>();
}

template <class Real> const NtmKernels<Real>& ntm_kernels() {
  using M = const NtmStep<Real>&;
  static constexpr NtmKernels<Real> kTable = {
      [](M m) { return with_controller<NtmForward>(m, [&]<class Walk>() { return ntm_space<Walk>(m); }); },
      [](M m) { return with_controller<NtmBackward>(m, [&]<class Walk>() { return ntm_space<Walk>(m); }); },
      [](M m, Stream s) { with_controller<NtmForward>(m, [&]<class Walk>() { ntm_launch<Walk>(m, s); }); },
      [](M m, Stream s) { with_controller<NtmBackward>(m, [&]<class Walk>() { ntm_launch<Walk>(m, s); }); }};
  return kTable;
}

}  // namespace rnn::cuda
