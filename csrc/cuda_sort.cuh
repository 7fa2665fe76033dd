// A block sorts entries in shared memory, and keeps the k first elements of the rows that it listed.
#pragma once

#include "cuda_rowlist.cuh"

namespace maxact::cuda {

// Sorts arena()[first, first + n) by `before`; behind them, up to the next power of two, space is needed. While there is
// a thread for each, entries count who comes before them, by as many threads as there are: 102 took one thread each 2.7 us, in the
// bitonic sort (a barrier a step) 5 us.
static __device__ __noinline__ void sort_entries(uint32_t first, uint32_t n) {
  Entry* const entries = arena() + first;
  if (n <= blockDim.x) {
    uint32_t lanes = 1;  // of an entry
    while (lanes < 32 && 2 * lanes * n <= blockDim.x) lanes *= 2;
    const uint32_t i = threadIdx.x / lanes;
    const Entry mine = entries[i < n ? i : 0];
    const unsigned __int128 order = order_of(mine);
    uint32_t rank = 0;
#pragma unroll 4
    for (uint32_t k = threadIdx.x % lanes; k < n; k += lanes) rank += order_of(entries[k]) < order + (k < i);  // of the same the first
    for (uint32_t step = 1; step < lanes; step *= 2) rank += __shfl_xor_sync(kWarp, rank, step);
    __syncthreads();
    if (i < n && threadIdx.x % lanes == 0) entries[rank] = mine;
    __syncthreads();
    return;
  }
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

// Moves the first `topk` of arena()[first, first + n) to its front, sorted, and returns how many they are. Of many entries, a
// thread's worth of them, evenly spread, has one that topk come before or are: what comes behind it goes, before anything is
// sorted. A row of 4,096 equal elements took 100 us to sort.
static __device__ __noinline__ uint32_t first_entries(uint32_t first, uint32_t n, uint32_t topk) {
  Entry* const entries = arena() + first;
  Control& c = control();
  for (int turn = 0; turn < 8 && n > blockDim.x && topk < blockDim.x; ++turn) {  // copies of one entry stay as many
    const uint32_t step = n / blockDim.x;
    const unsigned __int128 mine = order_of(entries[threadIdx.x * step]);
    uint32_t rank = 0;
#pragma unroll 4
    for (uint32_t i = 0; i < blockDim.x; ++i) rank += order_of(entries[i * step]) < mine + (i < threadIdx.x);
    if (rank == topk - 1) c.exchange[0] = threadIdx.x * step;
    if (threadIdx.x == 0) c.worst_at = 0;
    __syncthreads();
    const unsigned __int128 last = order_of(entries[c.exchange[0]]);
    for (uint32_t begin = 0; begin < n; begin += blockDim.x) {
      const uint32_t i = begin + threadIdx.x;
      const Entry e = i < n ? entries[i] : Entry{};
      __syncthreads();  // what is written now was read before
      if (i < n && order_of(e) <= last) entries[atomicAdd(&c.worst_at, 1u)] = e;
    }
    __syncthreads();
    n = c.worst_at;
    __syncthreads();
  }
  sort_entries(first, n);
  return min(n, topk);
}

// Elements that are found, as many as there is room for; n counts on.
struct Found {
  Entry* entries;
  uint32_t room;
  uint32_t& n;
};

// A warp reads listed rows by slices of 8 chunks a lane.
constexpr int kDeep = 8;
template <class T>
__device__ __forceinline__ uint32_t slices_of(const Launch& a) {
  constexpr int kSlice = kDeep * 32 * kPerChunk<T>;
  return static_cast<uint32_t>((a.o.d + kSlice - 1) / kSlice);
}
// Finds all elements of a slice of a row that are at least `bar`: looks at the largest magnitude of each chunk, and reads again what
// matters. Testing each element of a row in one warp took 13 us.
template <class T>
__device__ __forceinline__ void read_slice(const Launch& a, uint32_t listed, uint32_t slice, uint32_t bar, const Found& found) {
  constexpr int kWide = 32 * kPerChunk<T>;
  const auto* x = row_at<T>(a, list_rows(a)[listed]);
  const int64_t begin = static_cast<int64_t>(slice) * kDeep * kWide + lane_id() * kPerChunk<T>;
  unsigned hits = 0;
  const auto look = [&](const uint4& v, int c) {
    uint32_t top;
    if constexpr (sizeof(typename T::Bits) == 2) {
      const uint32_t pairs = __vmaxu2(__vmaxu2(v.x & 0x7FFF7FFFu, v.y & 0x7FFF7FFFu), __vmaxu2(v.z & 0x7FFF7FFFu, v.w & 0x7FFF7FFFu));
      top = max(pairs >> 16, pairs & 0xFFFF);
    } else {
      top = max(max(v.x & ~T::kSign, v.y & ~T::kSign), max(v.z & ~T::kSign, v.w & ~T::kSign));
    }
    hits |= static_cast<unsigned>(T::wide(static_cast<typename T::Bits>(top)) >= bar) << c;
  };
  if (a.g.vectors) {
    uint4 chunks[kDeep];
#pragma unroll
    for (int c = 0; c < kDeep; ++c)
      chunks[c] = begin + c * kWide < a.o.d ? __ldg(reinterpret_cast<const uint4*>(x + begin + c * kWide)) : make_uint4(0, 0, 0, 0);
#pragma unroll
    for (int c = 0; c < kDeep; ++c) look(chunks[c], c);
  } else {
#pragma unroll 1
    for (int c = 0; c < kDeep; ++c) look(load_chunk<T>(a, x, begin + c * kWide), c);
  }
  for (; hits && read_now(found.n) <= found.room; hits &= hits - 1) {
    const int64_t start = begin + (__ffs(hits) - 1) * kWide;
    Chunk<T> chunk{load_chunk<T>(a, x, start)};  // again: 8 chunks cannot be named by a number
#pragma unroll 1
    for (int64_t feature = start; feature < min(start + kPerChunk<T>, a.o.d); ++feature) {
      const typename T::Bits bits = chunk.next(), magnitude = bits & (T::kSign - 1);
      if (magnitude >= T::kInf || T::wide(magnitude) < bar) continue;
      const uint32_t at = atomicAdd(&found.n, 1u);
      if (at < found.room)
        found.entries[at] = {T::wide(magnitude), static_cast<uint32_t>(feature) << 1 | (bits != magnitude), list_entries(a)[listed].token};
    }
  }
}

// Mostly few rows are listed, and few of their elements reach the bar: each warp looks at its slices of them, and while memory
// answers others give the table of counts away. Where there are more, or no bar, n_few says so, and best_elements finds them.
template <class T>
__device__ __forceinline__ void find_few(const Launch& a) {
  Control& c = control();
  const uint32_t slices = slices_of<T>(a), n = c.n_listed * slices;
  if (static_cast<uint32_t>(warp_id()) >= n) return;
  const unsigned long long bar = c.bar;  // as warps of which many rows waited have read it
  if (c.n_listed > kFew || magnitude_of_bar(bar) == 0) {
    if (lane_id() == 0) atomicAdd(&c.n_few, kFew + 1);
    return;
  }
  const Found found{c.few, kFew, c.n_few};
#pragma unroll 1
  for (uint32_t i = warp_id(); i < n && read_now(c.n_few) <= kFew; i += blockDim.x / 32) {
    const Entry& listed = list_entries(a)[i / slices];
    if (list_key(a, listed.bits, list_rows(a)[i / slices]) >= bar) read_slice<T>(a, i / slices, i % slices, magnitude_of_bar(bar), found);
  }
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
  visit_row<T, 1>(a, row_at<T>(a, row), [&](const uint4& words, int64_t start) {
    int equal = 0, found = 0;
    Chunk<T> chunk{words};
#pragma unroll 1
    for (int e = 0; e < kPerChunk<T>; ++e) {
      const int magnitude = magnitude_of<T>(chunk.next(), start + e < a.o.d);
      equal += magnitude == static_cast<int>(bar), found += magnitude >= static_cast<int>(bar);
    }
    if (!__any_sync(kWarp, found)) return;
    int before_me = equal;
#pragma unroll 1
    for (int offset = 1; offset < 32; offset <<= 1) {
      const int other = __shfl_up_sync(kWarp, before_me, offset);
      if (lane_id() >= offset) before_me += other;
    }
    const int all_equal = __shfl_sync(kWarp, before_me, 31);
    before_me -= equal;
    chunk = {words};
#pragma unroll 1
    for (int e = 0; e < kPerChunk<T>; ++e) {
      const typename T::Bits bits = chunk.next();
      const int magnitude = magnitude_of<T>(bits, start + e < a.o.d);
      const bool ties = magnitude == static_cast<int>(bar);
      if (magnitude > static_cast<int>(bar) || (ties && before_me < equal_left)) {
        const uint32_t negative = (bits & T::kSign) != 0;
        buffer[atomicAdd(&control().n_buffered, 1u)] = {static_cast<uint32_t>(magnitude),
                                                         static_cast<uint32_t>(start + e) << 1 | negative, token};
      }
      before_me += ties;
    }
    equal_left -= all_equal;
  });
}

// A magnitude that topk of the counted elements reach, from the table in shared memory, or `bar` if that is not less or
// the table does not tell. It matters for small tensors: with fewer than topk rows the slots know nothing. All threads.
template <class T>
__device__ __noinline__ uint32_t bar_of_table(const Launch& a, uint32_t bar) {
  Control& c = control();
  const uint32_t topk = a.o.topk;
  const int top = key_of<T>(c.record.absmax_bits), floor = key_of<T>(bar);
  if (!a.f.counts || a.g.first_bin || top >= a.g.n_bins) return bar;
  if (threadIdx.x == 0) c.worst_at = bar;
  // Downwards from the largest, four cells a thread, until topk elements are found.
  uint32_t found = 0;
  for (int end = (top | 3) + 1; end > floor && found < topk; end -= blockDim.x * 4) {
    const int first = end - 4 - 4 * static_cast<int>(threadIdx.x);
    uint4 n = first < 0 ? make_uint4(0, 0, 0, 0) : *reinterpret_cast<const uint4*>(table() + first);
    if (first == 0) n.x = 0;
    const uint32_t mine = min(n.x, topk) + min(n.y, topk) + min(n.z, topk) + min(n.w, topk);
    uint32_t through = mine;
#pragma unroll 1
    for (int offset = 1; offset < 32; offset <<= 1) {
      const uint32_t other = __shfl_up_sync(kWarp, through, offset);
      if (lane_id() >= offset) through += other;
    }
    __syncthreads();
    if (lane_id() == 31) c.exchange[warp_id()] = through;
    __syncthreads();
    through += found;
#pragma unroll 1
    for (uint32_t i = 0; i < blockDim.x / 32; ++i) {
      const uint32_t other = static_cast<uint32_t>(c.exchange[i]);
      if (i < static_cast<uint32_t>(warp_id())) through += other;
      found += other;
    }
    if (through >= topk && through - mine < topk) {
      uint32_t bin = first + 4;
      for (uint32_t left = topk - (through - mine), cell = 0; left; left -= cell) cell = min(table()[--bin], left);
      c.worst_at = max(bar, T::wide(static_cast<typename T::Bits>(sizeof(typename T::Bits) == 2 ? bin : bin << 16)));
    }
  }
  __syncthreads();
  return c.worst_at;
}

// The first topk elements of the block's listed rows, at the front of the arena. Returns how many.
template <class T>
__device__ __noinline__ uint32_t best_elements(const Launch& a) {
  Control& c = control();
  if (warp_id() == 0) {
    const unsigned long long risen = read_bar(a);
    __syncwarp();  // all lanes have read the old one
    if (lane_id() == 0) write_now(c.bar, risen);
  }
  __syncthreads();
  const uint32_t topk = a.o.topk, n_warps = blockDim.x / 32;
  uint32_t bar = magnitude_of_bar(c.bar);
  if (bar == 0) bar = bar_of_table<T>(a, bar);
  // Rows in order, each entry with the row's place in the list.
  uint32_t n_rows = 0;
  Entry* const order = arena();
  Entry* const buffer = order + a.g.n_order;
  __syncthreads();
  if (threadIdx.x == 0) c.n_buffered = 0, c.worst_at = 0;
  __syncthreads();
  for (uint32_t i = threadIdx.x; i < c.n_listed; i += blockDim.x) {
    const Entry listed = list_entries(a)[i];
    if (listed.bits >= bar && list_key(a, listed.bits, list_rows(a)[i]) >= c.bar)
      order[atomicAdd(&c.worst_at, 1u)] = {listed.bits, i, listed.token};
  }
  __syncthreads();
  n_rows = c.worst_at;
  // One reading of each row is enough if the buffer is.
  const uint32_t slices = slices_of<T>(a);
  const Found found{buffer, a.g.n_buffer, c.n_buffered};
#pragma unroll 1
  for (uint32_t i = warp_id(); i < n_rows * slices && read_now(c.n_buffered) <= a.g.n_buffer; i += n_warps)
    read_slice<T>(a, order[i / slices].feature_sign, i % slices, bar, found);
  __syncthreads();
  uint32_t n = c.n_buffered;
  if (n <= a.g.n_buffer) {
    if (n > topk) n = first_entries(a.g.n_order, n, topk);
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
      n = first_entries(a.g.n_order, n, topk);
      if (threadIdx.x == 0) c.n_buffered = n;
      __syncthreads();
    }
  }
  for (uint32_t i = threadIdx.x; i < n; i += blockDim.x) order[i] = buffer[i];
  __syncthreads();
  return n;
}

}  // namespace maxact::cuda
