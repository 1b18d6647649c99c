// Kernels without bugs, one for each way threads work together.
#include <cooperative_groups.h>
#include <mma.h>

#include <bit>
#include <thread>

#include "cases.h"
#include "tile.cuh"

namespace {

namespace cg = cooperative_groups;

std::vector<float> numbers(int n) {
  std::vector<float> x(n);
  for (int i = 0; i < n; i++) x[i] = static_cast<float>(i * 7 % 13 - 6);
  return x;
}

template <class T, int kPower> __global__ void scale(T* x, T a, int64_t n) {
  int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
  if (i >= n) return;
  for (int p = 0; p < kPower; p++) x[i] *= a;
}

std::string elementwise() {
  auto x = numbers(1000), should_be = x;
  for (auto& v : should_be) v *= 8;
  scale<float, 3><<<dim3(4), 256>>>(x.data(), 2, x.size());  // 1000 of 1024 threads
  auto by_variable = scale<float, 1>;
  by_variable<<<4, 256, 0, nullptr>>>(x.data(), 1.0f, x.size());
  return differs(x, should_be);
}

template <class T> __global__ void row_sums(const T* x, T* sums, int columns) {
  extern __shared__ __align__(16) unsigned char raw[];
  T* part = reinterpret_cast<T*>(raw);
  T sum = 0;
  for (int c = threadIdx.x; c < columns; c += blockDim.x) sum += x[blockIdx.x * columns + c];
  part[threadIdx.x] = sum;
  for (unsigned half = blockDim.x / 2; half; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) part[threadIdx.x] += part[threadIdx.x + half];
  }
  if (threadIdx.x == 0) sums[blockIdx.x] = part[0];
}

// Two instantiations of a function have each a variable of their own.
template <int kRank> __device__ float swapped(float v) {
  __shared__ float one[64], spare;
  one[threadIdx.x] = v * kRank;
  if (threadIdx.x == 0) spare = 1;
  __syncthreads();
  return one[threadIdx.x ^ 1] * spare;
}
__global__ void instances(float* x) { x[threadIdx.x] = swapped<1>(x[threadIdx.x]) + swapped<10>(x[threadIdx.x]); }

std::string shared_memory() {
  auto x = numbers(5 * 100);
  std::vector<float> sums(5), should_be(5);
  for (int i = 0; i < 500; i++) should_be[i / 100] += x[i];
  row_sums<<<5, 64, 64 * sizeof(float)>>>(x.data(), sums.data(), 100);  // T is deduced
  if (auto wrong = differs(sums, should_be); !wrong.empty()) return wrong;
  auto y = numbers(64), y_should_be = y;
  for (int i = 0; i < 64; i++) y_should_be[i] = 11 * y[i ^ 1];
  instances<<<1, 64>>>(y.data());
  return differs(y, y_should_be);
}

__global__ void shuffles(const double* x, double* out, int* votes) {
  double sum = x[threadIdx.x];
  for (int s = 16; s; s /= 2) sum += __shfl_xor_sync(0xFFFFFFFF, sum, s);
  double upto = x[threadIdx.x];
  for (unsigned s = 1; s < 32; s *= 2) {
    double before = __shfl_up_sync(0xFFFFFFFF, upto, s);
    if (threadIdx.x % 32 >= s) upto += before;
  }
  auto tile = cg::tiled_partition<8>(cg::this_thread_block());
  double of_eight = x[threadIdx.x];
  for (int s = 4; s; s /= 2) of_eight += tile.shfl_down(of_eight, s);
  of_eight = tile.shfl(of_eight, 0);
  if (threadIdx.x % 2) sum += __shfl_sync(0xAAAAAAAA, upto, 31) - __shfl_sync(0xAAAAAAAA, upto, 31);  // half a warp
  out[threadIdx.x] = sum + 1000 * upto + 1000000 * of_eight;
  votes[threadIdx.x] =
      __popc(__ballot_sync(0xFFFFFFFF, threadIdx.x % 3 == 0)) + 100 * __syncthreads_count(x[threadIdx.x] > 0) +
      10000 * (__any_sync(0xFFFFFFFF, threadIdx.x == 40) + 2 * __all_sync(0xFFFFFFFF, threadIdx.x >= 32));
}

