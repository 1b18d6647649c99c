// How much shared memory the blocks of a kernel may have.
#pragma once

namespace rnn::cuda {

// Lets the blocks of a kernel have all the dynamic shared memory that the current device has room for. Once for each
// kernel and device, and never the need of one call: two host threads launch the same kernel with different needs, and
// the lesser, set between the other's setting and its launch, would refuse that launch. Where the device refuses, the
// launch says so.
void allow_shared_memory(const void* kernel);
template <auto kernel> void allow_shared_memory() { allow_shared_memory(reinterpret_cast<const void*>(kernel)); }

}  // namespace rnn::cuda
