// 8 floats or 4 doubles: AVX2 with FMA.
#pragma once
#include <immintrin.h>

#include <cstdint>

#include "../cells/vocabulary.h"

namespace rnn::avx2 {

struct Floats {
  using Real = float;
  static constexpr int kLanes = 8;
  __m256 v;

  Floats() = default;
  RNN_FN Floats(__m256 x) : v(x) {}
  RNN_FN Floats(float x) : v(_mm256_set1_ps(x)) {}

  RNN_FN static __m256i mask(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  RNN_FN static Floats load(const float* p) { return _mm256_loadu_ps(p); }
  RNN_FN static Floats load(const float* p, int n) { return _mm256_maskload_ps(p, mask(n)); }
  RNN_FN static Floats broadcast(const float* p) { return _mm256_broadcast_ss(p); }
  RNN_FN void store(float* p) const { _mm256_storeu_ps(p, v); }
  RNN_FN void store(float* p, int n) const { _mm256_maskstore_ps(p, mask(n), v); }

  friend RNN_FN Floats operator+(Floats a, Floats b) { return _mm256_add_ps(a.v, b.v); }
  friend RNN_FN Floats operator-(Floats a, Floats b) { return _mm256_sub_ps(a.v, b.v); }
  friend RNN_FN Floats operator*(Floats a, Floats b) { return _mm256_mul_ps(a.v, b.v); }
  friend RNN_FN Floats operator/(Floats a, Floats b) { return _mm256_div_ps(a.v, b.v); }

  RNN_FN static Floats fma(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a.v, b.v, c.v); }
  RNN_FN static Floats min(Floats a, Floats b) { return _mm256_min_ps(a.v, b.v); }
  RNN_FN static Floats max(Floats a, Floats b) { return _mm256_max_ps(a.v, b.v); }
  RNN_FN static Floats sqrt(Floats a) { return _mm256_sqrt_ps(a.v); }
  RNN_FN static Floats exponent(Floats a) {
    return Floats(_mm256_cvtepi32_ps(_mm256_srli_epi32(_mm256_castps_si256(a.v), 23))) - Floats(127.0f);
  }
  RNN_FN static Floats abs(Floats a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.v); }
  RNN_FN static Floats round(Floats a) { return _mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  RNN_FN static Floats copysign(Floats a, Floats sign) {
    __m256 bit = _mm256_set1_ps(-0.0f);
    return _mm256_or_ps(_mm256_andnot_ps(bit, a.v), _mm256_and_ps(bit, sign.v));
  }
  RNN_FN static Floats one_if_positive(Floats x, Floats y) { return _mm256_blendv_ps(_mm256_set1_ps(1.0f), y.v, x.v); }
  RNN_FN static Floats zero_unless_positive(Floats y, Floats d) {
    return _mm256_andnot_ps(_mm256_cmp_ps(y.v, _mm256_setzero_ps(), _CMP_LE_OQ), d.v);
  }
  RNN_FN static Floats scale2_normal(Floats x, Floats n) { return x * power2(_mm256_cvtps_epi32(n.v)); }
  RNN_FN static Floats scale2(Floats x, Floats n) {
    __m256i whole = _mm256_cvtps_epi32(n.v), half = _mm256_srai_epi32(whole, 1);
    return x * power2(half) * power2(_mm256_sub_epi32(whole, half));
  }
  RNN_FN static float sum(Floats a) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
  }

 private:
  RNN_FN static Floats power2(__m256i n) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
  }
};

struct Doubles {
  using Real = double;
  static constexpr int kLanes = 4;
  __m256d v;

  Doubles() = default;
  RNN_FN Doubles(__m256d x) : v(x) {}
  RNN_FN Doubles(double x) : v(_mm256_set1_pd(x)) {}

