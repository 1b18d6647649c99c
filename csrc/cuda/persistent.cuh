// The kernels that walk all ticks of a layer in one launch. A block holds the weights of its units, multiplies them
// with its rows of what the tick before left in global memory, and applies the cell; once a tick all blocks meet.
#pragma once
#include <cooperative_groups.h>

#include "panel.cuh"
#include "shared.h"
#include "step.cuh"

namespace rnn::cuda {

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

// Most calls: rows of one length, no masks, resets or clamped gradients, no sequences of other states than h.
template <class Cell, class Real> bool is_plain(const Step<Real>& m) {
  const Call<Real>& c = m.c;
  const Timeline& t = c.time;
  bool rest = false;
  for (int s = 1; s < kMaxStates; ++s) rest = rest || c.all[s] || c.grad_all[s];
  return !(rest || t.rows_at || t.frame_at || t.tick_place || t.row_place || t.order || c.resets ||
           c.masks[kZoneH].on() || c.masks[kZoneCell].on() || c.masks[kDropFed].on()) &&
         t.tick_stride == t.batch && c.gradient_clip - c.gradient_clip != 0 &&  // infinite
         m.fed_states == Cell::kFed;
}
// The same call, in which the compiler sees that it is plain, so that what there is for other calls is left out: of an
// LSTM's unit 590 instructions of 1,680 remain.
template <class Cell, class Real> __device__ __forceinline__ Step<Real> as_plain(const Step<Real>& m) {
  Step<Real> plain = m;
  Call<Real>& c = plain.c;
  plain.f = facts_of<Cell>();
  plain.fed_states = Cell::kFed;
  c.outputs = c.hidden;
  c.fed = Cell::kFed * c.hidden;
  c.time.rows_at = c.time.frame_at = c.time.tick_place = c.time.row_place = c.time.order = nullptr;
  c.time.tick_stride = c.time.batch;
  c.resets = nullptr;
  c.w_hr = nullptr;
  c.gradient_clip = static_cast<Real>(__builtin_huge_val());
  RNN_UNROLL(5)
  for (int k = 0; k < kMasks; ++k) c.masks[k].source = Mask<Real>::kNone;
  RNN_UNROLL(5)
  for (int s = 1; s < kMaxStates; ++s) c.all[s] = nullptr, c.grad_all[s] = nullptr;
  return plain;
}

template <int n> struct Rows {};

// What a block is and has.
template <class M> class Block {
 public:
  using Real = typename M::Real;

  __device__ __forceinline__ Block(const Layout& layout, float4* memory)
      : l(layout), warp(threadIdx.x / 32), lane(threadIdx.x % 32), memory(memory) {}
  __device__ __forceinline__ int first_unit() const { return blockIdx.x * l.units; }
  __device__ __forceinline__ int units() const {
    const int rest = l.all_units - first_unit();
    return rest < l.units ? rest : l.units;
  }

  // weight(column, term) of the block's columns, zero where there is none.
  template <class Weight> __device__ __forceinline__ void load_weights(Weight&& weight) {
    float4* scratch = memory + warp * (M::kPanel.scratch / int(sizeof(float4)));
    auto piece = [&](int panel, int q, int i) {
      const int first_column = l.by_column_groups.remainder(panel) * M::kPanel.columns;
      const int first_term = (l.by_column_groups.quotient(panel) * l.chunks + q) * M::kPanel.terms;
      return M::load(i, lane, scratch, [&](int column, int term) {
        return q < l.chunks ? weight(first_column + column, first_term + term) : Real(0);
      });
    };
    const int own = l.by_panels.remainder(warp);  // fewer panels than warps: several hold the same, for other rows
    RNN_UNROLL(4)
    for (int q = 0; q < M::kPanel.chunks; ++q) {
      RNN_UNROLL(8)
      for (int i = 0; i < M::kPieces; ++i) held[q][i] = piece(own, q, i);
      __syncwarp();  // the next ones' addresses would take registers that these need
    }
    RNN_ROLLED
    for (int panel = kWarps + warp; panel < l.panels(); panel += kWarps) {
      RNN_ROLLED
      for (int n = 0; n < l.chunks * M::kPieces; ++n)
        M::put(chunk_at(panel, n / M::kPieces), n % M::kPieces, lane, piece(panel, n / M::kPieces, n % M::kPieces));
    }
    if (M::kPanel.scratch > 0) __syncthreads();  // rows will lie there
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
      for (int i = threadIdx.x; i < count * l.units; i += kWalkThreads) {
        const int row = l.by_units.quotient(i), unit = i - row * l.units;
        if (unit >= units()) continue;
        f(anew(row_of(first + row)), first_unit() + unit, [&](int column) {
          const Real* p = sums() + row * l.columns + column * l.units + unit;
          Real sum = *p;
          RNN_ROLLED
          for (int group = 1; group < l.term_groups; ++group) sum += p[group * l.room * l.columns];
          return sum;
        });
      }
    }
  }
  // Calls f(b, unit) for what `tick` would, by other threads where they are enough: those that had nothing to do there.
  template <class F> __device__ __forceinline__ void over_mine(int all, F&& f) const {
    const int n = mine(all) * l.units;
    RNN_ROLLED
    for (int i = kWalkThreads - 1 - threadIdx.x; i < n; i += kWalkThreads) {
      const int row = l.by_units.quotient(i), unit = i - row * l.units;
      if (unit < units()) f(anew(row_of(row)), first_unit() + unit);
    }
  }

