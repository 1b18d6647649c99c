// 16 floats or 8 doubles: AVX-512 F, DQ (and BW, VL, which every machine that has DQ has).
#pragma once
#ifdef RNN_SIMDE
#include "avx512_simde.h"
#else
#include <immintrin.h>
#endif

#include <cstdint>

#include "../cells/vocabulary.h"

namespace rnn::avx512 {

inline constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

struct Floats {
  using Real = float;
  static constexpr int kLanes = 16;
  __m512 v;

  Floats() = default;
  RNN_FN Floats(__m512 x) : v(x) {}
  RNN_FN Floats(float x) : v(_mm512_set1_ps(x)) {}

  RNN_FN static __mmask16 mask(int n) { return static_cast<__mmask16>((1u << n) - 1u); }
  RNN_FN static Floats load(const float* p) { return _mm512_loadu_ps(p); }
  RNN_FN static Floats load(const float* p, int n) { return _mm512_maskz_loadu_ps(mask(n), p); }
  RNN_FN static Floats broadcast(const float* p) { return _mm512_set1_ps(*p); }
  RNN_FN void store(float* p) const { _mm512_storeu_ps(p, v); }
  RNN_FN void store(float* p, int n) const { _mm512_mask_storeu_ps(p, mask(n), v); }

  friend RNN_FN Floats operator+(Floats a, Floats b) { return _mm512_add_ps(a.v, b.v); }
  friend RNN_FN Floats operator-(Floats a, Floats b) { return _mm512_sub_ps(a.v, b.v); }
  friend RNN_FN Floats operator*(Floats a, Floats b) { return _mm512_mul_ps(a.v, b.v); }
  friend RNN_FN Floats operator/(Floats a, Floats b) { return _mm512_div_ps(a.v, b.v); }

  RNN_FN static Floats fma(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a.v, b.v, c.v); }
  RNN_FN static Floats min(Floats a, Floats b) { return _mm512_min_ps(a.v, b.v); }
  RNN_FN static Floats max(Floats a, Floats b) { return _mm512_max_ps(a.v, b.v); }
  RNN_FN static Floats sqrt(Floats a) { return _mm512_sqrt_ps(a.v); }
  RNN_FN static Floats exponent(Floats a) {
    return Floats(_mm512_cvtepi32_ps(_mm512_srli_epi32(_mm512_castps_si512(a.v), 23))) - Floats(127.0f);
  }
  RNN_FN static Floats abs(Floats a) { return _mm512_abs_ps(a.v); }
  RNN_FN static Floats round(Floats a) { return _mm512_roundscale_ps(a.v, kNearest); }
  RNN_FN static Floats copysign(Floats a, Floats sign) {
    __m512 bit = _mm512_set1_ps(-0.0f);
    return _mm512_or_ps(_mm512_andnot_ps(bit, a.v), _mm512_and_ps(bit, sign.v));
  }
  RNN_FN static Floats one_if_positive(Floats x, Floats y) {
    return _mm512_mask_blend_ps(_mm512_movepi32_mask(_mm512_castps_si512(x.v)), _mm512_set1_ps(1.0f), y.v);
  }
  RNN_FN static Floats zero_unless_positive(Floats y, Floats d) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(y.v, _mm512_setzero_ps(), _CMP_LE_OQ), d.v, _mm512_setzero_ps());
  }
  RNN_FN static Floats scale2_normal(Floats x, Floats n) { return scale2(x, n); }
  RNN_FN static Floats scale2(Floats x, Floats n) { return _mm512_scalef_ps(x.v, n.v); }
  RNN_FN static float sum(Floats a) {
    __m256 t = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(t), _mm256_extractf128_ps(t, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
  }
};

struct Doubles {
  using Real = double;
  static constexpr int kLanes = 8;
  __m512d v;

  Doubles() = default;
  RNN_FN Doubles(__m512d x) : v(x) {}
  RNN_FN Doubles(double x) : v(_mm512_set1_pd(x)) {}

