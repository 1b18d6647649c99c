// Planted bugs.
#include <cooperative_groups.h>

#include "cases.h"

namespace {

namespace cg = cooperative_groups;

// Sums of 64 numbers with and without the barriers that it takes.
template <bool kBefore, bool kAfter> __global__ void sums(const float* x, float* y, int rounds) {
  __shared__ float part[64];
  for (int r = 0; r < rounds; r++) {
    part[threadIdx.x] = x[r * 64 + threadIdx.x];
    if (kBefore) __syncthreads();
    float sum = 0;
    for (int i = 0; i < 64; i++) sum += part[(threadIdx.x + i) % 64];
    y[r * 64 + threadIdx.x] = sum;
    if (kAfter) __syncthreads();
  }
}

template <bool kBefore, bool kAfter> std::string summed() {
  std::vector<float> x(192), y(192), should_be(192);
  for (int i = 0; i < 192; i++) x[i] = i, should_be[i] = 2016 + i / 64 * 4096;
  sums<kBefore, kAfter><<<1, 64>>>(x.data(), y.data(), 3);
  return differs(y, should_be);
}

enum Sync { kNone, kAll, kSome };

__global__ void neighbours(float* x, float* y, Sync sync) {
  auto grid = cg::this_grid();
  if (sync == kSome && blockIdx.x == 1) return;
  int i = grid.thread_rank(), n = grid.size();
  x[i] = i;
  if (sync) grid.sync();
  y[i] = x[(i + 32) % n];
}

std::string grid_sync(Sync sync) {
  std::vector<float> x(64), y(64), should_be(64);
  for (int i = 0; i < 64; i++) should_be[i] = (i + 32) % 64;
  float *px = x.data(), *py = y.data();
  void* arguments[] = {&px, &py, &sync};
  cudaLaunchCooperativeKernel(neighbours, 2, 32, arguments);
  return differs(y, should_be);
}

std::string grid_sync_in_a_plain_launch() {
  std::vector<float> x(64), y(64);
  neighbours<<<2, 32>>>(x.data(), y.data(), kAll);
  return "";
}

__global__ void beyond(float* x, int dynamic, int fixed, int global) {
  extern __shared__ float raw[];
  __shared__ float part[32];
  float* p = part;
  raw[threadIdx.x] = p[threadIdx.x] = x[threadIdx.x];
  if (threadIdx.x == 31 && dynamic) raw[dynamic] = 1;
  if (threadIdx.x == 31 && fixed) p[fixed] = 1;
  if (threadIdx.x == 31 && global) x[global] = 1;
}

std::string outside(int dynamic, int fixed, int global) {
  std::vector<float> x(32);
  beyond<<<1, 32, 32 * sizeof(float)>>>(x.data(), dynamic, fixed, global);
  return "";
}

__global__ void unaligned(float* x) {
  __shared__ float part[34];
  part[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  if (threadIdx.x < 8) x[threadIdx.x] = reinterpret_cast<float2*>(part + 1)[threadIdx.x].x;
}

__global__ void divergent(float* x, int kind) {
  if (kind == 0 && threadIdx.x == 5) return;
  if (kind == 1 && threadIdx.x < 32) {
    __syncthreads();
    x[threadIdx.x] = 1;
  } else {
    __syncthreads();
  }
  if (kind == 2 && threadIdx.x != 7) __syncwarp();
  if (kind == 2) __syncthreads();
  if (kind == 3) __shfl_sync(0xFFFF, threadIdx.x, 0);
  if (kind == 4 && threadIdx.x == 3) __trap();
}

std::string diverging(int kind) {
  std::vector<float> x(64);
  divergent<<<1, 64>>>(x.data(), kind);
  return "";
}

__global__ void unset(float* y) {
  __shared__ float part[32];
  if (threadIdx.x > 0) part[threadIdx.x] = 1;
  __syncthreads();
  float sum = 0;
  for (float v : part) sum += v;
  y[threadIdx.x] = sum;
}

std::string uninitialised() {
  std::vector<float> y(32);
  unset<<<1, 32>>>(y.data());
  return differs(y, std::vector<float>(32, 32));
}

__global__ void large(float* y) {
  __shared__ float part[10000], more[3000];
  part[threadIdx.x] = more[threadIdx.x] = y[threadIdx.x];
  __syncthreads();
  y[threadIdx.x] = part[threadIdx.x ^ 1] + more[threadIdx.x ^ 1];
}

std::string too_much(size_t dynamic) {
  std::vector<float> x(32);
  if (dynamic)
    beyond<<<1, 32, dynamic>>>(x.data(), 0, 0, 0);
  else
    large<<<1, 32>>>(x.data());
  return cudaGetErrorString(cudaGetLastError());
}

std::string limit_of_a_call() {
  for (int bytes : {50000, 60000}) cudaFuncSetAttribute(beyond, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  return "";
}

__global__ void last(unsigned* x) { x[0] = x[0] * 3 + blockIdx.x + threadIdx.x; }

std::string order(int blocks, int threads) {
  unsigned x = 0;
  last<<<blocks, threads>>>(&x);
  return std::to_string(x);
}

__global__ void forever(unsigned* flag) {
  while (atomicCAS(flag, 1, 1) == 0) {
  }
}

std::string spinning() {
  unsigned flag = 0;
  forever<<<1, 2>>>(&flag);
  return "";
}

}  // namespace

Cases wrong_cases() {
  return {
      {"every_barrier", summed<true, true>},
      {"missing_barrier", summed<false, true>},
      {"write_after_read", summed<true, false>},
      {"every_grid_sync", [] { return grid_sync(kAll); }},
      {"missing_grid_sync", [] { return grid_sync(kNone); }},
      {"grid_sync_of_some_blocks", [] { return grid_sync(kSome); }},
      {"grid_sync_in_a_plain_launch", grid_sync_in_a_plain_launch},
      {"beyond_dynamic", [] { return outside(32, 0, 0); }},
      {"beyond_static", [] { return outside(0, 32, 0); }},
      {"before_static", [] { return outside(0, -1, 0); }},
      {"beyond_global", [] { return outside(0, 0, 32); }},
      {"unaligned",
       [] {
         std::vector<float> x(32);
         unaligned<<<1, 32>>>(x.data());
         return std::string();
       }},
      {"ended_before_the_barrier", [] { return diverging(0); }},
      {"two_barriers", [] { return diverging(1); }},
      {"half_a_warp", [] { return diverging(2); }},
      {"outside_of_its_mask", [] { return diverging(3); }},
      {"trap", [] { return diverging(4); }},
      {"uninitialised", uninitialised},
      {"too_much_dynamic", [] { return too_much(50000); }},
      {"too_much_static", [] { return too_much(0); }},
      {"limit_of_a_call", limit_of_a_call},
      {"order_of_threads", [] { return order(1, 20); }},
      {"order_of_blocks", [] { return order(20, 1); }},
      {"spinning", spinning},
  };
}
