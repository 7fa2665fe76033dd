// What a warp does together: reductions and locks.
#pragma once

#include "cuda_asm.cuh"

namespace maxact::cuda {

// Two 16-bit ones.
template <class T>
constexpr uint32_t kOnes = 0;
template <>
constexpr uint32_t kOnes<BFloat16> = 0x3F803F80u;
template <>
constexpr uint32_t kOnes<Float16> = 0x3C003C00u;

// The same value in every lane: `op` over all of them.
template <class V, class Op>
__device__ __forceinline__ V reduce_warp(V value, Op op) {
#pragma unroll
  for (int offset = 1; offset < 32; offset <<= 1) value = op(value, __shfl_xor_sync(kWarp, value, offset));
  return value;
}
// `op` over what get(i) gives for this lane's share of i < n: four are on their way at once, by one copy of the code.
template <class V, class Get, class Op>
__device__ __forceinline__ V share_of(uint32_t n, V nothing, Get get, Op op) {
  V all = nothing;
#pragma unroll 1
  for (uint32_t i = lane_id(); i < n; i += 128) {
    V four[4];
#pragma unroll
    for (uint32_t k = 0; k < 4; ++k) four[k] = i + 32 * k < n ? get(i + 32 * k) : nothing;
    all = op(all, op(op(four[0], four[1]), op(four[2], four[3])));
  }
  return all;
}
// The least number of the warp, by its halves: two reductions, where reduce_warp takes ten shuffles.
__device__ __forceinline__ unsigned long long least_of_warp(unsigned long long n) {
  const auto high = static_cast<uint32_t>(n >> 32), least = __reduce_min_sync(kWarp, high);
  return static_cast<unsigned long long>(least) << 32 | __reduce_min_sync(kWarp, high == least ? static_cast<uint32_t>(n) : 0xFFFFFFFFu);
}
struct Max {
  template <class V>
  __device__ __forceinline__ V operator()(V a, V b) const { return a > b ? a : b; }
};
struct Min {
  template <class V>
  __device__ __forceinline__ V operator()(V a, V b) const { return a < b ? a : b; }
};
struct Add {
  template <class V>
  __device__ __forceinline__ V operator()(V a, V b) const { return a + b; }
};

// A lock between warps; the whole warp holds it. Held for some hundred cycles, asked for less than once a row.
__device__ __forceinline__ void acquire(unsigned* lock) {
  if (lane_id() == 0)
    while (atomicCAS(lock, 0u, 1u)) __nanosleep(40);
  __syncwarp();
  __threadfence_block();
}
__device__ __forceinline__ void release(unsigned* lock) {
  __threadfence_block();
  __syncwarp();
  if (lane_id() == 0) atomicExch(lock, 0u);
  __syncwarp();
}

}  // namespace maxact::cuda
