// The kernels that walk all ticks of a layer in one launch. A block holds the weights of its units, multiplies them
// with its rows of what the tick before left in global memory, and applies the cell; once a tick all blocks meet.
#pragma once
#include <cooperative_groups.h>

#include "persistent.h"
#include "step.cuh"

namespace rnn::cuda {

// Registers hold weights: loops over units and rows are not to be unrolled into what is left of them.
#if defined(__CUDACC__)
#define RNN_ROLLED _Pragma("unroll 1")
#else
#define RNN_ROLLED
#endif

template <class Real> inline constexpr int kVec = kLoad / sizeof(Real);
template <class Real> inline constexpr int kChunk = kChunkBytes / sizeof(Real);

RNN_FN void unpack(float4 from, float (&to)[4]) { to[0] = from.x, to[1] = from.y, to[2] = from.z, to[3] = from.w; }
RNN_FN void unpack(double2 from, double (&to)[2]) { to[0] = from.x, to[1] = from.y; }
__device__ __forceinline__ const float4* vectors(const float* p) { return reinterpret_cast<const float4*>(p); }
__device__ __forceinline__ const double2* vectors(const double* p) { return reinterpret_cast<const double2*>(p); }
__device__ __forceinline__ float4* vectors(float* p) { return reinterpret_cast<float4*>(p); }
__device__ __forceinline__ double2* vectors(double* p) { return reinterpret_cast<double2*>(p); }
RNN_FN float4 pack(const float (&v)[4]) { return make_float4(v[0], v[1], v[2], v[3]); }
RNN_FN double2 pack(const double (&v)[2]) { return make_double2(v[0], v[1]); }

// x, but the compiler does not know: what hangs on it is computed where it stands and not kept in registers from before
// the loops around it, where the weights need them.
__device__ __forceinline__ int anew(int x) {
#if defined(__CUDA_ARCH__)
  asm volatile("" : "+r"(x));
#endif
  return x;
}

// Asks for what a later tick reads from far away.
template <class Real> __device__ __forceinline__ void prefetch([[maybe_unused]] const Real* p) {
#if defined(__CUDA_ARCH__)
  asm volatile("prefetch.global.L2 [%0];" ::"l"(p));
#endif
}

// Adds each of n numbers over the warp: lane l gets the sum of number l * n / 32 in v[0].
template <int n, int apart = 16, int size, class Real>
__device__ __forceinline__ void sum_over_lanes(Real (&v)[size], int lane) {
  if constexpr (n > 1) {
    const bool upper = lane & apart;
    RNN_UNROLL(16)
    for (int i = 0; i < n / 2; ++i) {
      const Real mine = upper ? v[i + n / 2] : v[i], other = upper ? v[i] : v[i + n / 2];
      v[i] = mine + __shfl_xor_sync(~0u, other, apart);
    }
  } else {
    v[0] += __shfl_xor_sync(~0u, v[0], apart);
  }
  if constexpr (apart > 1) sum_over_lanes<(n > 1 ? n / 2 : 1), apart / 2>(v, lane);
}

// Sums of a tile of rows by the columns of a panel, over the terms of its chunks, each lane its own: weight(q, column)
// is what the lane holds of chunk q.
template <int rows, class Real, class Weights>
__device__ __forceinline__ void multiply(const Real* staged, int apart, int chunks, int lane, Weights&& weight,
                                         Real (&sum)[rows * kColumns]) {
  RNN_UNROLL(32)
  for (int i = 0; i < rows * kColumns; ++i) sum[i] = 0;
  RNN_UNROLL(4)
  for (int q = 0; q < kChunks; ++q) {
    if (q >= chunks) break;
    Real a[rows][kVec<Real>];
    RNN_UNROLL(4)
    for (int r = 0; r < rows; ++r) unpack(vectors(staged + r * apart)[q * 32 + lane], a[r]);
    RNN_UNROLL(8)
    for (int column = 0; column < kColumns; ++column) {
      const auto& w = weight(q, column);
      RNN_UNROLL(4)
      for (int r = 0; r < rows; ++r) RNN_UNROLL(4)
      for (int v = 0; v < kVec<Real>; ++v)
        sum[r * kColumns + column] = Lane<Real>::fma(a[r][v], w.v[v], sum[r * kColumns + column]).v;
    }
  }
}

template <class Real> struct Vec {
  Real v[kVec<Real>];
};

template <int n> struct Rows {};

// What a block is and has.
template <class Real> class Block {
 public:
  __device__ __forceinline__ Block(const Layout& layout, float4* memory)
      : l(layout),
        warp(threadIdx.x / 32),
        lane(threadIdx.x % 32),
        staged(reinterpret_cast<Real*>(memory)),
        sums(staged + l.room * l.staged),
        panels(sums + l.term_groups * l.room * l.columns()) {}
  __device__ __forceinline__ int first_unit() const { return blockIdx.x * l.units; }
  __device__ __forceinline__ int units() const {
    const int rest = l.all_units - first_unit();
    return rest < l.units ? rest : l.units;
  }

  // weight(column, term) of the block's columns, zero where there is none.
  template <class Weight> __device__ __forceinline__ void load_weights(Weight&& weight) {
    auto load = [&](int panel, int q, int column) {
      const int at = panel % l.column_groups * kColumns + column;
      const int term = ((panel / l.column_groups * l.chunks + q) * 32 + lane) * kVec<Real>;
      Vec<Real> w;
      RNN_UNROLL(4)
      for (int v = 0; v < kVec<Real>; ++v) w.v[v] = q < l.chunks ? weight(at, term + v) : Real(0);
      return w;
    };
    const int own = warp % l.panels();  // fewer panels than warps: several hold the same, for other rows
    RNN_UNROLL(4)
    for (int q = 0; q < kChunks; ++q) {
      RNN_UNROLL(8)
      for (int column = 0; column < kColumns; ++column) held[q][column] = load(own, q, column);
      __syncwarp();  // the next ones' addresses would take registers that these need
    }
    RNN_ROLLED
    for (int panel = kWarps + warp; panel < l.panels(); panel += kWarps) {
      RNN_ROLLED
      for (int i = 0; i < l.chunks * kColumns; ++i)
        vectors(panel_at(panel))[i * 32 + lane] = pack(load(panel, i / kColumns, i % kColumns).v);
    }
  }

  // Multiplies the first `arriving` rows, row b from source(b) on, with the block's weights, then calls
  // f(b, unit, product), for the first `all` rows, by the same thread in every tick. product(column) is for arriving
  // rows.
  template <class Source, class F>
  __device__ __forceinline__ void tick(int arriving, int all, int terms, bool aligned, Source&& source, F&& f) {
    const int multiplied = mine(arriving), last = mine(all);
    RNN_ROLLED
    for (int first = 0; first < last; first += l.pass) {
      const int rows = multiplied - first < l.pass ? multiplied - first : l.pass;
      const int count = last - first < l.pass ? last - first : l.pass;
      if (rows > 0) {
        stage(first, rows, terms, aligned, source);
        __syncthreads();
        multiply_rows(rows);
        __syncthreads();
      }
      RNN_ROLLED
      for (int i = threadIdx.x; i < count * units(); i += kWalkThreads) {
        const int row = i / units(), unit = i % units();
        f(anew(row_of(first + row)), first_unit() + unit, [&](int column) {
          const Real* p = sums + row * l.columns() + column * l.units + unit;
          Real sum = *p;
          RNN_ROLLED
          for (int group = 1; group < l.term_groups; ++group) sum += p[group * l.room * l.columns()];
          return sum;
        });
      }
    }
  }
  // Calls f(b, unit) for what `tick` would.
  template <class F> __device__ __forceinline__ void over_mine(int all, F&& f) const {
    const int n = mine(all) * units();
    RNN_ROLLED
    for (int i = threadIdx.x; i < n; i += kWalkThreads) f(anew(row_of(i / units())), first_unit() + i % units());
  }

  // All blocks of the launch; alone with its rows a block waits for none.
  __device__ __forceinline__ void meet() const {
    if (l.unit_slices > 1)
      cooperative_groups::this_grid().sync();
    else
      __syncthreads();
  }

  const Layout& l;
  const int warp, lane;

 private:
  __device__ __forceinline__ int row_of(int i) const { return i * l.row_slices + static_cast<int>(blockIdx.y); }
  __device__ __forceinline__ int mine(int rows) const {
    const int slice = blockIdx.y;
    return rows > slice ? (rows - slice + l.row_slices - 1) / l.row_slices : 0;
  }
  __device__ __forceinline__ Real* panel_at(int panel) const {
    return panels + (panel - kWarps) * (l.chunks * kColumns * kChunk<Real>);
  }

  // Copies rows to shared memory, past the nearer cache, which may hold what other blocks have overwritten. Past the
  // terms there are zeros.
  template <class Source>
  __device__ __forceinline__ void stage(int first, int rows, int terms, bool aligned, Source&& source) {
    const int across = l.staged / kVec<Real>, n = rows * across;
    RNN_UNROLL(4)
    for (int i = threadIdx.x; i < n; i += kWalkThreads) {
      const int row = i / across, term = i % across * kVec<Real>;
      const Real* from = source(row_of(first + row)) + term;
      Real v[kVec<Real>];
      if (aligned && term + kVec<Real> <= terms)
        unpack(__ldcg(vectors(from)), v);
      else
        RNN_UNROLL(4)
      for (int k = 0; k < kVec<Real>; ++k) v[k] = term + k < terms ? __ldcg(from + k) : Real(0);
      vectors(staged)[i] = pack(v);
    }
  }

  __device__ __forceinline__ void multiply_rows(int rows) {
    const int panels = l.panels(), teams = panels < kWarps ? kWarps / panels : 1, team = warp / panels;
    if (team < teams)
      over_tiles(rows, warp % panels, team, teams,
                 [&](int q, int column) -> const Vec<Real>& { return held[q][column]; });
    RNN_ROLLED
    for (int panel = kWarps + warp; panel < panels; panel += kWarps)
      over_tiles(rows, panel, 0, 1, [&](int q, int column) {
        Vec<Real> w;
        unpack(vectors(panel_at(panel))[(q * kColumns + column) * 32 + lane], w.v);
        return w;
      });
  }
  template <class Weights>
  __device__ __forceinline__ void over_tiles(int rows, int panel, int team, int teams, Weights&& weight) {
    const int lane = anew(this->lane), group = panel / l.column_groups, before = group * l.chunks;
    const int chunks = l.all_chunks - before < l.chunks ? l.all_chunks - before : l.chunks;
    Real* to = sums + group * l.room * l.columns() + panel % l.column_groups * kColumns;
    auto tile = [&]<int n>(int row, Rows<n>) {
      constexpr int kSums = n * kColumns, kLanes = 32 / kSums;  // so many lanes have the same sum
      Real sum[kSums];
      multiply<n>(staged + row * l.staged + before * kChunk<Real>, l.staged, chunks, lane, weight, sum);
      sum_over_lanes<kSums>(sum, lane);
      if (lane % kLanes == 0) to[(row + lane / kLanes / kColumns) * l.columns() + lane / kLanes % kColumns] = sum[0];
    };
    constexpr int kRows = tile_rows(sizeof(Real));
    RNN_ROLLED
    for (int row = team * kRows; row < rows; row += teams * kRows)
      rows - row > 1 ? tile(row, Rows<kRows>{}) : tile(row, Rows<1>{});
  }

  Real *staged, *sums, *panels;  // in shared memory: rows; [term group][row][column]; panels that registers do not hold
  Vec<Real> held[kChunks][kColumns];
};

// Rows and ticks are counted in int here: whoever calls sees to it.
template <class Real> __device__ __forceinline__ int rows_at(const Call<Real>& c, int t) {
  return t < 0 ? 0 : static_cast<int>(c.time.rows(t));
}

// ----------------------------------------------------------------------------------------------------------- forward

template <class Cell, class Real>
__global__ void __launch_bounds__(kWalkThreads, 1)
    forward_walk(const __grid_constant__ Step<Real> m, const __grid_constant__ Layout l) {
  extern __shared__ float4 walk_memory[];
  constexpr int kInputs = Cell::kGates - Cell::kFirstInput;
  const Call<Real>& c = m.c;
  const int H = static_cast<int>(c.hidden), steps = static_cast<int>(c.time.steps()), terms = static_cast<int>(c.fed);
  Block<Real> block(l, walk_memory);
  block.load_weights([&](int column, int term) {
    const int gate = column / l.units, unit = column % l.units;
    const bool is = gate < Cell::kGates && unit < block.units() && term < terms;
    return is ? c.w_hh[(gate * c.hidden + block.first_unit() + unit) * c.fed + term] : Real(0);
  });
  for (int step = 0; step < steps; ++step) {
    const int t = static_cast<int>(c.time.tick(step)),
              next = step + 1 < steps ? static_cast<int>(c.time.tick(step + 1)) : -1;
    const int rows = rows_at(c, t), coming = rows_at(c, next);
    auto fed = [&](int step, int b) { return m.masked + ((step & 1) * c.time.batch + b) * m.ld_masked; };
    block.tick(
        rows, rows < coming ? coming : rows, terms, true, [&](int b) { return fed(step, b); },
        [&](int b, int unit, auto&& product) {
          if (b < rows) forward_unit<Cell, Real, 0>(m, anew(t), b, unit, product);
          prepare(m, next, b, unit, fed(step + 1, 0));
        });
    if (next < 0) break;
    block.over_mine(coming, [&](int b, int unit) {
      for (int g = 0; g < kInputs; ++g) prefetch(m.projected + ((c.time.frame(next) + b) * kInputs + g) * H + unit);
    });
    block.meet();
  }
}

// ---------------------------------------------------------------------------------------------------------- backward

template <class Cell, class Real>
__global__ void __launch_bounds__(kWalkThreads, 1)
    backward_walk(const __grid_constant__ Step<Real> m, const __grid_constant__ Layout l) {
  extern __shared__ float4 walk_memory[];
  const Call<Real>& c = m.c;
  const int H = static_cast<int>(c.hidden), steps = static_cast<int>(c.time.steps()), terms = Cell::kGates * H;
  constexpr int kKept = int(Cell::kSaved) + int(Cell::kStates) - 1;
  const bool flows = !c.truncated;
  Block<Real> block(l, walk_memory);
  if (flows)
    block.load_weights([&](int column, int term) {
      const int state = column / l.units, unit = column % l.units;
      const bool is = state < m.fed_states && unit < block.units() && term < terms;
      return is ? c.w_hh[term * c.fed + state * H + block.first_unit() + unit] : Real(0);
    });
  // One turn more than ticks: the last is for the product with what the forward's first tick left.
  for (int step = steps - 1; step >= -1; --step) {
    const int t = step >= 0 ? static_cast<int>(c.time.tick(step)) : -1,
              after = step + 1 < steps ? static_cast<int>(c.time.tick(step + 1)) : -1;
    const int rows = rows_at(c, t), arriving = flows ? rows_at(c, after) : 0;
    block.tick(
        arriving, rows < arriving ? arriving : rows, terms, terms % kVec<Real> == 0,
        [&](int b) { return m.du + (c.time.frame(after) + b) * terms; },
        [&](int b, int unit, auto&& product) {
          if (b < rows)
            backward_unit<Cell, Real, 0>(m, anew(t), b, arriving, unit, [&](int s, int) { return product(s); });
          else  // the forward entered the row at the tick after
            for (int s = 0; s < m.fed_states; ++s) m.product[b * c.fed + s * H + unit] = product(s);
        });
    if (step < 0) break;
    if (step > 0) {
      const int before = static_cast<int>(c.time.tick(step - 1));
      block.over_mine(rows_at(c, before), [&](int b, int unit) {
        const Real* kept = c.kept_at(before, b, 0) + unit;
        for (int k = 0; k < kKept; ++k) prefetch(kept + k * H);
        if (c.grad_out) prefetch(c.grad_out + c.time.place(before, b) * c.outputs + unit);
      });
    }
    if (flows) block.meet();
  }
}

// ---------------------------------------------------------------------------------------------------------- launches

template <auto kernel> bool walk_fits(const Layout& l) {
  int blocks = 0;
  const bool asked =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(l.shared)) ==
          cudaSuccess &&
      cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, kWalkThreads, l.shared) == cudaSuccess;
  if (!asked) (void)cudaGetLastError();  // it was a question
  return asked && blocks > 0;
}
// What goes wrong is asked for by whoever called.
template <auto kernel, class Real> void walk(const Step<Real>& m, const Layout& l, Stream stream) {
  void* arguments[] = {const_cast<Step<Real>*>(&m), const_cast<Layout*>(&l)};
  (void)cudaLaunchCooperativeKernel(kernel, dim3(l.unit_slices, l.row_slices), dim3(kWalkThreads), arguments, l.shared,
                                    static_cast<cudaStream_t>(stream));
}

