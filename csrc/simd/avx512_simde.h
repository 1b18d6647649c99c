// Test only: stands for <immintrin.h> where AVX-512 code is compiled for machines without it.
#pragma once
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#include <simde/x86/fma.h>

// SIMDe 0.8.2's masked store writes zeros where the mask is off, and its masked load reads there.
#undef _mm512_maskz_loadu_ps
#undef _mm512_maskz_loadu_pd
#undef _mm512_mask_storeu_ps
#undef _mm512_mask_storeu_pd

#define RNN_MASKED(suffix, Vec, Mask, Real)                                \
  static inline Vec rnn_maskz_loadu_##suffix(Mask mask, const Real* p) {   \
    Real lanes[sizeof(Vec) / sizeof(Real)] = {};                           \
    for (unsigned i = 0; i < sizeof(Vec) / sizeof(Real); ++i)              \
      if (mask >> i & 1) lanes[i] = p[i];                                  \
    return _mm512_loadu_##suffix(lanes);                                   \
  }                                                                        \
  static inline void rnn_mask_storeu_##suffix(Real* p, Mask mask, Vec v) { \
    Real lanes[sizeof(Vec) / sizeof(Real)];                                \
    _mm512_storeu_##suffix(lanes, v);                                      \
    for (unsigned i = 0; i < sizeof(Vec) / sizeof(Real); ++i)              \
      if (mask >> i & 1) p[i] = lanes[i];                                  \
  }
RNN_MASKED(ps, __m512, __mmask16, float)
RNN_MASKED(pd, __m512d, __mmask8, double)
#undef RNN_MASKED

// Its scalef overflows in 2^n before it multiplies.
#undef _mm512_scalef_ps
#undef _mm512_scalef_pd
#define RNN_SCALEF(suffix, Vec, Real, scale)                                               \
  static inline Vec rnn_scalef_##suffix(Vec x, Vec n) {                                    \
    Real lanes[sizeof(Vec) / sizeof(Real)], powers[sizeof lanes / sizeof(Real)];           \
    _mm512_storeu_##suffix(lanes, x);                                                      \
    _mm512_storeu_##suffix(powers, n);                                                     \
    for (unsigned i = 0; i < sizeof lanes / sizeof(Real); ++i)                             \
      if (powers[i] == powers[i]) lanes[i] = scale(lanes[i], static_cast<int>(powers[i])); \
    return _mm512_loadu_##suffix(lanes);                                                   \
  }
RNN_SCALEF(ps, __m512, float, __builtin_scalbnf)
RNN_SCALEF(pd, __m512d, double, __builtin_scalbn)
#undef RNN_SCALEF

#define _mm512_maskz_loadu_ps rnn_maskz_loadu_ps
#define _mm512_maskz_loadu_pd rnn_maskz_loadu_pd
#define _mm512_mask_storeu_ps rnn_mask_storeu_ps
#define _mm512_mask_storeu_pd rnn_mask_storeu_pd
#define _mm512_scalef_ps rnn_scalef_ps
#define _mm512_scalef_pd rnn_scalef_pd
