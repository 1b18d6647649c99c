// How a block of threads walks a row's numbers together, adds them up and compares them: the words of
// walk/heads-inl.h. Whatever is written by one of them may be read by all after the next.
#pragma once
#include "tile.cuh"

namespace rnn::cuda {

inline constexpr unsigned kTeam = 256;  // threads: whole warps
inline constexpr bool kOneWalk = false;

template <class V> RNN_FN V live(V v) { return v; }
template <class Real> RNN_FN Real first_lane(Lane<Real> v) { return v.v; }

template <class F> __device__ __forceinline__ void over_numbers(int64_t from, int64_t to, F&& f) {
  for (int64_t j = from + threadIdx.x; j < to; j += blockDim.x) f(j);
  __syncthreads();
}
template <class Real, class F> __device__ __forceinline__ void over_row(int64_t n, F&& f) { over_numbers(0, n, f); }
template <class Real, class F> __device__ __forceinline__ void over_padded(int64_t n, F&& f) { over_numbers(0, n, f); }
template <class F> __device__ __forceinline__ void once(F&& f) {
  if (threadIdx.x == 0) f();
  __syncthreads();
}

template <class Real> __device__ __forceinline__ Real warp_sum(Real x) {
  for (int apart = 16; apart > 0; apart /= 2) x += __shfl_xor_sync(~0u, x, apart);
  return x;
}
// What `together` makes of every thread's number, which it makes of a warp's first: the same for all threads.
template <class Real, class Together> __device__ __forceinline__ Real of_team(Real x, Together&& together) {
  __shared__ Real parts[kTeam / 32];
  for (int apart = 16; apart > 0; apart /= 2) x = together(x, __shfl_xor_sync(~0u, x, apart));
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
  __syncthreads();
  x = parts[0];
  for (unsigned warp = 1; warp < blockDim.x / 32; ++warp) x = together(x, parts[warp]);
  __syncthreads();
  return x;
}
template <class Real> __device__ __forceinline__ Real total(Lane<Real> v) {
  return of_team(v.v, [](Real a, Real b) { return a + b; });
}
template <class Real, class F> __device__ __forceinline__ Real sum_row(int64_t n, F&& f) {
  Lane<Real> sum(0);
  for (int64_t j = threadIdx.x; j < n; j += blockDim.x) sum = sum + Lane<Real>(f(static_cast<int>(j)));
  return total(sum);
}
template <class Real> __device__ __forceinline__ Real largest(const Real* x, int64_t n) {
  Real most = x[0];
  for (int64_t j = threadIdx.x; j < n; j += blockDim.x) most = x[j] > most ? x[j] : most;
  return of_team(most, [](Real a, Real b) { return b > a ? b : a; });
}

// A column of the memory is a warp's.
template <class F> __device__ __forceinline__ void over_width(int64_t width, F&& f) {
  for (int64_t m = threadIdx.x / 32; m < width; m += blockDim.x / 32) f(m);
  __syncthreads();
}
template <class Real, class F> __device__ __forceinline__ void over_lanes(int64_t n, F&& f) {
  for (int64_t j = threadIdx.x % 32; j < n; j += 32) f(j);
}
template <class Real> __device__ __forceinline__ Real lanes_total(Lane<Real> v) { return warp_sum(v.v); }
template <class F> __device__ __forceinline__ void first_lane_does(F&& f) {
  if (threadIdx.x % 32 == 0) f();
}
template <class F> __device__ __forceinline__ void over_width_by_four(int64_t width, F&& f) {
  over_width(width, [&](int64_t m) { f(Indices<1>{}, m); });
}
template <class Real, class F> __device__ __forceinline__ void over_padded_by_two(int64_t n, F&& f) {
  over_numbers(0, n, [&](int64_t j) { f(Indices<1>{}, j); });
}

template <class Real> __device__ __forceinline__ void copy(Real* to, const Real* from, int64_t n) {
  over_numbers(0, n, [&](int64_t j) { to[j] = from[j]; });
}
template <class Real> __device__ __forceinline__ void copy_or_zero(Real* to, const Real* from, int64_t n) {
  over_numbers(0, n, [&](int64_t j) { to[j] = from ? from[j] : Real(0); });
}

// to[i] = init[i] + sum_k x[k] w[k * n + i]: a thread for each number, or more.
template <class Real>
__device__ void multiply(const Real* __restrict__ w, int64_t depth, int64_t n, const Real* x, const Real* init,
                         Real* to) {
  over_numbers(0, n, [&](int64_t i) {
    Real sum[4] = {init ? init[i] : Real(0), 0, 0, 0};  // four loads at a time, and four chains of sums
    int64_t k = 0;
    for (; k + 4 <= depth; k += 4) {
      RNN_UNROLL(4)
      for (int c = 0; c < 4; ++c) sum[c] = Lane<Real>::fma(w[(k + c) * n + i], x[k + c], sum[c]).v;
    }
    for (; k < depth; ++k) sum[0] = Lane<Real>::fma(w[k * n + i], x[k], sum[0]).v;
    to[i] = (sum[0] + sum[1]) + (sum[2] + sum[3]);
  });
}

}  // namespace rnn::cuda
