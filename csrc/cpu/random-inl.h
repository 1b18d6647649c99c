// Masks: given, drawn by a counter-based generator, or their expectation, a row at a time.
// Included once per instruction set, inside rnn::RNN_ISA.

template <class Real>
__attribute__((noinline)) void draw_units(const Draw<Real>& d, uint64_t seed, int64_t chunk, int64_t t, int64_t b,
                                          Real* values) {
  uint32_t words[4][Draw<Real>::kBatch];
  d.words(seed, chunk * Draw<Real>::kBatch, b, t, words);
  for (int w = 0; w < 4; ++w)
    for (int l = 0; l < Draw<Real>::kBatch; ++l) values[w * Draw<Real>::kBatch + l] = d.value(words[w][l]);
}

// n numbers of a drawn mask, from number `from` of row b at tick t.
template <class Real>
void draw(MaskKind kind, const Mask<Real>& m, uint64_t seed, uint32_t stream, int64_t t, int64_t b, int64_t from,
          int64_t n, Real* to) {
  const Draw<Real> d(kind, m, stream);
  constexpr int64_t kUnits = Draw<Real>::kUnits;
  for (int64_t chunk = from / kUnits; chunk * kUnits < from + n; ++chunk) {
    Real values[kUnits];
    draw_units(d, seed, chunk, t, b, values);
    int64_t first = max_of(from, chunk * kUnits), last = min_of(from + n, (chunk + 1) * kUnits);
    memcpy(to + first - from, values + first - chunk * kUnits, (last - first) * sizeof(Real));
  }
}

// n numbers of a mask, from number `from` of row b, which is the caller's, at tick t.
template <class Real>
void fill(const Call<Real>& c, MaskKind kind, int64_t t, int64_t b, int64_t from, int64_t n, Real* to) {
  const Mask<Real>& m = c.masks[kind];
  if (m.source == Mask<Real>::kGiven)
    memcpy(to, m.given + t * m.tick + b * m.row + from, n * sizeof(Real));
  else if (m.source == Mask<Real>::kDrawn)
    draw(kind, m, c.seed, c.stream, t, b, from, n, to);
  else
    for (int64_t i = 0; i < n; ++i) to[i] = static_cast<Real>(m.probability);
}

// to[i] = from[i] * mask[i]; `to` may be `from`.
template <class Real> void multiply(const Real* from, const Real* mask, int64_t n, Real* to) {
  for (int64_t i = 0; i < n; ++i) to[i] = from[i] * mask[i];
}
