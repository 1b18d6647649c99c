// Arithmetic of a 16-bit type and of its pairs, by way of float.
#pragma once
#define CUDA_ON_CPU_OPERATOR(T, Pair, op, assign, name)                        \
  inline T operator op(T a, T b) { return float(a) op float(b); }              \
  inline T& operator assign(T& a, T b) { return a = a op b; }                  \
  inline Pair operator op(Pair a, Pair b) { return {a.x op b.x, a.y op b.y}; } \
  inline T name(T a, T b) { return a op b; }                                   \
  inline Pair name##2(Pair a, Pair b) { return a op b; }
#define CUDA_ON_CPU_COMPARISON(T, op, name)                          \
  inline bool operator op(T a, T b) { return float(a) op float(b); } \
  inline bool name(T a, T b) { return a op b; }
#define CUDA_ON_CPU_ARITHMETIC(T, Pair)                                                                  \
  CUDA_ON_CPU_OPERATOR(T, Pair, +, +=, __hadd)                                                           \
  CUDA_ON_CPU_OPERATOR(T, Pair, -, -=, __hsub)                                                           \
  CUDA_ON_CPU_OPERATOR(T, Pair, *, *=, __hmul)                                                           \
  CUDA_ON_CPU_OPERATOR(T, Pair, /, /=, __hdiv)                                                           \
  CUDA_ON_CPU_COMPARISON(T, ==, __heq)                                                                   \
  CUDA_ON_CPU_COMPARISON(T, !=, __hne)                                                                   \
  CUDA_ON_CPU_COMPARISON(T, <, __hlt)                                                                    \
  CUDA_ON_CPU_COMPARISON(T, >, __hgt)                                                                    \
  CUDA_ON_CPU_COMPARISON(T, <=, __hle)                                                                   \
  CUDA_ON_CPU_COMPARISON(T, >=, __hge)                                                                   \
  inline T operator-(T a) { return -float(a); }                                                          \
  inline T __hneg(T a) { return -float(a); }                                                             \
  inline T __hfma(T a, T b, T c) { return std::fma(double(float(a)), float(b), float(c)); }              \
  inline Pair __hfma2(Pair a, Pair b, Pair c) { return {__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)}; } \
  inline float __low2float(Pair a) { return a.x; }                                                       \
  inline float __high2float(Pair a) { return a.y; }
