// Masks: given, drawn by a counter-based generator, or their expectation, a row at a time.
// Included once per instruction set, inside rnn::RNN_ISA.

// Philox4x32-10 (Salmon, Moraes, Dror & Shaw 2011) of kBatch counters (first + l, b, t, tag) at once: four words of
// each. A loop over lanes in plain C++, which the compiler makes vectors of.
inline constexpr int kBatch = 16;
inline __attribute__((noinline)) void philox(uint64_t seed, uint32_t first, uint32_t b, uint32_t t, uint32_t tag,
                                             uint32_t (&out)[4][kBatch]) {
  uint32_t c0[kBatch], c1[kBatch], c2[kBatch], c3[kBatch];
  for (int l = 0; l < kBatch; ++l) {
    c0[l] = first + static_cast<uint32_t>(l);
    c1[l] = b;
    c2[l] = t;
    c3[l] = tag;
  }
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    for (int l = 0; l < kBatch; ++l) {
      uint64_t p0 = uint64_t(0xD2511F53u) * c0[l], p1 = uint64_t(0xCD9E8D57u) * c2[l];
      uint32_t n0 = static_cast<uint32_t>(p1 >> 32) ^ c1[l] ^ k0, n2 = static_cast<uint32_t>(p0 >> 32) ^ c3[l] ^ k1;
      c0[l] = n0;
      c1[l] = static_cast<uint32_t>(p1);
      c2[l] = n2;
      c3[l] = static_cast<uint32_t>(p0);
    }
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  memcpy(out[0], c0, sizeof c0);
  memcpy(out[1], c1, sizeof c1);
  memcpy(out[2], c2, sizeof c2);
  memcpy(out[3], c3, sizeof c3);
}

// Unit u has word (u % 64) / 16 of counter (u / 64) * 16 + u % 16. A word below probability * 2^32 is the event: the
// old state is kept (1, else 0), or a number is dropped (0, else 1 / (1 - probability)).
template <class Real>
void draw(MaskKind kind, const Mask<Real>& m, uint64_t seed, uint32_t stream, int64_t t, int64_t b, int64_t from,
          int64_t n, Real* to) {
  const bool zone = kind == kZoneH || kind == kZoneCell;
  const uint64_t below = static_cast<uint64_t>(m.probability * 4294967296.0);
  const Real event = zone ? 1 : 0, other = zone ? 0 : static_cast<Real>(1 / (1 - m.probability));
  const uint32_t tag = static_cast<uint32_t>(kind) << 24 | stream;
  constexpr int64_t kUnits = 4 * kBatch;
  for (int64_t chunk = from / kUnits; chunk * kUnits < from + n; ++chunk) {
    uint32_t words[4][kBatch];
    philox(seed, static_cast<uint32_t>(chunk * kBatch), static_cast<uint32_t>(b),
           m.each_tick ? static_cast<uint32_t>(t) : 0, tag, words);
    Real values[kUnits];
    for (int w = 0; w < 4; ++w)
      for (int l = 0; l < kBatch; ++l) values[w * kBatch + l] = words[w][l] < below ? event : other;
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
