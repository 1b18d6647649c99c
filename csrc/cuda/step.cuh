// The kernels that walk a layer through time tick by tick: products stand between them, a run of stages is one of them.
#pragma once
#include "tile.cuh"

namespace rnn::cuda {

inline constexpr unsigned kPart = 128, kWholeRow = 256;  // threads of a block

// A block of threads is some rows by some units, or a whole row where its numbers are normalised together.
struct Grid {
  int64_t rows, units;
  dim3 block;
  unsigned across;  // blocks of one row

  Grid(int64_t rows, int64_t units, bool whole_rows) : rows(rows), units(units) {
    const unsigned lanes = static_cast<unsigned>((units > 0 ? units + 31 : 32) / 32 * 32),
                   most = whole_rows ? kWholeRow : kPart;
    block = dim3(lanes < most ? lanes : most);
    if (!whole_rows) block.y = most / block.x;
    across = whole_rows ? 1 : static_cast<unsigned>((units + block.x - 1) / block.x);
  }
  bool empty() const { return rows <= 0 || units <= 0; }
  dim3 blocks() const { return dim3(static_cast<unsigned>((rows + block.y - 1) / block.y * across)); }
};

// Calls f(row, unit) for what a thread of such a grid has to do.
template <class F> __device__ __forceinline__ void over_units(int64_t rows, int64_t units, unsigned across, F&& f) {
  const int64_t row = int64_t(blockIdx.x / across) * blockDim.y + threadIdx.y;
  if (row >= rows) return;
  for (int64_t unit = int64_t(blockIdx.x % across) * blockDim.x + threadIdx.x; unit < units;
       unit += int64_t(across) * blockDim.x)
    f(row, unit);
}

// Sums each of n numbers over the block, which is whole warps of one row, for all its threads.
template <int n, class Real> __device__ void block_sum(Real (&v)[n]) {
  __shared__ Real parts[kWholeRow / 32][n];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  for (int i = 0; i < n; ++i)
    for (int apart = 16; apart > 0; apart /= 2) v[i] += __shfl_xor_sync(~0u, v[i], apart);
  __syncthreads();  // who came before may still read
  if (lane == 0)
    for (int i = 0; i < n; ++i) parts[warp][i] = v[i];
  __syncthreads();
  for (int i = 0; i < n; ++i) {
    v[i] = parts[0][i];
    for (int w = 1; w < warps; ++w) v[i] += parts[w][i];
  }
}

// ------------------------------------------------------------------------------------------------------------- masks

// One number of a mask, of the caller's row at tick t.
template <class Real> RNN_FN Real mask_value(const Call<Real>& c, MaskKind kind, int64_t t, int64_t row, int64_t unit) {
  const Mask<Real>& m = c.masks[kind];
  if (m.source == Mask<Real>::kGiven) return m.given[t * m.tick + row * m.row + unit];
  if (m.source == Mask<Real>::kConstant) return static_cast<Real>(m.probability);
  return Draw<Real>(kind, m, c.stream).at(c.seed_now(), t, row, unit);
}
template <class Real> RNN_FN MaskRows<Real> mask_of(const Call<Real>& c, MaskKind kind, int64_t t, int64_t b,
                                                    int64_t unit) {
  if (!c.masks[kind].on()) return {false, Real(0)};
  return {true, mask_value(c, kind, t, c.time.caller(b), unit)};
}

// ----------------------------------------------------------------------------------------------------------- forward

// Makes the states of row b ready for tick t: they are reset, and h is copied, masked, to where the products will read
// it, if that is elsewhere. Each number by the thread that has just written it. states: of the cell, a constant where
// it is known.
template <class Real>
RNN_FN void prepare(const Step<Real>& m, int states, int64_t t, int64_t b, int64_t unit, Real* masked) {
  const Call<Real>& c = m.c;
  if (t < 0 || b >= c.time.rows(t)) return;
  const bool cut = c.is_cut(t, b);
  RNN_UNROLL(5)
  for (int s = 0; s < states; ++s) {
    if (unit >= c.units(s)) continue;
    Real* state = m.state_row(s, b) + unit;
    if (cut) *state = c.reset[s] ? c.reset[s][unit] : Real(0);
    if (!masked || !m.in_h(s)) continue;
    Real mask = s == 0 && c.masks[kDropFed].on() ? mask_value(c, kDropFed, t, c.time.caller(b), unit) : Real(1);
    masked[b * m.ld_masked + s * c.hidden + unit] = mask * *state;
  }
}

template <class Real> __global__ void enter(const __grid_constant__ Step<Real> m, unsigned across) {
  const Call<Real>& c = m.c;
  over_units(c.time.batch, m.units(), across, [&](int64_t b, int64_t unit) {
    for (int s = 0; s < m.f.states; ++s)
      if (unit < c.units(s)) m.state_row(s, b)[unit] = c.first_at(s, b)[unit];
    prepare(m, m.f.states, c.time.steps() > 0 ? c.time.tick(0) : -1, b, unit, m.masked);
  });
}

template <class Real>
__global__ void deliver(const __grid_constant__ Step<Real> m, int64_t t, int64_t next, int64_t rows, unsigned across) {
  const Call<Real>& c = m.c;
  over_units(rows, m.units(), across, [&](int64_t b, int64_t unit) {
    if (c.out && unit < c.outputs && b < c.time.rows(t)) c.out_at(t, b)[unit] = m.state_row(0, b)[unit];
    prepare(m, m.f.states, next, b, unit, m.masked);
  });
}

template <class Real> __global__ void leave(const __grid_constant__ Step<Real> m, unsigned across) {
  const Call<Real>& c = m.c;
  over_units(c.time.batch, m.units(), across, [&](int64_t b, int64_t unit) {
    for (int s = 0; s < m.f.states; ++s)
      if (unit < c.units(s)) c.final[s][c.time.caller(b) * c.units(s) + unit] = m.state_row(s, b)[unit];
  });
}

// A gate's biases, in the part of the pre-activation that they belong to: without inputs b_ih is in the recurrent part.
template <class Cell, class Real> RNN_FN Real input_bias(const Call<Real>& c, int gate, int64_t unit) {
  return c.b_ih && gate >= Cell::kFirstBiasIh ? c.b_ih[(gate - Cell::kFirstBiasIh) * c.hidden + unit] : Real(0);
}
template <class Cell, class Real> RNN_FN Real recurrent_bias(const Call<Real>& c, int gate, int64_t unit) {
  Real bias = gate < Cell::kFirstInput ? input_bias<Cell>(c, gate, unit) : Real(0);
  return c.b_hh && gate >= Cell::kFirstBiasHh ? bias + c.b_hh[(gate - Cell::kFirstBiasHh) * c.hidden + unit] : bias;
}

template <class Cell, class Real> RNN_FN Kept kept_of(const Call<Real>& c) {
  constexpr Kept kBare(facts_of<Cell>(), false, false);
  return kBare.with(c.w_hr != nullptr, c.masks[kZoneCell].on());
}

// product(g): what the product before the run left for gate g of the stage. h, next_h: where the first state is read
// and written, if elsewhere than the others.
template <class Cell, class Real, int S, class Product>
__device__ __forceinline__ void forward_unit(const Step<Real>& m, int64_t t, int64_t b, int64_t unit, Product&& product,
                                             const Real* h = nullptr, Real* next_h = nullptr) {
  constexpr StageFacts f(facts_of<Cell>(), S);
  constexpr int kInputs = Cell::kGates - Cell::kFirstInput;
  const Call<Real>& c = m.c;
  const int64_t H = c.hidden, frame = c.time.frame(t) + b;
  Real x[Cell::kGates], u[Cell::kGates];
  RNN_UNROLL(8)
  for (int g = Cell::kFirstInput; g < Cell::kGates; ++g) {
    Real projected = m.projected[(frame * kInputs + g - Cell::kFirstInput) * H + unit];
    x[g - Cell::kFirstInput] = Cell::kNormInput ? projected : projected + input_bias<Cell>(c, g, unit);
  }
  constexpr int kFirst = kFirstGate<Cell, S>, kGates = Cell::kStageEnd[S] - kFirst;
  RNN_UNROLL(8)
  for (int g = 0; g < kGates; ++g) {
    u[g] = recurrent_bias<Cell>(c, kFirst + g, unit);
    if (S > 0 || m.fed_states > 0) u[g] += product(g);
  }

  ForwardTile<Real> a{};
  a.units = a.width = 1;
  place_tile(a, f, c, kept_of<Cell>(c), t, b, 1, unit);
  a.u = u;
  a.x = x;
  a.parameters = c.unit + unit;
  a.ld_parameters = H;
  RNN_UNROLL(5)
  for (int s = 0; s < Cell::kStates; ++s) a.s[s] = a.next[s] = m.state_row(s, b) + unit;
  if (h) a.s[0] = h, a.next[0] = next_h;
  if (kIsLast<Cell, S>) {
    a.zone_h = mask_of(c, kZoneH, t, b, unit);
    a.zone_cell = mask_of(c, kZoneCell, t, b, unit);
  }
  if (!c.w_hr) a.drop = mask_of(c, kDropFed, t, b, unit);
  if (leaves_operand(f, c)) a.operand = m.operand + b * H + unit;
  if (!c.saved) a.saved = m.saved ? m.saved + b * Cell::kSaved * H + unit : nullptr;
  a.norm = m.norm + b * Cell::kNorms * H + unit;
  a.ld_unit = H;
  a.moments = m.moments + b * Cell::kGroups * 2;
  forward_stage<Cell, Real, S>(a);
}

// Mean and scale of what stage S of a row has left to be normalised: of n numbers, value(unit) each.
template <class Real, class Value>
__device__ void measure(int64_t n, int64_t units, Real eps, Real* to, Real* kept, Value&& value) {
  Real mean[1] = {0}, spread[2] = {0, 0};
  for (int64_t unit = threadIdx.x; unit < units; unit += blockDim.x) value(unit, [&](Real x) { mean[0] += x; });
  block_sum(mean);
  mean[0] /= Real(n);
  for (int64_t unit = threadIdx.x; unit < units; unit += blockDim.x)
    value(unit, [&](Real x) {
      Real apart = x - mean[0];
      spread[0] += apart;
      spread[1] += apart * apart;
    });
  block_sum(spread);
  Real rest = spread[0] / Real(n), distance = spread[1] - spread[0] * rest;  // the mean was rounded
  if (threadIdx.x == 0) {
    to[0] = mean[0] + rest;
    to[1] = Real(1) / Lane<Real>::sqrt(distance / Real(n) + eps).v;
    if (kept) *kept = to[1];
  }
  __syncthreads();
}

template <class Cell, class Real, int S>
__device__ __forceinline__ void forward_stages(const Step<Real>& m, int64_t t, int64_t b, int64_t from,
                                               int64_t stride) {
  constexpr Facts f = facts_of<Cell>();
  constexpr StageOf of = stage_of<Cell>();
  const Call<Real>& c = m.c;
  constexpr int kGates = Cell::kStageEnd[S] - kFirstGate<Cell, S>;
  for (int64_t unit = from; unit < c.hidden; unit += stride)
    forward_unit<Cell, Real, S>(m, t, b, unit, [&](int g) { return m.product[(b * kGates + g) * c.hidden + unit]; });
  if constexpr (f.leaves_norms(S)) {
    const Real* norm = m.norm + b * Cell::kNorms * c.hidden;
    RNN_UNROLL(8)
    for (int group = 0; group < Cell::kGroups; ++group) {
      if (f.group_stage[group] != S) continue;
      int values = 0;
      RNN_UNROLL(8)
      for (int k = 0; k < Cell::kNorms; ++k) values += of.group[k] == group;
      Real* kept = c.saved ? const_cast<Real*>(c.kept_at(t, b, kept_of<Cell>(c).rows)) : nullptr;
      measure<Real>(values * c.hidden, c.hidden, c.eps, m.moments + (b * Cell::kGroups + group) * 2,
                    kept ? kept + group : nullptr, [&](int64_t unit, auto&& take) {
                      RNN_UNROLL(8)
                      for (int k = 0; k < Cell::kNorms; ++k)
                        if (of.group[k] == group) take(norm[k * c.hidden + unit]);
                    });
    }
  }
  if constexpr (!kIsLast<Cell, S>)
    if constexpr (!f.has_product(S + 1)) forward_stages<Cell, Real, S + 1>(m, t, b, from, stride);
}

template <class Cell> inline constexpr bool kWholeRows = Cell::kGroups > 0;
// Blocks a multiprocessor shall hold: left to itself nvcc aims at more, and spills.
template <class Cell, class Real> inline constexpr int kBlocks = kWholeRows<Cell> ? 2 : sizeof(Real) == 8 ? 4 : 5;
template <class Cell, int S> constexpr int run_end() {  // one past the last stage of the run that begins with S
  constexpr Facts f = facts_of<Cell>();
  int end = S + 1;
  while (end < f.stages && !f.has_product(end)) ++end;
  return end;
}

template <class Cell, class Real, int S>
__global__ void __launch_bounds__(kWholeRows<Cell> ? kWholeRow : kPart, kBlocks<Cell, Real>)
    forward_run(const __grid_constant__ Step<Real> m, int64_t t, int64_t next, int64_t rows, unsigned across) {
  const Call<Real>& c = m.c;
  constexpr bool kEnds = run_end<Cell, S>() == kStages<Cell>;
  const bool prepares = kEnds && !c.w_hr;
  if constexpr (kWholeRows<Cell>) {
    const int64_t b = blockIdx.x;
    if (b < c.time.rows(t)) forward_stages<Cell, Real, S>(m, t, b, threadIdx.x, blockDim.x);
    for (int64_t unit = threadIdx.x; unit < c.hidden && prepares; unit += blockDim.x)
      prepare(m, Cell::kStates, next, b, unit, m.masked);
  } else {
    over_units(rows, c.hidden, across, [&](int64_t b, int64_t unit) {
      if (b < c.time.rows(t)) forward_stages<Cell, Real, S>(m, t, b, unit, c.hidden);
      if (prepares) prepare(m, Cell::kStates, next, b, unit, m.masked);
    });
  }
}

// Normalises W x of each frame over all gates.
template <class Real> __global__ void normalise_inputs(const __grid_constant__ Step<Real> m, unsigned) {
  const Call<Real>& c = m.c;
  const int64_t frame = blockIdx.x, n = m.f.gates * c.hidden;
  const Kept at = c.kept(m.f);
  __shared__ Real moments[2];
  Real* x = m.projected + frame * n;
  Real* kept = c.saved ? c.saved + frame * c.saved_numbers : nullptr;
  measure<Real>(n, n, c.eps, moments, kept ? kept + at.rows * c.hidden + m.f.groups : nullptr,
                [&](int64_t i, auto&& take) { take(x[i]); });
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) {
    x[i] = (x[i] - moments[0]) * moments[1];
    if (kept) kept[at.inputs * c.hidden + i] = x[i];
  }
}

