// The rules every backend shares: bits and keys of a magnitude, exact sums, and the total orders of records.
// Plain functions of numbers, so that the same lines run on a CPU and on a GPU. The Python side is in
// maxact_kernels/fields.py.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#ifdef __CUDACC__
#define MAXACT_FN __host__ __device__ __forceinline__
#else
#define MAXACT_FN inline
#endif

namespace maxact {

constexpr int kCounts = 32768;
constexpr int kRatioRows = 256, kRatioCols = 128;
constexpr int kExponentMin = -384, kExponents = 704;
constexpr int64_t kNoToken = std::numeric_limits<int64_t>::max();
constexpr uint32_t kInfinity = 0x7F800000u;  // the bits of float32 inf; larger magnitudes are nan

enum class Dtype { bfloat16, float16, float32 };

// A state's fields, in the order of fields.py. A null pointer: an option left the field out.
#define MAXACT_FIELDS(FIELD)                                                                              \
  FIELD(int64_t, n_elements) FIELD(int64_t, n_tokens) FIELD(int64_t, n_zero) FIELD(int64_t, n_nan)         \
  FIELD(int64_t, n_inf) FIELD(int64_t, n_nonfinite_tokens) FIELD(int64_t, n_massive_tokens)                \
  FIELD(int64_t, n_massive_elements) FIELD(int64_t, n_zero_median) FIELD(int64_t, n_outside_samples)       \
  FIELD(int64_t, n_ratios) FIELD(float, absmax) FIELD(int64_t, n_absmax) FIELD(float, max)                 \
  FIELD(float, neg_min) FIELD(int64_t, first_nonfinite_token) FIELD(int64_t, first_nonfinite_feature)      \
  FIELD(float, ratio_max) FIELD(int64_t, ratio_max_token) FIELD(float, ratio_max_absmax)                   \
  FIELD(float, ratio_max_median) FIELD(float, peak_absmax) FIELD(int64_t, peak_token)                      \
  FIELD(float, peak_median) FIELD(float, topk_values) FIELD(int64_t, topk_token_ids)                       \
  FIELD(int64_t, topk_features) FIELD(float, channel_absmax) FIELD(float, sample_absmax)                   \
  FIELD(int64_t, sample_massive) FIELD(int64_t, sample_tokens)                                             \
  FIELD(int64_t, sum) FIELD(int64_t, counts) FIELD(int64_t, ratio_sum) FIELD(int64_t, ratio_square_sum)    \
  FIELD(int64_t, ratio_table) FIELD(int64_t, int8_square_sum) FIELD(int64_t, int8_abs_sum)                 \
  FIELD(int64_t, int8_error_square_sum) FIELD(int64_t, int8_error_abs_sum)

struct Fields {
#define FIELD(type, name) type* name = nullptr;
  MAXACT_FIELDS(FIELD)
#undef FIELD
};

struct Options {
  int64_t d;
  int topk;
  float t_abs, t_ratio;
  int64_t n_samples;
};

MAXACT_FN uint32_t float_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}

MAXACT_FN float bits_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

// Element types. `Bits` holds one element, `wide` widens a magnitude (bits without the sign) to the bits of the same
// magnitude as float32, `count_key` is its cell in the table of counts. Wider bits order as magnitudes do.
struct BFloat16 {
  static constexpr Dtype kDtype = Dtype::bfloat16;
  using Bits = uint16_t;
  static constexpr Bits kSign = 0x8000, kInf = 0x7F80;
  static MAXACT_FN uint32_t wide(Bits magnitude) { return static_cast<uint32_t>(magnitude) << 16; }
  static MAXACT_FN int count_key(Bits magnitude) { return magnitude; }
};

struct Float16 {
  static constexpr Dtype kDtype = Dtype::float16;
  using Bits = uint16_t;
  static constexpr Bits kSign = 0x8000, kInf = 0x7C00;
  static MAXACT_FN uint32_t wide(Bits magnitude) {
    if (magnitude >= kInf) return kInfinity | static_cast<uint32_t>(magnitude & 0x3FF) << 13;
    // Exponent 0 is subnormal in both readings, and the product by a power of two is exact.
    return float_bits(bits_float(static_cast<uint32_t>(magnitude) << 13) * 0x1p112f);
  }
  static MAXACT_FN int count_key(Bits magnitude) { return magnitude; }
};

struct Float32 {
  static constexpr Dtype kDtype = Dtype::float32;
  using Bits = uint32_t;
  static constexpr Bits kSign = 0x80000000u, kInf = kInfinity;
  static MAXACT_FN uint32_t wide(Bits magnitude) { return magnitude; }
  static MAXACT_FN int count_key(Bits magnitude) { return static_cast<int>(magnitude >> 16); }
};

