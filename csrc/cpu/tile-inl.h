// The package's own packed product: the register tile, the panels it reads, and Product, which ties both to a weight.
// Included once per instruction set, inside rnn::RNN_ISA.

#define RNN_LAMBDA __attribute__((always_inline))

#include "../walk/words-inl.h"

template <class Real> inline constexpr int kLanes = Vector<Real>::kLanes;
template <class Real> inline constexpr int kTileCols = kTileVectors * kLanes<Real>;

// [from, to) of piece `index` when n things are dealt to `pieces`.
struct Slice {
  int64_t from, to;
  Slice(int64_t n, int64_t pieces, int64_t index) : from(n * index / pieces), to(n * (index + 1) / pieces) {}
};

// Calls f(from, rows) for groups of at most kTileRows rows, as even as they go.
template <class F> RNN_FN void row_groups(int64_t from, int64_t to, F&& f) {
  int64_t groups = ceil_div(to - from, kTileRows);
  for (int64_t i = 0; i < groups; ++i) {
    Slice s(to - from, groups, i);
    f(from + s.from, static_cast<int>(s.to - s.from));
  }
}

// Asks for the lines of `rows` rows of n, to be there when the product that comes first is done.
template <class Real> RNN_FN void prefetch(const Real* p, int64_t ld, int rows, int64_t n) {
  for (int i = 0; i < rows; ++i)
    for (int64_t j = 0; j < n; j += 64 / int64_t(sizeof(Real))) __builtin_prefetch(p + i * ld + j);
}

template <class Real> struct RowPointers {
  const Real* at[kTileRows];
};
// Rows b, b+1, ... of a matrix; those past its end are formed but never read.
template <class Real> RNN_FN RowPointers<Real> rows_from(const Real* base, int64_t ld, int64_t b) {
  RowPointers<Real> rows;
  for (int i = 0; i < kTileRows; ++i) rows.at[i] = base + (b + i) * ld;
  return rows;
}

// out[i][j] = init[j] + sum_k A(i,k) b[k*ldb + j] for MR rows and NV vectors of columns. A(i,k) is a[i][k], or with
// kOuter a[0][k*MR + i]; `add` adds to what out holds. Few rows would wait for each FMA before the next: they sum in KS
// independent chains.
template <class V, int MR, int NV, bool kOuter>
void tile(int64_t K, const typename V::Real* const* a, const typename V::Real* b, int64_t ldb,
          const typename V::Real* init, typename V::Real* out, int64_t ldo, bool add) {
  using Real = typename V::Real;
  constexpr int L = V::kLanes, KS = MR * NV >= 8 ? 1 : MR * NV >= 4 ? 2 : 4;
  V sum[KS][MR][NV];
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < NV; ++j) {
      sum[0][i][j] = init ? V::load(init + j * L) : V(0);
#pragma GCC unroll 4
      for (int s = 1; s < KS; ++s) sum[s][i][j] = V(0);
    }
  const Real* row[kOuter ? 1 : MR];
#pragma GCC unroll 16
  for (int i = 0; i < (kOuter ? 1 : MR); ++i) row[i] = a[i];

  auto step = [&](V(&acc)[MR][NV], int64_t k) RNN_LAMBDA {
    V right[NV];
#pragma GCC unroll 8
    for (int j = 0; j < NV; ++j) right[j] = V::load(b + k * ldb + j * L);
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i) {
      V left = V::broadcast(kOuter ? row[0] + k * MR + i : row[kOuter ? 0 : i] + k);
#pragma GCC unroll 8
      for (int j = 0; j < NV; ++j) acc[i][j] = V::fma(left, right[j], acc[i][j]);
    }
  };
  int64_t k = 0;
  constexpr int kUnroll = KS > 2 ? KS : 2;  // 4 costs the 6x2 tile of AVX2 a tenth: too few registers
  for (; k + kUnroll <= K; k += kUnroll)
