// What the kernels of a Neural Turing Machine work on, in plain structs: everything points to the card's memory.
#pragma once
#include "../walk/ntm.h"

namespace rnn::cuda {

// One call. Besides what the caller gave: the weights as the forward reads them, and scratch for machines that a
// block's shared memory has no room for.
template <class Real> struct NtmStep {
  Facts f;  // of the controller's cell
  NtmCall<Real> c;
  Record record;
  const Real* columns[kMaxControllerLayers];  // (layer_width, gates H)
  const Real* head_columns;                   // (H,P)
  char* space;                                // so many bytes for each row of the batch, or null: in shared memory
  size_t space_size;
};

using Stream = void*;  // a cudaStream_t

// One block of threads for each row of the batch, which walks through all ticks.
template <class Real> struct NtmKernels {
  size_t (*forward_space)(const NtmStep<Real>&);
  size_t (*backward_space)(const NtmStep<Real>&);
  void (*forward)(const NtmStep<Real>&, Stream);
  void (*backward)(const NtmStep<Real>&, Stream);
};
template <class Real> const NtmKernels<Real>& ntm_kernels();
extern template const NtmKernels<float>& ntm_kernels();
extern template const NtmKernels<double>& ntm_kernels();

}  // namespace rnn::cuda
