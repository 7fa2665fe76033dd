// Reading rows again, one warp a row: the few that may hold some of the k largest elements.
#pragma once

#include "cuda_block.cuh"

namespace maxact::cuda {

template <class T>
constexpr int kPerChunk = 16 / sizeof(typename T::Bits);  // elements in 16 bytes

template <class T>
__device__ __forceinline__ uint32_t element_of(const uint4& chunk, int e) {
  const uint32_t words[4] = {chunk.x, chunk.y, chunk.z, chunk.w};
  if constexpr (sizeof(typename T::Bits) == 4) return words[e];
  return words[e / 2] >> (16 * (e % 2)) & 0xFFFF;
}

// 16 bytes from element `start` of the row at `x`, zeros behind the row's end.
template <class T>
__device__ __forceinline__ uint4 load_chunk(const Launch& a, const typename T::Bits* x, int64_t start) {
  using Bits = typename T::Bits;
  uint4 chunk = make_uint4(0, 0, 0, 0);
  if (a.g.vectors) {
    if (start < a.o.d) chunk = __ldg(reinterpret_cast<const uint4*>(x + start));
    return chunk;
  }
  uint32_t words[4] = {};
  constexpr int kPerWord = 4 / sizeof(Bits);
#pragma unroll
  for (int e = 0; e < kPerChunk<T>; ++e)
    if (start + e < a.o.d) words[e / kPerWord] |= static_cast<uint32_t>(x[start + e]) << (32 / kPerWord * (e % kPerWord) % 32);
  return make_uint4(words[0], words[1], words[2], words[3]);
}

// Calls visit(chunk, start) for the chunks of a row, in the order of features, all lanes of the warp together.
template <class T, class Visit>
__device__ __forceinline__ void visit_row(const Launch& a, uint32_t row, Visit visit) {
  constexpr int kDeep = 8;  // loads in flight a lane: a row of 4,096 bf16 takes two round trips
  const auto* x = static_cast<const typename T::Bits*>(a.data) + row_offset(a, row);
  constexpr int kWide = 32 * kPerChunk<T>;
  for (int64_t base = 0; base < a.o.d; base += kDeep * kWide) {
    uint4 chunks[kDeep];
#pragma unroll
    for (int i = 0; i < kDeep; ++i) chunks[i] = load_chunk<T>(a, x, base + i * kWide + lane_id() * kPerChunk<T>);
#pragma unroll
    for (int i = 0; i < kDeep; ++i) visit(chunks[i], base + i * kWide + lane_id() * kPerChunk<T>);
  }
}

// |x| of element e of a chunk as float32 bits, or a value below every other (-1) if it is no finite element.
template <class T>
__device__ __forceinline__ int magnitude_of(const Launch& a, const uint4& chunk, int64_t start, int e) {
  using Bits = typename T::Bits;
  const Bits magnitude = static_cast<Bits>(element_of<T>(chunk, e) & (T::kSign - 1));
  return start + e < a.o.d && magnitude < T::kInf ? static_cast<int>(T::wide(magnitude)) : -1;
}

// How many elements of a row are at least `bits`.
template <class T>
__device__ __noinline__ int count_at_least(const Launch& a, uint32_t row, uint32_t bits) {
  int n = 0;
  visit_row<T>(a, row, [&](const uint4& chunk, int64_t start) {
#pragma unroll
    for (int e = 0; e < kPerChunk<T>; ++e) n += magnitude_of<T>(a, chunk, start, e) >= static_cast<int>(bits);
  });
  return __reduce_add_sync(kWarp, n);
}

// feature << 1 | negative of the first element with this magnitude.
template <class T>
__device__ __noinline__ uint32_t first_with(const Launch& a, uint32_t row, uint32_t bits) {
  uint32_t first = 0xFFFFFFFFu;
  visit_row<T>(a, row, [&](const uint4& chunk, int64_t start) {
#pragma unroll
    for (int e = kPerChunk<T> - 1; e >= 0; --e)
      if (magnitude_of<T>(a, chunk, start, e) == static_cast<int>(bits))
        first = min(first, static_cast<uint32_t>(start + e) << 1 | ((element_of<T>(chunk, e) & T::kSign) != 0));
  });
  return __reduce_min_sync(kWarp, first);
}

}  // namespace maxact::cuda
