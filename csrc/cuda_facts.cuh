// The statistics of rows that need no more of a row than a few numbers. A warp folds 32 rows at once, a lane each, so
// that this costs some 12 instructions a row.
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
#pragma unroll 1
  for (uint32_t i = 0; i < row; ++i) kept += a.mask[i] != 0;
  return (first + kept) >> 32;
}

// The sums of n rows, of which each has n_sums. A warp of a team that is not its first has nothing else to tell: its part of
// a row counts as a row of its own.
static __device__ __forceinline__ void fold_sums(const Launch& a, int n, int n_sums) {
  __syncwarp();
  const float* const sums = sums_of(a, n_sums) + lane_id() * sums_stride(n_sums);
  float sum = sums[0];
  if (n_sums > 1) {
    float part[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const float4 four = i < n_sums / 4 ? reinterpret_cast<const float4*>(sums)[i] : float4{};
      part[i] = (four.x + four.y) + (four.z + four.w);
    }
    sum = ((part[0] + part[1]) + (part[2] + part[3])) + ((part[4] + part[5]) + (part[6] + part[7]));
  }
  const uint4 row = facts_of(a).rows[lane_id()];
  add_exactly_block<kSum>(a, {sum, lane_id() < n && row.x != kNoRow && row.z != kSlow});
  __syncwarp();
}

// The facts of the row that this lane folds.
__device__ __forceinline__ uint4 facts_of_lane(const Launch& a) {
  __syncwarp();
  const uint4 facts = facts_of(a).rows[lane_id()];
  __syncwarp();
  return facts;
}

// The block's part of the table of ratios, where rows are short: in the state's a warp has an atomic for each cell of 32 rows.
__device__ __forceinline__ uint32_t* near_ratios(const Launch& a) { return reinterpret_cast<uint32_t*>(shared + a.g.ratios_at); }
__device__ __forceinline__ void flush_ratios(const Launch& a) {
#pragma unroll 1
  for (int i = threadIdx.x; i < kNearRows * kNearCols; i += blockDim.x)
    if (const uint32_t n = near_ratios(a)[i])
      add_global(a.f.ratio_table + (kFirstNearRow + i / kNearCols) * kRatioCols + i % kNearCols, n);
}

