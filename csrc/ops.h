// What bind.cpp asks of the files of ops besides the registrations that loading does.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace rnn {

struct LastKernel {
  std::string op, isa, dtype, split;
  int threads = 0;  // 0: nothing has run yet
};

LastKernel last_kernel();
void remember(const LastKernel&);

// Cells that one launch can walk through all ticks on a card; none in a build without CUDA.
std::vector<std::string> persistent_cells();

// Ticks that are run anew at a time where activations are recomputed: about the root of all, or as many as are small.
int64_t recompute_piece(int64_t ticks, int64_t batch, int64_t numbers);

// Numbers saved of a frame of a Neural Turing Machine, and where its parts begin; arguments as in `rnnkernels::ntm`.
struct NtmRecord {
  int64_t numbers, features, values, weightings, padded_rows;
  int64_t ticks, chunks;  // so many rows more for each row of the batch before every `ticks`-th tick but the first
};
NtmRecord ntm_record(int64_t inputs, int64_t hidden, int64_t rows, int64_t width, const std::vector<int64_t>& choices);

}  // namespace rnn
