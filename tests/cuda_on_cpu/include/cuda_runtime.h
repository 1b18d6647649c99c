// The words of a CUDA kernel and the runtime calls around it, for a CPU. See ../README.md.
#pragma once
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cassert>
#include <cmath>
#include <concepts>
#include <limits>

#include "cuda_on_cpu.h"

// ------------------------------------------------------------------------------------------------------- qualifiers

#define __global__
#define __device__
#define __host__
#define __constant__
#define __managed__
#define __grid_constant__
#define __launch_bounds__(...)
#define __forceinline__ inline __attribute__((always_inline))
#define __align__(n) __attribute__((aligned(n)))
#define __builtin_align__(n) __align__(n)
#define __builtin_assume(condition) ((void)0)
#define CUDART_CB
#define CUDART_VERSION 13000

// ---------------------------------------------------------------------------------------- waiting for each other

inline void __syncthreads(cuda_on_cpu::Site site = cuda_on_cpu::Site::current()) {
  cuda_on_cpu::meet_block({"__syncthreads", site});
}

inline int __syncthreads_count(int predicate, cuda_on_cpu::Site site = cuda_on_cpu::Site::current()) {
  struct Vote {
    int yes, sum;
  } mine{predicate != 0, 0};
  auto count = [](void* const* brought, size_t n) {
    int sum = 0;
    for (size_t i = 0; i < n; i++) sum += static_cast<Vote*>(brought[i])->yes;
    for (size_t i = 0; i < n; i++) static_cast<Vote*>(brought[i])->sum = sum;
  };
  cuda_on_cpu::meet_block({"__syncthreads_count, _or or _and", site, true, count}, &mine);
  return mine.sum;
}
inline int __syncthreads_or(int predicate, cuda_on_cpu::Site site = cuda_on_cpu::Site::current()) {
  return __syncthreads_count(predicate, site) > 0;
}
inline int __syncthreads_and(int predicate, cuda_on_cpu::Site site = cuda_on_cpu::Site::current()) {
  return __syncthreads_count(!predicate, site) == 0;
}

inline void __syncwarp(unsigned mask = ~0u, cuda_on_cpu::Site site = cuda_on_cpu::Site::current()) {
  cuda_on_cpu::meet_warp({"__syncwarp", site}, mask);
}

// All of the memory model: atomics are sequentially consistent here, and threads take turns.
inline void __threadfence_block() { asm volatile("" ::: "memory"); }
inline void __threadfence() { asm volatile("" ::: "memory"); }
inline void __threadfence_system() { asm volatile("" ::: "memory"); }
inline void __nanosleep(unsigned) { cuda_on_cpu::yield(); }

// ----------------------------------------------------------------------------------------------- lanes of a warp