template <class Cell, class Real, bool forward> const Persistent<Real>* persistent() {
  if constexpr (kStages<Cell> == 1 && Cell::kFed > 0 && Cell::kGroups == 0) {
    if constexpr (forward) {
      static constexpr Persistent<Real> kWalk{&walk_fits<&forward_walk<Cell, Real>>,
                                              &walk<&forward_walk<Cell, Real>, Real>};
      return &kWalk;
    } else {
      static constexpr Persistent<Real> kWalk{&walk_fits<&backward_walk<Cell, Real>>,
                                              &walk<&backward_walk<Cell, Real>, Real>};
      return &kWalk;
    }
  } else {
    return nullptr;
  }
}

#define RNN_FORWARD(Cell) persistent<Cell, Real, true>(),
#define RNN_BACKWARD(Cell) persistent<Cell, Real, false>(),
template <class Real> const Persistent<Real>* persistent_forward(int cell) {
  static const Persistent<Real>* const kCells[] = {RNN_CELLS(RNN_FORWARD)};
  return kCells[cell];
}
template <class Real> const Persistent<Real>* persistent_backward(int cell) {
  static const Persistent<Real>* const kCells[] = {RNN_CELLS(RNN_BACKWARD)};
  return kCells[cell];
}
#undef RNN_FORWARD
#undef RNN_BACKWARD

}  // namespace rnn::cuda
