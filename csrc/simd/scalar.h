// One lane: the scalar build of the CPU kernels, and a CUDA thread.
#pragma once
#include <cstdint>
#include <cstring>

#include "../cells/vocabulary.h"

namespace rnn {

template <class T> struct Bits;
template <> struct Bits<float> {
  using Int = int32_t;
  static constexpr int kMantissa = 23, kBias = 127;
  static constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
};
template <> struct Bits<double> {
  using Int = int64_t;
  static constexpr int kMantissa = 52, kBias = 1023;
  static constexpr double kRound = 6755399441055744.0;
};

template <class T> struct Lane {
  using Real = T;
  static constexpr int kLanes = 1;
  T v;

  Lane() = default;
  RNN_FN Lane(T x) : v(x) {}

  RNN_FN static Lane load(const T* p) { return *p; }
  RNN_FN static Lane load(const T* p, int) { return *p; }
  RNN_FN static Lane broadcast(const T* p) { return *p; }
  RNN_FN void store(T* p) const { *p = v; }
  RNN_FN void store(T* p, int) const { *p = v; }

  friend RNN_FN Lane operator+(Lane a, Lane b) { return a.v + b.v; }
  friend RNN_FN Lane operator-(Lane a, Lane b) { return a.v - b.v; }
  friend RNN_FN Lane operator*(Lane a, Lane b) { return a.v * b.v; }
  friend RNN_FN Lane operator/(Lane a, Lane b) { return a.v / b.v; }

  RNN_FN static Lane fma(Lane a, Lane b, Lane c) {
#if defined(__CUDA_ARCH__) || defined(__FP_FAST_FMA)
    if constexpr (sizeof(T) == 4)
      return __builtin_fmaf(a.v, b.v, c.v);
    else
      return __builtin_fma(a.v, b.v, c.v);
#else
    return a.v * b.v + c.v;
#endif
  }
  // a / b for b from 1 to 2^100, at most 1 ULP off. On a GPU 4 instructions; operator/ is 8 and a branch.
  RNN_FN static Lane over(Lane a, Lane b) {
#if defined(__CUDA_ARCH__)
    if constexpr (sizeof(T) == 4) {
      T inverse;
      asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(b.v));
      T q = a.v * inverse;
      return __builtin_fmaf(__builtin_fmaf(-b.v, q, a.v), inverse, q);
    }
#endif
    return a / b;
  }
  RNN_FN static Lane min(Lane a, Lane b) { return a.v < b.v ? a.v : b.v; }
  RNN_FN static Lane max(Lane a, Lane b) { return a.v > b.v ? a.v : b.v; }
  RNN_FN static Lane sqrt(Lane a) {
    if constexpr (sizeof(T) == 4)
      return __builtin_sqrtf(a.v);
    else
      return __builtin_sqrt(a.v);
  }
  RNN_FN static Lane exponent(Lane a) { return static_cast<T>((to_bits(a.v) >> Bits<T>::kMantissa) - Bits<T>::kBias); }
  RNN_FN static Lane abs(Lane a) { return copysign(a, T(1)); }
  RNN_FN static Lane round(Lane a) { return (a.v + Bits<T>::kRound) - Bits<T>::kRound; }
  RNN_FN static Lane copysign(Lane a, Lane sign) {
    using Int = typename Bits<T>::Int;
    constexpr Int kSign = Int(1) << (8 * sizeof(T) - 1);
    return from_bits((to_bits(a.v) & ~kSign) | (to_bits(sign.v) & kSign));
  }
  RNN_FN static Lane one_if_positive(Lane x, Lane y) { return to_bits(x.v) < 0 ? y : Lane(T(1)); }
  RNN_FN static Lane zero_unless_positive(Lane y, Lane d) { return y.v <= 0 ? T(0) : d.v; }

  // x * 2^n for n an integer: _normal while 2^n is a normal number, in two steps where it may not be.
  RNN_FN static Lane scale2_normal(Lane x, Lane n) { return x.v * power2(to_int(n.v)); }
  RNN_FN static Lane scale2(Lane x, Lane n) {
    auto whole = to_int(n.v), half = whole >> 1;
    return x.v * power2(half) * power2(whole - half);
  }
  RNN_FN static T sum(Lane a) { return a.v; }

 private:
  using Int = typename Bits<T>::Int;
  // A NaN has no integer: any will do, since x is NaN too.
  RNN_FN static Int to_int(T n) { return n == n ? static_cast<Int>(n) : 0; }
  RNN_FN static T power2(Int n) { return from_bits((n + Bits<T>::kBias) << Bits<T>::kMantissa); }
  RNN_FN static Int to_bits(T x) {
    Int i;
    memcpy(&i, &x, sizeof i);
    return i;
  }
  RNN_FN static T from_bits(Int i) {
    T x;
    memcpy(&x, &i, sizeof x);
    return x;
  }
};

}  // namespace rnn
