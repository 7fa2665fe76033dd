// What a block of warps shares while it runs: its part of the table of counts, the memory that rows arrive in, its
// records, and the list of the rows that may hold some of the k largest elements.
#pragma once

#include "cuda_probe.h"
#include "cuda_warp.cuh"

namespace maxact::cuda {

// Counters of a block, in the order in which block_end adds them to the state.
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
  kPads,      // slots of rows with their pads: what is more than elements are zeros in the table that are no elements
  kRowsKept,
  kCounters
};

constexpr uint32_t kNoRow = 0xFFFFFFFFu;
constexpr int kMaxWarps = 20;

struct Control {
  unsigned long long counters[kCounters];
  unsigned long long exchange[2][kMaxWarps];  // between the warps of a team, in turns
  BlockRecord record;
  Entry worst;  // of the list, once it is full
  unsigned long long worst_key;  // of the list, see list_key; 0 until it is full
  int seen_signed;         // largest of any ordinary row's Ends: what does not pass them changes nothing
  uint32_t seen_unsigned;
  uint32_t zero_keys;  // zeros, where the table is a window without them
  uint32_t worst_at, n_listed, n_buffered, bar, lock, is_last;
};

__host__ __device__ constexpr size_t list_bytes(int topk) { return static_cast<size_t>(topk) * (sizeof(Entry) + 4); }
// Of one warp: 32 rows, as many sums of slices of rows, and 32 rows that wait to be listed.
__host__ __device__ constexpr int facts_words(int element_bytes) { return element_bytes == 2 ? 192 : 224; }
constexpr size_t kControlBytes = (sizeof(Control) + 15) / 16 * 16;

// A block's shared memory: Control, the table of counts, the stages of its warps, the list of rows. At the end table
// and stages are an arena. Functions and not pointers, so that the compiler sees everywhere that it is shared memory.
extern __shared__ __align__(16) char shared[];
__device__ __forceinline__ Control& control() { return *reinterpret_cast<Control*>(shared); }
__device__ __forceinline__ uint32_t* table() { return reinterpret_cast<uint32_t*>(shared + kControlBytes); }
__device__ __forceinline__ Entry* arena() { return reinterpret_cast<Entry*>(shared + kControlBytes); }
__device__ __forceinline__ char* stage_of(const Launch& a, int warp) {
  return shared + kControlBytes + a.g.n_bins * 4 + warp * a.g.stage_bytes;
}
// Facts of rows: for each warp 32 sums (float64), 32 waiting rows and their m_t, 32 rows, their largest magnitudes and
// medians.
__device__ __forceinline__ uint32_t* facts_of(const Launch& a, int warp, int element_bytes) {
  return reinterpret_cast<uint32_t*>(shared + a.g.facts_at) + warp * facts_words(element_bytes);
}
// The list: at most topk rows, each named by its first largest element (feature_sign only where ids may repeat).
__device__ __forceinline__ Entry* list_entries(const Launch& a) { return reinterpret_cast<Entry*>(shared + a.g.list_at); }
__device__ __forceinline__ uint32_t* list_rows(const Launch& a) {
  return reinterpret_cast<uint32_t*>(shared + a.g.list_at + a.o.topk * sizeof(Entry));
}

__device__ __forceinline__ bool before(const Entry& a, const Entry& b) {
  if (a.bits != b.bits) return a.bits > b.bits;
  if (a.token != b.token) return a.token < b.token;
  return a.feature_sign < b.feature_sign;
}

__device__ __forceinline__ int64_t row_offset(const Launch& a, uint32_t row) {
  if (a.inner >= a.n_rows) return row * a.inner_stride;
  return row / a.inner * a.outer_stride + row % a.inner * a.inner_stride;
}
__device__ __forceinline__ int64_t row_token(const Launch& a, uint32_t row) { return a.ids ? a.ids[row] : row; }

// Everything at zero, or worse than any value. Needs a barrier after it.
__device__ __forceinline__ void block_begin(const Launch& a) {
  Control& c = control();
  for (int i = threadIdx.x; i < kCounters; i += blockDim.x) c.counters[i] = 0;
  if (threadIdx.x == 0) {
    const float nan = bits_float(0x7FC00000u), inf = bits_float(kInfinity);
    c.record = {{nan, nan, nan, kNoToken}, {nan, nan, nan, kNoToken}, kNoToken, kNoToken, -inf, inf, 0, 0};
    c.worst_key = 0, c.seen_signed = 0, c.seen_unsigned = 0, c.zero_keys = 0, c.n_listed = 0, c.n_buffered = 0, c.lock = 0;
    const float kth = a.f.topk_values[a.o.topk - 1];
    c.bar = isnan(kth) ? 0 : float_bits(kth) & 0x7FFFFFFFu;
  }
  uint4* cells = reinterpret_cast<uint4*>(table());
  for (int i = threadIdx.x; i < a.g.n_bins / 4; i += blockDim.x) cells[i] = make_uint4(0, 0, 0, 0);
}

__device__ __forceinline__ void count(Counter counter, unsigned long long n) {
  if (n) atomicAdd(&control().counters[counter], n);
}

// A magnitude that topk elements of the stream are known to reach.
__device__ __forceinline__ uint32_t read_bar(const Launch& a) {
  uint32_t smallest = 0xFFFFFFFFu;
  for (int i = lane_id(); i < a.o.topk; i += 32) smallest = min(smallest, __ldcg(a.scratch.slots + i));
  return max(__reduce_min_sync(kAll, smallest), control().bar);
}

}  // namespace maxact::cuda
