// Chooses how one call is laid over threads, by a small model of what a tick might cost.
#pragma once
#include "kernels.h"

namespace rnn {

enum class Pass { kForward, kBackward };

Plan make_plan(Pass, const Facts&, const Timeline&, int64_t inputs, int64_t hidden, int64_t outputs, int64_t fed,
               TileShape, size_t real_size, int max_threads);

// "rows 2 x hidden 1, packed"
struct PlanText {
  char text[64];
};
PlanText describe(const Plan&);

}  // namespace rnn
