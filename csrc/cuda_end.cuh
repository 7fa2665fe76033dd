// The end of a block: what it gathered goes to the state by integers, maxima and total orders, so that no order of blocks
// can change a bit. The block that is done last closes the books (cuda_close.cuh).
#pragma once

#include "cuda_close.cuh"
#include "cuda_team.cuh"

namespace maxact::cuda {

// Raises the state's per-feature maxima by those of the block's warps, which wait in shared memory: chunk c of a lane at
// place c * 32 + lane of its warp's `kWarpBytes`. Each block begins elsewhere, so that blocks that end together do not meet.
template <class T, int P, int kSide, int kWarps, bool kTeam, int kWarpBytes>
__device__ __forceinline__ void flush_peaks(const Launch& a) {
  constexpr int kPerWord = 4 / static_cast<int>(sizeof(typename T::Bits)), kLanes = 32 / kSide;
  const int size = kTeam ? a.g.team : 1, n_teams = kTeam ? a.g.n_teams : kWarps;
  const uint32_t* const peaks = reinterpret_cast<const uint32_t*>(shared + a.g.stage_at);
  const int n_words = static_cast<int>((a.o.d + kPerWord - 1) / kPerWord), turn = blockIdx.x * 32 * 5 % n_words;
#pragma unroll 2
  for (int i = threadIdx.x; i < n_words; i += blockDim.x) {
    const int w = i + turn - (i + turn < n_words ? 0 : n_words);
    const int chunk = w / 4 / kLanes, rank = kTeam ? chunk / P : 0, place = ((chunk - rank * P) * 32 + w / 4 % kLanes) * 4 + w % 4;
    uint32_t peak = 0;
#pragma unroll kTeam ? 1 : kWarps
    for (int team = 0; team < n_teams; ++team)
#pragma unroll
      for (int side = 0; side < kSide; ++side) {
        const uint32_t other = peaks[(team * size + rank) * (kWarpBytes / 4) + place + side * kLanes * 4];
        peak = kPerWord == 2 ? __vmaxu2(peak, other) : max(peak, other);
      }
    // Not compared with the state's maximum first: that would have to arrive.
#pragma unroll
    for (int half = 0; half < kPerWord; ++half) {
      const int feature = w * kPerWord + half;
      const uint32_t bits = T::wide(static_cast<typename T::Bits>(peak >> (16 * half)));
      if (feature < a.o.d && bits) max_global(a.f.channel_absmax + feature, bits);
    }
  }
}

// Adds the block's table of counts to the state's, less `no_elements` of its zeros. Whichever warp has nothing else to do looks at
// 4 times 128 bins at once, most of which are empty; an instruction adds to neighbours, and each block begins elsewhere.
template <class T>
__device__ __forceinline__ void flush_counts(const Launch& a, uint32_t no_elements) {
  const uint32_t n_groups = a.g.n_bins / 128, turn = n_groups ? blockIdx.x * 7 % n_groups : 0;
  const auto group = [&](uint32_t i) { return i + turn - (i + turn < n_groups ? 0 : n_groups); };
  uint32_t least = 0xFFFFFFFFu;
#pragma unroll 1
  for (;;) {
    uint32_t i = 0;
    if (lane_id() == 0) i = atomicAdd(&control().n_flushed, 4u);
    i = __shfl_sync(kWarp, i, 0);
    if (i >= n_groups) break;
    uint4 cells[4];
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const bool is_group = i + k < n_groups;
      cells[k] = is_group ? reinterpret_cast<const uint4*>(table())[group(i + k) * 32 + lane_id()] : make_uint4(0, 0, 0, 0);
    }
    unsigned full = 0;
#pragma unroll
    for (int k = 0; k < 4; ++k) full |= __any_sync(kWarp, (cells[k].x | cells[k].y | cells[k].z | cells[k].w) != 0) << k;
#pragma unroll 1
    for (; full; full &= full - 1) {
      const uint32_t first = group(i + __ffs(full) - 1) * 128 + lane_id();
#pragma unroll
      for (uint32_t bin = first; bin < first + 128; bin += 32) {
        const uint32_t n = table()[bin] - (bin == 0 ? no_elements : 0);
        if (!n) continue;
        least = min(least, bin);
        add_global(a.f.counts + a.g.first_bin + bin, n);
      }
    }
  }
  least = __reduce_min_sync(kWarp, least);
  if (lane_id() == 0 && table_knows_least<T>(a)) atomicMin(&control().least, least);
}

