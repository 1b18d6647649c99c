// The vectors and the tile of this instruction set.
#pragma once
#define RNN_ISA avx2
#include "../simd/avx2.h"

namespace rnn::avx2 {
template <class Real> struct VectorOf;
template <> struct VectorOf<float> {
  using type = Floats;
};
template <> struct VectorOf<double> {
  using type = Doubles;
};
template <class Real> using Vector = typename VectorOf<Real>::type;
inline constexpr int kTileVectors = 2, kTileRows = 6;
}  // namespace rnn::avx2
