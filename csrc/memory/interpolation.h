// The gate between what the content says and the weighting of the tick before (Graves et al. 2014, eq. 7).
#pragma once
#include "../cells/vocabulary.h"

namespace rnn {

struct Interpolation {
  template <class V> RNN_FN static V forward(V gate, V content, V before) {
    return gate * content + (V(1) - gate) * before;
  }
  // From the gradient d of the result.
  template <class V>
  RNN_FN static void backward(V d, V gate, V content, V before, V& dgate, V& dcontent, V& dbefore) {
    dgate = d * (content - before);
    dcontent = d * gate;
    dbefore = d * (V(1) - gate);
  }
};

}  // namespace rnn