  // All blocks of the launch; alone with its rows a block waits for none.
  __device__ __forceinline__ void meet() const {
    if (l.meets())
      cooperative_groups::this_grid().sync();
    else
      __syncthreads();
  }

 private:
  static constexpr int kTerms = kLoad<Real>;  // that are staged at once

  __device__ __forceinline__ int row_of(int i) const { return (i << l.row_bits) + static_cast<int>(blockIdx.y); }
  __device__ __forceinline__ int mine(int rows) const {
    const int slice = blockIdx.y;
    return rows > slice ? (rows - slice + l.row_slices - 1) >> l.row_bits : 0;
  }
  // Of a panel that registers do not hold.
  __device__ __forceinline__ float4* chunk_at(int panel, int q) const {
    return memory + (l.panels_at + int64_t((panel - kWarps) * l.chunks + q) * kChunkBytes) / sizeof(float4);
  }
  __device__ __forceinline__ typename M::Number* staged() const {
    return reinterpret_cast<typename M::Number*>(memory);
  }

  // [term group][row][column], behind the rows.
  __device__ __forceinline__ Real* sums() const { return reinterpret_cast<Real*>(memory) + l.room * l.staged; }

  // Copies rows to shared memory, past the nearer cache, which may hold what other blocks have overwritten. Past the
  // terms there are zeros.
  template <class Source>
  __device__ __forceinline__ void stage(int first, int rows, int terms, bool aligned, Source&& source) {
    if (rows * l.by_loads.by <= kWalkThreads)
      stage_by<1>(first, rows, terms, aligned, source);
    else
      stage_by<4>(first, rows, terms, aligned, source);
  }
  // So many loads of a thread are under way at once.
  template <int ahead, class Source>
  __device__ __forceinline__ void stage_by(int first, int rows, int terms, bool aligned, Source&& source) {
    const int n = rows * l.by_loads.by;
    RNN_ROLLED
    for (int begin = threadIdx.x; begin < n; begin += ahead * kWalkThreads) {
      Real v[ahead][kTerms]{};
      auto each = [&](auto&& f) {
        RNN_UNROLL(4)
        for (int k = 0; k < ahead; ++k) {
          const int i = begin + k * kWalkThreads, row = l.by_loads.quotient(i);
          if (k == 0 || i < n) f(v[k], row, (i - row * l.by_loads.by) * kTerms);
        }
      };
      each([&](Real(&to)[kTerms], int row, int term) {
        const Real* from = source(row_of(first + row)) + term;
        if (aligned && term + kTerms <= terms)
          unpack(__ldcg(vectors(from)), to);
        else
          RNN_UNROLL(4)
        for (int k = 0; k < kTerms; ++k) to[k] = term + k < terms ? __ldcg(from + k) : Real(0);
      });
      each([&](Real(&from)[kTerms], int row, int term) {
        M::stage(staged() + row * l.staged + term, l.room * l.staged, from);
      });
    }
  }

