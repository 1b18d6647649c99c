// The vectors and the tile of this instruction set.
#pragma once
#define RNN_ISA avx512
#include "../simd/avx512.h"

namespace rnn::avx512 {
template <class Real> struct VectorOf;
template <> struct VectorOf<float> {
  using type = Floats;
};
template <> struct VectorOf<double> {
  using type = Doubles;
};
template <class Real> using Vector = typename VectorOf<Real>::type;
inline constexpr int kTileVectors = 2, kTileRows = 12;
}  // namespace rnn::avx512
