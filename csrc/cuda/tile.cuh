// What a stage works on in a CUDA thread: a tile of one unit of one row.
#pragma once
#include "../cells/list.h"
#include "../simd/math.h"
#include "../simd/scalar.h"
#include "../walk/draw.h"
#include "../walk/facts.h"
#include "sweep.h"

#define RNN_LAMBDA
#define RNN_MACHINE_FN __device__ __forceinline__

namespace rnn::cuda {

template <class Real> using Vector = Lane<Real>;
inline constexpr int kTileRows = 1;
template <class Real> inline constexpr int kTileCols = 1;
inline constexpr bool kKeepsSplit = false;

template <class Real, class F> RNN_FN void over_tile(int, int, F&& f) { f(0, 0); }

// A mask's one number, and a fact of the one row.
template <class Real> struct MaskRows {
  bool on;
  Real value;
  RNN_FN explicit operator bool() const { return on; }
};
template <class V> RNN_FN V load_mask(const MaskRows<typename V::Real>& mask, int64_t) { return mask.value; }

struct RowFlags {
  bool on, value;
  RNN_FN explicit operator bool() const { return on; }
  RNN_FN bool operator[](int) const { return value; }
};

#include "../walk/words-inl.h"
#include "../walk/stage-inl.h"

}  // namespace rnn::cuda