  __device__ __forceinline__ void multiply_rows(int rows) {
    const int panels = l.panels(), teams = panels < kWarps ? l.by_panels.quotient(kWarps) : 1,
              team = l.by_panels.quotient(warp);
    if (team < teams)
      over_tiles(rows, l.by_panels.remainder(warp), team, teams,
                 [&](int q, int i) -> const typename M::Piece& { return held[q][i]; });
    RNN_ROLLED
    for (int panel = kWarps + warp; panel < panels; panel += kWarps)
      over_tiles(rows, panel, 0, 1, [&](int q, int i) { return M::take(chunk_at(panel, q), i, lane); });
  }
  template <class Weights>
  __device__ __forceinline__ void over_tiles(int rows, int panel, int team, int teams, Weights&& weight) {
    constexpr int kRows = M::kPanel.rows, kFewest = M::kPanel.fewest;
    const int lane = anew(this->lane), group = l.by_column_groups.quotient(panel), before = group * l.chunks;
    const int chunks = l.all_chunks - before < l.chunks ? l.all_chunks - before : l.chunks;
    const typename M::Number* from = staged() + before * M::kPanel.terms;
    Real* to = sums() + group * l.room * l.columns + l.by_column_groups.remainder(panel) * M::kPanel.columns;
    auto multiply = [&]<int n>(int row, Rows<n>) {
      M::template multiply<n>(from + row * l.staged, l.staged, l.room * l.staged, chunks, lane, weight,
                              to + row * l.columns, l.columns);
    };
    RNN_ROLLED
    for (int row = team * kRows; row < rows; row += teams * kRows)
      kRows == kFewest || rows - row > kFewest ? multiply(row, Rows<kRows>{}) : multiply(row, Rows<kFewest>{});
  }

  const Layout& l;
  const int warp, lane;
  float4* memory;  // rows, sums, panels that registers do not hold
  typename M::Piece held[M::kPanel.chunks][M::kPieces];
};

// Rows and ticks are counted in int here: whoever calls sees to it.
template <class Real> __device__ __forceinline__ int rows_at(const Call<Real>& c, int t) {
  return t < 0 ? 0 : static_cast<int>(c.time.rows(t));
}

// ----------------------------------------------------------------------------------------------------------- forward

template <class Cell, class M, bool plain>
__device__ __forceinline__ void walk_forward(const Step<typename M::Real>& m, const Layout& l, float4* memory) {
  using Real = typename M::Real;
  constexpr int kInputs = Cell::kGates - Cell::kFirstInput;
  const Call<Real>& c = m.c;
  const int H = static_cast<int>(c.hidden), steps = static_cast<int>(c.time.steps()), terms = static_cast<int>(c.fed);
  Block<M> block(l, memory);
  if (Cell::kFed > 0 && terms > 0)
    block.load_weights([&](int column, int term) {
      const int gate = l.by_units.quotient(column), unit = column - gate * l.units;
      const bool is = gate < Cell::kGates && unit < block.units() && term < terms;
      return is ? c.w_hh[(gate * c.hidden + block.first_unit() + unit) * c.fed + term] : Real(0);
    });
  for (int step = 0; step < steps; ++step) {
    const int t = static_cast<int>(c.time.tick(step)),
              next = step + 1 < steps ? static_cast<int>(c.time.tick(step + 1)) : -1;
    const int rows = rows_at(c, t), coming = rows_at(c, next);
    auto fed = [&](int step, int b) {
      return m.masked ? m.masked + ((step & 1) * c.time.batch + b) * m.ld_masked : nullptr;
    };
    const bool last = next < 0;
    block.tick(
        terms > 0 ? rows : 0, rows < coming ? coming : rows, terms, true, [&](int b) { return fed(step, b); },
        [&](int b, int unit, auto&& product) {
          if constexpr (plain && Cell::kFed == 1) {  // h lies where products read it, and nowhere else before the end
            Real *h = fed(step, b) + unit, *to = last ? m.state_row(0, b) + unit : fed(step + 1, b) + unit;
            forward_unit<Cell, Real, 0>(m, anew(t), b, unit, product, h, to);
          } else {
            if (b < rows) forward_unit<Cell, Real, 0>(m, anew(t), b, unit, product);
            prepare(m, Cell::kStates, next, b, unit, fed(step + 1, 0));
          }
        });
    if (last) break;
    block.over_mine(coming, [&](int b, int unit) {
      for (int g = 0; g < kInputs; ++g) prefetch(m.projected + ((c.time.frame(next) + b) * kInputs + g) * H + unit);
    });
    block.meet();
  }
}

// ---------------------------------------------------------------------------------------------------------- backward

