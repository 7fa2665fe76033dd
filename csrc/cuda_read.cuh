// Reading rows again, one warp a row: the few that may hold some of the k largest elements.
#pragma once

#include "cuda_block.cuh"

namespace maxact::cuda {

template <class T>
constexpr int kPerChunk = 16 / sizeof(typename T::Bits);  // elements in 16 bytes

// The elements of 16 bytes, taken one after the other: a loop and not a copy of its body for each, since all of this is
// compiled again for every kernel.
template <class T>
struct Chunk {
  uint4 words;
  __device__ __forceinline__ typename T::Bits next() {
    const auto bits = static_cast<typename T::Bits>(words.x);
    if constexpr (sizeof(bits) == 4)
      words = make_uint4(words.y, words.z, words.w, 0);
    else
      words = make_uint4(__byte_perm(words.x, words.y, 0x5432), __byte_perm(words.y, words.z, 0x5432),
                         __byte_perm(words.z, words.w, 0x5432), words.w >> 16);
    return bits;
  }
};

// 16 bytes from element `start` of a row at x, zeros behind the row's end: for rows that no load of 16 bytes fits.
template <class T>
__device__ __noinline__ uint4 gather_chunk(const typename T::Bits* x, int64_t start, int64_t d) {
  uint32_t words[4] = {};
  constexpr int kPerWord = 4 / sizeof(typename T::Bits);
#pragma unroll
  for (int e = 0; e < kPerChunk<T>; ++e)
    if (start + e < d) words[e / kPerWord] |= static_cast<uint32_t>(x[start + e]) << (32 / kPerWord * (e % kPerWord) % 32);
  return make_uint4(words[0], words[1], words[2], words[3]);
}
template <class T>
__device__ __forceinline__ uint4 load_chunk(const Launch& a, const typename T::Bits* x, int64_t start) {
  if (!a.g.vectors) return gather_chunk<T>(x, start, a.o.d);
  return start < a.o.d ? __ldg(reinterpret_cast<const uint4*>(x + start)) : make_uint4(0, 0, 0, 0);
}

template <class T>
__device__ __forceinline__ const typename T::Bits* row_at(const Launch& a, uint32_t row) {
  return static_cast<const typename T::Bits*>(a.data) + row_offset(a, row);
}

// Calls visit(chunk, start) for the chunks of a row, in the order of features, all lanes of the warp together; kDeep are
// on their way at once.
template <class T, int kDeep, class Visit>
__device__ __forceinline__ void visit_row(const Launch& a, const typename T::Bits* x, Visit visit) {
  constexpr int kWide = 32 * kPerChunk<T>;
#pragma unroll 1
  for (int64_t base = 0; base < a.o.d; base += kDeep * kWide) {
    uint4 chunks[kDeep];
#pragma unroll
    for (int i = 0; i < kDeep; ++i) chunks[i] = load_chunk<T>(a, x, base + i * kWide + lane_id() * kPerChunk<T>);
#pragma unroll
    for (int i = 0; i < kDeep; ++i) visit(chunks[i], base + i * kWide + lane_id() * kPerChunk<T>);
  }
}

// |x| as float32 bits, or a value below every other (-1) where it is no finite element.
template <class T>
__device__ __forceinline__ int magnitude_of(typename T::Bits bits, bool is_element) {
  const auto magnitude = static_cast<typename T::Bits>(bits & (T::kSign - 1));
  return is_element && magnitude < T::kInf ? static_cast<int>(T::wide(magnitude)) : -1;
}

// The cell of the table of counts that a magnitude belongs to.
template <class T>
__device__ __forceinline__ int key_of(uint32_t bits) {
  return sizeof(typename T::Bits) == 2 && T::kInf == 0x7C00 ? __half_as_ushort(__float2half_rz(bits_float(bits))) : bits >> 16;
}

// How many elements of a row are at least `bits`.
template <class T>
__device__ __noinline__ int count_at_least(const Launch& a, uint32_t row, uint32_t bits) {
  int n = 0;
  visit_row<T, 1>(a, row_at<T>(a, row), [&](const uint4& words, int64_t start) {
    Chunk<T> chunk{words};
#pragma unroll 1
    for (int e = 0; e < kPerChunk<T>; ++e) n += magnitude_of<T>(chunk.next(), start + e < a.o.d) >= static_cast<int>(bits);
  });
  return __reduce_add_sync(kWarp, n);
}

// feature << 1 | negative of the first element with this magnitude. The row has one.
template <class T>
__device__ __noinline__ uint32_t first_with(const Launch& a, uint32_t row, uint32_t bits) {
  constexpr bool k16 = sizeof(typename T::Bits) == 2;
  const uint32_t pattern = k16 ? key_of<T>(bits) : bits;
  // The first chunk that has it; 4 loads at once: a row of 4,096 takes four round trips.
  const auto* x = row_at<T>(a, row);
  uint32_t first = 0xFFFFFFFFu;
  visit_row<T, 4>(a, x, [&](const uint4& v, int64_t start) {
    const auto differs = [&](uint32_t word) { return k16 ? (word & 0x7FFF7FFFu) ^ pattern * 0x10001u : (word & ~T::kSign) ^ pattern; };
    const auto nearer = [&](uint32_t x, uint32_t y) -> uint32_t { return k16 ? __vminu2(x, y) : min(x, y); };
    const uint32_t nearest = nearer(nearer(differs(v.x), differs(v.y)), nearer(differs(v.z), differs(v.w)));
    if (k16 ? (nearest & 0xFFFF) == 0 || nearest >> 16 == 0 : nearest == 0) first = min(first, static_cast<uint32_t>(start));
  });
  first = __reduce_min_sync(kWarp, first);
  const uint32_t feature = first + lane_id();
  const bool is_element = lane_id() < kPerChunk<T> && feature < a.o.d;
  const typename T::Bits element = is_element ? x[feature] : 0;
  const unsigned hits = __ballot_sync(kWarp, is_element && (element & (T::kSign - 1)) == pattern);
  return __shfl_sync(kWarp, feature << 1 | ((element & T::kSign) != 0), __ffs(hits) - 1);
}

}  // namespace maxact::cuda
