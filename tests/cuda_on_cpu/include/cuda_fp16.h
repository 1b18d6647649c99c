// __half and __half2: conversions are rounded correctly; arithmetic is that of float, rounded once.
#pragma once
#include "cuda_runtime.h"

namespace cuda_on_cpu {

// Nearest float but one of odd mantissa where that is inexact: rounded again to fewer bits, it gives what rounding `x`
// to these at once would give.
inline float round_to_odd(double x) {
  auto f = static_cast<float>(x);
  auto bits = std::bit_cast<uint32_t>(f);
  if (f != x && x == x && !(bits & 1)) bits += (std::fabs(f) < std::fabs(x)) ? 1 : -1;
  return std::bit_cast<float>(bits);
}

inline uint16_t half_bits(float x) {
  auto bits = std::bit_cast<uint32_t>(x);
  uint32_t sign = bits >> 16 & 0x8000, size = bits & 0x7FFFFFFF;
  if (size > 0x7F800000) return 0x7FFF;
  if (size >= 0x477FF000) return static_cast<uint16_t>(sign | 0x7C00);  // 65520 and more round to infinity
  // Below the normal numbers the unit is that of 0.5f's last place.
  if (size < 0x38800000)
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(std::bit_cast<float>(size) + 0.5f) - 0x3F000000));
  return static_cast<uint16_t>(sign | ((size - 0x38000000 + 0xFFF + (size >> 13 & 1)) >> 13));
}
inline float from_half_bits(uint16_t bits) {
  uint32_t sign = (bits & 0x8000u) << 16, size = (bits & 0x7FFFu) << 13;
  if (size > 0x0F800000) return std::bit_cast<float>(0x7FFFFFFF);
  float value = size == 0x0F800000 ? INFINITY : std::bit_cast<float>(size) * 0x1p112f;
  return std::bit_cast<float>(std::bit_cast<uint32_t>(value) | sign);
}

}  // namespace cuda_on_cpu

struct __half_raw {
  unsigned short x;
};
struct __half {
  unsigned short bits;

  __half() = default;
  __half(float x) : bits(cuda_on_cpu::half_bits(x)) {}
  __half(double x) : bits(cuda_on_cpu::half_bits(cuda_on_cpu::round_to_odd(x))) {}
  template <std::integral I> __half(I x) : __half(static_cast<double>(x)) {}
  __half(__half_raw raw) : bits(raw.x) {}
  operator float() const { return cuda_on_cpu::from_half_bits(bits); }
  operator __half_raw() const { return {bits}; }
};
typedef __half half;
struct alignas(4) __half2 {
  __half x, y;
};
typedef __half2 half2;

inline __half __float2half(float x) { return x; }
inline __half __float2half_rn(float x) { return x; }
inline __half __double2half(double x) { return x; }
inline float __half2float(__half x) { return x; }
inline __half __ushort_as_half(unsigned short bits) { return __half_raw{bits}; }
inline unsigned short __half_as_ushort(__half x) { return x.bits; }

#include "cuda_on_cpu_pairs.h"
CUDA_ON_CPU_ARITHMETIC(__half, __half2)
inline __half2 make_half2(__half x, __half y) { return {x, y}; }
inline __half2 __halves2half2(__half x, __half y) { return {x, y}; }
inline __half2 __half2half2(__half x) { return {x, x}; }
inline __half2 __floats2half2_rn(float x, float y) { return {x, y}; }
inline __half2 __float2half2_rn(float x) { return {x, x}; }
inline __half2 __float22half2_rn(float2 v) { return {v.x, v.y}; }
inline float2 __half22float2(__half2 v) { return {v.x, v.y}; }
