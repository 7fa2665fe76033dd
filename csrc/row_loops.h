// The loops over one row, written so that a compiler vectorises them, compiled once per instruction set.
// A row is read from memory by the first loop and from the nearest cache by the rest.
#pragma once

#include <algorithm>
#include <cstdint>

#include "rules.h"

// glibc picks the clone at load time, so one build runs everywhere and uses AVX-512 where it is.
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
#define MAXACT_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define MAXACT_CLONES
#endif
#define MAXACT_INLINE __attribute__((always_inline)) inline

namespace maxact::loops {

// Elements summed in float32 before float64 takes over: 16 lanes of 16 additions, so the relative error of a sum of
// one sign stays below 15 * 2^-24 = 9e-7.
constexpr int kLanes = 16, kBlock = 16 * kLanes;

struct Scan {
  int64_t n_zero;
  int64_t mean_magnitude;  // mean of the magnitudes' bits: about the logarithm of |x|, so it follows a token's scale
  float highest, lowest;
  double sum;
};

struct Int8Sums {
  double square, abs, error_square, error_abs;
};

template <class T>
MAXACT_INLINE typename T::Bits max_magnitude(const typename T::Bits* x, int64_t d) {
  typename T::Bits largest = 0;
  for (int64_t j = 0; j < d; ++j) {
    const typename T::Bits magnitude = x[j] & static_cast<typename T::Bits>(T::kSign - 1);
    largest = std::max(largest, magnitude);
  }
  return largest;
}

template <class T>
MAXACT_INLINE float finite_value(typename T::Bits x) {
  return bits_float(T::wide(x & (T::kSign - 1)) | static_cast<uint32_t>(x & T::kSign) << (8 * (4 - sizeof(x))));
}
template <>
MAXACT_INLINE float finite_value<Float16>(uint16_t x) {  // T::wide without its branch: the row is finite
  const float magnitude = bits_float(static_cast<uint32_t>(x & 0x7FFF) << 13) * 0x1p112f;
  return bits_float(float_bits(magnitude) | static_cast<uint32_t>(x & 0x8000) << 16);
}

// The value behind an integer that orders as the values do: x >= 0 as its bits, x < 0 as -1 - its magnitude.
template <class T>
MAXACT_INLINE float ordered_value(int64_t ordered) {
  const auto bits = ordered >= 0 ? ordered : (-1 - ordered) | T::kSign;
  return finite_value<T>(static_cast<typename T::Bits>(bits));
}

// Everything one pass over a finite row gives; writes its magnitudes and raises the per-feature maxima.
template <class T>
MAXACT_INLINE Scan scan(const typename T::Bits* x, int64_t d, typename T::Bits* magnitudes,
                            typename T::Bits* channel) {
  using Bits = typename T::Bits;
  using Signed = std::make_signed_t<Bits>;
  Signed highest = std::numeric_limits<Signed>::min(), lowest = std::numeric_limits<Signed>::max();
  int64_t n_zero = 0, level = 0;
  double sum = 0;
  for (int64_t start = 0; start < d; start += kBlock) {
    const int64_t n = std::min<int64_t>(kBlock, d - start);
    const Bits* block = x + start;
    Bits* out = magnitudes + start;
    Bits* peaks = channel + start;
    Bits zeros = 0;  // at most kBlock: fits the element's own width, so lanes stay narrow
    uint32_t block_level = 0;
    for (int64_t j = 0; j < n; ++j) {
      const Bits magnitude = block[j] & static_cast<Bits>(T::kSign - 1);
      const Signed ordered = static_cast<Signed>(
          block[j] ^ (static_cast<Bits>(static_cast<Signed>(block[j]) >> (8 * sizeof(Bits) - 1)) >> 1));
      out[j] = magnitude;
      peaks[j] = std::max(peaks[j], magnitude);
      highest = std::max(highest, ordered);
      lowest = std::min(lowest, ordered);
      zeros += magnitude == 0;
      block_level += magnitude;
    }
    n_zero += zeros;
    level += block_level;
    float lanes[kLanes] = {};
    if (n == kBlock) {
      for (int i = 0; i < kBlock; i += kLanes)
        for (int lane = 0; lane < kLanes; ++lane) lanes[lane] += finite_value<T>(block[i + lane]);
    } else {
      for (int64_t j = 0; j < n; ++j) lanes[j % kLanes] += finite_value<T>(block[j]);
    }
    double block_sum = 0;
    for (float lane : lanes) block_sum += lane;
    if (!std::isfinite(block_sum)) {  // 16 values above 2^124 leave float32
      block_sum = 0;
      for (int64_t j = 0; j < n; ++j) block_sum += finite_value<T>(block[j]);
    }
    sum += block_sum;
  }
  return {n_zero, level / d, ordered_value<T>(highest), ordered_value<T>(lowest), sum};
}

// float32 rows sum in float64 throughout: 24 bits leave no room for lanes of float32.
template <>
MAXACT_INLINE Scan scan<Float32>(const uint32_t* x, int64_t d, uint32_t* magnitudes, uint32_t* channel) {
  int32_t highest = std::numeric_limits<int32_t>::min(), lowest = std::numeric_limits<int32_t>::max();
  uint32_t zeros = 0;
  uint64_t level = 0;
  double lanes[kLanes] = {};
  for (int64_t j = 0; j < d; ++j) {
    const uint32_t magnitude = x[j] & 0x7FFFFFFFu;
    const int32_t ordered = static_cast<int32_t>(x[j] ^ (static_cast<uint32_t>(static_cast<int32_t>(x[j]) >> 31) >> 1));
    magnitudes[j] = magnitude;
    channel[j] = std::max(channel[j], magnitude);
    highest = std::max(highest, ordered);
    lowest = std::min(lowest, ordered);
    zeros += magnitude == 0;
    level += magnitude;
  }
  int64_t j = 0;
  for (; j + kLanes <= d; j += kLanes)
    for (int lane = 0; lane < kLanes; ++lane) lanes[lane] += bits_float(x[j + lane]);
  for (; j < d; ++j) lanes[j % kLanes] += bits_float(x[j]);
  double sum = 0;
  for (double lane : lanes) sum += lane;
  return {static_cast<int64_t>(zeros), static_cast<int64_t>(level / d), ordered_value<Float32>(highest),
          ordered_value<Float32>(lowest), sum};
}

// Count every magnitude of a row. Four are fetched as one word: the loads, not the increments, were the limit
// (0.89 to 0.61 ns an element with the scan, on one core of an EPYC 9004).
template <class T>
inline void count(const typename T::Bits* magnitudes, int64_t d, int64_t* counts) {
  int64_t j = 0;
  if (sizeof(typename T::Bits) == 2) {
    for (; j + 4 <= d; j += 4) {
      uint64_t word;
      std::memcpy(&word, magnitudes + j, 8);
      ++counts[word & 0xFFFF], ++counts[word >> 16 & 0xFFFF], ++counts[word >> 32 & 0xFFFF], ++counts[word >> 48];
    }
  }
  for (; j < d; ++j) ++counts[T::count_key(magnitudes[j])];
}

// How many magnitudes are at most `pivot`. Partial counts stay in the element's own width, so that lanes stay narrow.
template <class Bits>
MAXACT_INLINE int64_t count_at_most(const Bits* magnitudes, int64_t d, Bits pivot) {
  constexpr int64_t kChunk = 32768;
  int64_t total = 0;
  for (int64_t start = 0; start < d; start += kChunk) {
    const int64_t n = std::min(kChunk, d - start);
    Bits count = 0;
    for (int64_t j = 0; j < n; ++j) count += magnitudes[start + j] <= pivot;
    total += count;
  }
  return total;
}

constexpr int64_t kFirstStep = 4;  // 16-bit patterns, 128 to a bf16 octave: the guess is this near; 1 to 4 time alike

// The lower median: the smallest magnitude that at least (d - 1) / 2 + 1 do not exceed. Gallops from `guess` until it
// is enclosed, then halves.
template <class Bits>
MAXACT_INLINE Bits lower_median(const Bits* magnitudes, int64_t d, Bits largest, int64_t guess) {
  const int64_t rank = (d - 1) / 2 + 1;
  int64_t below = -1, enough = largest;  // count(below) < rank <= count(enough)
  int64_t pivot = std::clamp<int64_t>(guess, 0, largest);
  for (int64_t step = kFirstStep << (8 * sizeof(Bits) - 16); enough - below > 1; step *= 2) {
    const bool up = count_at_most(magnitudes, d, static_cast<Bits>(pivot)) < rank;
    (up ? below : enough) = pivot;
    const int64_t next = up ? pivot + step : pivot - step;
    if (next <= below || next >= enough) break;  // enclosed
    pivot = next;
  }
  while (enough - below > 1) {
    pivot = below + (enough - below) / 2;
    (count_at_most(magnitudes, d, static_cast<Bits>(pivot)) < rank ? below : enough) = pivot;
  }
  return static_cast<Bits>(enough);
}

// Sums of x^2, |x|, err^2 and |err| for the scale max / 127, of a finite row with largest magnitude `max` > 0.
// In units of the scale: u = x / scale, err = u - round(u), summed in float32 by blocks.
template <class T>
MAXACT_INLINE Int8Sums int8_sums(const typename T::Bits* x, int64_t d, float max) {
  constexpr float kRound = 0x1.8p23f;  // adding and taking away rounds half to even
  const float lift = max < 0x1p-60f ? 0x1p60f : 1.0f;  // keeps 127 / max finite
  const float inverse = 127.0f / (max * lift);
  double sums[4] = {};
  for (int64_t start = 0; start < d; start += kBlock) {
    const int64_t n = std::min<int64_t>(kBlock, d - start);
    float lanes[4][kLanes] = {};
    for (int64_t i = 0; i < n; i += kLanes) {
      const int64_t width = std::min<int64_t>(kLanes, n - i);
      for (int64_t lane = 0; lane < width; ++lane) {
        const float u = finite_value<T>(x[start + i + lane]) * lift * inverse;
        const float error = u - ((u + kRound) - kRound);
        lanes[0][lane] += u * u;
        lanes[1][lane] += std::fabs(u);
        lanes[2][lane] += error * error;
        lanes[3][lane] += std::fabs(error);
      }
    }
    for (int k = 0; k < 4; ++k) {
      double block = 0;
      for (float lane : lanes[k]) block += lane;
      sums[k] += block;
    }
  }
  const double scale = static_cast<double>(max) / 127;
  return {sums[0] * scale * scale, sums[1] * scale, sums[2] * scale * scale, sums[3] * scale};
}

// The clones. `RowLoops<T>` is the one set of names the rest of the backend calls.
template <class T>
struct RowLoops;

#define MAXACT_ROW_LOOPS(T)                                                                                     \
  MAXACT_CLONES T::Bits max_magnitude_of_##T(const T::Bits* x, int64_t d) { return max_magnitude<T>(x, d); }    \
  MAXACT_CLONES Scan scan_##T(const T::Bits* x, int64_t d, T::Bits* magnitudes, T::Bits* channel) {         \
    return scan<T>(x, d, magnitudes, channel);                                                                  \
  }                                                                                                             \
  MAXACT_CLONES T::Bits lower_median_of_##T(const T::Bits* m, int64_t d, T::Bits largest, int64_t guess) {      \
    return lower_median<T::Bits>(m, d, largest, guess);                                                         \
  }                                                                                                             \
  MAXACT_CLONES Int8Sums int8_sums_of_##T(const T::Bits* x, int64_t d, float max) {                             \
    return int8_sums<T>(x, d, max);                                                                             \
  }                                                                                                             \
  template <>                                                                                                   \
  struct RowLoops<T> {                                                                                          \
    static constexpr auto max_magnitude = max_magnitude_of_##T;                                                 \
    static constexpr auto scan = scan_##T;                                                                      \
    static constexpr auto lower_median = lower_median_of_##T;                                                   \
    static constexpr auto int8_sums = int8_sums_of_##T;                                                         \
  };

}  // namespace maxact::loops
