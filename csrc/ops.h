// What bind.cpp asks of ops.cpp besides the registrations that loading does.
#pragma once
#include <cstdint>
#include <string>

namespace rnn {

struct LastKernel {
  std::string op, isa, dtype, split;
  int threads = 0;  // 0: nothing has run yet
};

LastKernel last_kernel();

// Ticks that are run anew at a time where activations are recomputed: about the root of all, or as many as are small.
int64_t recompute_piece(int64_t ticks, int64_t batch, int64_t numbers);

}  // namespace rnn
