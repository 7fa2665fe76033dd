// What C++ has no word for: every instruction that is written as such. Nothing else in csrc has an asm, so that another
// file in place of this one lets the kernels run on a CPU (tests/cuda_on_cpu.h).
#pragma once

#ifdef MAXACT_ON_CPU
#include "cuda_on_cpu.h"
#else

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

// Where the launcher allows it (sm_90 on), a block begins when the kernel before in the stream ends, and not after it. Before this it
// must touch nothing in device memory; after it everything that kernels before wrote is there.
__device__ __forceinline__ void follow_kernel() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents; griddepcontrol.wait;" ::: "memory");
#endif
}
// 16 bytes from device to shared memory without passing registers.
__device__ __forceinline__ void copy_async(uint32_t to, const void* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}
// Rows from device to shared memory by the copy engine of sm_90, multiples of 16 bytes: one instruction where cp.async takes one
// for each 16 bytes of a lane, and no turn in the path of shared memory. Whoever waits at `barrier` for the turn of a parity sees
// all bytes that lane 0 said to expect.
__device__ __forceinline__ void barrier_begin(uint32_t barrier) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(barrier) : "memory");
}
// What this thread wrote to shared memory comes before what the engine does.
__device__ __forceinline__ void before_engine() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
__device__ __forceinline__ void expect_bytes(uint32_t barrier, uint32_t n_bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(n_bytes) : "memory");
}
__device__ __forceinline__ void copy_by_engine(uint32_t to, const void* from, uint32_t n_bytes, uint32_t barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to), "l"(from),
               "r"(n_bytes), "r"(barrier) : "memory");
}
__device__ __forceinline__ bool has_arrived(uint32_t barrier, uint32_t parity) {
  uint32_t arrived;
  asm volatile("{.reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.b32 %0, 1, 0, p;}"
               : "=r"(arrived) : "r"(barrier), "r"(parity) : "memory");
  return arrived;
}
// By all lanes: a vote, so that they stay together.
__device__ __forceinline__ void wait_for_engine(uint32_t barrier, uint32_t parity) {
  while (!__all_sync(kWarp, has_arrived(barrier, parity))) {}
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
__device__ __forceinline__ void add_shared(uint32_t at, uint32_t n) {
  asm volatile("red.shared.add.u32 [%0], %1;" ::"r"(at), "r"(n) : "memory");
}
// Where the upper half of `word` is that of `upper`, its lower half goes to `at`, which moves on by 64 bytes, up to `last`. No branch:
// lanes that find something apart cost more than all comparisons.
__device__ __forceinline__ void list_if_same(uint32_t& at, uint32_t last, uint32_t word, uint32_t upper) {
  asm volatile(
      "{.reg .pred p; .reg .b32 t; .reg .b16 low, high; xor.b32 t, %1, %2; setp.lt.u32 p, t, 65536; mov.b32 {low, high}, %1; "
      "@p st.shared.u16 [%0], low; add.u32 t, %0, 64; min.u32 t, t, %3; @p mov.b32 %0, t;}"
      : "+r"(at) : "r"(word), "r"(upper), "r"(last) : "memory");
}
// In device memory, and nobody waits: of an atomicAdd in a kernel of this size ptxas asks for the old value, which nobody
// reads. Magnitudes order as their bits do.
__device__ __forceinline__ void add_global(int64_t* at, unsigned long long n) {
  asm volatile("red.relaxed.gpu.global.add.u64 [%0], %1;" ::"l"(at), "l"(n) : "memory");
}
__device__ __forceinline__ void max_global(float* at, uint32_t magnitude) {
  asm volatile("red.relaxed.gpu.global.max.u32 [%0], %1;" ::"l"(at), "r"(magnitude) : "memory");
}
__device__ __forceinline__ void max_global(unsigned long long* at, unsigned long long n) {
  asm volatile("red.relaxed.gpu.global.max.u64 [%0], %1;" ::"l"(at), "l"(n) : "memory");
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

// What other threads may write or read meanwhile, without a lock: one access, of at most 8 bytes.
template <class V>
__device__ __forceinline__ V read_now(const V& place) { return *static_cast<const volatile V*>(&place); }
template <class V>
__device__ __forceinline__ void write_now(V& place, V value) { *static_cast<volatile V*>(&place) = value; }
// The same by all lanes at once, so that all have the same.
template <class V>
__device__ __forceinline__ V read_together(const V& place) { return read_now(place); }
// In place: of an ordinary `and` the compiler would keep the operand too, to do it again.
__device__ __forceinline__ void and_in_place(uint32_t& word, uint32_t mask) {
  asm volatile("and.b32 %0, %0, %1;" : "+r"(word) : "r"(mask));
}
// first ? a : b, by an instruction: of a choice between two shuffled values the compiler makes a branch, and lanes part.
__device__ __forceinline__ uint32_t pick(bool first, uint32_t a, uint32_t b) {
  uint32_t c;
  asm("{.reg .pred p; setp.ne.b32 p, %3, 0; selp.b32 %0, %1, %2, p;}" : "=r"(c) : "r"(a), "r"(b), "r"(static_cast<int>(first)));
  return c;
}
__device__ __forceinline__ float max_or_nan(float a, float b) {
  float c;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(c) : "f"(a), "f"(b));
  return c;
}
// Waits for `n_threads` threads of the block that name the same barrier, 1 to 15.
__device__ __forceinline__ void wait_at(int barrier, int n_threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(n_threads) : "memory");
}
// Adds one if `asks`, which only lane 0 may; the old value is on its way to `answer`, which else stays as it is. Of additions
// of the same number in all lanes the compiler would make one, and wait for it: lane 0 adds 1, others would add more.
__device__ __forceinline__ void add_and_ask(uint32_t* number, bool asks, uint32_t& answer) {
  const uint32_t one = 1 + lane_id();
  asm volatile("{.reg .pred p; setp.ne.b32 p, %2, 0; @p atom.global.add.u32 %0, [%1], %3;}" : "+r"(answer)
               : "l"(number), "r"(static_cast<int>(asks)), "r"(one) : "memory");
}
// What this thread did, and others before a barrier, comes before the addition; what was before earlier additions comes before what
// follows. By one thread, where two __threadfence() would be by all.
__device__ __forceinline__ unsigned long long add_between(unsigned long long* number, unsigned long long n) {
  unsigned long long before;
  asm volatile("atom.acq_rel.gpu.global.add.u64 %0, [%1], %2;" : "=l"(before) : "l"(number), "l"(n) : "memory");
  return before;
}
__device__ __forceinline__ bool load_if(const uint8_t* from, bool valid) {
  uint32_t value = 0;
  asm volatile("{.reg .pred p; setp.ne.b32 p, %2, 0; @p ld.global.u8 %0, [%1];}" : "+r"(value) : "l"(from), "r"(static_cast<int>(valid)));
  return value;
}
// To local memory and back: what lives through a call in registers the compiler would keep in memory all the time.
__device__ __forceinline__ void put_away(uint4* place, const uint4& v) {
  asm volatile("st.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(place), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
}
__device__ __forceinline__ uint4 take_back(const uint4* place) {
  uint4 v;
  asm volatile("ld.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(place) : "memory");
  return v;
}

}  // namespace maxact::cuda
#endif
