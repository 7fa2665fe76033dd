// The statistics of rows that need no more of a row than a few numbers. A warp folds 32 rows at once, a lane each, so
// that this costs some 20 instructions a row.
#pragma once

#include "cuda_rowlist.cuh"
#include "cuda_slow.cuh"

namespace maxact::cuda {

// The sample of a row: the upper half of its id. Default ids count the rows that the mask keeps, which matters here only
// in the update in which the stream passes a multiple of 2^32 tokens.
__device__ __forceinline__ int64_t sample_of(const Launch& a, uint32_t row, int64_t id) {
  if (a.ids) return id >> 32;
  const int64_t first = *a.f.n_tokens;
  if (!a.mask || first >> 32 == (first + a.n_rows) >> 32) return (first + row) >> 32;
  int64_t kept = 0;
  for (uint32_t i = 0; i < row; ++i) kept += a.mask[i] != 0;
  return (first + kept) >> 32;
}

template <class T>
__device__ __noinline__ void fold_facts(const Launch& a, int n) {
  Control& c = control();
  const Fields& f = a.f;
  __syncwarp();
  const Facts& facts = facts_of(a);
  add_exactly_warp(f.sum, facts.sum[lane_id()], lane_id() < n);
  const uint32_t row = lane_id() < n ? facts.row[lane_id()] : kNoRow;
  uint32_t top = facts.top[lane_id()], flag = facts.median[lane_id()];
  __syncwarp();
#pragma unroll 1
  for (unsigned todo = __ballot_sync(kAll, row != kNoRow && flag == kSlow); todo; todo &= todo - 1) {
    const SlowFacts slow = slow_row<T>(a, __shfl_sync(kAll, row, __ffs(todo) - 1));
    if (lane_id() == __ffs(todo) - 1) top = slow.top, flag = slow.median;
  }
  const bool on = row != kNoRow, known = on && flag < kUnneeded;
  const int64_t id = on ? row_token(a, row) : 0;
  const uint32_t absmax_bits = on ? T::wide(static_cast<typename T::Bits>(top)) : 0;
  const float absmax = bits_float(absmax_bits), median = known ? bits_float(T::wide(static_cast<typename T::Bits>(flag))) : 0;
  const float ratio = absmax / median;
  const Token token{absmax, median, ratio, id};

  const uint32_t largest = __reduce_max_sync(kAll, absmax_bits);
  if (lane_id() == 0 && largest > c.record.absmax_bits && f.counts && sizeof(typename T::Bits) == 2)
    atomicMax(&c.record.absmax_bits, largest);

  const unsigned rows = __popc(__ballot_sync(kAll, on));
  const unsigned zero_median = __popc(__ballot_sync(kAll, known && absmax > 0 && median == 0));
  const unsigned massive = __popc(__ballot_sync(kAll, known && absmax > 0 && is_massive(a.o, token)));
  unsigned outside = 0;
  if (f.sample_absmax) {
    const int64_t sample = on ? sample_of(a, row, id) : 0;
    const bool inside = sample >= 0 && sample < a.o.n_samples;
    outside = __popc(__ballot_sync(kAll, on && !inside));
    if (on && inside && __ldcg(f.sample_absmax + sample) < absmax)
      atomicMax(reinterpret_cast<int*>(f.sample_absmax + sample), static_cast<int>(absmax_bits));
  }

  unsigned ratios = 0;
  if (f.ratio_table) {
    const bool has_ratio = known && absmax > 0, has_finite = has_ratio && isfinite(ratio);
    ratios = __popc(__ballot_sync(kAll, has_finite));
    const int cell = has_ratio ? ratio_row(absmax) * kRatioCols + ratio_col(ratio) : -1;
    const unsigned same = __match_any_sync(kAll, cell);
    if (cell >= 0 && __ffs(same) - 1 == lane_id())
      atomicAdd(reinterpret_cast<unsigned long long*>(f.ratio_table + cell), static_cast<unsigned long long>(__popc(same)));
    add_exactly_warp(f.ratio_sum, ratio, has_finite);
    add_exactly_warp(f.ratio_square_sum, static_cast<double>(ratio) * ratio, has_finite);
  }
  if (lane_id() == 0) {
    count(kRowsKept, rows);
    count(kPads, static_cast<unsigned long long>(n) * a.g.slots);
    count(kZeroMedian, zero_median);
    count(kMassiveTokens, massive);
    count(kOutsideSamples, outside);
    count(kRatios, ratios);
  }

  // Records: few rows come near one, so those that do go through the lock one by one.
  const float best_ratio = *static_cast<volatile float*>(&c.record.ratio.ratio);
  const float best_peak = *static_cast<volatile float*>(&c.record.peak.absmax);
  const float top_peak = bits_float(__reduce_max_sync(kAll, known ? absmax_bits : 0));
  const float top_ratio = bits_float(__reduce_max_sync(kAll, known && absmax > 0 ? float_bits(ratio) : 0));
  unsigned todo = __ballot_sync(
      kAll, known && ((absmax == top_peak && !(absmax < best_peak)) || (absmax > 0 && ratio == top_ratio && !(ratio < best_ratio))));
  if (todo) {
    acquire(&c.lock);
    for (; todo; todo &= todo - 1) {
      if (lane_id() == __ffs(todo) - 1) {
        if (larger_peak(token, c.record.peak)) c.record.peak = token;
        if (absmax > 0 && larger_ratio(token, c.record.ratio)) c.record.ratio = token;
      }
      __syncwarp();
    }
    release(&c.lock);
  }

  offer_rows<T>(a, row, absmax_bits, on && flag != kNoElements);
}

}  // namespace maxact::cuda