namespace cuda_on_cpu {

// Hands each lane what another one brought; of a lane that is not there comes 0xFF, a NaN.
template <class T> T shuffle(const char* what, unsigned mask, T value, unsigned source, Site site) {
  static_assert(std::is_trivially_copyable_v<T> && (sizeof(T) == 2 || sizeof(T) == 4 || sizeof(T) == 8));
  struct Lane {
    T value, taken;
    unsigned source;
  } mine{value, value, source};
  auto exchange = [](void* const* brought, size_t n) {
    for (size_t i = 0; i < n; i++) {
      if (auto lane = static_cast<Lane*>(brought[i])) {
        if (auto from = static_cast<Lane*>(brought[lane->source]))
          lane->taken = from->value;
        else
          memset(static_cast<void*>(&lane->taken), 0xFF, sizeof(T));
      }
    }
  };
  meet_warp({what, site, false, exchange}, mask, &mine);
  return mine.taken;
}

struct Ballot {
  bool predicate;
  unsigned yes = 0, present = 0;
};
inline Ballot ballot(const char* what, unsigned mask, bool predicate, Site site) {
  Ballot mine{predicate};
  auto count = [](void* const* brought, size_t n) {
    Ballot all{};
    for (size_t i = 0; i < n; i++) {
      all.present |= unsigned(brought[i] != nullptr) << i;
      all.yes |= unsigned(brought[i] && static_cast<Ballot*>(brought[i])->predicate) << i;
    }
    for (size_t i = 0; i < n; i++) {
      if (brought[i]) *static_cast<Ballot*>(brought[i]) = all;
    }
  };
  meet_warp({what, site, false, count}, mask, &mine);
  return mine;
}

}  // namespace cuda_on_cpu

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32,
              cuda_on_cpu::Site site = cuda_on_cpu::Site::current()) {
  unsigned first = cuda_on_cpu::lane() & ~(width - 1);
  return cuda_on_cpu::shuffle("__shfl_sync", mask, value, first + (source & (width - 1)), site);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32,
                 cuda_on_cpu::Site site = cuda_on_cpu::Site::current()) {
  unsigned lane = cuda_on_cpu::lane(), within = lane & (width - 1);
  return cuda_on_cpu::shuffle("__shfl_up_sync", mask, value, within < delta ? lane : lane - delta, site);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32,
                   cuda_on_cpu::Site site = cuda_on_cpu::Site::current()) {
  unsigned lane = cuda_on_cpu::lane(), within = lane & (width - 1);
  return cuda_on_cpu::shuffle("__shfl_down_sync", mask, value, within + delta >= unsigned(width) ? lane : lane + delta,
                              site);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32,
                  cuda_on_cpu::Site site = cuda_on_cpu::Site::current()) {
  unsigned lane = cuda_on_cpu::lane(), other = lane ^ (bits & 31), last = lane | (width - 1);
  return cuda_on_cpu::shuffle("__shfl_xor_sync", mask, value, other > last ? lane : other, site);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, cuda_on_cpu::Site site = cuda_on_cpu::Site::current()) {
  return cuda_on_cpu::ballot("__ballot_sync", mask, predicate, site).yes;
}
inline int __any_sync(unsigned mask, int predicate, cuda_on_cpu::Site site = cuda_on_cpu::Site::current()) {
  return cuda_on_cpu::ballot("__any_sync", mask, predicate, site).yes != 0;
}
inline int __all_sync(unsigned mask, int predicate, cuda_on_cpu::Site site = cuda_on_cpu::Site::current()) {
  auto votes = cuda_on_cpu::ballot("__all_sync", mask, predicate, site);
  return votes.yes == votes.present;
}
// More than the calling lane is promised by nobody.
inline unsigned __activemask() { return 1u << cuda_on_cpu::lane(); }

// --------------------------------------------------------------------------------------------------------- atomics

namespace cuda_on_cpu {

template <class T> using Same = std::type_identity_t<T>;
template <class T>
concept Word = std::integral<T> && (sizeof(T) == 4 || sizeof(T) == 8);
template <class T>
concept Number = Word<T> || std::floating_point<T>;

template <class T, class F> T atomic(T* p, F next) {
  breathe();
  std::atomic_ref<T> word(*p);
  T old = word.load();
  while (!word.compare_exchange_weak(old, next(old))) {
  }
  return old;
}

}  // namespace cuda_on_cpu

#define CUDA_ON_CPU_ATOMIC(name, Kind, next)                                                         \
  template <cuda_on_cpu::Kind T> T name(T* p, cuda_on_cpu::Same<T> v) {                              \
    return cuda_on_cpu::atomic(p, [v](T old) -> T { return next; });                                 \
  }                                                                                                  \
  template <cuda_on_cpu::Kind T> T name##_block(T* p, cuda_on_cpu::Same<T> v) { return name(p, v); } \
  template <cuda_on_cpu::Kind T> T name##_system(T* p, cuda_on_cpu::Same<T> v) { return name(p, v); }
CUDA_ON_CPU_ATOMIC(atomicAdd, Number, old + v)
CUDA_ON_CPU_ATOMIC(atomicSub, Word, old - v)
CUDA_ON_CPU_ATOMIC(atomicMax, Word, old < v ? v : old)
CUDA_ON_CPU_ATOMIC(atomicMin, Word, v < old ? v : old)
CUDA_ON_CPU_ATOMIC(atomicExch, Number, ((void)old, v))
CUDA_ON_CPU_ATOMIC(atomicAnd, Word, old& v)
CUDA_ON_CPU_ATOMIC(atomicOr, Word, old | v)
CUDA_ON_CPU_ATOMIC(atomicXor, Word, old ^ v)
CUDA_ON_CPU_ATOMIC(atomicInc, Word, old >= v ? 0 : old + 1)
CUDA_ON_CPU_ATOMIC(atomicDec, Word, old == 0 || old > v ? v : old - 1)
#undef CUDA_ON_CPU_ATOMIC
template <cuda_on_cpu::Word T> T atomicCAS(T* p, cuda_on_cpu::Same<T> compare, cuda_on_cpu::Same<T> v) {
  cuda_on_cpu::breathe();
  std::atomic_ref<T>(*p).compare_exchange_strong(compare, v);
  return compare;
}

// --------------------------------------------------------------------------------------------- loads, bits, numbers

