// w^gamma / sum w^gamma (Graves et al. 2014, eq. 9), in logarithms of the ratio to the largest entry: no power of zero,
// no zero denominator, and no more error than the power itself has.
#pragma once
#include "../cells/vocabulary.h"

namespace rnn {

struct Sharpening {
  // Added to every entry, far below what a weighting's rounding is.
  static constexpr double kFloor = 1e-30;

  template <class V> RNN_FN static V raised(V w) { return w + V(typename V::Real(kFloor)); }
  // log of an entry over the largest: <= 0. Where the ratio is near 1 a great gamma would blow its rounding up: what
  // that took is put back.
  template <class V> RNN_FN static V log_ratio(V w, V largest) {
    V ratio = raised(w) / raised(largest), less = (w - largest) / raised(largest);
    return log(ratio) + V::zero_unless_positive(ratio - V(0.5), less - (ratio - V(1)));
  }
  template <class V> RNN_FN static V power(V ratio, V gamma) { return exp(ratio * gamma); }

  // From the gradient d of the sharpened w, and the sum over all rows of d w: that of the entry before it, and of gamma
  // where the ratio to the largest is what is raised.
  template <class V> RNN_FN static void backward(V d, V dw_sum, V w, V before, V ratio, V gamma, V& dbefore,
                                                 V& dgamma) {
    V dlog = w * (d - dw_sum);
    dbefore = gamma * dlog / raised(before);
    dgamma = dlog * ratio;
  }
};

}  // namespace rnn