  RNN_FN static __m256i mask(int n) {
    return _mm256_cmpgt_epi64(_mm256_set1_epi64x(n), _mm256_setr_epi64x(0, 1, 2, 3));
  }
  RNN_FN static Doubles load(const double* p) { return _mm256_loadu_pd(p); }
  RNN_FN static Doubles load(const double* p, int n) { return _mm256_maskload_pd(p, mask(n)); }
  RNN_FN static Doubles broadcast(const double* p) { return _mm256_broadcast_sd(p); }
  RNN_FN void store(double* p) const { _mm256_storeu_pd(p, v); }
  RNN_FN void store(double* p, int n) const { _mm256_maskstore_pd(p, mask(n), v); }

  friend RNN_FN Doubles operator+(Doubles a, Doubles b) { return _mm256_add_pd(a.v, b.v); }
  friend RNN_FN Doubles operator-(Doubles a, Doubles b) { return _mm256_sub_pd(a.v, b.v); }
  friend RNN_FN Doubles operator*(Doubles a, Doubles b) { return _mm256_mul_pd(a.v, b.v); }
  friend RNN_FN Doubles operator/(Doubles a, Doubles b) { return _mm256_div_pd(a.v, b.v); }

  RNN_FN static Doubles fma(Doubles a, Doubles b, Doubles c) { return _mm256_fmadd_pd(a.v, b.v, c.v); }
  RNN_FN static Doubles min(Doubles a, Doubles b) { return _mm256_min_pd(a.v, b.v); }
  RNN_FN static Doubles max(Doubles a, Doubles b) { return _mm256_max_pd(a.v, b.v); }
  RNN_FN static Doubles sqrt(Doubles a) { return _mm256_sqrt_pd(a.v); }
  RNN_FN static Doubles exponent(Doubles a) {  // the exponent's bits under those of 2^52 are that number more
    __m256i bits = _mm256_srli_epi64(_mm256_castpd_si256(a.v), 52);
    __m256d above = _mm256_castsi256_pd(_mm256_or_si256(bits, _mm256_castpd_si256(_mm256_set1_pd(0x1p52))));
    return Doubles(above) - Doubles(0x1p52 + 1023);
  }
  RNN_FN static Doubles abs(Doubles a) { return _mm256_andnot_pd(_mm256_set1_pd(-0.0), a.v); }
  RNN_FN static Doubles round(Doubles a) { return _mm256_round_pd(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  RNN_FN static Doubles copysign(Doubles a, Doubles sign) {
    __m256d bit = _mm256_set1_pd(-0.0);
    return _mm256_or_pd(_mm256_andnot_pd(bit, a.v), _mm256_and_pd(bit, sign.v));
  }
  RNN_FN static Doubles one_if_positive(Doubles x, Doubles y) {
    return _mm256_blendv_pd(_mm256_set1_pd(1.0), y.v, x.v);
  }
  RNN_FN static Doubles zero_unless_positive(Doubles y, Doubles d) {
    return _mm256_andnot_pd(_mm256_cmp_pd(y.v, _mm256_setzero_pd(), _CMP_LE_OQ), d.v);
  }
  RNN_FN static Doubles scale2_normal(Doubles x, Doubles n) { return x * power2(_mm256_cvtpd_epi32(n.v)); }
  RNN_FN static Doubles scale2(Doubles x, Doubles n) {
    __m128i whole = _mm256_cvtpd_epi32(n.v), half = _mm_srai_epi32(whole, 1);
    return x * power2(half) * power2(_mm_sub_epi32(whole, half));
  }
  RNN_FN static double sum(Doubles a) {
    __m128d s = _mm_add_pd(_mm256_castpd256_pd128(a.v), _mm256_extractf128_pd(a.v, 1));
    return _mm_cvtsd_f64(_mm_add_sd(s, _mm_unpackhi_pd(s, s)));
  }

 private:
  RNN_FN static Doubles power2(__m128i n) {
    __m256i wide = _mm256_cvtepi32_epi64(_mm_add_epi32(n, _mm_set1_epi32(1023)));
    return _mm256_castsi256_pd(_mm256_slli_epi64(wide, 52));
  }
};

}  // namespace rnn::avx2
