// Stands for torch's header of this name.
#pragma once
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>

#define AT_CUDA_CHECK(...) C10_CUDA_CHECK(__VA_ARGS__)

namespace at::cuda {

inline cudaDeviceProp* getDeviceProperties(int device) {
  static thread_local cudaDeviceProp properties;
  C10_CUDA_CHECK(cudaGetDeviceProperties(&properties, device));
  return &properties;
}
inline cudaDeviceProp* getCurrentDeviceProperties() { return getDeviceProperties(0); }
inline int warp_size() { return warpSize; }

}  // namespace at::cuda
