// What a warp does together: reductions, locks, exact sums.
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

// Adds each lane's addend to the exact sum `bins` (rules.h, add_exactly): one atomic for each exponent in the warp.
// A row's sum has the exponents of a float32 or its square: never a subnormal float64.
__device__ __forceinline__ void add_exactly_warp(int64_t* bins, double addend, bool on) {
  const int64_t bits = __double_as_longlong(addend);
  const int field = static_cast<int>(bits >> 52) & 0x7FF;
  const int index = on && field ? field - 1022 - kExponentMin : -1;
  const double fraction = __longlong_as_double((bits & ~(0x7FFll << 52)) | (1022ll << 52));
  const int mantissa = __double2int_rn(fraction * 0x1p24);
  unsigned todo = __ballot_sync(kWarp, index >= 0);
  while (todo) {
    const int leader = __ffs(todo) - 1;
    const bool mine = index == __shfl_sync(kWarp, index, leader);
    const int total = __reduce_add_sync(kWarp, mine ? mantissa : 0);
    if (lane_id() == leader && total) add_global(bins + index, static_cast<unsigned long long>(int64_t{total}));
    todo &= ~__ballot_sync(kWarp, mine);
  }
}

}  // namespace maxact::cuda
