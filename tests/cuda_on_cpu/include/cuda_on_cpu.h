// What the headers beside this one ask of runtime.cpp, and what rewrite.py turns a kernel's words into.
#pragma once
#include <cstddef>
#include <cstdint>
#include <source_location>
#include <tuple>
#include <type_traits>
#include <utility>

#include "vector_types.h"

struct CUstream_st;
typedef CUstream_st* cudaStream_t;
enum cudaError_t : int;

// Of the thread that runs; set at every switch, so no thread may keep their addresses.
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
constexpr int warpSize = 32;

namespace cuda_on_cpu {

using Site = std::source_location;

// Threads that meet wait for each other. Each brings a pointer; the last to come runs `work` over all that were
// brought, by lane or by number in the block, null where nobody came; then all go on. Where `orders`, what was written
// before is seen after.
struct Meeting {
  const char* what = "";
  Site site = {};
  bool orders = true;
  void (*work)(void* const* brought, size_t n) = nullptr;
};
void meet_block(const Meeting& meeting, void* mine = nullptr);
void meet_warp(const Meeting& meeting, unsigned mask, void* mine = nullptr);
void meet_grid(const Meeting& meeting);
bool is_cooperative();

// Lets other threads run: what a thread must do now and then while it waits for a number to change.
void yield();
// Called by every atomic: yields now and then.
void breathe();
[[noreturn]] void fail(const char* what, Site site);

inline unsigned thread_rank() { return threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z); }
inline unsigned lane() { return thread_rank() % warpSize; }

// Storage of a variable that the threads of a block share. `key` tells variables apart.
void* shared_storage(const void* key, size_t size, size_t align);
void* dynamic_storage(size_t align);

// A variable's key is the closure type of a lambda in its declaration: one for each instantiation of the function.
template <class T, size_t kAlign = alignof(T), class Key> T& shared(Key) {
  static char key;
  return *static_cast<T*>(shared_storage(&key, sizeof(T), kAlign));
}
template <class T, size_t kAlign = alignof(T)> T* dynamic_shared() { return static_cast<T*>(dynamic_storage(kAlign)); }

struct Launch {
  const char* name;
  Site site;
  const void* kernel;  // null: unknown
  dim3 grid, block;
  size_t shared = 0;
  cudaStream_t stream = nullptr;
  bool cooperative = false;
};
// Runs body(argument) once for each thread. Returns, and leaves for cudaGetLastError, what CUDA would say of the
// launch; throws std::runtime_error where the kernel breaks a rule.
cudaError_t run(const Launch& launch, void (*body)(void*), void* argument);

template <class Body> cudaError_t run(const Launch& launch, Body body) {
  return run(launch, [](void* body) { (*static_cast<Body*>(body))(); }, &body);
}

template <class, class R, class... P> const void* address(R (*kernel)(P...)) {
  return reinterpret_cast<const void*>(kernel);
}

// kernel<<<grid, block, shared, stream>>>(arguments) reads Kernel(grid, block, shared, stream)(arguments).
template <class Call> struct Kernel {
  const char* name;
  const void* address;
  Call call;
  Site site = Site::current();

  auto operator()(dim3 grid, dim3 block, size_t shared = 0, cudaStream_t stream = nullptr) {
    return [this, launch = Launch{name, site, address, grid, block, shared, stream}]<class... A>(A&&... arguments) {
      std::tuple<std::decay_t<A>...> kept(std::forward<A>(arguments)...);
      run(launch, [&] { std::apply(call, kept); });
    };
  }
};

// The kernel may be a template whose arguments are deduced: then it has no address before it is called.
#define CUDA_ON_CPU_KERNEL(...)                                                        \
  ::cuda_on_cpu::Kernel {                                                              \
    #__VA_ARGS__,                                                                      \
        [&]<class Any>(Any) -> const void* {                                           \
          if constexpr (requires { ::cuda_on_cpu::address<Any>(__VA_ARGS__); })        \
            return ::cuda_on_cpu::address<Any>(__VA_ARGS__);                           \
          else                                                                         \
            return nullptr;                                                            \
        }(0),                                                                          \
        [&](auto&... cuda_on_cpu_arguments) { __VA_ARGS__(cuda_on_cpu_arguments...); } \
  }

}  // namespace cuda_on_cpu
