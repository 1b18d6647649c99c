// How the warps of a block multiply rows with weights that they hold: by FMAs, or on tensor cores.
//
// Each has: Number, of a staged row; Piece, what a lane holds of a chunk of weights, kPieces of them; load, put and
// take for pieces; stage for rows; multiply.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <mma.h>

#include "persistent.h"
#include "tile.cuh"

namespace rnn::cuda {

// Registers hold weights: loops over units and rows are not to be unrolled into what is left of them.
#if defined(__CUDACC__)
#define RNN_ROLLED _Pragma("unroll 1")
#else
#define RNN_ROLLED
#endif

RNN_FN void unpack(float4 from, float (&to)[4]) { to[0] = from.x, to[1] = from.y, to[2] = from.z, to[3] = from.w; }
RNN_FN void unpack(double2 from, double (&to)[2]) { to[0] = from.x, to[1] = from.y; }
__device__ __forceinline__ const float4* vectors(const float* p) { return reinterpret_cast<const float4*>(p); }
__device__ __forceinline__ const double2* vectors(const double* p) { return reinterpret_cast<const double2*>(p); }
__device__ __forceinline__ float4* vectors(float* p) { return reinterpret_cast<float4*>(p); }
__device__ __forceinline__ double2* vectors(double* p) { return reinterpret_cast<double2*>(p); }
RNN_FN float4 pack(const float (&v)[4]) { return make_float4(v[0], v[1], v[2], v[3]); }
RNN_FN double2 pack(const double (&v)[2]) { return make_double2(v[0], v[1]); }

// Adds each of n numbers over the warp: lane l gets the sum of number l * n / 32 in v[0].
template <int n, int apart = 16, int size, class Real>
__device__ __forceinline__ void sum_over_lanes(Real (&v)[size], int lane) {
  if constexpr (n > 1) {
    const bool upper = lane & apart;
    RNN_UNROLL(16)
    for (int i = 0; i < n / 2; ++i) {
      const Real mine = upper ? v[i + n / 2] : v[i], other = upper ? v[i] : v[i + n / 2];
      v[i] = mine + __shfl_xor_sync(~0u, other, apart);
    }
  } else {
    v[0] += __shfl_xor_sync(~0u, v[0], apart);
  }
  if constexpr (apart > 1) sum_over_lanes<(n > 1 ? n / 2 : 1), apart / 2>(v, lane);
}

// Every lane sums over terms of its own, and then the lanes are added up.
template <class R> struct Fma {
  using Real = R;
  using Number = R;
  static constexpr Panel kPanel = kFmaPanel<Real>;
  static constexpr bool kHere = true;
  static constexpr int kPieces = kPanel.columns, kTerms = kLoad<Real>;
  struct Piece {
    Real v[kTerms];
  };

  // Piece i of a chunk whose weights are weight(column, term).
  template <class Weight> static __device__ __forceinline__ Piece load(int i, int lane, float4*, Weight&& weight) {
    Piece piece;
    RNN_UNROLL(4)
    for (int v = 0; v < kTerms; ++v) piece.v[v] = weight(i, lane * kTerms + v);
    return piece;
  }
  static __device__ __forceinline__ void put(float4* chunk, int i, int lane, const Piece& piece) {
    vectors(reinterpret_cast<Real*>(chunk))[i * 32 + lane] = pack(piece.v);
  }
  static __device__ __forceinline__ Piece take(const float4* chunk, int i, int lane) {
    Piece piece;
    unpack(vectors(reinterpret_cast<const Real*>(chunk))[i * 32 + lane], piece.v);
    return piece;
  }
  static __device__ __forceinline__ void stage(Number* to, int, const Real (&v)[kTerms]) { *vectors(to) = pack(v); }

  // `rows` staged rows, so far apart, by the columns of a panel: weight(q, i) is piece i of chunk q.
  template <int rows, class Weights>
  static __device__ __forceinline__ void multiply(const Number* staged, int apart, int, int chunks, int lane,
                                                  Weights&& weight, Real* to, int columns) {
    constexpr int kSums = rows * kPieces, kLanes = 32 / kSums;  // so many lanes have the same sum
    Real sum[kSums];
    RNN_UNROLL(32)
    for (int i = 0; i < kSums; ++i) sum[i] = 0;
    RNN_UNROLL(4)
    for (int q = 0; q < kPanel.chunks; ++q) {
      if (q >= chunks) break;
      Real a[rows][kTerms];
      RNN_UNROLL(4)
      for (int r = 0; r < rows; ++r) unpack(vectors(staged + r * apart)[q * 32 + lane], a[r]);
      RNN_UNROLL(8)
      for (int column = 0; column < kPieces; ++column) {
        const auto& w = weight(q, column);
        RNN_UNROLL(4)
        for (int r = 0; r < rows; ++r) RNN_UNROLL(4)
        for (int v = 0; v < kTerms; ++v)
          sum[r * kPieces + column] = Lane<Real>::fma(a[r][v], w.v[v], sum[r * kPieces + column]).v;
      }
    }
    sum_over_lanes<kSums>(sum, lane);
    if (lane % kLanes == 0) to[lane / kLanes / kPieces * columns + lane / kLanes % kPieces] = sum[0];
  }
};

__device__ __forceinline__ float from_half(__half x) { return __half2float(x); }
__device__ __forceinline__ float from_half(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ void to_half(float x, __half& to) { to = __float2half_rn(x); }
__device__ __forceinline__ void to_half(float x, __nv_bfloat16& to) { to = __float2bfloat16_rn(x); }
template <class Half> inline constexpr int kTensorCapability = 80;
template <> inline constexpr int kTensorCapability<__half> = 70;

// A number of a row is the sum of two halves, so that the products are those of float: of 16 bits and more.
template <class Half> struct TensorCores {
  using Real = float;
  using Number = Half;
  static constexpr Panel kPanel = tensor_panel(kTensorCapability<Half>);
#if defined(__CUDA_ARCH__)
  static constexpr bool kHere = __CUDA_ARCH__ >= 10 * kPanel.capability;
#else
  static constexpr bool kHere = true;
#endif
  static constexpr int kColumns = kPanel.columns, kRows = kPanel.rows, kDepth = 16, kPieces = kPanel.terms / kDepth;
  using Piece = nvcuda::wmma::fragment<nvcuda::wmma::matrix_a, kColumns, kRows, kDepth, Half, nvcuda::wmma::row_major>;
  using Rows = nvcuda::wmma::fragment<nvcuda::wmma::matrix_b, kColumns, kRows, kDepth, Half, nvcuda::wmma::col_major>;
  using Sums = nvcuda::wmma::fragment<nvcuda::wmma::accumulator, kColumns, kRows, kDepth, float>;
  static_assert(kColumns * kDepth * sizeof(Half) <= kPanel.scratch);

  template <class Weight>
  static __device__ __forceinline__ Piece load(int i, int lane, float4* scratch, Weight&& weight) {
    Half* matrix = reinterpret_cast<Half*>(scratch);
    RNN_ROLLED
    for (int at = lane; at < kColumns * kDepth; at += 32)
      to_half(weight(at / kDepth, i * kDepth + at % kDepth), matrix[at]);
    __syncwarp();
    Piece piece;
    load_matrix_sync(piece, matrix, kDepth);
    __syncwarp();
    return piece;
  }
  // Which weights a lane holds is not known, but that it is the same wherever it got them.
  static __device__ __forceinline__ void put(float4* chunk, int i, int lane, const Piece& piece) {
    float4 parts[2];
    static_assert(sizeof(parts) == sizeof(piece.x));
    __builtin_memcpy(parts, piece.x, sizeof(parts));
    for (int k = 0; k < 2; ++k) chunk[(2 * i + k) * 32 + lane] = parts[k];
  }
  static __device__ __forceinline__ Piece take(const float4* chunk, int i, int lane) {
    float4 parts[2];
    for (int k = 0; k < 2; ++k) parts[k] = chunk[(2 * i + k) * 32 + lane];
    Piece piece;
    __builtin_memcpy(piece.x, parts, sizeof(parts));
    return piece;
  }
  // What the first halves leave lies `rest` numbers behind them.
  static __device__ __forceinline__ void stage(Number* to, int rest, const float (&v)[kLoad<float>]) {
    Half first[kLoad<float>], second[kLoad<float>];
    RNN_UNROLL(4)
    for (int k = 0; k < kLoad<float>; ++k) {
      to_half(v[k], first[k]);
      const float left = v[k] - from_half(first[k]);
      to_half(left - left == 0 ? left : 0, second[k]);  // infinite: it is so already
    }
    float2 parts[2];
    __builtin_memcpy(&parts[0], first, sizeof(float2));
    __builtin_memcpy(&parts[1], second, sizeof(float2));
    *reinterpret_cast<float2*>(to) = parts[0];
    *reinterpret_cast<float2*>(to + rest) = parts[1];
  }

  template <int, class Weights>
  static __device__ __forceinline__ void multiply(const Number* staged, int apart, int rest, int chunks, int,
                                                  Weights&& weight, Real* to, int columns) {
    Sums sum, of_rest;
    nvcuda::wmma::fill_fragment(sum, 0.f);
    nvcuda::wmma::fill_fragment(of_rest, 0.f);
    RNN_UNROLL(4)
    for (int q = 0; q < kPanel.chunks; ++q) {
      if (q >= chunks) break;
      RNN_UNROLL(4)
      for (int i = 0; i < kPieces; ++i, staged += kDepth) {
        const auto& w = weight(q, i);
        Rows rows;
        load_matrix_sync(rows, staged, apart);
        mma_sync(sum, w, rows, sum);
        load_matrix_sync(rows, staged + rest, apart);
        mma_sync(of_rest, w, rows, of_rest);
      }
    }
    for (int e = 0; e < sum.num_elements; ++e) sum.x[e] += of_rest.x[e];
    store_matrix_sync(to, sum, columns, nvcuda::wmma::mem_col_major);
  }
};

template <class Weight> struct MultiplierOf {
  using type = Fma<Weight>;
};
template <> struct MultiplierOf<Bfloat16> {
  using type = TensorCores<__nv_bfloat16>;
};
template <> struct MultiplierOf<Float16> {
  using type = TensorCores<__half>;
};

}  // namespace rnn::cuda
