// The end of a block: what it gathered goes to the state by integers, maxima and total orders, so that no order of blocks
// can change a bit. The block that is done last closes the books (cuda_close.cuh).
#pragma once

#include "cuda_close.cuh"
#include "cuda_team.cuh"

namespace maxact::cuda {

// Raises the state's per-feature maxima by those of the block's warps, which wait in shared memory: chunk c of a lane at
// place c * 32 + lane of its warp's `warp_bytes`.
template <class T, int P, int kSide>
__device__ __forceinline__ void flush_peaks(const Launch& a, int warp_bytes) {
  constexpr int kPerWord = 4 / static_cast<int>(sizeof(typename T::Bits)), kLanes = 32 / kSide;
  const uint32_t* const peaks = reinterpret_cast<const uint32_t*>(shared + a.g.stage_at);
  const int n_words = static_cast<int>((a.o.d + kPerWord - 1) / kPerWord);
#pragma unroll 4
  for (int w = threadIdx.x; w < n_words; w += blockDim.x) {
    const int chunk = w / 4 / kLanes, rank = chunk % a.g.team, place = (chunk / a.g.team * 32 + w / 4 % kLanes) * 4 + w % 4;
    uint32_t peak = 0;
    for (int team = 0; team < a.g.n_teams; ++team)
#pragma unroll
      for (int side = 0; side < kSide; ++side) {
        const uint32_t other = peaks[(team * a.g.team + rank) * (warp_bytes / 4) + place + side * kLanes * 4];
        peak = kPerWord == 2 ? __vmaxu2(peak, other) : max(peak, other);
      }
    // Not compared with the state's maximum first: that would have to arrive.
#pragma unroll
    for (int i = 0; i < kPerWord; ++i) {
      const int feature = w * kPerWord + i;
      const uint32_t bits = T::wide(static_cast<typename T::Bits>(peak >> (16 * i)));
      if (feature < a.o.d && bits) atomicMax(reinterpret_cast<int*>(a.f.channel_absmax + feature), static_cast<int>(bits));
    }
  }
}

template <class T>
__device__ __noinline__ void block_close(const Launch& a) {
  Control& c = control();
  const Fields& f = a.f;
  if (const uint32_t i = blockDim.x - 1 - threadIdx.x; i < kPads) {  // a lane of the last warp for each counter
    unsigned long long n = c.counters[i];
    const unsigned long long n_bad = c.counters[kNan] + c.counters[kInf];
    if (i == kFiniteElements) {
      n = c.counters[kRowsKept] * a.o.d - n_bad;
      add_to(reinterpret_cast<int64_t*>(a.scratch.n_rows_kept), c.counters[kRowsKept]);
    } else if (i == kZeros && f.counts && a.g.first_bin) {  // zeros lie outside the window
      const unsigned long long zeros = c.zero_keys - (c.counters[kPads] - c.counters[kRowsKept] * a.o.d);
      add_to(f.counts, zeros);
      if (sizeof(typename T::Bits) == 2) n = zeros;
    }
    int64_t* const* const fields = &f.n_elements;  // n_tokens lies behind it, then the rest
    if (int64_t* const field = fields[i + (i > 0)]) add_to(field, n);
  }
  // Counts, so that an instruction adds to neighbours. Each block begins elsewhere: blocks that end together do not meet in
  // one cell.
  const uint32_t n_bins = a.g.n_bins, turn = n_bins ? blockIdx.x * 7 * 128 % n_bins : 0;
  uint32_t least = 0xFFFFFFFFu;
#pragma unroll 8
  for (uint32_t i = threadIdx.x; i < n_bins; i += blockDim.x) {
    const uint32_t bin = i + turn < n_bins ? i + turn : i + turn - n_bins;
    uint32_t n = table()[bin];
    if (bin + a.g.first_bin == 0) {  // less the zeros that are no elements
      n -= static_cast<uint32_t>(c.counters[kPads] - c.counters[kRowsKept] * a.o.d);
      if (sizeof(typename T::Bits) == 2) add_to(f.n_zero, n);
    }
    if (n && table_knows_least<T>(a)) least = min(least, bin);
    add_to(f.counts + a.g.first_bin + bin, n);
  }
  if (least != 0xFFFFFFFFu) atomicMin(&c.least, least);
  __syncthreads();
  if (a.mask && !a.ids) {
    const uint64_t begin = static_cast<uint64_t>(blockIdx.x) * piece_rows(a);
    const uint64_t end = min(begin + piece_rows(a), static_cast<uint64_t>(a.n_rows));
    unsigned kept = 0;
    for (uint64_t i = begin + threadIdx.x; i < end; i += blockDim.x) kept += a.mask[i] != 0;
    kept = __reduce_add_sync(kWarp, kept);
    if (threadIdx.x == 0) c.worst_at = 0;
    __syncthreads();
    if (lane_id() == 0) atomicAdd(&c.worst_at, kept);
    __syncthreads();
    if (threadIdx.x == 0) a.scratch.piece_kept[blockIdx.x] = c.worst_at;
    __syncthreads();
  }

  if (const uint32_t n = best_elements<T>(a)) {
    if (threadIdx.x == 0) c.n_buffered = atomicAdd(a.scratch.n_entries, n) % kOneBlock;
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < n; i += blockDim.x) a.scratch.entries[c.n_buffered + i] = arena()[i];
  }
  if (threadIdx.x == 0) {
    // Without a positive element the largest is minus the smallest magnitude, and the other way round.
    const auto value = [](uint32_t pattern) { return bits_float(T::wide(static_cast<typename T::Bits>(pattern))); };
    const float least = c.least == 0xFFFFFFFFu ? bits_float(kInfinity) : value(c.least);
    c.record.highest = c.positive ? value(c.positive) : -least;
    c.record.lowest = c.negative ? -value(c.negative) : least;
    a.scratch.records[blockIdx.x] = c.record;
  }
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) c.worst_at = atomicAdd(a.scratch.n_entries, kOneBlock), c.n_buffered = 0;
  __syncthreads();
  if (c.worst_at / kOneBlock != gridDim.x - 1) return;
  __threadfence();
  close_books<T>(a, c.worst_at % kOneBlock);
}

}  // namespace maxact::cuda
