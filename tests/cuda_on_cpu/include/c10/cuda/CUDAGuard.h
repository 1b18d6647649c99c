// Stands for torch's header of this name: there is one device, and tensors of the CPU live on it.
#pragma once
#include <c10/cuda/CUDAStream.h>

namespace c10::cuda {

struct CUDAGuard {
  template <class Device> explicit CUDAGuard(const Device&) {}
  CUDAGuard(const CUDAGuard&) = delete;
};
struct OptionalCUDAGuard {
  OptionalCUDAGuard() {}
  template <class Device> explicit OptionalCUDAGuard(const Device&) {}
  OptionalCUDAGuard(const OptionalCUDAGuard&) = delete;
};

}  // namespace c10::cuda

namespace at::cuda {
using c10::cuda::CUDAGuard;
using c10::cuda::OptionalCUDAGuard;
}  // namespace at::cuda