#pragma GCC unroll 4
    for (int s = 0; s < kUnroll; ++s) step(sum[s % KS], k + s);
  for (; k < K; ++k) step(sum[0], k);

#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < NV; ++j) {
      V total = sum[0][i][j];
#pragma GCC unroll 4
      for (int s = 1; s < KS; ++s) total = total + sum[s][i][j];
      (add ? total + V::load(out + i * ldo + j * L) : total).store(out + i * ldo + j * L);
    }
}

// The same sums where each column of the right side is a contiguous row of an unpacked weight.
template <class V, int MR, int NC>
void dot_tile(int64_t K, const typename V::Real* const* a, const typename V::Real* w, int64_t ldw,
              const typename V::Real* init, typename V::Real* out, int64_t ldo) {
  constexpr int L = V::kLanes;
  V sum[MR][NC];
#pragma GCC unroll 4
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < NC; ++j) sum[i][j] = V(0);
  auto step = [&](int64_t k, auto... width) RNN_LAMBDA {
    V left[MR];
#pragma GCC unroll 4
    for (int i = 0; i < MR; ++i) left[i] = V::load(a[i] + k, width...);
#pragma GCC unroll 4
    for (int j = 0; j < NC; ++j) {
      V right = V::load(w + j * ldw + k, width...);
#pragma GCC unroll 4
      for (int i = 0; i < MR; ++i) sum[i][j] = V::fma(left[i], right, sum[i][j]);
    }
  };
  int64_t k = 0;
  for (; k + L <= K; k += L) step(k);
  if (k < K) step(k, static_cast<int>(K - k));
#pragma GCC unroll 4
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < NC; ++j) out[i * ldo + j] = V::sum(sum[i][j]) + (init ? init[j] : 0);
}

template <class Real> using TileFn = void (*)(int64_t, const Real* const*, const Real*, int64_t, const Real*, Real*,
                                              int64_t, bool);

// The tiles of every row count and vector count, by [rows - 1][vectors - 1].
template <class Real, bool kOuter> struct Tiles {
  TileFn<Real> at[kTileRows][kTileVectors];
  template <int... i> constexpr explicit Tiles(Indices<i...>) : at{} {
    ((at[i / kTileVectors][i % kTileVectors] = &tile<Vector<Real>, i / kTileVectors + 1, i % kTileVectors + 1, kOuter>),
     ...);
  }
  constexpr Tiles() : Tiles(MakeIndices<kTileRows * kTileVectors>()) {}
};
template <class Real, bool kOuter> inline constexpr Tiles<Real, kOuter> kTiles{};

// Panels: N columns in blocks of kTileCols, the last as many vectors wide as it needs, each (K, width).
template <class Real> struct Columns {
  int64_t n;
  int64_t blocks() const { return ceil_div(n, kTileCols<Real>); }
  int64_t from(int64_t block) const { return block * kTileCols<Real>; }
  int units(int64_t block) const { return static_cast<int>(min_of<int64_t>(kTileCols<Real>, n - from(block))); }
  int width(int64_t block) const { return static_cast<int>(ceil_div(units(block), kLanes<Real>)) * kLanes<Real>; }
  int64_t padded() const { return ceil_div(n, kLanes<Real>) * kLanes<Real>; }
};

// panel[k][j] = w[j*ld + k]
template <class Real> void pack_transposed(const Real* w, int64_t ld, int64_t K, int units, int width, Real* panel) {
  constexpr int kRun = 16;  // a cache line of each row at a time
  for (int64_t k0 = 0; k0 < K; k0 += kRun) {
    int64_t run = min_of<int64_t>(kRun, K - k0);
    for (int j = 0; j < units; ++j) {
      __builtin_prefetch(w + j * ld + k0 + 4 * kRun);  // no stream that a machine would notice by itself
      for (int64_t k = 0; k < run; ++k) panel[(k0 + k) * width + j] = w[j * ld + k0 + k];
    }
    for (int j = units; j < width; ++j)
      for (int64_t k = 0; k < run; ++k) panel[(k0 + k) * width + j] = 0;
  }
}

