// What bind.cpp asks of ops.cpp besides the registrations that loading does.
#pragma once
#include <string>

namespace rnn {

struct LastKernel {
  std::string op, isa, dtype, split;
  int threads = 0;  // 0: nothing has run yet
};

LastKernel last_kernel();

}  // namespace rnn
