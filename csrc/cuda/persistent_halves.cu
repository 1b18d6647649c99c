#include "persistent.cuh"

namespace rnn::cuda {
RNN_PERSISTENT(, Bfloat16)
RNN_PERSISTENT(, Float16)
}  // namespace rnn::cuda