// panel[k][j] = row(k)[j]
template <class Real, class Row> void pack_rows(Row&& row, int64_t K, int units, int width, Real* panel) {
  using V = Vector<Real>;
  constexpr int L = V::kLanes;
  for (int64_t k = 0; k < K; ++k, panel += width) {
    const Real* from = row(k);
    for (int j = 0; j < width; j += L)
      (units - j >= L ? V::load(from + j) : V::load(from + j, max_of(0, units - j))).store(panel + j);
  }
}

// A weight as the right side of products: (gates*N, K) when its rows are the output columns (forward), (K, N) when they
// are summed over (backward). Panels of a block of N lie gate by gate, so that one block yields all gates of its units.
template <class Real> struct Product {
  const Real* w;
  int64_t ld, K;
  Columns<Real> columns;
  int gates = 1;
  bool transposed;                      // w is (gates*N, K)
  const Real* bias[kMaxGates][2] = {};  // of each gate: two vectors of N to be added, either may be null
  bool packed = true;
  Real* panels = nullptr;  // all blocks, or of an unpacked (K, N) weight the last, narrow one
  Real* biases = nullptr;

  int64_t panels_size() const {
    if (packed) return columns.padded() * gates * K;
    return transposed ? 0 : kTileCols<Real> * K;
  }
  int64_t biases_size() const { return columns.padded() * gates; }

  Real* panel(int64_t block, int gate) const {
    return panels + (columns.from(block) * gates + int64_t(gate) * columns.width(block)) * K;
  }
  Real* bias_of(int64_t block, int gate) const {
    return biases + columns.from(block) * gates + int64_t(gate) * columns.width(block);
  }
  Real bias_at(int gate, int which, int64_t n) const { return bias[gate][which] ? bias[gate][which][n] : 0; }
  bool is_narrow(int64_t block) const { return columns.units(block) < kTileCols<Real>; }
  const Real* row(int64_t block, int gate) const { return w + (gate * columns.n + columns.from(block)) * ld; }

  // This thread's share of the packing; everybody meets before the first product.
  void pack(int64_t thread, int64_t threads) const {
    Slice mine(columns.blocks(), threads, thread);
    for (int64_t block = mine.from; block < mine.to; ++block) {
      int units = columns.units(block), width = columns.width(block);
      for (int g = 0; g < gates; ++g) {
        if (packed && transposed) pack_transposed(row(block, g), ld, K, units, width, panel(block, g));
        if (!transposed && (packed || is_narrow(block)))
          pack_rows([&](int64_t k) { return w + k * ld + columns.from(block); }, K, units, width,
                    packed ? panel(block, g) : panels);
        if (biases)
          for (int j = 0; j < width; ++j)
            bias_of(block, g)[j] =
                j < units ? bias_at(g, 0, columns.from(block) + j) + bias_at(g, 1, columns.from(block) + j) : 0;
      }
    }
  }

  // out[i][0..width) for `rows` rows a[i] of K.
  void operator()(int rows, const Real* const* a, int64_t block, int gate, Real* out, int64_t ldo) const {
    const Real* init = biases ? bias_of(block, gate) : nullptr;
    if (!packed && transposed) return dots(rows, a, row(block, gate), columns.units(block), init, out, ldo);
    int width = columns.width(block);
    bool where_it_lies = !packed && !is_narrow(block);
    const Real* right = where_it_lies ? w + columns.from(block) : packed ? panel(block, gate) : panels;
    int64_t ldb = where_it_lies ? ld : width;
    TileFn<Real> run = kTiles<Real, false>.at[rows - 1][width / kLanes<Real> - 1];
    // Long sums go in pieces: the error of one chain grows with its length, and a piece of the rows stays in L1.
    constexpr int64_t kPiece = 512;
    RowPointers<Real> left;
    for (int i = 0; i < rows; ++i) left.at[i] = a[i];
    for (int64_t k = 0; k == 0 || k < K; k += kPiece) {
      run(min_of(kPiece, K - k), left.at, right + k * ldb, ldb, k ? nullptr : init, out, ldo, k > 0);
      for (int i = 0; i < rows; ++i) left.at[i] += kPiece;
    }
  }

 private:
  void dots(int rows, const Real* const* a, const Real* right, int units, const Real* init, Real* out,
            int64_t ldo) const {
    using V = Vector<Real>;
    for (int j = 0; j < units;) {
      int four = units - j >= 4;
      for (int i = 0; i < rows;) {
        int two = rows - i >= 2;
        auto* run =
            four ? (two ? &dot_tile<V, 2, 4> : &dot_tile<V, 1, 4>) : (two ? &dot_tile<V, 2, 1> : &dot_tile<V, 1, 1>);
        run(K, a + i, right + j * ld, ld, init ? init + j : nullptr, out + i * ldo + j, ldo);
        i += two ? 2 : 1;
      }
      j += four ? 4 : 1;
    }
  }
};

