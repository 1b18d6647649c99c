// The few ways in which rows of scratch memory are laid out, walked and copied.
// Included once per instruction set, inside rnn::RNN_ISA.

// The length of a scratch row of n: whole vectors, and an odd line or so, or the rows of a tile would meet in the few
// ways of one cache set.
template <class Real> int64_t padded_row(int64_t n) {
  int64_t line = 64 / sizeof(Real), row = ceil_div(n, kTileCols<Real>) * kTileCols<Real>;
  return row % (4 * line) == 0 ? row + line : row;
}

template <class Real> Product<Real> forward_product(const Real* w, int64_t K, int64_t n, int gates, bool packed) {
  return {.w = w, .ld = K, .K = K, .columns = {n}, .gates = gates, .transposed = true, .packed = packed};
}

template <class Real> Product<Real> backward_product(const Real* w, int64_t ld, int64_t K, int64_t n, bool packed) {
  return {.w = w, .ld = ld, .K = K, .columns = {n}, .transposed = false, .packed = packed};
}

template <class Real> void place(Arena& arena, Product<Real>& p, bool with_bias) {
  p.panels = arena.take<Real>(p.panels_size());
  if (with_bias) p.biases = arena.take<Real>(p.biases_size());
}

// Of nothing, either may be null.
template <class Real> void copy(Real* to, const Real* from, int64_t n) {
  if (n > 0) memcpy(to, from, n * sizeof(Real));
}
template <class Real> void copy_or_zero(Real* to, const Real* from, int64_t n) {
  if (from)
    copy(to, from, n);
  else if (n > 0)
    memset(to, 0, n * sizeof(Real));
}

// Calls f(row, column, width...) over a tile: no width where the vector is whole, else the number of lanes.
template <class Real, class F> RNN_FN void over_tile(int rows, int units, F&& f) {
  constexpr int L = kLanes<Real>;
  for (int i = 0; i < rows; ++i) {
    int j = 0;
    for (; j + L <= units; j += L) f(i, j);
    if (j < units) f(i, j, units - j);
  }
}

// Masks of a tile's rows, and what holds for each of them, as stages read them.
template <class Real> using MaskRows = const Real*;
using RowFlags = const bool*;
inline constexpr bool kKeepsSplit = true;
#define RNN_MACHINE_FN
template <class V> RNN_FN V load_mask(MaskRows<typename V::Real> mask, int64_t i) { return V::load(mask + i); }