// Keys of the ratio table: float32 bits >> 21 cuts each octave in four; from 2^-24 and from 1, clamped at the ends.
MAXACT_FN int clamp_key(int key, int n) { return key < 0 ? 0 : key >= n ? n - 1 : key; }
MAXACT_FN int ratio_row(float absmax) {
  return clamp_key(static_cast<int>(float_bits(absmax) >> 21) - ((127 - 24) << 2), kRatioRows);
}
MAXACT_FN int ratio_col(float ratio) {
  return clamp_key(static_cast<int>(float_bits(ratio) >> 21) - (127 << 2), kRatioCols);
}

// An exact sum takes an addend as an integer of 24 significant bits in the bin of its binary exponent.
MAXACT_FN void add_exactly(int64_t* bins, double addend) {
  int exponent;
  const double mantissa = std::frexp(addend, &exponent);
  const int index = exponent - kExponentMin;
  if (mantissa != 0 && index >= 0) bins[index] += static_cast<int64_t>(std::nearbyint(mantissa * 0x1p24));
}

// An element with its coordinates. `bits` are those of |x| as float32.
struct Element {
  uint32_t bits;
  bool negative;
  int64_t token;
  int64_t feature;
};

// (|x| descending, token ascending, feature ascending); the sign decides only if one coordinate was named twice.
MAXACT_FN bool before(const Element& a, const Element& b) {
  if (a.bits != b.bits) return a.bits > b.bits;
  if (a.token != b.token) return a.token < b.token;
  if (a.feature != b.feature) return a.feature < b.feature;
  return a.negative < b.negative;
}

// What is kept of one token: m_t, med_t and r_t, as float32.
struct Token {
  float absmax, median, ratio;
  int64_t id;
};

// A slot that no token has taken yet holds nan, which every comparison with `>` loses; hence the tests for nan.
MAXACT_FN bool larger_ratio(const Token& a, const Token& b) {
  if (std::isnan(b.ratio) || a.ratio != b.ratio) return std::isnan(b.ratio) || a.ratio > b.ratio;
  if (a.id != b.id) return a.id < b.id;
  if (a.absmax != b.absmax) return a.absmax > b.absmax;
  return a.median > b.median;
}
MAXACT_FN bool larger_peak(const Token& a, const Token& b) {
  if (std::isnan(b.absmax) || a.absmax != b.absmax) return std::isnan(b.absmax) || a.absmax > b.absmax;
  if (a.id != b.id) return a.id < b.id;
  return a.median > b.median;
}

MAXACT_FN void keep_ratio(const Fields& f, const Token& token) {
  const Token kept{*f.ratio_max_absmax, *f.ratio_max_median, *f.ratio_max, *f.ratio_max_token};
  if (!larger_ratio(token, kept)) return;
  *f.ratio_max = token.ratio, *f.ratio_max_token = token.id;
  *f.ratio_max_absmax = token.absmax, *f.ratio_max_median = token.median;
}
MAXACT_FN void keep_peak(const Fields& f, const Token& token) {
  if (!larger_peak(token, {*f.peak_absmax, *f.peak_median, 0, *f.peak_token})) return;
  *f.peak_absmax = token.absmax, *f.peak_token = token.id, *f.peak_median = token.median;
}
MAXACT_FN void keep_nonfinite(const Fields& f, int64_t token, int64_t feature) {
  int64_t &kept_token = *f.first_nonfinite_token, &kept_feature = *f.first_nonfinite_feature;
  if (token < kept_token || (token == kept_token && feature < kept_feature)) kept_token = token, kept_feature = feature;
}
MAXACT_FN void keep_absmax(const Fields& f, float absmax, int64_t n) {
  if (absmax > *f.absmax) *f.absmax = absmax, *f.n_absmax = 0;
  if (absmax == *f.absmax) *f.n_absmax += n;
}

// Sun et al. 2024, section 2: |x| > 100 and |x| > 1000 medians, thresholds strict.
MAXACT_FN bool is_massive(const Options& o, const Token& token) {
  return token.absmax > o.t_abs && token.ratio > o.t_ratio;
}

// The statistics of a finite token that need no more than m_t and med_t.
MAXACT_FN void add_token(const Fields& f, const Options& o, const Token& token) {
  keep_peak(f, token);
  if (token.absmax == 0) return;  // a token of zeros has no ratio
  keep_ratio(f, token);
  *f.n_zero_median += token.median == 0;
  *f.n_massive_tokens += is_massive(o, token);
  if (!f.ratio_table) return;
  f.ratio_table[ratio_row(token.absmax) * kRatioCols + ratio_col(token.ratio)] += 1;
  if (!std::isfinite(token.ratio)) return;
  *f.n_ratios += 1;
  add_exactly(f.ratio_sum, token.ratio);
  add_exactly(f.ratio_square_sum, static_cast<double>(token.ratio) * token.ratio);
}

}  // namespace maxact
