#include "persistent.cuh"

namespace rnn::cuda {
RNN_PERSISTENT(, double)
}  // namespace rnn::cuda