// ---------------------------------------------------------------------------------------------------------- backward

template <class Real> __global__ void enter_backward(const __grid_constant__ Step<Real> m, unsigned across) {
  const Call<Real>& c = m.c;
  over_units(c.time.batch, m.units(), across, [&](int64_t b, int64_t unit) {
    for (int s = 0; s < m.f.states; ++s)
      if (unit < c.units(s))
        m.carry[s][b * c.units(s) + unit] = c.grad_final[s] ? c.grad_final[s][c.time.caller(b) * c.units(s) + unit] : 0;
  });
}

// What of row b's gradient comes from the tick after t: whether it is clamped, cut off, and masked.
template <class Real> RNN_FN void set_arrival(BackwardTile<Real>& a, const Step<Real>& m, int64_t t, int64_t b,
                                              int64_t unit) {
  const Call<Real>& c = m.c;
  const int64_t after = c.time.after(t);
  const bool shared = b < c.time.rows_after(t);
  a.clips = {c.gradient_clip - c.gradient_clip == 0, shared};  // finite
  a.clip = c.gradient_clip;
  a.cuts = {c.resets != nullptr, shared && c.is_cut(after, b)};
  if (shared && unit < c.outputs) a.drop_fed = mask_of(c, kDropFed, after, b, unit);  // of the states that feed back
  a.sums = m.sums ? m.sums + b * m.f.parameters * 2 * m.units() + unit : nullptr;
  a.ld_sums = m.units();
  a.reset_sums = c.resets ? m.reset_sums + b * m.f.states * 2 * m.units() + unit : nullptr;
}

