#include "persistent.cuh"

namespace rnn::cuda {
RNN_PERSISTENT(, float)
}  // namespace rnn::cuda