  RNN_FN static __mmask8 mask(int n) { return static_cast<__mmask8>((1u << n) - 1u); }
  RNN_FN static Doubles load(const double* p) { return _mm512_loadu_pd(p); }
  RNN_FN static Doubles load(const double* p, int n) { return _mm512_maskz_loadu_pd(mask(n), p); }
  RNN_FN static Doubles broadcast(const double* p) { return _mm512_set1_pd(*p); }
  RNN_FN void store(double* p) const { _mm512_storeu_pd(p, v); }
  RNN_FN void store(double* p, int n) const { _mm512_mask_storeu_pd(p, mask(n), v); }

  friend RNN_FN Doubles operator+(Doubles a, Doubles b) { return _mm512_add_pd(a.v, b.v); }
  friend RNN_FN Doubles operator-(Doubles a, Doubles b) { return _mm512_sub_pd(a.v, b.v); }
  friend RNN_FN Doubles operator*(Doubles a, Doubles b) { return _mm512_mul_pd(a.v, b.v); }
  friend RNN_FN Doubles operator/(Doubles a, Doubles b) { return _mm512_div_pd(a.v, b.v); }

  RNN_FN static Doubles fma(Doubles a, Doubles b, Doubles c) { return _mm512_fmadd_pd(a.v, b.v, c.v); }
  RNN_FN static Doubles min(Doubles a, Doubles b) { return _mm512_min_pd(a.v, b.v); }
  RNN_FN static Doubles max(Doubles a, Doubles b) { return _mm512_max_pd(a.v, b.v); }
  RNN_FN static Doubles sqrt(Doubles a) { return _mm512_sqrt_pd(a.v); }
  RNN_FN static Doubles exponent(Doubles a) {  // the exponent's bits under those of 2^52 are that number more
    __m512i bits = _mm512_srli_epi64(_mm512_castpd_si512(a.v), 52);
    __m512d above = _mm512_castsi512_pd(_mm512_or_si512(bits, _mm512_castpd_si512(_mm512_set1_pd(0x1p52))));
    return Doubles(above) - Doubles(0x1p52 + 1023);
  }
  RNN_FN static Doubles abs(Doubles a) { return _mm512_abs_pd(a.v); }
  RNN_FN static Doubles round(Doubles a) { return _mm512_roundscale_pd(a.v, kNearest); }
  RNN_FN static Doubles copysign(Doubles a, Doubles sign) {
    __m512d bit = _mm512_set1_pd(-0.0);
    return _mm512_or_pd(_mm512_andnot_pd(bit, a.v), _mm512_and_pd(bit, sign.v));
  }
  RNN_FN static Doubles one_if_positive(Doubles x, Doubles y) {
    return _mm512_mask_blend_pd(_mm512_movepi64_mask(_mm512_castpd_si512(x.v)), _mm512_set1_pd(1.0), y.v);
  }
  RNN_FN static Doubles zero_unless_positive(Doubles y, Doubles d) {
    return _mm512_mask_blend_pd(_mm512_cmp_pd_mask(y.v, _mm512_setzero_pd(), _CMP_LE_OQ), d.v, _mm512_setzero_pd());
  }
  RNN_FN static Doubles scale2_normal(Doubles x, Doubles n) { return scale2(x, n); }
  RNN_FN static Doubles scale2(Doubles x, Doubles n) { return _mm512_scalef_pd(x.v, n.v); }
  RNN_FN static double sum(Doubles a) {
    __m256d t = _mm256_add_pd(_mm512_castpd512_pd256(a.v), _mm512_extractf64x4_pd(a.v, 1));
    __m128d s = _mm_add_pd(_mm256_castpd256_pd128(t), _mm256_extractf128_pd(t, 1));
    return _mm_cvtsd_f64(_mm_add_sd(s, _mm_unpackhi_pd(s, s)));
  }
};

}  // namespace rnn::avx512
