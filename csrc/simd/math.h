// exp, tanh and the logistic function, one text for every lane type.
// A lane type V offers: Real, kLanes, V(Real), + - * /, fma(a,b,c) = a*b+c (rounded once or twice), min, max (of which
// the second operand comes back when either is NaN, as on x86), abs, round (to nearest even), scale2(x, n) = x * 2^n
// with gradual underflow, copysign, one_if_positive(x, y): the lanes of 1 where the sign of x is clear, else of y.
#pragma once
#include "../cells/vocabulary.h"

namespace rnn {

template <class Real> struct ExpConstants;

// q(r) = (e^r - 1 - r) / r^2 on |r| <= ln(2)/2, Chebyshev fits (relative error 7e-8 and 2e-18), lowest power first.
template <> struct ExpConstants<float> {
  static constexpr int kTerms = 5;
  static constexpr float kQ[] = {0.5f, 0.16666573381900846f, 0.0416665501103051244f, 0.0083637738744055735f,
                                 0.00139269266140219065f};
  static constexpr float kLog2e = 1.44269504088896341f, kLn2Hi = 0.693359375f, kLn2Lo = -2.12194440e-4f;
  static constexpr float kOverflow = 89.0f, kUnderflow = -104.0f, kTanhSaturates = 20.0f;
};

template <> struct ExpConstants<double> {
  static constexpr int kTerms = 11;
  static constexpr double kQ[] = {0.5,
                                  0.166666666666666714,
                                  0.0416666666666666701,
                                  0.0083333333333255447,
                                  0.00138888888888833267,
                                  0.000198412698768643549,
                                  0.0000248015873270071867,
                                  2.75572528335169097e-6,
                                  2.75572718102197996e-7,
                                  2.51062747335732947e-8,
                                  2.09154422977801152e-9};
  static constexpr double kLog2e = 1.44269504088896341, kLn2Hi = 6.93147180369123816490e-01,
                          kLn2Lo = 1.90821492927058770002e-10;
  static constexpr double kOverflow = 710.0, kUnderflow = -746.0, kTanhSaturates = 40.0;
};

// x = n ln 2 + r; returns e^r - 1 and leaves n.
template <class V> RNN_FN V expm1_reduced(V x, V& n) {
  using C = ExpConstants<typename V::Real>;
  n = V::round(x * V(C::kLog2e));
  V r = V::fma(n, V(-C::kLn2Lo), V::fma(n, V(-C::kLn2Hi), x));
  V q = V(C::kQ[C::kTerms - 1]);
#pragma GCC unroll 16
  for (int i = C::kTerms - 2; i >= 0; --i) q = V::fma(q, r, V(C::kQ[i]));
  return V::fma(r * r, q, r);
}

// e^x, at most 1.5 ULP; underflow is gradual, overflow infinite.
template <class V> RNN_FN V exp(V x) {
  using C = ExpConstants<typename V::Real>;
  V n;
  V p = expm1_reduced(V::max(V(C::kUnderflow), V::min(V(C::kOverflow), x)), n);
  return V::scale2(V(1) + p, n);
}

// 1 / (1 + e^-x) = {1, e} / (1 + e) with e = e^-|x|: at most 2 ULP, denormal results included.
template <class V> RNN_FN V sigmoid(V x) {
  using C = ExpConstants<typename V::Real>;
  V n;
  V p = expm1_reduced(V::max(V(C::kUnderflow), V(0) - V::abs(x)), n);
  V e = V::scale2(V(1) + p, n);
  return V::one_if_positive(x, e) / (V(1) + e);
}

// tanh |x| = m / (m + 2) with m = e^2|x| - 1: at most 2 ULP.
template <class V> RNN_FN V tanh(V x) {
  using C = ExpConstants<typename V::Real>;
  V a = V::abs(x);
  V n;
  V p = expm1_reduced(V::min(V(C::kTanhSaturates), a + a), n);
  V s = V::scale2_normal(V(1), n);
  V m = V::fma(s, p, s - V(1));
  return V::copysign(m / (m + V(2)), x);
}

}  // namespace rnn
