// The end of a launch: the block that is done last gives what all blocks gathered to the state.
//
// Here and in cuda_sort.cuh loops that the compiler would unroll, and need not wait for memory, stay loops: they run once or twice, code
// that comes for the first time costs 56 ns for 8 instructions, and all of it is compiled again for every kernel.
#pragma once

#include <initializer_list>

#include "cuda_facts.cuh"
#include "cuda_sort.cuh"

namespace maxact::cuda {

// Scratch::n_waiting is three numbers: how many entries wait (at most blocks * topk), in units of kOneRecord how many records do, and
// in units of kOneBlock how many blocks are done. So the block that is done last knows all from one answer.
constexpr unsigned long long kOneRecord = 1ull << 24, kOneBlock = 1ull << 44;
struct Waiting {
  uint32_t n_entries, n_records, n_blocks;
  __device__ __forceinline__ explicit Waiting(unsigned long long n)
      : n_entries(n % kOneRecord), n_records(n % kOneBlock / kOneRecord), n_blocks(n / kOneBlock) {}
};

// Whether what the block's record holds may change the state, besides the number of those that tie with its largest. Once a stream has
// had many tokens mostly none does.
__device__ __forceinline__ bool has_news(bool ties) {
  const Control& c = control();
  const BlockRecord& r = c.record;
  return !isnan(r.ratio.ratio) || !isnan(r.peak.absmax) || r.nonfinite_feature != kNoToken ||
         !(ties || bits_float(r.absmax_bits) < c.stream_absmax) || !(r.highest <= c.stream_max) || !(-r.lowest <= c.stream_neg_min);
}
// The block's elements that tie with the stream's largest, where it has their number at hand; 0: the record has to tell. To be called
// while the table of counts is as rows left it, before anything is sorted in its place.
template <class T>
__device__ __forceinline__ uint32_t n_tied(const Launch& a) {
  const Control& c = control();
  const uint32_t bits = c.record.absmax_bits;
  if (!bits || bits_float(bits) != c.stream_absmax) return 0;
  if (sizeof(typename T::Bits) != 2 || !a.f.counts) return c.record.n_absmax;
  return table_knows_least<T>(a) && key_of<T>(bits) < a.g.n_bins ? table()[key_of<T>(bits)] : 0;
}

// The piece of the mask that block `block` counts: whole words, so that ranks of rows are found from few sums.
__device__ __forceinline__ uint32_t piece_rows(const Launch& a) { return (a.n_rows + gridDim.x - 1) / gridDim.x; }

// How many rows before this one the mask keeps. One warp.
static __device__ __noinline__ uint32_t kept_before(const Launch& a, uint32_t row) {
  const uint32_t piece = row / piece_rows(a);
  const uint32_t begin = piece * piece_rows(a);
  const uint32_t of_pieces = share_of(piece, 0u, [&](uint32_t i) { return __ldcg(a.scratch.piece_kept + i); }, Add());
  const uint32_t of_rows = share_of(row - begin, 0u, [&](uint32_t i) { return uint32_t{a.mask[begin + i] != 0}; }, Add());
  return __reduce_add_sync(kWarp, of_pieces + of_rows);
}
// The id of a row that nobody named: how many tokens came before it. One warp.
__device__ __forceinline__ int64_t default_id(const Launch& a, int64_t first, uint32_t row) {
  return first + (a.mask ? kept_before(a, row) : row);
}

// The lane whose words come first, larger ones before smaller.
__device__ __forceinline__ int first_lane(std::initializer_list<uint32_t> words) {
  bool in = true;
  for (const uint32_t word : words) in &= word == __reduce_max_sync(kWarp, in ? word : 0);
  return __ffs(__ballot_sync(kWarp, in)) - 1;
}
// The halves of a number, so that of two the smaller comes first.
__device__ __forceinline__ uint32_t upper(int64_t n) { return ~static_cast<uint32_t>(n >> 32) ^ 0x80000000u; }
__device__ __forceinline__ uint32_t lower(int64_t n) { return ~static_cast<uint32_t>(n); }

// A float as a number that orders as it does, and back.
__device__ __forceinline__ uint32_t ordinal(float value) {
  const uint32_t bits = float_bits(value);
  return bits ^ (bits >> 31 ? 0xFFFFFFFFu : 0x80000000u);
}
__device__ __forceinline__ float of_ordinal(uint32_t n) { return bits_float(n ^ (n >> 31 ? 0x80000000u : 0xFFFFFFFFu)); }

// At the end of the launch the blocks' records lie behind all that is sorted.
__device__ __forceinline__ BlockRecord* records_of(const Launch& a) {
  return reinterpret_cast<BlockRecord*>(arena() + a.g.n_order + a.g.n_buffer);
}

// The record of one kind among all blocks', which a lane then gives to the state. One warp a kind.
template <class T>
__device__ __forceinline__ void close_records(const Launch& a, int64_t first_token, uint32_t n_records, int kind) {
  const Fields& f = a.f;
  const BlockRecord* const records = records_of(a);
  const auto id_of = [&](int64_t row) { return a.ids ? row : default_id(a, first_token, static_cast<uint32_t>(row)); };
  if (kind < 2) {
    Token best{0, 0, bits_float(0x7FC00000u), kNoToken};  // `ratio` is what the kind goes by
#pragma unroll 1
    for (uint32_t i = lane_id(); i < n_records; i += 32) {
      Token token = kind ? records[i].peak : records[i].ratio;
      if (kind) token.ratio = token.absmax;
      if (larger_ratio(token, best)) best = token;
    }
    const uint32_t key = isnan(best.ratio) ? 0 : float_bits(best.ratio) + 1;
    const int lane = first_lane({key, upper(best.id), lower(best.id), float_bits(best.absmax), float_bits(best.median)});
    if (!__shfl_sync(kWarp, key, lane)) return;
    best.id = id_of(__shfl_sync(kWarp, best.id, lane));
    if (lane_id() == lane) kind ? keep_peak(f, best) : keep_ratio(f, best);
  } else if (kind == 2) {
    int64_t token = kNoToken, feature = kNoToken;
#pragma unroll 1
    for (uint32_t i = lane_id(); i < n_records; i += 32) {
      const int64_t t = records[i].nonfinite_token, at = records[i].nonfinite_feature;
      if (t < token || (t == token && at < feature)) token = t, feature = at;
    }
    const int lane = first_lane({upper(token), lower(token), upper(feature), lower(feature)});
    token = __shfl_sync(kWarp, token, lane), feature = __shfl_sync(kWarp, feature, lane);
    if (feature == kNoToken) return;
    token = id_of(token);
    if (lane_id() == 0) keep_nonfinite(f, token, feature);
  } else {
    float highest = -bits_float(kInfinity), lowest = bits_float(kInfinity);
    uint32_t absmax_bits = 0;
    unsigned long long n_absmax = 0;
#pragma unroll 1
    for (uint32_t i = lane_id(); i < n_records; i += 32) {
      highest = fmaxf(highest, records[i].highest), lowest = fminf(lowest, records[i].lowest);
      const uint32_t bits = records[i].absmax_bits, n = records[i].n_absmax;
      n_absmax = bits > absmax_bits ? n : bits == absmax_bits ? n_absmax + n : n_absmax;
      absmax_bits = max(absmax_bits, bits);
    }
    highest = of_ordinal(__reduce_max_sync(kWarp, ordinal(highest))), lowest = of_ordinal(__reduce_min_sync(kWarp, ordinal(lowest)));
    const uint32_t largest = __reduce_max_sync(kWarp, absmax_bits);
    n_absmax = absmax_bits == largest ? n_absmax : 0;
    const uint32_t above = __reduce_add_sync(kWarp, static_cast<uint32_t>(n_absmax >> 24));
    n_absmax = (static_cast<uint64_t>(above) << 24) + __reduce_add_sync(kWarp, static_cast<uint32_t>(n_absmax & 0xFFFFFF));
    if (lane_id() != 0) return;
    *f.max = fmaxf(*f.max, highest + 0.0f);  // + 0.0 drops the sign of a zero
    *f.neg_min = fmaxf(*f.neg_min, 0.0f - lowest);
    const float absmax = bits_float(largest);
    if (*f.absmax > absmax) return;
    if (absmax == 0) {
      *f.n_absmax = static_cast<int64_t>(__ldcg(reinterpret_cast<unsigned long long*>(f.n_zero)));
    } else if (f.counts && sizeof(typename T::Bits) == 2) {
      *f.absmax = absmax;
      *f.n_absmax = static_cast<int64_t>(__ldcg(reinterpret_cast<unsigned long long*>(f.counts + key_of<T>(largest))));
    } else {
      keep_absmax(f, absmax, n_absmax);
    }
  }
}

// The state's k largest elements, in place of the list of rows.
struct StateList {
  uint32_t tokens, features, values;  // where they lie in shared memory
  __device__ __forceinline__ explicit StateList(const Launch& a) {
    const uint32_t n_bytes = (a.o.topk * 8 + 15) / 16 * 16;
    tokens = a.g.list_at, features = tokens + n_bytes, values = features + n_bytes;
  }
  __device__ __forceinline__ void ask(const Launch& a) const {
    const auto copy = [](uint32_t to, const void* from, int n_bytes) {
      for (int i = threadIdx.x * 16; i < n_bytes; i += blockDim.x * 16)
        copy_async(shared_address(shared + to) + i, static_cast<const char*>(from) + i);
    };
    copy(tokens, a.f.topk_token_ids, a.o.topk * 8), copy(features, a.f.topk_features, a.o.topk * 8);
    copy(values, a.f.topk_values, a.o.topk * 4);
    copies_end();
  }
  __device__ __forceinline__ Entry operator[](int i) const {
    const uint32_t value = reinterpret_cast<const uint32_t*>(shared + values)[i];
    if (isnan(bits_float(value))) return {0, 0xFFFFFFFFu, INT64_MAX};
    const auto feature = static_cast<uint32_t>(reinterpret_cast<const int64_t*>(shared + features)[i]);
    return {value & 0x7FFFFFFFu, feature << 1 | value >> 31, reinterpret_cast<const int64_t*>(shared + tokens)[i]};
  }
};

// Merges the blocks' entries and the state's own list: the k first of both. Brings the blocks' records, too: everything
// that is needed is asked for at once.
template <class T>
__device__ __forceinline__ void close_topk(const Launch& a, int64_t first_token, uint32_t n_all, uint32_t n_records) {
  Control& c = control();
  const StateList list(a);
  if (n_all) list.ask(a);
  const uint32_t topk = a.o.topk;
  Entry* const state = arena();
  Entry* const merged = state + a.g.n_order;
  const int64_t shift = a.ids || a.mask ? 0 : first_token;
  const auto each_entry = [&](uint32_t begin, uint32_t end, uint32_t bar, auto take) {
    for (uint32_t i = begin + threadIdx.x; i < end; i += blockDim.x) {
      const uint4 raw = __ldcg(reinterpret_cast<const uint4*>(a.scratch.entries + i));
      if (raw.x >= bar) take(Entry{raw.x, raw.y, static_cast<int64_t>(static_cast<uint64_t>(raw.w) << 32 | raw.z) + shift});
    }
  };
  uint32_t bar = magnitude_of_bar(n_all > topk ? read_bar(a) : c.bar);
  if (n_all > blockDim.x && a.g.n_bins) {  // a first update of a small tensor, where each block sends all it may
#pragma unroll 1
    for (int i = threadIdx.x; i < a.g.n_bins / 4; i += blockDim.x) reinterpret_cast<uint4*>(table())[i] = make_uint4(0, 0, 0, 0);
    __syncthreads();
    each_entry(0, n_all, bar, [&](const Entry& e) {
      const int key = key_of<T>(e.bits);
      if (key < a.g.n_bins) atomicAdd(table() + key, 1u);
      atomicMax(&c.record.absmax_bits, e.bits);
    });
    __syncthreads();
    bar = bar_of_table<T>(a, bar);
    __syncthreads();
  }
  constexpr int kPieces = sizeof(BlockRecord) / 16;
  static_assert(sizeof(BlockRecord) % 16 == 0);
  const uint32_t to = static_cast<uint32_t>(__cvta_generic_to_shared(records_of(a)));
  for (uint32_t i = threadIdx.x; i < n_records * kPieces; i += blockDim.x)
    copy_async(to + i * 16, reinterpret_cast<const uint4*>(a.scratch.records) + i);
  copies_end();
  uint32_t n = 0;
  for (uint32_t next = 0; next < n_all;) {
    // Once there are topk, only what comes before the last of them; where rows tie, each block sent as many.
    const uint32_t end = min(n_all, next + (n < topk ? min(a.g.n_buffer, 2 * max(topk, blockDim.x)) : a.g.n_buffer) - n);
    const unsigned __int128 last = n < topk ? ~static_cast<unsigned __int128>(0) : order_of(merged[topk - 1]);
    each_entry(next, end, bar, [&](const Entry& e) {
      if (order_of(e) < last) merged[atomicAdd(&c.n_buffered, 1u)] = e;
    });
    __syncthreads();
    next = end, n = c.n_buffered;
    n = first_entries(a.g.n_order, n, topk);
    if (threadIdx.x == 0) c.n_buffered = n;
    __syncthreads();
  }
  if (a.mask && !a.ids)
    for (uint32_t i = warp_id(); i < n; i += blockDim.x / 32) {
      const int64_t id = default_id(a, first_token, static_cast<uint32_t>(merged[i].token));
      __syncwarp();
      if (lane_id() == 0) merged[i].token = id;
    }
  copies_arrived<0>();
  __syncthreads();
  if (!n_all) return;
  for (uint32_t i = threadIdx.x; i < topk; i += blockDim.x) state[i] = list[i];
  __syncthreads();
  // Each entry moves behind those of the other list that come before it.
  const auto keep = [&](uint32_t at, const Entry& e) {
    if (at >= topk || e.feature_sign == 0xFFFFFFFFu) return;
    a.f.topk_values[at] = bits_float(e.bits | e.feature_sign << 31);
    a.f.topk_token_ids[at] = e.token;
    a.f.topk_features[at] = e.feature_sign >> 1;
  };
  for (uint32_t i = threadIdx.x; i < n + topk; i += blockDim.x) {
    const bool is_new = i < n;
    const Entry e = is_new ? merged[i] : state[i - n];
    const Entry* const others = is_new ? state : merged;
    uint32_t low = 0, high = is_new ? topk : n;  // of two that are the same the state's comes first
    while (low < high) {
      const uint32_t middle = (low + high) / 2;
      if (is_new ? !before(e, others[middle]) : before(others[middle], e)) low = middle + 1;
      else high = middle;
    }
    if (is_new) keep(i + low, e);
    else if (low) keep(i - n + low, e);
  }
}

template <class T>
__device__ __forceinline__ void close_books(const Launch& a, int64_t first_token, const Waiting& waiting) {
  const uint64_t n_rows = a.mask ? __ldcg(a.scratch.n_rows_kept) : a.n_rows;
  if (waiting.n_entries || waiting.n_records) {
    close_topk<T>(a, first_token, waiting.n_entries, waiting.n_records);
    // The last warps, since the first are still busy with the list.
    const int n_warps = blockDim.x / 32;
    if (waiting.n_records)
      for (int kind = n_warps - 1 - warp_id(); kind < 4; kind += n_warps) close_records<T>(a, first_token, waiting.n_records, kind);
    __syncthreads();
  }
  if (threadIdx.x == 0) {
    *a.f.n_tokens = first_token + static_cast<int64_t>(n_rows);
    *a.scratch.n_rows_kept = 0, *a.scratch.n_asked = 0;
    write_now(*a.scratch.n_waiting, 0ull);  // nothing orders it after the last additions but their answers
  }
  for (int i = threadIdx.x; i < a.o.topk; i += blockDim.x) a.scratch.slots[i] = 0;
}

__device__ __forceinline__ void add_to(int64_t* field, unsigned long long n) {
  if (n) add_global(field, n);
}

}  // namespace maxact::cuda
