// What a warp does together: matrix units as adders, locks, exact sums.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "rules.h"

namespace maxact::cuda {

constexpr unsigned kWarp = 0xFFFFFFFFu;

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

// Adds one to the words of shared memory at `base` + 4 * key, for the keys in four words: in the halves of each, or with
// kUpper in the upper ones. A dot product makes an address of a half in one instruction. All addresses first: an addition
// keeps its address register until it is on its way, and with few registers a warp waits for each.
template <bool kUpper>
__device__ __forceinline__ void add_ones(uint32_t base, uint32_t w0, uint32_t w1, uint32_t w2, uint32_t w3) {
  if constexpr (kUpper)
    asm volatile(
        "{.reg .b32 a, b, c, d; dp2a.lo.u32.u32 a, %1, 1024, %0; dp2a.lo.u32.u32 b, %2, 1024, %0; dp2a.lo.u32.u32 c, %3, 1024, %0; "
        "dp2a.lo.u32.u32 d, %4, 1024, %0; red.shared.add.u32 [a], 1; red.shared.add.u32 [b], 1; red.shared.add.u32 [c], 1; "
        "red.shared.add.u32 [d], 1;}" ::"r"(base), "r"(w0), "r"(w1), "r"(w2), "r"(w3) : "memory");
  else
    asm volatile(
        "{.reg .b32 a, b, c, d, e, f, g, h; dp2a.lo.u32.u32 a, %1, 4, %0; dp2a.lo.u32.u32 b, %1, 1024, %0; "
        "dp2a.lo.u32.u32 c, %2, 4, %0; dp2a.lo.u32.u32 d, %2, 1024, %0; dp2a.lo.u32.u32 e, %3, 4, %0; "
        "dp2a.lo.u32.u32 f, %3, 1024, %0; dp2a.lo.u32.u32 g, %4, 4, %0; dp2a.lo.u32.u32 h, %4, 1024, %0; "
        "red.shared.add.u32 [a], 1; red.shared.add.u32 [b], 1; red.shared.add.u32 [c], 1; red.shared.add.u32 [d], 1; "
        "red.shared.add.u32 [e], 1; red.shared.add.u32 [f], 1; red.shared.add.u32 [g], 1; red.shared.add.u32 [h], 1;}" ::"r"(base),
        "r"(w0), "r"(w1), "r"(w2), "r"(w3)
        : "memory");
}

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

// 16 bytes from device to shared memory without passing registers.
__device__ __forceinline__ void copy_async(uint32_t to, const void* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}
// An address that functions with `shared` in their name read and write at: a register, where a pointer would be made anew
// from the block's rank in its cluster each time.
__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
  asm volatile("" : "+r"(address));
  return address;
}
__device__ __forceinline__ uint4 load_shared(uint32_t at) {
  uint4 v;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(at) : "memory");
  return v;
}
__device__ __forceinline__ void store_shared(uint32_t at, const uint4& v) {
  asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(at), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
}
__device__ __forceinline__ void store_shared(uint32_t at, float value) {
  asm volatile("st.shared.f32 [%0], %1;" ::"r"(at), "f"(value) : "memory");
}
// Some 2^-23 off, and 0 for a subnormal; without the branch of a division.
__device__ __forceinline__ float quotient(float a, float b) {
  float inverse;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(b));
  return a * inverse;
}
__device__ __forceinline__ void copies_end() { asm volatile("cp.async.commit_group;" ::: "memory"); }  // of one group
// Waits for all groups of copies but the last `kBut`.
template <int kBut>
__device__ __forceinline__ void copies_arrived() { asm volatile("cp.async.wait_group %0;" ::"n"(kBut) : "memory"); }

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
    if (lane_id() == leader && total)
      atomicAdd(reinterpret_cast<unsigned long long*>(bins + index), static_cast<unsigned long long>(int64_t{total}));
    todo &= ~__ballot_sync(kWarp, mine);
  }
}

}  // namespace maxact::cuda