template <class Real>
__global__ void arrive(const __grid_constant__ Step<Real> m, int64_t t, int64_t rows, int64_t product_rows,
                       unsigned across) {
  using V = Lane<Real>;
  const Call<Real>& c = m.c;
  over_units(rows, c.outputs, across, [&](int64_t b, int64_t unit) {
    BackwardTile<Real> a{};
    set_arrival(a, m, t, b, unit);
    Real* carry = m.carry[0] + b * c.outputs + unit;
    V d = b < product_rows ? m.product[b * c.fed + unit] : Real(0);
    if (a.drop_fed) d = d * a.drop_fed.value;
    d = arrived<Real>(a, d + V(*carry), 0, a.reset_sums, 0, 0);
    *carry = 0;
    if (c.grad_out) d = d + V(c.grad_out[c.time.place(t, b) * c.outputs + unit]);
    m.dh[(c.time.frame(t) + b) * c.outputs + unit] = d.v;
  });
}

// product(s, n): what the product left for fed state s of n, if row b has any.
template <class Cell, class Real, int S, class Product>
__device__ __forceinline__ void backward_unit(const Step<Real>& m, int64_t t, int64_t b, int64_t product_rows,
                                              int64_t unit, Product&& product_of) {
  constexpr StageFacts f(facts_of<Cell>(), S);
  const Call<Real>& c = m.c;
  const int64_t H = c.hidden, frame = c.time.frame(t) + b;
  const bool projects = c.w_hr != nullptr;
  const Kept kept = kept_of<Cell>(c);
  constexpr bool kLast = kIsLast<Cell, S>;
  Real product[Cell::kFed > 0 ? Cell::kFed : 1];
  int count = 0;
  if (b < product_rows) {
    count = kLast && !projects ? m.fed_states : 1;
    RNN_UNROLL(5)
    for (int s = 0; s < (Cell::kFed > 0 ? Cell::kFed : 1); ++s) product[s] = s < count ? product_of(s, count) : Real(0);
  }

  BackwardTile<Real> a{};
  a.units = 1;
  place_tile(a, f, c, kept, t, b, 1, unit);
  set_arrival(a, m, t, b, unit);
  a.product = product;
  a.fed = count;
  a.parameters = c.unit + unit;
  a.ld_parameters = H;
  a.zone_h = mask_of(c, kZoneH, t, b, unit);
  a.zone_cell = mask_of(c, kZoneCell, t, b, unit);
  if (projects)
    a.drop_fed = {};  // `arrive` was here
  else
    a.drop = mask_of(c, kDropFed, t, b, unit);
  a.dnext = m.dnext + b * H + unit;
  RNN_UNROLL(5)
  for (int s = 0; s < Cell::kStates; ++s) {
    a.carry[s] = m.carry[s] + b * c.units(s) + unit;
    if (s > 0 || !projects) a.s[s].at[0] = c.state_before(kept, s, t, b, m.zeros) + unit;
  }
  a.dx = m.dx + frame * Cell::kGates * H + unit;
  a.du = m.du + frame * Cell::kGates * H + unit;
  a.dnorm = m.dnorm + b * Cell::kNorms * H + unit;
  a.ld_unit = H;
  a.moments = m.moments + b * Cell::kGroups * 3;
  backward_stage<Cell, Real, S>(a);
}

