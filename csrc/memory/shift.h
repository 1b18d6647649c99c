// Rotation of a weighting by a distribution over shifts (Graves et al. 2014, eq. 8).
#pragma once
#include "../cells/vocabulary.h"

namespace rnn {

// `at(n)` is a vector of the weighting n places further on, around the end. A shift of +1 moves the focus from row i to
// row i + 1; the distribution lists shifts from -range to range, or from range to -range where it is `reversed`.
struct Shift {
  int range;
  bool reversed;

  RNN_FN int width() const { return 2 * range + 1; }
  RNN_FN int of(int entry) const { return reversed ? range - entry : entry - range; }

  template <class V, class At> RNN_FN V forward(const typename V::Real* distribution, At&& at) const {
    V sum(0);
    for (int j = 0; j < width(); ++j) sum = V::fma(V(distribution[j]), at(-of(j)), sum);
    return sum;
  }
  // `at` is here of the gradient of the result: what arrives at the weighting. The distribution's own gradient is the
  // sum over all rows of d(i) w(i - shift).
  template <class V, class At> RNN_FN V backward(const typename V::Real* distribution, At&& at) const {
    V sum(0);
    for (int j = 0; j < width(); ++j) sum = V::fma(V(distribution[j]), at(of(j)), sum);
    return sum;
  }
};

}  // namespace rnn
