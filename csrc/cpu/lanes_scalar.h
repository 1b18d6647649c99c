// The vectors and the tile of this instruction set.
#pragma once
#define RNN_ISA scalar
#include "../simd/scalar.h"

namespace rnn::scalar {
template <class Real> using Vector = Lane<Real>;
inline constexpr int kTileVectors = 4, kTileRows = 2;
}  // namespace rnn::scalar
