// Similarity of a key and a memory row: the cosine, guarded where either is zero (Graves et al. 2014, eq. 6).
#pragma once
#include "../cells/vocabulary.h"

namespace rnn {

// Where the guard stands: |k| |M| + eps, or max(|k| |M|, eps).
enum Guard { kSum, kFloor, kGuards };

template <class V> struct Cosine {
  using Real = typename V::Real;
  // A row of zeros has no direction: its gradient is that of the dot product alone.
  static constexpr Real kShortest = Real(1e-18);

  Guard guard;
  V eps;

  RNN_FN V divisor(V key, V norm) const {
    V product = key * norm;
    return guard == kFloor ? V::max(product, eps) : product + eps;
  }
  RNN_FN V forward(V dot, V key, V norm) const { return dot / divisor(key, norm); }

  // From the gradient d of `similarity`: that of the dot product, of |k|, and what M is multiplied with for its norm's.
  RNN_FN void backward(V d, V similarity, V key, V norm, V& ddot, V& dkey, V& along) const {
    ddot = d / divisor(key, norm);
    V ddivisor = V(0) - ddot * similarity;
    if (guard == kFloor) ddivisor = V::zero_unless_positive(key * norm - eps, ddivisor);
    dkey = ddivisor * norm;
    along = ddivisor * key / V::max(norm, V(kShortest));
  }
};

}  // namespace rnn
