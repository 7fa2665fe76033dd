// The statistics of rows that need no more of a row than a few numbers. A warp folds 32 rows at once, a lane each, so
// that this costs some 20 instructions a row.
#pragma once

#include "cuda_rowlist.cuh"

namespace maxact::cuda {

// Bits that no finite magnitude has, in place of a median.
constexpr uint32_t kNonfinite = 0xFFFFFFFFu;  // the row holds nan or inf: no statistics of a token
constexpr uint32_t kNoElements = 0xFFFFFFFEu;  // and nothing else
constexpr uint32_t kUnneeded = 0xFFFFFFFDu;   // a finite row whose median can change nothing

// A row's facts wait in shared memory: its number, the patterns of its largest magnitude and of its median (or a flag).
template <class T>
__device__ __forceinline__ void keep_fact(const Launch& a, int at, uint32_t row, uint32_t top, uint32_t median) {
  uint32_t* const facts = facts_of(a, warp_id(), sizeof(typename T::Bits)) + 128;
  facts[at] = row;
  if constexpr (sizeof(typename T::Bits) == 2)
    facts[32 + at] = top << 16 | (median & 0xFFFF);
  else
    facts[32 + at] = top, facts[64 + at] = median;
}

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
__device__ __noinline__ void fold_facts(const Launch& a, int n, bool leads) {
  Control& c = control();
  const Fields& f = a.f;
  __syncwarp();
  const uint32_t* const facts = facts_of(a, warp_id(), sizeof(typename T::Bits)) + 128 + lane_id();
  // The sum of a row is the exact sum of its slices, each warp of a team adding its own.
  add_exactly_warp(f.sum, reinterpret_cast<const double*>(facts_of(a, warp_id(), sizeof(typename T::Bits)))[lane_id()], lane_id() < n);
  if (!leads) return;
  const uint32_t row = lane_id() < n ? facts[0] : kNoRow;
  uint32_t top = facts[32], flag = sizeof(typename T::Bits) == 2 ? static_cast<uint32_t>(static_cast<int16_t>(top)) : facts[64];
  if (sizeof(typename T::Bits) == 2) {
    top >>= 16;
    if (flag < kUnneeded) flag &= 0xFFFF;
  }
  __syncwarp();
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

// The largest magnitude of the block with how many elements have it, where no table knows. One lane calls it for its
// row, the others with on = false.
__device__ __forceinline__ void keep_tied(uint32_t bits, uint32_t n, bool on) {
  Control& c = control();
  unsigned todo = __ballot_sync(kAll, on);
  if (!todo) return;
  acquire(&c.lock);
  for (; todo; todo &= todo - 1) {
    if (lane_id() == __ffs(todo) - 1) {
      if (bits > c.record.absmax_bits) c.record.absmax_bits = bits, c.record.n_absmax = 0;
      if (bits == c.record.absmax_bits) c.record.n_absmax += n;
    }
    __syncwarp();
  }
  release(&c.lock);
}

}  // namespace maxact::cuda