// Leaves what the gradients of normalised values, d, have in common: their mean, and that along the values y.
template <class Real, class Pairs>
__device__ void measure_gradient(int64_t n, int64_t units, Real scale, Real* to, Pairs&& pairs) {
  Real sums[2] = {0, 0};
  for (int64_t unit = threadIdx.x; unit < units; unit += blockDim.x)
    pairs(unit, [&](Real d, Real y) {
      sums[0] += d;
      sums[1] += d * y;
    });
  block_sum(sums);
  if (threadIdx.x == 0) {
    to[0] = scale;
    to[1] = sums[0] / Real(n);
    to[2] = sums[1] / Real(n);
  }
  __syncthreads();
}

template <class Cell, class Real, int S>
__device__ __forceinline__ void backward_stages(const Step<Real>& m, int64_t t, int64_t b, int64_t product_rows,
                                                int64_t from, int64_t stride) {
  constexpr Facts f = facts_of<Cell>();
  constexpr StageOf of = stage_of<Cell>();
  const Call<Real>& c = m.c;
  for (int64_t unit = from; unit < c.hidden; unit += stride)
    backward_unit<Cell, Real, S>(m, t, b, product_rows, unit,
                                 [&](int s, int n) { return m.product[(b * n + s) * c.hidden + unit]; });
  if constexpr (S > 0) {
    if constexpr (f.leaves_norms(S - 1)) {
      const Kept kept = kept_of<Cell>(c);
      const Real *d = m.dnorm + b * Cell::kNorms * c.hidden, *y = c.kept_at(t, b, kept.norms);
      RNN_UNROLL(8)
      for (int group = 0; group < Cell::kGroups; ++group) {
        if (f.group_stage[group] != S - 1) continue;
        int values = 0;
        RNN_UNROLL(8)
        for (int k = 0; k < Cell::kNorms; ++k) values += of.group[k] == group;
        measure_gradient<Real>(values * c.hidden, c.hidden, c.kept_at(t, b, kept.rows)[group],
                               m.moments + (b * Cell::kGroups + group) * 3, [&](int64_t unit, auto&& take) {
                                 RNN_UNROLL(8)
                                 for (int k = 0; k < Cell::kNorms; ++k)
                                   if (of.group[k] == group) take(d[k * c.hidden + unit], y[k * c.hidden + unit]);
                               });
      }
    }
    if constexpr (!f.has_product(S)) backward_stages<Cell, Real, S - 1>(m, t, b, 0, from, stride);
  }
}