// C (M,N) += A^T B over K frames, where A is rows of M and B was packed by pack_rows: one group of at most kTileRows
// rows of C, contiguous columns of A. `sums`, if given, receives the column sums of A (+=, or = when `fresh`).
template <class Real>
void outer_rows(int64_t K, const Real* a, int64_t lda, int rows, const Real* panels, Columns<Real> columns, bool fresh,
                Real* c, int64_t ldc, Real* sums, Real* space) {
  using V = Vector<Real>;
  constexpr int L = V::kLanes;
  constexpr int kVectors = (kTileRows + L - 1) / L;
  Real* left = space;
  Real* out = space + kTileRows * (K + 1) + L;
  // Whole vectors are read and written past `rows`: what is too much is overwritten by the next row, or never read.
  V total[kVectors], part[kVectors];  // sums of sums: a long column's error grows slower
  for (int v = 0; v < kVectors; ++v) total[v] = V(0);
  constexpr int64_t kRun = 16;
  for (int64_t k0 = 0; k0 < K; k0 += kRun) {
    for (int v = 0; v < kVectors; ++v) part[v] = V(0);
    for (int64_t k = k0; k < min_of(K, k0 + kRun); ++k)
#pragma GCC unroll 16
      for (int v = 0; v < kVectors; ++v) {
        if (v * L >= rows) break;
        V column = V::load(a + k * lda + v * L);
        column.store(left + k * rows + v * L);
        part[v] = part[v] + column;
      }
    for (int v = 0; v < kVectors; ++v) total[v] = total[v] + part[v];
  }
  for (int64_t k = 0; k < K; ++k) __builtin_prefetch(a + k * lda + rows, 0, 2);  // the next group's
  if (sums) {
    for (int v = 0; v < kVectors; ++v) total[v].store(out + v * L);
    for (int i = 0; i < rows; ++i) sums[i] = fresh ? out[i] : sums[i] + out[i];
  }
  for (int64_t block = 0; block < columns.blocks(); ++block) {
    int width = columns.width(block), units = columns.units(block);
    Real* corner = c + columns.from(block);
    if (!fresh) prefetch(corner, ldc, rows, units);
    kTiles<Real, true>.at[rows - 1][width / L - 1](K, &left, panels + columns.from(block) * K, width, nullptr, out,
                                                   width, false);
    for (int i = 0; i < rows; ++i)
      for (int j = 0; j < units; j += L) {
        Real* to = corner + i * ldc + j;
        int n = min_of(L, units - j);
        V value = V::load(out + i * width + j);
        if (n == L)
          (fresh ? value : value + V::load(to)).store(to);
        else
          (fresh ? value : value + V::load(to, n)).store(to, n);
      }
  }
}
