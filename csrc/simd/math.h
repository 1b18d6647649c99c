// exp, log, tanh, the logistic function and softplus, one text for every lane type.
// A lane type V offers: Real, kLanes, V(Real), + - * /, fma(a,b,c) = a*b+c (rounded once or twice), min, max (of which
// the second operand comes back when either is NaN, as on x86), abs, sqrt, round (to nearest even), scale2(x, n) =
// x * 2^n with gradual underflow, exponent: of positive normal numbers, rounded down; copysign, one_if_positive(x, y):
// the lanes of 1 where the sign of x is clear, else of y.
#pragma once
#include "../cells/vocabulary.h"

namespace rnn {

template <class Real> struct ExpConstants;

// q(r) = (e^r - 1 - r) / r^2 on the interval of expm1_reduced, Chebyshev fits (absolute error 5e-9 and 2e-18), lowest
// power first.
template <> struct ExpConstants<float> {
  static constexpr float kQ[] = {
      0.5f, 0.16666667116f, 0.041666791759f, 0.0083326137122f, 0.0013847421711f, 0.00022166714928f};
  static constexpr float kLog2e = 1.44269504088896341f, kLn2Hi = 0.693359375f, kLn2Lo = -2.12194440e-4f;
  static constexpr float kOverflow = 89.0f, kUnderflow = -104.0f, kTanhSaturates = 20.0f;
};

template <> struct ExpConstants<double> {
  static constexpr double kQ[] = {0.5,
                                  0.166666666666666718,
                                  0.0416666666666660463,
                                  0.00833333333332330495,
                                  0.00138888888897851295,
                                  0.000198412698791464906,
                                  0.0000248015828045931765,
                                  2.75573577331587332e-6,
                                  2.75635822008923945e-7,
                                  2.48135931602446636e-8,
                                  2.42215344611860094e-9};
  static constexpr double kLog2e = 1.44269504088896341, kLn2Hi = 6.93147180369123816490e-01,
                          kLn2Lo = 1.90821492927058770002e-10;
  static constexpr double kOverflow = 710.0, kUnderflow = -746.0, kTanhSaturates = 40.0;
};

template <class Real> struct LogConstants;

// (log((1 + s) / (1 - s)) - 2 s) / s^3 in z = s^2, for s where (1 + s) / (1 - s) runs from sqrt(1/2) to sqrt(2),
// Chebyshev fits (error 2e-11 and 5e-18 of the logarithm), lowest power first.
template <> struct LogConstants<float> {
  static constexpr float kQ[] = {0.66666666555f, 0.40000121840f, 0.28550820816f, 0.23330467216f};
};

template <> struct LogConstants<double> {
  static constexpr double kQ[] = {0.666666666666666969, 0.399999999998995045, 0.285714286259754849,
                                  0.222222111347950799, 0.181828891252617221, 0.153317216005560413,
                                  0.146164496850434059};
};

template <class Constants, class V, int i = 0> RNN_FN V q_polynomial(V r) {
  constexpr typename V::Real kCoefficient = Constants::kQ[i];  // a constant, since CUDA keeps no arrays of them
  if constexpr (i + 1 == sizeof(Constants::kQ) / sizeof(Constants::kQ[0]))
    return V(kCoefficient);
  else
    return V::fma(q_polynomial<Constants, V, i + 1>(r), r, V(kCoefficient));
}

// x = n ln 2 + r with r in [-1/4, 3/4] ln 2; returns e^r - 1 and leaves n. Off centre, so that n stays 0, and e^x - 1
// free of cancellation, for small positive x: what tanh asks for.
template <class V> RNN_FN V expm1_reduced(V x, V& n) {
  using C = ExpConstants<typename V::Real>;
  n = V::round(V::fma(x, V(C::kLog2e), V(-0.25)));
  V r = V::fma(n, V(-C::kLn2Lo), V::fma(n, V(-C::kLn2Hi), x));
  return V::fma(r * r, q_polynomial<C>(r), r);
}

// e^x, at most 1.5 ULP; underflow is gradual, overflow infinite.
template <class V> RNN_FN V exp(V x) {
  using C = ExpConstants<typename V::Real>;
  V n;
  V p = expm1_reduced(V::max(V(C::kUnderflow), V::min(V(C::kOverflow), x)), n);
  return V::scale2(V(1) + p, n);
}

// log x of a positive normal number: x = m 2^n, m = 1 + f within a factor sqrt(2) of 1, s = f / (2 + f), and 2 s is
// written f - s f, whose rounding matters less: at most 1 ULP.
template <class V> RNN_FN V log(V x) {
  using C = ExpConstants<typename V::Real>;
  V n = V::exponent(x * V(1.41421356237309505));
  V f = V::scale2(x, V(0) - n) - V(1);
  V s = f / (V(2) + f), z = s * s;
  V less = s * (f - z * q_polynomial<LogConstants<typename V::Real>>(z));
  return V::fma(n, V(C::kLn2Hi), f - (less - n * V(C::kLn2Lo)));
}

// a / b for b of at least 1, by the lane type's own division for such b if it has one.
template <class V> RNN_FN V over(V a, V b) {
  if constexpr (requires { V::over(a, b); })
    return V::over(a, b);
  else
    return a / b;
}

// b - b q with q = e / (1 + e), e = e^-|x|, b = 1 for positive x, else e. The last step rounds once what is nearly
// exact; e / (1 + e) alone is off by up to 2.3 ULP. Denormal results included, at most 2 ULP.
template <class V> RNN_FN V sigmoid(V x) {
  using C = ExpConstants<typename V::Real>;
  V n;
  V p = expm1_reduced(V::max(V(C::kUnderflow), V(0) - V::abs(x)), n);
  V e = V::scale2(V(1) + p, n);
  V b = V::one_if_positive(x, e);
  return V::fma(V(0) - b, over(e, V(1) + e), b);
}

// tanh |x| = h / (h + 1) = b - b q with h = (e^2|x| - 1) / 2, b = min(h, 1), q = b / (h + 1): at most 2 ULP.
template <class V> RNN_FN V tanh(V x) {
  using C = ExpConstants<typename V::Real>;
  V a = V::abs(x);
  V n;
  V p = expm1_reduced(V::min(V(C::kTanhSaturates), a + a), n);
  V s = V::scale2_normal(V(0.5), n);
  V h = V::fma(s, p, s - V(0.5));
  V b = V::min(V(1), h);
  return V::copysign(V::fma(V(0) - b, over(b, h + V(1)), b), x);
}

// log(1 + e^x) = max(x, 0) + log(1 + e), e = e^-|x|; what rounding takes from 1 + e is put back: at most 2.5 ULP.
template <class V> RNN_FN V softplus(V x) {
  V e = exp(V(0) - V::abs(x)), u = V(1) + e;
  return V::max(V(0), x) + (log(u) + (e - (u - V(1))) / u);
}

}  // namespace rnn