template <class Cell, class Real, int S>
__global__ void __launch_bounds__(kWholeRows<Cell> ? kWholeRow : kPart, kBlocks<Cell, Real>)
    backward_run(const __grid_constant__ Step<Real> m, int64_t t, int64_t rows, int64_t product_rows, unsigned across) {
  if constexpr (kWholeRows<Cell>)
    backward_stages<Cell, Real, S>(m, t, blockIdx.x, product_rows, threadIdx.x, blockDim.x);
  else
    over_units(rows, m.c.hidden, across, [&](int64_t b, int64_t unit) {
      backward_stages<Cell, Real, S>(m, t, b, product_rows, unit, m.c.hidden);
    });
}

template <class Real> __global__ void unnormalise_inputs(const __grid_constant__ Step<Real> m, unsigned) {
  const Call<Real>& c = m.c;
  const int64_t frame = blockIdx.x, n = m.f.gates * c.hidden;
  const Kept at = c.kept(m.f);
  __shared__ Real moments[3];
  Real* d = m.dx + frame * n;
  const Real *kept = c.saved + frame * c.saved_numbers, *y = kept + at.inputs * c.hidden;
  measure_gradient<Real>(n, n, kept[at.rows * c.hidden + m.f.groups], moments,
                         [&](int64_t i, auto&& take) { take(d[i], y[i]); });
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) d[i] = (d[i] - moments[1] - y[i] * moments[2]) * moments[0];
}

