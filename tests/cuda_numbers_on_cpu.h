// CUDA's functions of numbers for a CPU: see cuda_on_cpu.h.
#pragma once

#include <math.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

template <class A, class B, class T = std::common_type_t<A, B>>
constexpr T max(A a, B b) { return static_cast<T>(a) > static_cast<T>(b) ? static_cast<T>(a) : static_cast<T>(b); }
template <class A, class B, class T = std::common_type_t<A, B>>
constexpr T min(A a, B b) { return static_cast<T>(a) < static_cast<T>(b) ? static_cast<T>(a) : static_cast<T>(b); }

template <class To, class From>
To bit_cast(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof(To));
  return to;
}
inline uint32_t __float_as_uint(float v) { return bit_cast<uint32_t>(v); }
inline float __uint_as_float(uint32_t v) { return bit_cast<float>(v); }
inline int64_t __double_as_longlong(double v) { return bit_cast<int64_t>(v); }
inline double __longlong_as_double(int64_t v) { return bit_cast<double>(v); }
inline int __double2int_rn(double v) { return static_cast<int>(nearbyint(v)); }
inline float __fdividef(float a, float b) { return a / b; }
inline int __popc(uint32_t v) { return __builtin_popcount(v); }
inline int __ffs(uint32_t v) { return __builtin_ffs(v); }
inline uint32_t __byte_perm(uint32_t a, uint32_t b, uint32_t selector) {
  const uint64_t bytes = a | static_cast<uint64_t>(b) << 32;
  uint32_t out = 0;
  for (int i = 0; i < 4; ++i) out |= static_cast<uint32_t>(bytes >> (8 * (selector >> 4 * i & 7)) & 0xFF) << 8 * i;
  return out;
}
inline uint32_t __dp2a_lo(uint32_t a, uint32_t b, uint32_t c) { return c + (a & 0xFFFF) * (b & 0xFF) + (a >> 16) * (b >> 8 & 0xFF); }
template <class T, class Op>
uint32_t halves(uint32_t a, uint32_t b, Op op) {
  const auto half = [&](int at) { return static_cast<uint32_t>(static_cast<uint16_t>(op(static_cast<T>(a >> at), static_cast<T>(b >> at)))); };
  return half(0) | half(16) << 16;
}
inline uint32_t __vmaxu2(uint32_t a, uint32_t b) { return halves<uint16_t>(a, b, [](auto x, auto y) { return x > y ? x : y; }); }
inline uint32_t __vminu2(uint32_t a, uint32_t b) { return halves<uint16_t>(a, b, [](auto x, auto y) { return x < y ? x : y; }); }
inline uint32_t __vimax3_u16x2(uint32_t a, uint32_t b, uint32_t c) { return __vmaxu2(__vmaxu2(a, b), c); }
inline uint32_t __viaddmin_u16x2(uint32_t a, uint32_t b, uint32_t c) {
  return __vminu2(((a & 0xFFFF) + (b & 0xFFFF) & 0xFFFF) | ((a >> 16) + (b >> 16)) << 16, c);
}
inline uint32_t __vimin3_u16x2(uint32_t a, uint32_t b, uint32_t c) { return __vminu2(__vminu2(a, b), c); }
inline uint32_t __vimax3_s16x2(uint32_t a, uint32_t b, uint32_t c) {
  const auto two = [](uint32_t a, uint32_t b) { return halves<int16_t>(a, b, [](auto x, auto y) { return x > y ? x : y; }); };
  return two(two(a, b), c);
}
inline uint32_t __vimin3_u32(uint32_t a, uint32_t b, uint32_t c) { return min(min(a, b), c); }

inline float from_half(uint16_t h) {
  const uint32_t exponent = h >> 10 & 31, fraction = h & 1023;
  const float v = exponent == 31 ? (fraction ? NAN : INFINITY) : exponent ? ldexpf(1024 + fraction, exponent - 25) : ldexpf(fraction, -24);
  return h >> 15 ? -v : v;
}
// The largest half that is at most v >= 0.
inline uint16_t to_half_rz(float v) {
  uint32_t low = 0, high = 0x7C00;
  while (high - low > 1) (from_half((low + high) / 2) <= v ? low : high) = (low + high) / 2;
  return low;
}
inline uint16_t __float2half_rz(float v) { return to_half_rz(v); }
inline uint16_t __half_as_ushort(uint16_t v) { return v; }
struct __half2 { uint16_t x, y; };
template <class Op>
__half2 both(__half2 a, __half2 b, Op op) { return {op(a.x, b.x), op(a.y, b.y)}; }
inline __half2 __habs2(__half2 a) { return {static_cast<uint16_t>(a.x & 0x7FFF), static_cast<uint16_t>(a.y & 0x7FFF)}; }
// Of magnitudes, whose order is that of their bits; patterns above 0x7C00 are nan.
inline __half2 __hmax2(__half2 a, __half2 b) {
  return both(a, b, [](uint16_t x, uint16_t y) -> uint16_t { return x > 0x7C00 ? y : y > 0x7C00 ? x : max(x, y); });
}
inline __half2 __hmax2_nan(__half2 a, __half2 b) {
  return both(a, b, [](uint16_t x, uint16_t y) -> uint16_t { return max(x, y) > 0x7C00 ? 0x7FFF : max(x, y); });
}
inline __half2 __hle2(__half2 a, __half2 b) {
  return both(a, b, [](uint16_t x, uint16_t y) -> uint16_t { return from_half(x) <= from_half(y) ? 0x3C00 : 0; });
}
inline __half2 __hfma2_sat(__half2 a, __half2 b, __half2 c) {
  const auto one = [](uint16_t x, uint16_t y, uint16_t z) -> uint16_t {
    const double v = static_cast<double>(from_half(x)) * from_half(y) + from_half(z);
    return to_half_rz(v > 1 ? 1 : v > 0 ? static_cast<float>(v) : 0);
  };
  return {one(a.x, b.x, c.x), one(a.y, b.y, c.y)};
}
