// Rows that do not fit the fast way: they hold nan, inf or what is beyond the shared table of counts, or are too wide for
// the registers of a block. One warp reads such a row again for every number it needs, mostly from a cache: right for
// any row, at some hundredth of the speed of a whole device.
#pragma once

#include "cuda_exact.cuh"
#include "cuda_read.cuh"

namespace maxact::cuda {

// Bits that no finite magnitude has, in place of a median.
constexpr uint32_t kNonfinite = 0xFFFFFFFFu;   // the row holds nan or inf: no statistics of a token
constexpr uint32_t kNoElements = 0xFFFFFFFEu;  // and nothing else
constexpr uint32_t kUnneeded = 0xFFFFFFFDu;    // a finite row whose median can change nothing
constexpr uint32_t kSlow = 0xFFFFFFFCu;        // a row that waits for slow_row()

// Above it an element is massive. Not is_massive(): this product and its quotient can round to different sides.
__device__ __forceinline__ float massive_floor(const Options& o, float median) { return fmaxf(o.t_abs, o.t_ratio * median); }

struct SlowFacts {
  uint32_t top, median;  // in the bits of T; `median` may be a flag
};

// Adds the sum over the lanes of their parts to an exact sum.
static __device__ __noinline__ void add_parts(int64_t* bins, double part) {
  add_exactly_warp(bins, {reduce_warp(part, Add()), lane_id() == 0});
}

// Everything of a row but what fold_facts does with the facts that it returns. All lanes of a warp.
template <class T>
__device__ __noinline__ SlowFacts slow_row(const Launch& a, uint32_t row) {
  using Bits = typename T::Bits;
  Control& c = control();
  const int64_t d = a.o.d;
  const bool table_tells = sizeof(Bits) == 2 && a.f.counts;
  const Bits* const x = row_at<T>(a, row);
  // Calls take(magnitude, negative, feature) for the elements of this lane.
  const auto each = [&](auto take) {
    visit_row<T, 1>(a, x, [&](const uint4& words, int64_t start) {
      Chunk<T> chunk{words};
#pragma unroll 1
      for (int64_t feature = start; feature < min(start + kPerChunk<T>, d); ++feature) {
        const Bits bits = chunk.next();
        take(static_cast<Bits>(bits & (T::kSign - 1)), (bits & T::kSign) != 0, feature);
      }
    });
  };

  double sum = 0;
  int n_nan = 0, n_inf = 0, n_zero = 0;
  uint32_t top = 0, first_bad = 0xFFFFFFFFu, positive = 0, negative = 0, least = 0xFFFFFFFFu;
  each([&](Bits magnitude, bool is_negative, int64_t feature) {
    if (magnitude >= T::kInf) {
      (magnitude == T::kInf ? n_inf : n_nan) += 1;
      first_bad = min(first_bad, static_cast<uint32_t>(feature));
      return;
    }
    const float size = bits_float(T::wide(magnitude));
    top = max(top, static_cast<uint32_t>(magnitude)), least = min(least, static_cast<uint32_t>(magnitude));
    uint32_t& side = is_negative ? negative : positive;
    side = max(side, static_cast<uint32_t>(magnitude));
    sum += is_negative ? -size : size;
    n_zero += magnitude == 0;
    if (size > __ldcg(a.f.channel_absmax + feature))
      max_global(a.f.channel_absmax + feature, T::wide(magnitude));
    if (a.f.counts) count_in_window(a, T::count_key(magnitude));
  });
  keep_ends(__reduce_max_sync(kWarp, positive), __reduce_max_sync(kWarp, negative), least);
  top = __reduce_max_sync(kWarp, top), first_bad = __reduce_min_sync(kWarp, first_bad);
  n_nan = __reduce_add_sync(kWarp, n_nan), n_inf = __reduce_add_sync(kWarp, n_inf), n_zero = __reduce_add_sync(kWarp, n_zero);
  add_parts(a.f.sum, sum);
  const int n_bad = n_nan + n_inf;
  const uint32_t top_bits = T::wide(static_cast<Bits>(top));
  if (lane_id() == 0) {
    count(kNan, n_nan), count(kInf, n_inf), count(kZeros, table_tells ? 0 : n_zero);
    count(kNonfiniteTokens, n_bad != 0), count(kPads, d);
  }
  if (!table_tells && n_bad < d && top_bits >= read_together(c.record.absmax_bits))
    keep_tied(top_bits, count_at_least<T>(a, row, top_bits), lane_id() == 0);
  if (n_bad) {
    const int64_t token = row_token(a, row);
    acquire(&c.lock);
    BlockRecord& r = c.record;
    if (lane_id() == 0 && (token < r.nonfinite_token || (token == r.nonfinite_token && first_bad < r.nonfinite_feature)))
      r.nonfinite_token = token, r.nonfinite_feature = first_bad;
    release(&c.lock);
    return {top, n_bad == d ? kNoElements : kNonfinite};
  }

  // The lower median is the largest magnitude that enough elements reach.
  const int enough = static_cast<int>(d - (d - 1) / 2);
  uint32_t median_at = 0, above = top + 1;
  while (above - median_at > 1) {
    const uint32_t middle = median_at + (above - median_at) / 2;
    (count_at_least<T>(a, row, T::wide(static_cast<Bits>(middle))) >= enough ? median_at : above) = middle;
  }
  const float absmax = bits_float(top_bits), median = bits_float(T::wide(static_cast<Bits>(median_at)));
  if (const float floor = massive_floor(a.o, median); absmax > floor) {
    const int n = count_at_least<T>(a, row, float_bits(floor) + 1);
    if (lane_id() == 0) count(kMassiveElements, n);
  }
  if (a.f.int8_square_sum && top) {
    const double scale = static_cast<double>(absmax) / 127;
    double sums[4] = {};
    each([&](Bits magnitude, bool, int64_t) {
      const double value = bits_float(T::wide(magnitude)), error = fabs(value - rint(value / scale) * scale);
      sums[0] += value * value, sums[1] += value, sums[2] += error * error, sums[3] += error;
    });
    int64_t* const fields[4] = {a.f.int8_square_sum, a.f.int8_abs_sum, a.f.int8_error_square_sum, a.f.int8_error_abs_sum};
    for (int k = 0; k < 4; ++k) add_parts(fields[k], sums[k]);
  }
  return {top, median_at};
}

}  // namespace maxact::cuda