template <class Cell, class M>
__device__ __forceinline__ void walk_backward(const Step<typename M::Real>& m, const Layout& l, float4* memory) {
  using Real = typename M::Real;
  const Call<Real>& c = m.c;
  const int H = static_cast<int>(c.hidden), steps = static_cast<int>(c.time.steps()), terms = Cell::kGates * H;
  constexpr int kKept = int(Cell::kSaved) + int(Cell::kStates) - 1;
  const bool flows = Cell::kFed > 0 && m.fed_states > 0 && !c.truncated;
  Block<M> block(l, memory);
  if (flows)
    block.load_weights([&](int column, int term) {
      const int state = l.by_units.quotient(column), unit = column - state * l.units;
      const bool is = state < m.fed_states && unit < block.units() && term < terms;
      return is ? c.w_hh[term * c.fed + state * H + block.first_unit() + unit] : Real(0);
    });
  // One turn more than ticks: the last is for the product with what the forward's first tick left.
  for (int step = steps - 1; step >= -1; --step) {
    const int t = step >= 0 ? static_cast<int>(c.time.tick(step)) : -1,
              after = step + 1 < steps ? static_cast<int>(c.time.tick(step + 1)) : -1;
    const int rows = rows_at(c, t), arriving = flows ? rows_at(c, after) : 0;
    block.tick(
        arriving, rows < arriving ? arriving : rows, terms, terms % kLoad<Real> == 0,
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

// Nobody calls them on a card for which they are empty.
template <class Cell, class M, bool plain>
__global__ void __launch_bounds__(kWalkThreads, 1)
    forward_walk(const __grid_constant__ Step<typename M::Real> m, const __grid_constant__ Layout l) {
  extern __shared__ __align__(32) float4 walk_memory[];
  if constexpr (M::kHere && plain) walk_forward<Cell, M, true>(as_plain<Cell>(m), l, walk_memory);
  if constexpr (M::kHere && !plain) walk_forward<Cell, M, false>(m, l, walk_memory);
}
template <class Cell, class M, bool plain>
__global__ void __launch_bounds__(kWalkThreads, 1)
    backward_walk(const __grid_constant__ Step<typename M::Real> m, const __grid_constant__ Layout l) {
  extern __shared__ __align__(32) float4 walk_memory[];
  if constexpr (M::kHere && plain) walk_backward<Cell, M>(as_plain<Cell>(m), l, walk_memory);
  if constexpr (M::kHere && !plain) walk_backward<Cell, M>(m, l, walk_memory);
}

template <auto... kernels> bool walk_fits(const Layout& l) {
  auto fits = [&](auto kernel) {
    int blocks = 0;
    const bool asked =
        cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, kWalkThreads, l.shared) == cudaSuccess;
    if (!asked) (void)cudaGetLastError();  // it was a question
    return asked && blocks > 0;
  };
  (allow_shared_memory<kernels>(), ...);
  return (fits(kernels) && ...);
}
// What goes wrong is asked for by whoever called.
template <class Cell, auto any, auto plain, class Real> void walk(const Step<Real>& m, const Layout& l, Stream stream) {
  void* arguments[] = {const_cast<Step<Real>*>(&m), const_cast<Layout*>(&l)};
  (void)cudaLaunchCooperativeKernel(is_plain<Cell>(m) ? plain : any, dim3(l.unit_slices, l.row_slices),
                                    dim3(kWalkThreads), arguments, l.shared, static_cast<cudaStream_t>(stream));
}

template <class Cell, class M, bool forward> const Persistent<typename M::Real>* persistent_of() {
  using Real = typename M::Real;
  if constexpr (kStages<Cell> == 1 && Cell::kGroups == 0 && (Cell::kFed > 0 || M::kPanel.capability == 0)) {
    constexpr auto any = forward ? &forward_walk<Cell, M, false> : &backward_walk<Cell, M, false>,
                   plain = forward ? &forward_walk<Cell, M, true> : &backward_walk<Cell, M, true>;
    static constexpr Persistent<Real> kWalk{M::kPanel, &walk_fits<any, plain>, &walk<Cell, any, plain, Real>};
    return &kWalk;
  } else {
    return nullptr;
  }
}

template <class Weight, bool forward> const Persistent<typename RealOf<Weight>::type>* persistent(int cell) {
#define RNN_WALK(Cell) persistent_of<Cell, typename MultiplierOf<Weight>::type, forward>(),
  static const Persistent<typename RealOf<Weight>::type>* const kCells[] = {RNN_CELLS(RNN_WALK)};
#undef RNN_WALK
  return kCells[cell];
}

}  // namespace rnn::cuda
