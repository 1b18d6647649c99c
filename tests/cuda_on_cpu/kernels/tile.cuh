// A product by tiles, in a header, so that headers are rewritten too.
#pragma once

// C (M,N) = A (M,K) B (K,N); a block of kTile x kTile threads makes a tile of C.
template <class T, int kTile> __global__ void product(const T* a, const T* b, T* c, int M, int N, int K) {
  __shared__ T left[kTile][kTile + 1], right[kTile][kTile];
  int x = threadIdx.x, y = threadIdx.y, m = blockIdx.y * kTile + y, n = blockIdx.x * kTile + x;
  T sum = 0;
  for (int k = 0; k < K; k += kTile) {
    left[y][x] = m < M && k + x < K ? a[m * K + k + x] : T(0);
    right[y][x] = k + y < K && n < N ? b[(k + y) * N + n] : T(0);
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kTile; i++) sum += left[y][i] * right[i][x];
    __syncthreads();
  }
  if (m < M && n < N) c[m * N + n] = sum;
}
