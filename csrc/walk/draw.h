// Random numbers that hang on nothing but what they are for: a counter-based generator.
#pragma once
#include "call.h"

namespace rnn {

// Philox4x32-10 (Salmon, Moraes, Dror & Shaw 2011) of kBatch counters (c[0][l], ..., c[3][l]) at once, in place. Loops
// over lanes in plain C++, which a compiler makes vectors of.
template <int kBatch> RNN_FN void philox(uint64_t seed, uint32_t (&c)[4][kBatch]) {
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    for (int l = 0; l < kBatch; ++l) {
      uint64_t p0 = uint64_t(0xD2511F53u) * c[0][l], p1 = uint64_t(0xCD9E8D57u) * c[2][l];
      uint32_t n0 = static_cast<uint32_t>(p1 >> 32) ^ c[1][l] ^ k0, n2 = static_cast<uint32_t>(p0 >> 32) ^ c[3][l] ^ k1;
      c[0][l] = n0;
      c[1][l] = static_cast<uint32_t>(p1);
      c[2][l] = n2;
      c[3][l] = static_cast<uint32_t>(p0);
    }
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
}

// What a kind of mask makes of random words: below probability * 2^32 is the event, by which the old state is kept (1,
// else 0), or a number is dropped (0, else 1 / (1 - probability)).
template <class Real> struct Draw {
  uint64_t below;
  Real event, other;
  uint32_t tag;
  bool each_tick;

  RNN_FN Draw(MaskKind kind, const Mask<Real>& m, uint32_t stream)
      : below(static_cast<uint64_t>(m.probability * 4294967296.0)),
        tag(static_cast<uint32_t>(kind) << 24 | stream),
        each_tick(m.each_tick) {
    const bool zone = kind == kZoneH || kind == kZoneCell;
    event = zone ? 1 : 0;
    other = zone ? 0 : static_cast<Real>(1 / (1 - m.probability));
  }
  RNN_FN Real value(uint32_t word) const { return word < below ? event : other; }

  // Unit u of row b at tick t has word (u % 64) / 16 of counter (u / 64) * 16 + u % 16.
  static constexpr int kBatch = 16, kUnits = 4 * kBatch;
  template <int kCounters>
  RNN_FN void words(uint64_t seed, int64_t first, int64_t b, int64_t t, uint32_t (&c)[4][kCounters]) const {
    for (int l = 0; l < kCounters; ++l) {
      c[0][l] = static_cast<uint32_t>(first + l);
      c[1][l] = static_cast<uint32_t>(b);
      c[2][l] = each_tick ? static_cast<uint32_t>(t) : 0;
      c[3][l] = tag;
    }
    philox(seed, c);
  }
  RNN_FN Real at(uint64_t seed, int64_t t, int64_t b, int64_t unit) const {
    uint32_t c[4][1];
    words(seed, unit / kUnits * kBatch + unit % kBatch, b, t, c);
    int word = static_cast<int>(unit % kUnits / kBatch);
    return value(word < 2 ? word ? c[1][0] : c[0][0] : word == 2 ? c[2][0] : c[3][0]);
  }
};

}  // namespace rnn