// The gradient of the initial states: what the first tick of each row left. `product` has a row for each of the batch.
template <class Real> __global__ void finish(const __grid_constant__ Step<Real> m, bool has_product, unsigned across) {
  const Call<Real>& c = m.c;
  over_units(c.time.batch, m.units(), across, [&](int64_t b, int64_t unit) {
    const bool lives = b < c.time.rows(c.time.begin);
    int64_t t = c.time.begin;  // where the forward entered the row
    if (c.time.reverse)
      for (t = c.time.end - 1; t > c.time.begin && b >= c.time.rows(t);) --t;
    const bool cut = lives && c.is_cut(t, b);
    for (int s = 0; s < m.f.states; ++s) {
      if (unit >= c.units(s)) continue;
      Real d = has_product && lives && m.in_h(s) ? m.product[b * c.fed + s * c.hidden + unit] : Real(0);
      if (s == 0 && lives && c.masks[kDropFed].on()) d *= mask_value(c, kDropFed, t, c.time.caller(b), unit);
      d += m.carry[s][b * c.units(s) + unit];
      if (s == 0 && lives) d = d > c.gradient_clip ? c.gradient_clip : d < -c.gradient_clip ? -c.gradient_clip : d;
      c.grad_first[s][c.time.caller(b) * c.units(s) + unit] = cut ? Real(0) : d;
      if (cut) add_one(m.reset_sums + (b * m.f.states + s) * 2 * m.units() + unit, m.units(), d);
    }
  });
}