template <class T>
__device__ __forceinline__ void block_close(const Launch& a) {
  Control& c = control();
  const Fields& f = a.f;
  // Zeros of the table that are no elements: pads, and what slow rows counted as such.
  const unsigned long long no_elements = c.counters[kPads] + c.counters[kPlaces] * a.g.slots - c.counters[kRowsKept] * a.o.d;
  if (const uint32_t i = blockDim.x - 1 - threadIdx.x; i < kPads) {  // a lane of the last warp for each counter
    unsigned long long n = c.counters[i];
    if (i == kFiniteElements) {
      n = c.counters[kRowsKept] * a.o.d - (c.counters[kNan] + c.counters[kInf]);
      if (a.mask) add_to(reinterpret_cast<int64_t*>(a.scratch.n_rows_kept), c.counters[kRowsKept]);
    } else if (i == kZeros && f.counts) {
      const uint32_t zeros = (a.g.first_bin ? c.zero_keys : table()[0]) - static_cast<uint32_t>(no_elements);
      if (a.g.first_bin) add_to(f.counts, zeros);
      if (sizeof(typename T::Bits) == 2) n = zeros;
    }
    int64_t* const* const fields = &f.n_elements;  // n_tokens lies behind it, then the rest
    if (int64_t* const field = fields[i + (i > 0)]) add_to(field, n);
  }
  flush_exact(a, threadIdx.x, blockDim.x);
  find_few<T>(a);
  flush_counts<T>(a, a.g.first_bin ? 0 : static_cast<uint32_t>(no_elements));
  __syncthreads();
  if (a.mask && !a.ids) {
    const uint64_t begin = static_cast<uint64_t>(blockIdx.x) * piece_rows(a);
    const uint64_t end = min(begin + piece_rows(a), static_cast<uint64_t>(a.n_rows));
    unsigned kept = 0;
#pragma unroll 1
    for (uint64_t i = begin + threadIdx.x; i < end; i += blockDim.x) kept += a.mask[i] != 0;
    kept = __reduce_add_sync(kWarp, kept);
    if (threadIdx.x == 0) c.worst_at = 0;
    __syncthreads();
    if (lane_id() == 0) atomicAdd(&c.worst_at, kept);
    __syncthreads();
    if (threadIdx.x == 0) a.scratch.piece_kept[blockIdx.x] = c.worst_at;
    __syncthreads();
  }

  uint32_t n = c.n_few;
  const Entry* found = c.few;
  if (n > min(static_cast<uint32_t>(kFew), static_cast<uint32_t>(a.o.topk))) n = best_elements<T>(a), found = arena();
  const int64_t first_token = *a.f.n_tokens;
  bool news = false;
  if (threadIdx.x == 0) {
    // Without a positive element the largest is minus the smallest magnitude, and the other way round.
    const auto value = [](uint32_t pattern) { return bits_float(T::wide(static_cast<typename T::Bits>(pattern))); };
    const float least = c.least == 0xFFFFFFFFu ? bits_float(kInfinity) : value(c.least);
    c.record.highest = c.positive ? value(c.positive) : -least;
    c.record.lowest = c.negative ? -value(c.negative) : least;
    const uint32_t ties = found == c.few ? n_tied<T>(a) : 0;
    news = c.counters[kRowsKept] && has_news(ties);
    if (!news) add_to(f.n_absmax, ties);
    if (n || news) {
      const Waiting before(atomicAdd(a.scratch.n_waiting, n + (news ? kOneRecord : 0)));
      c.n_buffered = before.n_entries;
      if (news) a.scratch.records[before.n_records] = c.record;
    }
  }
  if (n) {
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < n; i += blockDim.x) a.scratch.entries[c.n_buffered + i] = found[i];
  }
  __syncthreads();
  if (threadIdx.x == 0) c.waiting = add_between(a.scratch.n_waiting, kOneBlock), c.n_buffered = 0;
  __syncthreads();
  const Waiting waiting(c.waiting);
  if (waiting.n_blocks == gridDim.x - 1) close_books<T>(a, first_token, waiting);
}

}  // namespace maxact::cuda
