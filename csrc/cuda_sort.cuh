// A block sorts entries in shared memory, and keeps the k first elements of the rows that it listed.
#pragma once

#include "cuda_rowlist.cuh"

namespace maxact::cuda {

// Bitonic sort by `before` of arena()[first, first + n); behind them, up to the next power of two, space is needed.
static __device__ __noinline__ void sort_entries(uint32_t first, uint32_t n) {
  Entry* const entries = arena() + first;
  uint32_t size = 2;
  while (size < n) size *= 2;
  for (uint32_t i = n + threadIdx.x; i < size; i += blockDim.x) entries[i] = {0, 0xFFFFFFFFu, INT64_MAX};
  for (uint32_t run = 2; run <= size; run *= 2)
    for (uint32_t step = run / 2; step; step /= 2) {
      __syncthreads();
      for (uint32_t i = threadIdx.x; i < size / 2; i += blockDim.x) {
        const uint32_t low = 2 * i - (i & (step - 1)), high = low + step;
        const bool down = (low & run) != 0;
        const Entry x = entries[low], y = entries[high];
        if (before(y, x) != down) entries[low] = y, entries[high] = x;
      }
    }
  __syncthreads();
}

// Appends all of a row's elements that are at least `bar` to the buffer, as far as it reaches; n_buffered counts on.
template <class T>
__device__ __noinline__ void read_row_fast(const Launch& a, uint32_t row, int64_t token, uint32_t bar) {
  Entry* const buffer = arena() + a.g.n_order;
  visit_row<T>(a, row, [&](const uint4& chunk, int64_t start) {
    if (*static_cast<volatile uint32_t*>(&control().n_buffered) > a.g.n_buffer) return;
#pragma unroll
    for (int e = 0; e < kPerChunk<T>; ++e) {
      const int magnitude = magnitude_of<T>(a, chunk, start, e);
      if (magnitude < static_cast<int>(bar)) continue;
      const uint32_t at = atomicAdd(&control().n_buffered, 1u), negative = (element_of<T>(chunk, e) & T::kSign) != 0;
      if (at < a.g.n_buffer) buffer[at] = {static_cast<uint32_t>(magnitude), static_cast<uint32_t>(start + e) << 1 | negative, token};
    }
  });
}

// Appends a row's first topk elements that are at least `bar` to the buffer. One warp.
template <class T>
__device__ __noinline__ void read_row(const Launch& a, uint32_t row, uint32_t top,
                                      int64_t token, uint32_t bar) {
  Entry* const buffer = arena() + a.g.n_order;
  const int topk = a.o.topk;
  // `bar` rises until at most topk elements exceed it; of those that equal it the first fill up.
  int n = count_at_least<T>(a, row, bar), above = 0;
  if (n > topk && (above = count_at_least<T>(a, row, bar + 1)) > topk) {
    uint32_t low = bar, high = top + 1;  // more than topk elements reach low, no more reach high
    int n_high = 0;
    if (low < top && (n = count_at_least<T>(a, row, top)) > topk) low = top;
    while (high - low > 1) {
      const uint32_t middle = low + (high - low) / 2;
      n = count_at_least<T>(a, row, middle);
      (n > topk ? low : high) = middle;
      if (n <= topk) n_high = n;
    }
    bar = low, above = n_high;
  }
  int equal_left = topk - above;
  visit_row<T>(a, row, [&](const uint4& chunk, int64_t start) {
    int equal = 0, found = 0;
#pragma unroll
    for (int e = 0; e < kPerChunk<T>; ++e) {
      const int magnitude = magnitude_of<T>(a, chunk, start, e);
      equal += magnitude == static_cast<int>(bar), found += magnitude >= static_cast<int>(bar);
    }
    if (!__any_sync(kAll, found)) return;
    int before_me = equal;
    for (int offset = 1; offset < 32; offset <<= 1) {
      const int other = __shfl_up_sync(kAll, before_me, offset);
      if (lane_id() >= offset) before_me += other;
    }
    const int all_equal = __shfl_sync(kAll, before_me, 31);
    before_me -= equal;
#pragma unroll
    for (int e = 0; e < kPerChunk<T>; ++e) {
      const int magnitude = magnitude_of<T>(a, chunk, start, e);
      const bool ties = magnitude == static_cast<int>(bar);
      if (magnitude > static_cast<int>(bar) || (ties && before_me < equal_left)) {
        const uint32_t negative = (element_of<T>(chunk, e) & T::kSign) != 0;
        buffer[atomicAdd(&control().n_buffered, 1u)] = {static_cast<uint32_t>(magnitude),
                                                         static_cast<uint32_t>(start + e) << 1 | negative, token};
      }
      before_me += ties;
    }
    equal_left -= all_equal;
  });
}

// A magnitude that topk elements of this block reach, from its table of counts; 0 if that does not tell. It matters for
// small tensors: with fewer than topk rows the slots know nothing. All threads.
template <class T>
__device__ __forceinline__ uint32_t bar_of_table(const Launch& a) {
  Control& c = control();
  const uint32_t topk = a.o.topk, n_bins = a.g.n_bins, largest = c.record.absmax_bits;
  constexpr uint32_t kRun = 8;
  if (threadIdx.x == 0) c.n_buffered = 0;
  __syncthreads();
  uint32_t key = sizeof(typename T::Bits) == 2 && T::kInf == 0x7C00 ? __half_as_ushort(__float2half_rz(bits_float(largest))) : largest >> 16;
  if (!a.f.counts || a.g.first_bin || key >= n_bins) return 0;
  // Blocks of bins downwards from the largest, each thread kRun of them, until topk elements are found.
  uint32_t found = 0, bar = 0;
  for (uint32_t end = key + 1; end > 1 && !bar; end = end > blockDim.x * kRun ? end - blockDim.x * kRun : 0) {
    uint32_t mine = 0;
    const uint32_t last = end > threadIdx.x * kRun ? end - threadIdx.x * kRun : 0, first = last > kRun + 1 ? last - kRun : 1;
    for (uint32_t bin = first; bin < last; ++bin) mine += table()[bin];
    mine = min(mine, topk);
    uint32_t before_me = mine;
    for (int offset = 1; offset < 32; offset <<= 1) {
      const uint32_t other = __shfl_up_sync(kAll, before_me, offset);
      if (lane_id() >= offset) before_me += other;
    }
    if (lane_id() == 31) c.exchange[0][warp_id()] = before_me;
    __syncthreads();
    uint32_t all = 0, warps_before = 0;
    for (uint32_t i = 0; i < blockDim.x / 32; ++i) {
      if (i == static_cast<uint32_t>(warp_id())) warps_before = all;
      all += static_cast<uint32_t>(c.exchange[0][i]);
    }
    const uint32_t through_me = found + warps_before + before_me;
    if (through_me >= topk && through_me - mine < topk) {
      uint32_t n = through_me - mine, bin = last;
      while (n < topk && bin > first) n += table()[--bin];
      c.n_buffered = T::wide(static_cast<typename T::Bits>(sizeof(typename T::Bits) == 2 ? bin : bin << 16));
    }
    __syncthreads();
    bar = c.n_buffered, found += all;
  }
  return bar;
}

// The first topk elements of the block's listed rows, at the front of the arena. Returns how many.
template <class T>
__device__ __forceinline__ uint32_t best_elements(const Launch& a, uint32_t block_bar) {
  Control& c = control();
  const uint32_t topk = a.o.topk, n_warps = blockDim.x / 32;
  const uint32_t bar = max(read_bar(a), block_bar);
  // Rows in order, each entry with the row's place in the list.
  uint32_t n_rows = 0;
  Entry* const order = arena();
  Entry* const buffer = order + a.g.n_order;
  if (threadIdx.x == 0) c.n_buffered = 0, c.worst_at = 0;
  __syncthreads();
  for (uint32_t i = threadIdx.x; i < c.n_listed; i += blockDim.x) {
    const Entry listed = list_entries(a)[i];
    if (listed.bits >= bar) order[atomicAdd(&c.worst_at, 1u)] = {listed.bits, i, listed.token};
  }
  __syncthreads();
  n_rows = c.worst_at;
  // Mostly few elements reach the bar, and one reading of each row is enough.
  for (uint32_t i = warp_id(); i < n_rows; i += n_warps)
    read_row_fast<T>(a, list_rows(a)[order[i].feature_sign], order[i].token, bar);
  __syncthreads();
  uint32_t n = c.n_buffered;
  if (n <= a.g.n_buffer) {
    if (n > topk) sort_entries(a.g.n_order, n), n = topk;
    for (uint32_t i = threadIdx.x; i < n; i += blockDim.x) order[i] = buffer[i];
    __syncthreads();
    return n;
  }
  __syncthreads();
  if (threadIdx.x == 0) c.n_buffered = 0;
  n = 0;
  sort_entries(0, n_rows);
  const uint32_t batch = min((a.g.n_buffer - topk) / topk, n_warps);
  for (uint32_t first = 0; first < n_rows; first += batch) {
    const uint32_t i = first + warp_id();
    if (warp_id() < batch && i < n_rows) {
      const Entry listed = list_entries(a)[order[i].feature_sign];
      const bool late = n == topk && (listed.bits < buffer[topk - 1].bits || (listed.bits == buffer[topk - 1].bits &&
                                                                              listed.token > buffer[topk - 1].token));
      if (!late) read_row<T>(a, list_rows(a)[order[i].feature_sign], listed.bits, listed.token, bar);
    }
    __syncthreads();
    n = c.n_buffered;
    if (n > topk || first + batch < n_rows) {
      sort_entries(a.g.n_order, n);
      n = min(n, topk);
      if (threadIdx.x == 0) c.n_buffered = n;
      __syncthreads();
    }
  }
  for (uint32_t i = threadIdx.x; i < n; i += blockDim.x) order[i] = buffer[i];
  __syncthreads();
  return n;
}

}  // namespace maxact::cuda