#define CUDA_ON_CPU_LOAD(name) \
  template <class T> T name(const T* p) { return *p; }
#define CUDA_ON_CPU_STORE(name) \
  template <class T> void name(T* p, cuda_on_cpu::Same<T> v) { *p = v; }
CUDA_ON_CPU_LOAD(__ldg)
CUDA_ON_CPU_LOAD(__ldca)
CUDA_ON_CPU_LOAD(__ldcg)
CUDA_ON_CPU_LOAD(__ldcs)
CUDA_ON_CPU_LOAD(__ldlu)
CUDA_ON_CPU_LOAD(__ldcv)
CUDA_ON_CPU_STORE(__stwb)
CUDA_ON_CPU_STORE(__stcg)
CUDA_ON_CPU_STORE(__stcs)
CUDA_ON_CPU_STORE(__stwt)
#undef CUDA_ON_CPU_LOAD
#undef CUDA_ON_CPU_STORE

inline int __popc(unsigned x) { return std::popcount(x); }
inline int __popcll(unsigned long long x) { return std::popcount(x); }
inline int __clz(int x) { return std::countl_zero(unsigned(x)); }
inline int __clzll(long long x) { return std::countl_zero(static_cast<unsigned long long>(x)); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline unsigned __umulhi(unsigned a, unsigned b) { return uint64_t(a) * b >> 32; }
inline int __mulhi(int a, int b) { return static_cast<int>(int64_t(a) * b >> 32); }

inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline float __int_as_float(int x) { return std::bit_cast<float>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline long long __double_as_longlong(double x) { return std::bit_cast<long long>(x); }
inline double __longlong_as_double(long long x) { return std::bit_cast<double>(x); }
inline int __float2int_rn(float x) { return static_cast<int>(std::nearbyint(x)); }
inline int __double2int_rn(double x) { return static_cast<int>(std::nearbyint(x)); }

inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __frcp_rn(float a) { return 1 / a; }
inline float __fsqrt_rn(float a) { return sqrtf(a); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __saturatef(float a) { return fminf(fmaxf(a, 0), 1); }
inline float __expf(float a) { return expf(a); }
inline float __logf(float a) { return logf(a); }
inline float rsqrtf(float a) { return 1 / sqrtf(a); }
inline double rsqrt(double a) { return 1 / sqrt(a); }

// As on a device, of two arithmetic types.
template <class A, class B>
  requires std::is_arithmetic_v<A> && std::is_arithmetic_v<B>
constexpr auto min(A a, B b) {
  using T = std::common_type_t<A, B>;
  return T(b) < T(a) ? T(b) : T(a);
}
template <class A, class B>
  requires std::is_arithmetic_v<A> && std::is_arithmetic_v<B>
constexpr auto max(A a, B b) {
  using T = std::common_type_t<A, B>;
  return T(a) < T(b) ? T(b) : T(a);
}

[[noreturn]] inline void __trap(cuda_on_cpu::Site site = cuda_on_cpu::Site::current()) {
  cuda_on_cpu::fail("__trap", site);
}

// ------------------------------------------------------------------------------------------------------- the runtime

enum cudaError_t : int {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorInvalidDevice = 101,
  cudaErrorLaunchOutOfResources = 701,
  cudaErrorCooperativeLaunchTooLarge = 720,
  cudaErrorNotSupported = 801,
};
const char* cudaGetErrorString(cudaError_t error);
const char* cudaGetErrorName(cudaError_t error);
cudaError_t cudaGetLastError();
cudaError_t cudaPeekAtLastError();

enum cudaFuncAttribute {
  cudaFuncAttributeMaxDynamicSharedMemorySize,
  cudaFuncAttributePreferredSharedMemoryCarveout,
  cudaFuncAttributeNonPortableClusterSizeAllowed,
};
enum { cudaSharedmemCarveoutMaxShared = 100 };
cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value);
// What a function has of static shared memory is known when it has run: none here.
struct cudaFuncAttributes {
  size_t sharedSizeBytes;
};
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* kernel);
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void* kernel, int threads, size_t shared);

