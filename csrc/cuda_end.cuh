// The end of a block, and of the launch: what blocks gathered goes to the state, by integers, maxima and total orders,
// so that no order of blocks can change a bit. The block that is done last closes the books.
#pragma once

#include "cuda_facts.cuh"
#include "cuda_sort.cuh"

namespace maxact::cuda {

__device__ __forceinline__ void merge_records(BlockRecord& r, const BlockRecord& other) {
  if (larger_ratio(other.ratio, r.ratio)) r.ratio = other.ratio;
  if (larger_peak(other.peak, r.peak)) r.peak = other.peak;
  if (other.nonfinite_token < r.nonfinite_token ||
      (other.nonfinite_token == r.nonfinite_token && other.nonfinite_feature < r.nonfinite_feature))
    r.nonfinite_token = other.nonfinite_token, r.nonfinite_feature = other.nonfinite_feature;
  r.highest = fmaxf(r.highest, other.highest), r.lowest = fminf(r.lowest, other.lowest);
  if (other.absmax_bits > r.absmax_bits)
    r.absmax_bits = other.absmax_bits, r.n_absmax = other.n_absmax;
  else if (other.absmax_bits == r.absmax_bits)
    r.n_absmax += other.n_absmax;
}

// The piece of the mask that block `block` counts: whole words, so that ranks of rows are found from few sums.
__device__ __forceinline__ uint32_t piece_rows(const Launch& a) { return (a.n_rows + gridDim.x - 1) / gridDim.x; }

// The id of a row that nobody named: how many tokens came before it. One warp.
__device__ __forceinline__ int64_t default_id(const Launch& a, int64_t first, uint32_t row) {
  if (!a.mask) return first + row;
  const uint32_t piece = row / piece_rows(a);
  unsigned kept = 0;
  for (uint32_t i = lane_id(); i < piece; i += 32) kept += __ldcg(a.scratch.piece_kept + i);
  for (uint32_t i = piece * piece_rows(a) + lane_id(); i < row; i += 32) kept += a.mask[i] != 0;
  return first + __reduce_add_sync(kAll, kept);
}

// Merges the blocks' entries and the state's own list: the k first of both.
__device__ __forceinline__ void close_topk(const Launch& a, int64_t first_token) {
  Entry* const merged = arena();
  const uint32_t topk = a.o.topk, n_all = __ldcg(a.scratch.n_entries), bar = read_bar(a);
  uint32_t n = 0;
  for (uint32_t next = 0; next < n_all;) {
    if (threadIdx.x == 0) control().n_buffered = n;
    __syncthreads();
    // What the bar has passed since it was written is left out.
    const uint32_t room = a.g.n_buffer - n, end = min(n_all, next + room);
    for (uint32_t i = next + threadIdx.x; i < end; i += blockDim.x) {
      const uint4 raw = __ldcg(reinterpret_cast<const uint4*>(a.scratch.entries + i));
      const Entry entry{raw.x, raw.y, static_cast<int64_t>(static_cast<uint64_t>(raw.w) << 32 | raw.z)};
      if (entry.bits >= bar) merged[atomicAdd(&control().n_buffered, 1u)] = entry;
    }
    __syncthreads();
    next = end, n = control().n_buffered;
    if (n > topk) sort_entries(0, n), n = topk;
    __syncthreads();
  }
  if (!a.ids)
    for (uint32_t i = warp_id(); i < n; i += blockDim.x / 32) {
      const int64_t id = default_id(a, first_token, static_cast<uint32_t>(merged[i].token));
      __syncwarp();
      if (lane_id() == 0) merged[i].token = id;
    }
  for (uint32_t i = threadIdx.x; i < topk; i += blockDim.x) {
    const uint32_t value = float_bits(a.f.topk_values[i]);
    const bool empty = isnan(bits_float(value));
    merged[n + i] = empty ? Entry{0, 0xFFFFFFFFu, INT64_MAX}
                         : Entry{value & 0x7FFFFFFFu, static_cast<uint32_t>(a.f.topk_features[i]) << 1 | value >> 31,
                                 a.f.topk_token_ids[i]};
  }
  __syncthreads();
  sort_entries(0, n + topk);
  for (uint32_t i = threadIdx.x; i < topk; i += blockDim.x) {
    const Entry& e = merged[i];
    if (e.feature_sign == 0xFFFFFFFFu) continue;  // an empty slot: all behind it are empty, and were
    a.f.topk_values[i] = bits_float(e.bits | e.feature_sign << 31);
    a.f.topk_token_ids[i] = e.token;
    a.f.topk_features[i] = e.feature_sign >> 1;
  }
}

template <class T>
__device__ __noinline__ void close_books(const Launch& a) {
  const Fields& f = a.f;
  BlockRecord* const records = reinterpret_cast<BlockRecord*>(arena() + a.g.n_buffer);
  for (uint32_t i = threadIdx.x; i < gridDim.x; i += blockDim.x) {
    const uint4* from = reinterpret_cast<const uint4*>(a.scratch.records + i);
    uint4* to = reinterpret_cast<uint4*>(records + i);
    for (int j = 0; j < static_cast<int>(sizeof(BlockRecord) / 16); ++j) to[j] = __ldcg(from + j);
  }
  const int64_t first_token = *f.n_tokens;
  close_topk(a, first_token);
  __syncthreads();
  for (uint32_t half = 128; half; half /= 2) {
    for (uint32_t i = threadIdx.x; i < half; i += blockDim.x)
      if (i + half < gridDim.x) {
        for (uint32_t j = i + half; j < gridDim.x && half == 128; j += half) merge_records(records[i], records[j]);
        if (half < 128) merge_records(records[i], records[i + half]);
      }
    __syncthreads();
  }
  if (warp_id() == 0) {
    BlockRecord r = records[0];
    if (!a.ids) {
      if (r.ratio.id != kNoToken) r.ratio.id = default_id(a, first_token, static_cast<uint32_t>(r.ratio.id));
      if (r.peak.id != kNoToken) r.peak.id = default_id(a, first_token, static_cast<uint32_t>(r.peak.id));
      if (r.nonfinite_feature != kNoToken)
        r.nonfinite_token = default_id(a, first_token, static_cast<uint32_t>(r.nonfinite_token));
    }
    if (lane_id() == 0) {
      const unsigned long long n_rows = __ldcg(a.scratch.n_rows_kept);
      if (n_rows) {
        if (!isnan(r.ratio.ratio)) keep_ratio(f, r.ratio);
        if (!isnan(r.peak.absmax)) keep_peak(f, r.peak);
        if (r.nonfinite_feature != kNoToken) keep_nonfinite(f, r.nonfinite_token, r.nonfinite_feature);
        *f.max = fmaxf(*f.max, r.highest + 0.0f);  // + 0.0 drops the sign of a zero
        *f.neg_min = fmaxf(*f.neg_min, 0.0f - r.lowest);
        const float absmax = bits_float(r.absmax_bits);
        if (*f.absmax > absmax) {
        } else if (absmax == 0) {
          *f.n_absmax = static_cast<int64_t>(__ldcg(reinterpret_cast<unsigned long long*>(f.n_zero)));
        } else if (f.counts && sizeof(typename T::Bits) == 2) {
          *f.absmax = absmax;
          const int key = static_cast<int>(T::kInf == 0x7C00 ? __half_as_ushort(__float2half_rz(absmax)) : r.absmax_bits >> 16);
          *f.n_absmax = static_cast<int64_t>(__ldcg(reinterpret_cast<unsigned long long*>(f.counts + key)));
        } else {
          keep_absmax(f, absmax, r.n_absmax);
        }
      }
      *f.n_tokens = first_token + static_cast<int64_t>(n_rows);
      *a.scratch.n_rows_kept = 0, *a.scratch.n_entries = 0, *a.scratch.blocks_done = 0;
    }
  }
  for (int i = threadIdx.x; i < a.o.topk; i += blockDim.x) a.scratch.slots[i] = 0;
}

__device__ __forceinline__ void add_to(int64_t* field, unsigned long long n) {
  if (n) atomicAdd(reinterpret_cast<unsigned long long*>(field), n);
}

// Raises the state's per-feature maxima by the block's, which lie in its warps' registers.
template <class T, int kWords>
__device__ __forceinline__ void flush_peaks(const Launch& a, const uint32_t (&peaks)[kWords], bool works) {
  constexpr int kChunks = kWords / 4;
  const int lanes = a.g.lanes, size = a.g.team;
  uint4* mine = reinterpret_cast<uint4*>(stage_of(a, warp_id())) + lane_id();
#pragma unroll
  for (int c = 0; c < kChunks; ++c)
    if (works) mine[c * 32] = make_uint4(peaks[4 * c], peaks[4 * c + 1], peaks[4 * c + 2], peaks[4 * c + 3]);
  __syncthreads();
  // Word w of a row's slots: in chunk w / 4 of those that its lanes hold, lane by lane.
  const int n_words = size * kChunks * lanes * 4;
  for (int w = threadIdx.x; w < n_words; w += blockDim.x) {
    const int rank = w / (kChunks * lanes * 4), chunk = w / 4 % (kChunks * lanes) / lanes, lane = w / 4 % lanes;
    constexpr int kPerWord = 4 / static_cast<int>(sizeof(typename T::Bits));
    const int feature = w * kPerWord;
    if (feature >= a.o.d) continue;
    uint32_t peak = 0;
    for (int team = 0; team < a.g.n_teams; ++team)
      for (int group = lane; group < 32; group += lanes) {
        const uint32_t* stage = reinterpret_cast<const uint32_t*>(stage_of(a, team * size + rank));
        const uint32_t other = stage[(chunk * 32 + group) * 4 + w % 4];
        peak = kPerWord == 2 ? __vmaxu2(peak, other) : max(peak, other);
      }
#pragma unroll
    for (int i = 0; i < kPerWord; ++i) {
      const auto magnitude = static_cast<typename T::Bits>(peak >> (16 * i));
      const float value = bits_float(T::wide(magnitude));
      if (feature + i < a.o.d && value > __ldcg(a.f.channel_absmax + feature + i))
        atomicMax(reinterpret_cast<int*>(a.f.channel_absmax + feature + i), static_cast<int>(float_bits(value)));
    }
  }
}

template <class T>
__device__ __noinline__ void block_close(const Launch& a) {
  Control& c = control();
  const Fields& f = a.f;
  const uint32_t block_bar = bar_of_table<T>(a);
  // Counts: each block begins elsewhere, so that blocks that end together do not meet in one cell.
  const uint32_t n_bins = a.g.n_bins, turn = blockIdx.x * 1021 * 4 % max(n_bins, 4u);
  for (uint32_t i = threadIdx.x * 4; i < n_bins; i += blockDim.x * 4) {
    const uint32_t bin = i + turn < n_bins ? i + turn : i + turn - n_bins;
    const uint4 n = *reinterpret_cast<const uint4*>(table() + bin);
    if (bin + a.g.first_bin != 0 && (n.x | n.y | n.z | n.w) == 0) continue;
    unsigned long long* cells = reinterpret_cast<unsigned long long*>(f.counts + a.g.first_bin + bin);
    uint32_t x = n.x;
    if (bin + a.g.first_bin == 0) {  // less the zeros that are no elements
      x -= static_cast<uint32_t>(c.counters[kPads] - c.counters[kRowsKept] * a.o.d);
      if (sizeof(typename T::Bits) == 2) c.counters[kZeros] = x;
    }
    if (x) atomicAdd(cells, static_cast<unsigned long long>(x));
    if (n.y) atomicAdd(cells + 1, static_cast<unsigned long long>(n.y));
    if (n.z) atomicAdd(cells + 2, static_cast<unsigned long long>(n.z));
    if (n.w) atomicAdd(cells + 3, static_cast<unsigned long long>(n.w));
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    if (f.counts && a.g.first_bin) {  // zeros lie outside the window
      const unsigned long long zeros = c.zero_keys - (c.counters[kPads] - c.counters[kRowsKept] * a.o.d);
      add_to(f.counts, zeros);
      if (sizeof(typename T::Bits) == 2) c.counters[kZeros] = zeros;
    }
    const unsigned long long n_bad = c.counters[kNan] + c.counters[kInf];
    const bool table_tells = f.counts && sizeof(typename T::Bits) == 2;
    add_to(f.n_elements, c.counters[kRowsKept] * a.o.d - n_bad);
    add_to(f.n_zero, c.counters[kZeros] - (table_tells ? 0 : n_bad));
    add_to(reinterpret_cast<int64_t*>(a.scratch.n_rows_kept), c.counters[kRowsKept]);
    add_to(f.n_nan, c.counters[kNan]);
    add_to(f.n_inf, c.counters[kInf]);
    add_to(f.n_nonfinite_tokens, c.counters[kNonfiniteTokens]);
    add_to(f.n_massive_tokens, c.counters[kMassiveTokens]);
    add_to(f.n_massive_elements, c.counters[kMassiveElements]);
    add_to(f.n_zero_median, c.counters[kZeroMedian]);
    add_to(f.n_outside_samples, c.counters[kOutsideSamples]);
    if (f.n_ratios) add_to(f.n_ratios, c.counters[kRatios]);
  }

  const uint32_t n = best_elements<T>(a, block_bar);
  if (threadIdx.x == 0) c.n_buffered = n ? atomicAdd(a.scratch.n_entries, n) : 0;
  if (a.mask && !a.ids) {
    const uint64_t begin = static_cast<uint64_t>(blockIdx.x) * piece_rows(a);
    const uint64_t end = min(begin + piece_rows(a), static_cast<uint64_t>(a.n_rows));
    unsigned kept = 0;
    for (uint64_t i = begin + threadIdx.x; i < end; i += blockDim.x) kept += a.mask[i] != 0;
    kept = __reduce_add_sync(kAll, kept);
    if (threadIdx.x == 0) c.worst_at = 0;
    __syncthreads();
    if (lane_id() == 0) atomicAdd(&c.worst_at, kept);
    __syncthreads();
    if (threadIdx.x == 0) a.scratch.piece_kept[blockIdx.x] = c.worst_at;
  }
  __syncthreads();
  for (uint32_t i = threadIdx.x; i < n; i += blockDim.x) a.scratch.entries[c.n_buffered + i] = arena()[i];
  if (threadIdx.x == 0) a.scratch.records[blockIdx.x] = c.record;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) c.is_last = atomicAdd(a.scratch.blocks_done, 1u) == gridDim.x - 1;
  __syncthreads();
  if (!c.is_last) return;
  __threadfence();
  close_books<T>(a);
}

}  // namespace maxact::cuda
