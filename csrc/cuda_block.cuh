// What a block of warps shares while it runs: its part of the table of counts, what its warps
// know of their rows, its records, and the list of the rows that may hold some of the k largest elements.
#pragma once

#include "cuda_probe.h"
#include "cuda_warp.cuh"

namespace maxact::cuda {

// Counters of a block: down to kPads in the order of the state's fields, n_tokens left out (block_close relies on it).
enum Counter {
  kFiniteElements,
  kZeros,
  kNan,
  kInf,
  kNonfiniteTokens,
  kMassiveTokens,
  kMassiveElements,
  kZeroMedian,
  kOutsideSamples,
  kRatios,
  kPads,      // elements of slow rows, which are in tiles as zeros, too
  kPlaces,    // of rows in tiles, each of Geometry::slots elements: what is more than rows have are zeros of the table
  kRowsKept,
  kCounters
};

constexpr uint32_t kNoRow = 0xFFFFFFFFu;
constexpr long long kNoRecord = -0x40000000000000;  // the key of nan, below that of any row
constexpr int kMostWarps = 24;  // of a block
constexpr int kExactCells = 128;  // see cuda_exact.cuh
constexpr int kFew = 32;  // see find_few in cuda_sort.cuh
// Of a warp: its part of what teams exchange (two turns of two rows), and of the lists of elements that may be medians: what
// each lane found, and what all did.
constexpr int kExchangeBytes = 2 * 2 * 16, kListRoom = 256, kLaneRoom = 8;
struct FineList {
  uint16_t of_lanes[kLaneRoom][32], low_halves[kListRoom];
  uint32_t n[32];
};

struct Control {
  unsigned long long counters[kCounters];
  unsigned long long exchange[kMostWarps];
  uint32_t exact[kExactCells][2];
  BlockRecord record;
  float stream_absmax, stream_max, stream_neg_min;  // of the state, when the block began
  Entry worst;  // of the list, once it is full
  unsigned long long waiting;  // see kOneBlock in cuda_close.cuh
  unsigned long long worst_key;  // of the list, see list_key; 0 until it is full
  uint32_t zero_keys;  // where the table is a window without them
  uint32_t positive, negative, least;  // patterns: largest of each sign (0: none yet), smallest where one is missing
  unsigned long long bar;  // see list_key: what topk rows of the stream, or its kth element, are known to reach
  long long ratio_key, peak_key;  // the list_keys of the record's tokens, by r_t and by m_t: read without the lock
  uint32_t worst_at, n_listed, n_buffered, lock;
  uint32_t n_flushed;  // groups of bins of the table that warps have taken to give them to the state
  uint32_t n_few;      // elements of listed rows that reach the bar, of which these are the first
  Entry few[kFew];
};

// The list of rows, and then in its place the state's three arrays of the k largest elements, by pieces of 16 bytes.
__host__ __device__ constexpr size_t list_bytes(int topk) { return static_cast<size_t>(topk) * (sizeof(Entry) + 4) + 28; }
// Of one warp: what is known of the up to 32 rows of a round, in the patterns of T, the rows that wait to be listed, and the
// barriers of its stages.
struct __align__(16) Facts {
  uint4 rows[32];  // row, m_t, the median or a flag (cuda_slow.cuh)
  uint32_t waiting_row[32], waiting_bits[32];
  uint64_t arrived[2];
};
constexpr size_t kControlBytes = (sizeof(Control) + 127) / 128 * 128;

// A block's shared memory: Control, the table of counts and the rows on their way (at the end an arena to sort in), and
// what Geometry says. Functions and not pointers, so that the compiler sees everywhere that it is shared memory.
extern __shared__ __align__(128) char shared[];
__device__ __forceinline__ Control& control() { return *reinterpret_cast<Control*>(shared); }
__device__ __forceinline__ uint32_t* table() { return reinterpret_cast<uint32_t*>(shared + kControlBytes); }
__device__ __forceinline__ Entry* arena() { return reinterpret_cast<Entry*>(shared + kControlBytes); }
__device__ __forceinline__ Facts& facts_of(const Launch& a) { return reinterpret_cast<Facts*>(shared + a.g.facts_at)[warp_id()]; }
// Sums of the rows of a round of this warp, n_sums each.
__device__ __forceinline__ float* sums_of(const Launch& a, int n_sums) {
  return reinterpret_cast<float*>(shared + a.g.sums_at) + warp_id() * 32 * sums_stride(n_sums);
}
// The list: at most topk rows, each named by its first largest element (feature_sign only where ids may repeat).
__device__ __forceinline__ Entry* list_entries(const Launch& a) { return reinterpret_cast<Entry*>(shared + a.g.list_at); }
__device__ __forceinline__ uint32_t* list_rows(const Launch& a) {
  return reinterpret_cast<uint32_t*>(shared + a.g.list_at + a.o.topk * sizeof(Entry));
}

// (|x| descending, token, feature_sign) as one number, the smaller first: compared without a branch.
__device__ __forceinline__ unsigned __int128 order_of(const Entry& e) {
  const uint64_t token = static_cast<uint64_t>(e.token) ^ 1ull << 63;
  const uint64_t high = static_cast<uint64_t>(~e.bits) << 32 | token >> 32, low = token << 32 | e.feature_sign;
  return static_cast<unsigned __int128>(high) << 64 | low;
}
__device__ __forceinline__ bool before(const Entry& a, const Entry& b) { return order_of(a) < order_of(b); }

__device__ __forceinline__ int64_t row_offset(const Launch& a, uint32_t row) {
  if (a.inner >= a.n_rows) return row * a.inner_stride;
  return row / a.inner * a.outer_stride + row % a.inner * a.inner_stride;
}
__device__ __forceinline__ int64_t row_token(const Launch& a, uint32_t row) { return a.ids ? a.ids[row] : row; }

// What rows must reach to change the stream's extremes: its kth largest element, its records. Asked for by a thread before rows are,
// and needed by it after: among those that are on their way it would take its time.
struct Best {
  float kth = 0, ratio = 0, peak = 0, absmax = 0, max = 0, neg_min = 0;
  int64_t kth_token = 0, ratio_token = 0, peak_token = 0, n_tokens = 0;
  __device__ __forceinline__ explicit Best(const Launch& a) {
    if (threadIdx.x != 0) return;
    const Fields& f = a.f;
    kth = f.topk_values[a.o.topk - 1], ratio = *f.ratio_max, peak = *f.peak_absmax;
    kth_token = f.topk_token_ids[a.o.topk - 1], ratio_token = *f.ratio_max_token, peak_token = *f.peak_token, n_tokens = *f.n_tokens;
    absmax = *f.absmax, max = *f.max, neg_min = *f.neg_min;
  }
};

// Everything at zero, or worse than any value. Needs a barrier after it.
__device__ __forceinline__ void block_begin(const Launch& a, const Best& best) {
  Control& c = control();
  uint4* cells = reinterpret_cast<uint4*>(table());
#pragma unroll 4
  for (int i = threadIdx.x; i < a.g.n_bins / 4; i += blockDim.x) cells[i] = make_uint4(0, 0, 0, 0);
  for (int i = threadIdx.x; i < kCounters; i += blockDim.x) c.counters[i] = 0;
  for (int i = threadIdx.x; i < 2 * kExactCells; i += blockDim.x) c.exact[0][i] = 0;
  for (int i = threadIdx.x; i < 2 * a.g.int8_cells; i += blockDim.x) reinterpret_cast<uint32_t*>(shared + a.g.int8_at)[i] = 0;
  if (threadIdx.x == 0) {
    const float nan = bits_float(0x7FC00000u), inf = bits_float(kInfinity);
    c.record = {{nan, nan, nan, kNoToken}, {nan, nan, nan, kNoToken}, kNoToken, kNoToken, -inf, inf, 0, 0};
    // The least list_key that may come before `value` of `token`. A row that ties may by its id, unless nobody named it: then all
    // tokens before come before it.
    const auto key_before = [&](float value, int64_t token, long long none) {
      if (isnan(value)) return none;
      const uint32_t least = (float_bits(value) & 0x7FFFFFFFu) + (!a.ids && token < best.n_tokens);
      return static_cast<long long>(least) << 32;
    };
    c.ratio_key = key_before(best.ratio, best.ratio_token, kNoRecord), c.peak_key = key_before(best.peak, best.peak_token, kNoRecord);
    c.bar = key_before(best.kth, best.kth_token, 0);
    c.stream_absmax = best.absmax, c.stream_max = best.max, c.stream_neg_min = best.neg_min;
    c.n_flushed = 0, c.n_few = 0;
    c.worst_key = 0, c.zero_keys = 0, c.positive = 0, c.negative = 0, c.least = 0xFFFFFFFFu, c.n_listed = 0, c.n_buffered = 0, c.lock = 0;
  }
}

__device__ __forceinline__ void count(Counter counter, unsigned long long n) {
  if (n) atomicAdd(&control().counters[counter], n);
}

// Counts an element where the block holds only a window of the table; the rest goes to the state's own.
__device__ __forceinline__ void count_in_window(const Launch& a, uint32_t key, uint32_t n = 1) {
  const uint32_t bin = key - a.g.first_bin;
  if (bin < static_cast<uint32_t>(a.g.n_bins))
    atomicAdd(table() + bin, n);
  else if (key == 0)
    atomicAdd(&control().zero_keys, n);
  else
    add_global(a.f.counts + key, n);
}

// The largest magnitude of the block with how many elements have it, where no table knows. Lanes with `on` give one.
__device__ __forceinline__ void keep_tied(uint32_t bits, uint32_t n, bool on) {
  Control& c = control();
  unsigned todo = __ballot_sync(kWarp, on);
  if (!todo) return;
  acquire(&c.lock);
  for (; todo; todo &= todo - 1) {
    if (lane_id() == __ffs(todo) - 1) {
      if (bits > c.record.absmax_bits) write_now(c.record.absmax_bits, bits), c.record.n_absmax = 0;
      if (bits == c.record.absmax_bits) c.record.n_absmax += n;
    }
    __syncwarp();
  }
  release(&c.lock);
}

// Whether the block's table of counts tells the smallest magnitude of its rows.
template <class T>
__device__ __forceinline__ bool table_knows_least(const Launch& a) {
  return sizeof(typename T::Bits) == 2 && a.f.counts && a.g.first_bin == 0;
}

// Raises the block's signed extremes: the largest of each sign that a warp saw, the smallest that each lane did.
__device__ __forceinline__ void keep_ends(uint32_t positive, uint32_t negative, uint32_t least) {
  least = __reduce_min_sync(kWarp, least);
  Control& c = control();
  if (lane_id() == 0) atomicMax(&c.positive, positive), atomicMax(&c.negative, negative), atomicMin(&c.least, least);
}

// A row's place among rows, the larger the earlier: m_t, and where tokens are rows the row, which decides ties.
__device__ __forceinline__ unsigned long long list_key(const Launch& a, uint32_t bits, int64_t row) {
  return static_cast<unsigned long long>(bits) << 32 | (a.ids ? 0xFFFFFFFFu : ~static_cast<uint32_t>(row));
}

// The list_key that topk rows are known to reach: no element of a row below is among the k largest. One warp.
// In one place, and without `a`: to a function that is called a launch is memory, and each of its pointers a load.
static __device__ __noinline__ unsigned long long read_bar(const unsigned long long* slots, int topk) {
  const unsigned long long smallest = share_of(topk, ~0ull, [&](uint32_t i) { return __ldcg(slots + i); }, Min());
  return max(least_of_warp(smallest), read_now(control().bar));
}
__device__ __forceinline__ unsigned long long read_bar(const Launch& a) { return read_bar(a.scratch.slots, a.o.topk); }
__device__ __forceinline__ uint32_t magnitude_of_bar(unsigned long long bar) { return static_cast<uint32_t>(bar >> 32); }

}  // namespace maxact::cuda