enum cudaDeviceAttr {
  cudaDevAttrMaxThreadsPerBlock,
  cudaDevAttrMaxSharedMemoryPerBlock,
  cudaDevAttrMaxSharedMemoryPerBlockOptin,
  cudaDevAttrMaxSharedMemoryPerMultiprocessor,
  cudaDevAttrReservedSharedMemoryPerBlock,
  cudaDevAttrMaxThreadsPerMultiProcessor,
  cudaDevAttrMaxBlocksPerMultiprocessor,
  cudaDevAttrMaxRegistersPerBlock,
  cudaDevAttrMaxRegistersPerMultiprocessor,
  cudaDevAttrMultiProcessorCount,
  cudaDevAttrComputeCapabilityMajor,
  cudaDevAttrComputeCapabilityMinor,
  cudaDevAttrCooperativeLaunch,
  cudaDevAttrWarpSize,
  cudaDevAttrL2CacheSize,
};
struct cudaDeviceProp {
  char name[256];
  size_t sharedMemPerBlock, sharedMemPerBlockOptin, sharedMemPerMultiprocessor, reservedSharedMemPerBlock;
  int maxThreadsPerBlock, maxThreadsPerMultiProcessor, maxBlocksPerMultiProcessor, regsPerBlock, regsPerMultiprocessor;
  int multiProcessorCount, major, minor, cooperativeLaunch, warpSize, l2CacheSize;
};
cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device);

enum cudaMemcpyKind {
  cudaMemcpyHostToHost,
  cudaMemcpyHostToDevice,
  cudaMemcpyDeviceToHost,
  cudaMemcpyDeviceToDevice,
  cudaMemcpyDefault,
};
cudaError_t cudaMalloc(void** p, size_t size);
cudaError_t cudaFree(void* p);
cudaError_t cudaMemset(void* p, int value, size_t size);
cudaError_t cudaMemsetAsync(void* p, int value, size_t size, cudaStream_t stream = nullptr);
cudaError_t cudaMemcpy(void* to, const void* from, size_t size, cudaMemcpyKind kind);
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t size, cudaMemcpyKind kind,
                            cudaStream_t stream = nullptr);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaDeviceSynchronize();

template <class T>
cudaError_t cudaMemcpyToSymbolAsync(T& symbol, const void* from, size_t size, size_t offset = 0,
                                    cudaMemcpyKind kind = cudaMemcpyHostToDevice, cudaStream_t stream = nullptr) {
  return cudaMemcpyAsync(reinterpret_cast<char*>(&symbol) + offset, from, size, kind, stream);
}
template <class T> cudaError_t cudaMalloc(T** p, size_t size) { return cudaMalloc(reinterpret_cast<void**>(p), size); }

template <class R, class... P>
cudaError_t cudaFuncSetAttribute(R (*kernel)(P...), cudaFuncAttribute attribute, int value) {
  return cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), attribute, value);
}
template <class R, class... P>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, R (*kernel)(P...), int threads, size_t shared) {
  return cudaOccupancyMaxActiveBlocksPerMultiprocessor(blocks, reinterpret_cast<const void*>(kernel), threads, shared);
}

namespace cuda_on_cpu {

template <class... P>
cudaError_t run_by_pointers(Launch launch, void (*kernel)(P...), void** arguments) {
  launch.kernel = reinterpret_cast<const void*>(kernel);
  return [&]<size_t... I>(std::index_sequence<I...>) {
    return run(launch, [&] { kernel(*static_cast<std::remove_cv_t<P>*>(arguments[I])...); });
  }(std::index_sequence_for<P...>());
}

}  // namespace cuda_on_cpu

// The kernel itself is wanted, not its address as const void*: from that no C++ finds the types of its arguments.
template <class... P>
cudaError_t cudaLaunchKernel(void (*kernel)(P...), dim3 grid, dim3 block, void** arguments, size_t shared = 0,
                             cudaStream_t stream = nullptr, cuda_on_cpu::Site site = cuda_on_cpu::Site::current()) {
  return cuda_on_cpu::run_by_pointers({"cudaLaunchKernel", site, nullptr, grid, block, shared, stream}, kernel,
                                      arguments);
}
template <class... P>
cudaError_t cudaLaunchCooperativeKernel(void (*kernel)(P...), dim3 grid, dim3 block, void** arguments,
                                        size_t shared = 0, cudaStream_t stream = nullptr,
                                        cuda_on_cpu::Site site = cuda_on_cpu::Site::current()) {
  return cuda_on_cpu::run_by_pointers({"cudaLaunchCooperativeKernel", site, nullptr, grid, block, shared, stream, true},
                                      kernel, arguments);
}
cudaError_t cudaLaunchKernel(const void*, dim3, dim3, void**, size_t = 0, cudaStream_t = nullptr) = delete;
cudaError_t cudaLaunchCooperativeKernel(const void*, dim3, dim3, void**, size_t = 0, cudaStream_t = nullptr) = delete;
