// What a warp does together: matrix units as adders, locks, exact sums.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "rules.h"

namespace maxact::cuda {

constexpr unsigned kAll = 0xFFFFFFFFu;

__device__ __forceinline__ int lane_id() {
  int id;
  asm("mov.u32 %0, %%laneid;" : "=r"(id));
  return id;
}
__device__ __forceinline__ int warp_id() {
  int id;
  asm("mov.u32 %0, %%tid.x;" : "=r"(id));
  return id >> 5;
}

// D += A B on the matrix units, m16n8k16. A's four words of a lane belong to its own quad of lanes: rows q and q + 8 of
// D hold nothing but what quad q = lane / 4 put in. c[0], c[1] lie in row q, c[2], c[3] in row q + 8.
template <class T>
__device__ __forceinline__ void mma(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
                                    uint32_t b1);
template <>
__device__ __forceinline__ void mma<BFloat16>(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                              uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
template <>
__device__ __forceinline__ void mma<Float16>(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                             uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// Two 16-bit ones.
template <class T>
constexpr uint32_t kOnes = 0;
template <>
constexpr uint32_t kOnes<BFloat16> = 0x3F803F80u;
template <>
constexpr uint32_t kOnes<Float16> = 0x3C003C00u;

__device__ __forceinline__ void add_one(uint32_t shared_address) {
  asm volatile("red.shared.add.u32 [%0], 1;" ::"r"(shared_address) : "memory");
}

// The same value in every lane: `op` over all of them.
template <class V, class Op>
__device__ __forceinline__ V reduce_warp(V value, Op op) {
#pragma unroll
  for (int offset = 1; offset < 32; offset <<= 1) value = op(value, __shfl_xor_sync(kAll, value, offset));
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

// 16 bytes from device to shared memory without passing registers; zeros instead if !valid.
__device__ __forceinline__ void copy_async(uint32_t to, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(valid ? 16 : 0) : "memory");
}
__device__ __forceinline__ void copies_arrived() { asm volatile("cp.async.wait_all;" ::: "memory"); }

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
  unsigned todo = __ballot_sync(kAll, index >= 0);
  while (todo) {
    const int leader = __ffs(todo) - 1;
    const bool mine = index == __shfl_sync(kAll, index, leader);
    const int total = __reduce_add_sync(kAll, mine ? mantissa : 0);
    if (lane_id() == leader && total)
      atomicAdd(reinterpret_cast<unsigned long long*>(bins + index), static_cast<unsigned long long>(int64_t{total}));
    todo &= ~__ballot_sync(kAll, mine);
  }
}

}  // namespace maxact::cuda