std::string warps() {
  auto f = numbers(64);
  std::vector<double> x(f.begin(), f.end()), out(64), should_be(64);
  std::vector<int> votes(64), votes_should_be(64);
  int positive = 0;
  for (auto v : x) positive += v > 0;
  for (int i = 0; i < 64; i++) {
    for (int j = i / 32 * 32; j < i / 32 * 32 + 32; j++) {
      should_be[i] += x[j] * (1 + 1000 * (j <= i) + 1000000 * (j / 8 == i / 8));
      votes_should_be[i] += j % 3 == 0;
    }
    votes_should_be[i] += 100 * positive + 30000 * (i >= 32);
  }
  shuffles<<<1, 64>>>(x.data(), out.data(), votes.data());
  auto wrong = differs(out, should_be);
  return wrong.empty() ? differs(votes, votes_should_be) : wrong;
}

std::string tiled_product() {
  constexpr int M = 20, N = 37, K = 50;
  auto a = numbers(M * K), b = numbers(K * N);
  std::vector<float> c(M * N), should_be(M * N);
  for (int m = 0; m < M; m++)
    for (int n = 0; n < N; n++)
      for (int k = 0; k < K; k++) should_be[m * N + n] += a[m * K + k] * b[k * N + n];
  dim3 block(16, 16), grid((N + 15) / 16, (M + 15) / 16);
  product<float, 16><<<grid, block>>>(a.data(), b.data(), c.data(), M, N, K);
  return differs(c, should_be);
}

// Jacobi steps on a ring: all blocks stay for all steps.
__global__ void __launch_bounds__(64) smooth(float* x, float* y, int n, int steps) {
  auto grid = cg::this_grid();
  for (int step = 0; step < steps; step++) {
    for (int i = grid.thread_rank(); i < n; i += grid.size()) y[i] = (x[(i + n - 1) % n] + x[i] + x[(i + 1) % n]) / 4;
    grid.sync();
    float* z = x;
    x = y, y = z;
  }
}

std::string persistent() {
  int n = 300, steps = 5, sms = 0, per_sm = 0;
  auto x = numbers(n), should_be = x;
  std::vector<float> y(n);
  for (int s = 0; s < steps; s++) {
    auto old = should_be;
    for (int i = 0; i < n; i++) should_be[i] = (old[(i + n - 1) % n] + old[i] + old[(i + 1) % n]) / 4;
  }
  cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, 0);
  cudaOccupancyMaxActiveBlocksPerMultiprocessor(&per_sm, smooth, 64, 0);
  float *px = x.data(), *py = y.data();
  void* arguments[] = {&px, &py, &n, &steps};
  if (auto e = cudaLaunchCooperativeKernel(smooth, dim3(sms), dim3(64), arguments, 0, nullptr))
    return cudaGetErrorString(e);
  if (cudaLaunchCooperativeKernel(smooth, dim3(sms * per_sm + 1), dim3(64), arguments, 0, nullptr) !=
      cudaErrorCooperativeLaunchTooLarge)
    return "more blocks than fit";
  return differs(y, should_be, 1e-6);
}

template <class T, int M, int N> __global__ void fragments(const T* a, const T* b, float* c, int K) {
  using namespace nvcuda::wmma;
  fragment<matrix_a, M, N, 16, T, row_major> left;
  fragment<matrix_b, M, N, 16, T, col_major> right;
  fragment<accumulator, M, N, 16, float> sum;
  fill_fragment(sum, 0.5f);
  for (int k = 0; k < K; k += 16) {
    load_matrix_sync(left, a + k, K);
    load_matrix_sync(right, b + k, K);
    mma_sync(sum, left, right, sum);
  }
  for (int i = 0; i < sum.num_elements; i++) sum.x[i] *= 2;
  store_matrix_sync(c, sum, N, mem_row_major);
}

template <class T, int M, int N> std::string fragment_product() {
  constexpr int K = 48;
  struct alignas(32) Storage {
    T a[M * K], b[N * K];
    float c[M * N];
  } s;
  std::vector<float> should_be(M * N, 1);
  auto x = numbers(M * K), y = numbers(N * K);
  for (int i = 0; i < M * K; i++) s.a[i] = x[i];
  for (int i = 0; i < N * K; i++) s.b[i] = y[i];
  for (int m = 0; m < M; m++)
    for (int n = 0; n < N; n++)
      for (int k = 0; k < K; k++) should_be[m * N + n] += 2 * x[m * K + k] * y[n * K + k];
  fragments<T, M, N><<<1, 32>>>(s.a, s.b, s.c, K);
  return differs(std::vector<float>(s.c, s.c + M * N), should_be);
}

std::string wmma() {
  return fragment_product<__half, 16, 16>() + fragment_product<__nv_bfloat16, 16, 16>() +
         fragment_product<__half, 8, 32>() + fragment_product<__nv_bfloat16, 32, 8>();
}

