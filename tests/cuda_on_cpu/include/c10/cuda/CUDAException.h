// Stands for torch's header of this name.
#pragma once
#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

#define C10_CUDA_CHECK(...)                                                                          \
  do {                                                                                               \
    if (cudaError_t cuda_on_cpu_error = (__VA_ARGS__); cuda_on_cpu_error != cudaSuccess) {           \
      (void)cudaGetLastError();                                                                      \
      throw std::runtime_error(std::string("CUDA error: ") + cudaGetErrorString(cuda_on_cpu_error)); \
    }                                                                                                \
  } while (0)
#define C10_CUDA_KERNEL_LAUNCH_CHECK() C10_CUDA_CHECK(cudaGetLastError())