// Adds up the batch's sums of parameters' and reset states' gradients.
template <class Real> __global__ void reduce(const __grid_constant__ Step<Real> m, unsigned across) {
  const Call<Real>& c = m.c;
  over_units(m.f.parameters + m.f.states, m.units(), across, [&](int64_t k, int64_t unit) {
    const int s = static_cast<int>(k) - m.f.parameters;  // a state, or less than 0
    const int64_t numbers = s < 0 ? m.f.parameters : m.f.states, number = s < 0 ? k : s;
    Real* to = s < 0 ? c.grad_unit ? c.grad_unit + k * c.hidden : nullptr : c.resets ? c.grad_reset[s] : nullptr;
    if (!to || unit >= (s < 0 ? c.hidden : c.units(s))) return;
    const Real* from = (s < 0 ? m.sums : m.reset_sums) + 2 * number * m.units() + unit;
    Real sum = c.accumulate ? to[unit] : Real(0);
    for (int64_t b = 0; b < c.time.batch; ++b, from += 2 * numbers * m.units()) sum += from[0] - from[m.units()];
    to[unit] = sum;
  });
}

// ------------------------------------------------------------------------------------------------------------ frames

template <class Real>
__global__ void gather_inputs(const __grid_constant__ Step<Real> m, int64_t frames, Real* to, unsigned across) {
  const Call<Real>& c = m.c;
  over_units(frames, c.inputs, across, [&](int64_t frame, int64_t i) {
    const int64_t t = c.time.tick_of(frame), b = frame - c.time.frame(t);
    Real x = c.x_at(t, b)[i];
    to[frame * c.inputs + i] = c.masks[kDropInput].on() ? x * mask_value(c, kDropInput, t, c.time.caller(b), i) : x;
  });
}

template <class Real>
__global__ void scatter_inputs(const __grid_constant__ Step<Real> m, int64_t frames, const Real* from,
                               unsigned across) {
  const Call<Real>& c = m.c;
  over_units(frames, c.inputs, across, [&](int64_t frame, int64_t i) {
    const int64_t t = c.time.tick_of(frame), b = frame - c.time.frame(t);
    Real d = from[frame * c.inputs + i];
    c.grad_x[c.time.place(t, b) * c.inputs + i] =
        c.masks[kDropInput].on() ? d * mask_value(c, kDropInput, t, c.time.caller(b), i) : d;
  });
}

template <class Real>
__global__ void gather_fed(const __grid_constant__ Step<Real> m, int64_t frames, Real* to, unsigned across) {
  const Call<Real>& c = m.c;
  const Kept kept = c.kept(m.f);
  over_units(frames, c.fed, across, [&](int64_t frame, int64_t i) {
    const int64_t t = c.time.tick_of(frame), b = frame - c.time.frame(t);
    const int s = m.fed_states > 1 ? static_cast<int>(i / c.hidden) : 0;
    const int64_t unit = i - s * c.hidden;
    Real h = c.state_before(kept, s, t, b, m.zeros)[unit];
    to[frame * c.fed + i] =
        s == 0 && c.masks[kDropFed].on() ? h * mask_value(c, kDropFed, t, c.time.caller(b), unit) : h;
  });
}

template <class Real>
__global__ void draw(const __grid_constant__ Step<Real> m, MaskKind kind, int64_t rows, int64_t n, Real* to,
                     unsigned across) {
  over_units(rows, n, across, [&](int64_t row, int64_t i) { to[row * n + i] = mask_value(m.c, kind, 0, row, i); });
}

}  // namespace rnn::cuda