// A barrier of atomics: who waits must let others run.
__global__ void by_atomics(unsigned* count, int* x) {
  atomicAdd(&x[1], static_cast<int>(blockIdx.x));
  __syncthreads();
  if (threadIdx.x == 0) {
    atomicAdd(count, 1);
    while (atomicAdd(count, 0u) < gridDim.x) {
    }
    atomicMax(&x[0], atomicCAS(&x[1], -1, 0));
  }
}

std::string atomics() {
  std::vector<int> x{0, 0};
  unsigned count = 0;
  unsigned* counter = &count;
  int* p = x.data();
  void* arguments[] = {&counter, &p};
  cudaLaunchCooperativeKernel(by_atomics, 4, 32, arguments);
  return differs(x, {192, 192});
}

// Two threads of the host that launch at once.
std::string two_hosts() {
  std::string said[2];
  auto host = [&](int i) {
    for (int r = 0; r < 20 && said[i].empty(); r++) said[i] = i ? shared_memory() : warps();
  };
  std::thread other(host, 1);
  host(0);
  other.join();
  return said[0] + said[1];
}

std::string conversions() {
  for (uint32_t bits = 0; bits < 0x10000; bits++) {
    auto h = __ushort_as_half(bits);
    auto b = __ushort_as_bfloat16(bits);
    // There and back, and halfway to the next number: to even.
    auto half_nan = (bits & 0x7FFF) > 0x7C00, bfloat_nan = (bits & 0x7FFF) > 0x7F80;
    if (half_nan ? !std::isnan(__half2float(h)) : __half_as_ushort(__float2half_rn(__half2float(h))) != bits)
      return "half";
    if (bfloat_nan ? !std::isnan(__bfloat162float(b)) : __bfloat16_as_ushort(__float2bfloat16_rn(b)) != bits)
      return "bf16";
    if ((bits & 0x7FFF) < 0x7BFF) {
      double between = (double(__half2float(h)) + __half2float(__ushort_as_half(bits + 1))) / 2;
      auto even = bits + (bits & 1);
      if (__half_as_ushort(__float2half_rn(static_cast<float>(between))) != even) return "half way";
      if (__half_as_ushort(__double2half(between * (1 + 1e-12))) != bits + 1) return "a little more than half way";
    }
    if ((bits & 0x7FFF) < 0x7F7F) {
      float between = std::bit_cast<float>(bits << 16 | 0x8000);
      if (__bfloat16_as_ushort(__float2bfloat16_rn(between)) != bits + (bits & 1)) return "half way of bf16";
    }
  }
  bool fine = std::isinf(__half2float(65520.0f)) && __half2float(65519.0f) == 65504 &&
              __half_as_ushort(NAN) == 0x7FFF && __bfloat16_as_ushort(NAN) == 0x7FFF &&
              std::isinf(__bfloat162float(3.4e38f));
  return fine ? "" : "overflow or NaN";
}

std::string refusals() {
  auto x = numbers(1);
  auto refused = [&](dim3 grid, dim3 block, cudaError_t error, size_t shared = 0) {
    scale<float, 1><<<grid, block, shared>>>(x.data(), 1.0f, 0);
    return cudaPeekAtLastError() == error && cudaGetLastError() == error && cudaGetLastError() == cudaSuccess;
  };
  bool fine = refused(0, 1, cudaErrorInvalidConfiguration) && refused(1, 1025, cudaErrorInvalidConfiguration) &&
              refused(dim3(1, 65536), 1, cudaErrorInvalidConfiguration) && refused(1, 1, cudaErrorInvalidValue, 49153);
  if (cudaFuncSetAttribute(scale<float, 1>, cudaFuncAttributeMaxDynamicSharedMemorySize, 60000)) return "opting in";
  fine = fine && refused(1, 1, cudaSuccess, 60000) && refused(1, 1, cudaErrorInvalidValue, 60001);
  if (cudaFuncSetAttribute(scale<float, 1>, cudaFuncAttributeMaxDynamicSharedMemorySize, 1 << 20) == cudaSuccess)
    return "more than the device has";
  return fine && cudaGetLastError() == cudaErrorInvalidValue ? "" : "refused for another reason";
}

}  // namespace

Cases right_cases() {
  return {
      {"elementwise", elementwise},
      {"shared_memory", shared_memory},
      {"warps", warps},
      {"tiled_product", tiled_product},
      {"persistent", persistent},
      {"wmma", wmma},
      {"atomics", atomics},
      {"two_hosts", two_hosts},
      {"conversions", conversions},
      {"refusals", refusals},
  };
}
