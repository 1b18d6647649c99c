// nvcuda::wmma for __half and __nv_bfloat16 with float accumulators. Which element lies in which lane is unspecified,
// so it is nothing here that a kernel might guess; products are exact and are added one by one in float.
#pragma once
#include "cuda_bf16.h"
#include "cuda_fp16.h"

namespace nvcuda::wmma {

using Site = cuda_on_cpu::Site;

struct matrix_a {};
struct matrix_b {};
struct accumulator {};
struct row_major {};
struct col_major {};
enum layout_t { mem_row_major, mem_col_major };

template <class Use, int M, int N, int K, class T, class Layout = void> struct fragment {
  static_assert((M == 16 && N == 16 && K == 16) || (M == 8 && N == 32 && K == 16) || (M == 32 && N == 8 && K == 16));
  static_assert(std::is_same_v<Use, accumulator> ? std::is_same_v<T, float> && std::is_void_v<Layout>
                                                 : std::is_same_v<T, __half> || std::is_same_v<T, __nv_bfloat16>);
  static constexpr int kRows = std::is_same_v<Use, matrix_b> ? K : M, kColumns = std::is_same_v<Use, matrix_a> ? K : N;
  static constexpr int num_elements = kRows * kColumns / 32;
  using element_type = T;
  T x[num_elements];

  // Number in the matrix, row by row, of element i of a lane.
  static int number(int lane, int i) { return (i * 32 + lane) * 37 % (kRows * kColumns); }
};

namespace internal {

inline void fail_unless(bool fine, const char* what, Site site) {
  if (!fine) cuda_on_cpu::fail(what, site);
}

// All lanes of a warp bring what they were called with; `work` sees all of it.
template <class Mine> void meet(const char* what, Mine mine, void (*work)(Mine* const (&lanes)[32])) {
  struct Lane {
    Mine mine;
    void (*work)(Mine* const (&)[32]);
  } lane{mine, work};
  auto all = [](void* const* brought, size_t) {
    Mine* lanes[32];
    Lane* any = nullptr;
    for (int i = 0; i < 32; i++) {
      if (brought[i]) any = static_cast<Lane*>(brought[i]);
    }
    for (int i = 0; i < 32; i++) {
      fail_unless(brought[i], "wmma without all lanes of the warp", any->mine.site);
      lanes[i] = &static_cast<Lane*>(brought[i])->mine;
    }
    any->work(lanes);
  };
  cuda_on_cpu::meet_warp({what, mine.site, false, all}, ~0u, &lane);
}

struct Matrix {
  const void* p;
  unsigned stride, row_bytes;
  Site site;
};
// Where the lanes' matrix lies they must agree, and it must be aligned.
inline void meet(const char* what, Matrix matrix) {
  meet<Matrix>(what, matrix, [](Matrix* const(&lanes)[32]) {
    for (auto m : lanes) {
      fail_unless(m->p == lanes[0]->p && m->stride == lanes[0]->stride, "wmma: lanes disagree on the matrix", m->site);
      fail_unless(reinterpret_cast<uintptr_t>(m->p) % 32 == 0, "wmma: a matrix not aligned to 32 bytes", m->site);
      fail_unless(m->row_bytes % 16 == 0, "wmma: rows not a multiple of 16 bytes", m->site);
    }
  });
}

// Calls move(element, offset in memory) for what the calling lane holds.
template <class F, class Move> void each(F& f, unsigned stride, bool by_rows, Move move) {
  for (int i = 0; i < F::num_elements; i++) {
    size_t n = F::number(cuda_on_cpu::lane(), i), row = n / F::kColumns, column = n % F::kColumns;
    move(f.x[i], by_rows ? row * stride + column : column * stride + row);
  }
}

template <class F, class T> void load(F& f, const T* p, unsigned stride, bool by_rows, Site site) {
  meet("load_matrix_sync", {p, stride, unsigned(stride * sizeof(T)), site});
  each(f, stride, by_rows, [p](auto& x, size_t at) { x = p[at]; });
}

}  // namespace internal

template <class F> void fill_fragment(F& f, typename F::element_type value) {
  for (auto& x : f.x) x = value;
}

template <class Use, int M, int N, int K, class T, class Layout>
void load_matrix_sync(fragment<Use, M, N, K, T, Layout>& f, const T* p, unsigned stride, Site site = Site::current()) {
  internal::load(f, p, stride, std::is_same_v<Layout, row_major>, site);
}
template <int M, int N, int K>
void load_matrix_sync(fragment<accumulator, M, N, K, float>& f, const float* p, unsigned stride, layout_t layout,
                      Site site = Site::current()) {
  internal::load(f, p, stride, layout == mem_row_major, site);
}
template <int M, int N, int K>
void store_matrix_sync(float* p, const fragment<accumulator, M, N, K, float>& f, unsigned stride, layout_t layout,
                       Site site = Site::current()) {
  internal::meet("store_matrix_sync", {p, stride, unsigned(stride * sizeof(float)), site});
  internal::each(f, stride, layout == mem_row_major, [p](float x, size_t at) { p[at] = x; });
}

template <int M, int N, int K, class T, class LayoutA, class LayoutB>
void mma_sync(fragment<accumulator, M, N, K, float>& d, const fragment<matrix_a, M, N, K, T, LayoutA>& a,
              const fragment<matrix_b, M, N, K, T, LayoutB>& b, const fragment<accumulator, M, N, K, float>& c,
              Site site = Site::current()) {
  using A = fragment<matrix_a, M, N, K, T, LayoutA>;
  using B = fragment<matrix_b, M, N, K, T, LayoutB>;
  using C = fragment<accumulator, M, N, K, float>;
  struct Lane {
    C* d;
    const A* a;
    const B* b;
    const C* c;
    Site site;
  };
  internal::meet<Lane>("mma_sync", {&d, &a, &b, &c, site}, [](Lane* const(&lanes)[32]) {
    float left[M * K], right[K * N];
    for (int lane = 0; lane < 32; lane++) {
      for (int i = 0; i < A::num_elements; i++) left[A::number(lane, i)] = lanes[lane]->a->x[i];
      for (int i = 0; i < B::num_elements; i++) right[B::number(lane, i)] = lanes[lane]->b->x[i];
    }
    for (int lane = 0; lane < 32; lane++) {
      for (int i = 0; i < C::num_elements; i++) {
        int n = C::number(lane, i), row = n / N, column = n % N;
        float sum = lanes[lane]->c->x[i];
        for (int k = 0; k < K; k++) sum += left[row * K + k] * right[k * N + column];
        lanes[lane]->d->x[i] = sum;
      }
    }
  });
}

}  // namespace nvcuda::wmma