// facts: as in Facts::rows, those of the first n lanes. kNear: whether the block has near_ratios.
template <class T, bool kNear>
__device__ __forceinline__ void fold_facts(const Launch& a, const uint4& facts, int n) {
  Control& c = control();
  const Fields& f = a.f;
  const uint32_t row = lane_id() < n ? facts.x : kNoRow;
  uint32_t top = facts.y, flag = facts.z;
#pragma unroll 1
  for (unsigned todo = __ballot_sync(kWarp, row != kNoRow && flag == kSlow); todo; todo &= todo - 1) {
    const SlowFacts slow = slow_row<T>(a, __shfl_sync(kWarp, row, __ffs(todo) - 1));
    if (lane_id() == __ffs(todo) - 1) top = slow.top, flag = slow.median;
  }
  const bool on = row != kNoRow, known = on && flag < kUnneeded;
  const int64_t id = on ? row_token(a, row) : 0;
  const uint32_t absmax_bits = on ? T::wide(static_cast<typename T::Bits>(top)) : 0;
  const float absmax = bits_float(absmax_bits), median = known ? bits_float(T::wide(static_cast<typename T::Bits>(flag))) : 0;
  const float ratio = absmax / median;
  const Token token{absmax, median, ratio, id};

  if (sizeof(typename T::Bits) == 2 && f.counts && absmax_bits > read_now(c.record.absmax_bits))
    atomicMax(&c.record.absmax_bits, absmax_bits);

  const unsigned massive = __ballot_sync(kWarp, known && absmax > 0 && is_massive(a.o, token));
  unsigned votes = 0;  // what this lane counts: see below
  const auto vote = [&](Counter counter, unsigned lanes) { votes = pick(lane_id() == counter, lanes, votes); };
  vote(kRowsKept, __ballot_sync(kWarp, on)), vote(kPlaces, __ballot_sync(kWarp, lane_id() < n)), vote(kMassiveTokens, massive);
  vote(kZeroMedian, __ballot_sync(kWarp, known && absmax > 0 && median == 0));
  if (f.sample_absmax) {
    const int64_t sample = on ? sample_of(a, row, id) : 0;
    const bool inside = sample >= 0 && sample < a.o.n_samples;
    vote(kOutsideSamples, __ballot_sync(kWarp, on && !inside));
    if (on && inside && __ldcg(f.sample_absmax + sample) < absmax)
      max_global(f.sample_absmax + sample, absmax_bits);
    // Rows of one sample add once.
    const unsigned same = __match_any_sync(kWarp, on && inside ? static_cast<int>(sample) : -1);
    if (on && inside && __ffs(same) - 1 == lane_id()) {
      add_global(f.sample_tokens + sample, __popc(same));
      if (same & massive) add_global(f.sample_massive + sample, __popc(same & massive));
    }
  }

  if (f.ratio_table) {
    const bool has_ratio = known && absmax > 0, has_finite = has_ratio && isfinite(ratio);
    vote(kRatios, __ballot_sync(kWarp, has_finite));
    const int at = ratio_row(absmax), column = ratio_col(ratio);
    const unsigned near_row = at - kFirstNearRow;
    const bool near = kNear && near_row < kNearRows && column < kNearCols, far = has_ratio && !near;
    if (has_ratio && near) add_shared(shared_address(near_ratios(a)) + (near_row * kNearCols + column) * 4, 1);
    unsigned same = 0;  // rows of one cell add once
    if (!kNear || __any_sync(kWarp, far)) same = __match_any_sync(kWarp, far ? at * kRatioCols + column : -1);
    add_exactly_block<kRatioSum>(a, {ratio, has_finite});
    add_exactly_block<kRatioSquareSum>(a, {static_cast<double>(ratio) * ratio, has_finite});
    // Matched before the sums, since that takes its time.
    if (far && __ffs(same) - 1 == lane_id()) add_global(f.ratio_table + at * kRatioCols + column, __popc(same));
  }
  // A lane for each counter. None passes the number of rows, so its lower half is enough: of 64 bits it is a loop.
  const unsigned mine = __popc(votes);
  uint32_t* const lower = reinterpret_cast<uint32_t*>(c.counters + min(lane_id(), kCounters - 1));
  const uint32_t before = mine ? atomicAdd(lower, mine) : 0;
  if (__any_sync(kWarp, lane_id() == kRowsKept && (before ^ (before + mine)) >= kRowsAFlush)) flush_exact(a, lane_id(), 32);

  // Records: few rows come near one, so those that do go through the lock one by one. Of rows that tie, only the first, and
  // where rows order as ids do none that ties with a record of an earlier row.
  const long long peak_key = list_key(a, absmax_bits, row), ratio_key = list_key(a, float_bits(ratio), row);
  bool peak = known && peak_key >= read_now(c.peak_key), widest = known && absmax > 0 && ratio_key >= read_now(c.ratio_key);
  if (__any_sync(kWarp, peak || widest)) {
    const auto first_of_largest = [&](bool has, uint32_t bits) {
      const uint32_t most = __reduce_max_sync(kWarp, has ? bits : 0);
      const bool candidate = has && bits == most;
      // Where rows order as ids do, by them.
      const auto order = a.ids ? static_cast<unsigned long long>(id) ^ 1ull << 63 : row;
      const unsigned long long first = least_of_warp(candidate ? order : ~0ull);
      return candidate && order == first;
    };
    peak = first_of_largest(peak, absmax_bits), widest = first_of_largest(widest, float_bits(ratio));
    acquire(&c.lock);
    for (unsigned todo = __ballot_sync(kWarp, peak || widest); todo; todo &= todo - 1) {
      if (lane_id() == __ffs(todo) - 1) {
        if (peak && larger_peak(token, c.record.peak)) c.record.peak = token, write_now(c.peak_key, peak_key);
        if (widest && larger_ratio(token, c.record.ratio)) c.record.ratio = token, write_now(c.ratio_key, ratio_key);
      }
      __syncwarp();
    }
    release(&c.lock);
  }

  offer_rows<T>(a, row, absmax_bits, on && flag != kNoElements);
}

}  // namespace maxact::cuda
