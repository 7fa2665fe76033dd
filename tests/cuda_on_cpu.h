// CUDA's words for a CPU, in place of csrc/cuda_asm.cuh, so that the kernels run where no GPU is (test_cuda_on_cpu.py), and
// so that ThreadSanitizer can see their races (test_cuda_races.py).
#pragma once

#include <math.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <type_traits>

#include "cuda_numbers_on_cpu.h"
#include "cuda_threads_on_cpu.h"

#define __device__
#define __host__
#define __global__
#define __shared__
#define __grid_constant__
#define __forceinline__ inline
#define __noinline__
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))

struct uint2 { uint32_t x, y; };
struct uint4 { uint32_t x, y, z, w; };
struct float4 { float x, y, z, w; };
inline uint2 make_uint2(uint32_t x, uint32_t y) { return {x, y}; }
inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
// The warp's words

UNSEEN inline void __syncwarp() {
  on_cpu::Warp& warp = on_cpu::block.warps[threadIdx.x / 32];
  char* const turn = &warp.turns[warp.generation & 1];
  races::come_before(turn);
  on_cpu::meet("__syncwarp", {});
  races::come_after(turn);
}
template <class V>
UNSEEN V __shfl_sync(unsigned, V value, int lane, int = 32) {
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof(V));
  const auto* from = on_cpu::meet("__shfl_sync", {static_cast<uint32_t>(bits), static_cast<uint32_t>(bits >> 32)})[lane & 31];
  bits = from[0] | static_cast<uint64_t>(from[1]) << 32;
  memcpy(&value, &bits, sizeof(V));
  return value;
}
template <class V>
V __shfl_xor_sync(unsigned mask, V value, int bits) { return __shfl_sync(mask, value, (threadIdx.x % 32) ^ bits); }
template <class V>
V __shfl_up_sync(unsigned mask, V value, int n) {
  const int lane = threadIdx.x % 32;
  return __shfl_sync(mask, value, lane < n ? lane : lane - n);
}
UNSEEN inline unsigned __ballot_sync(unsigned, bool vote) {
  const auto* votes = on_cpu::meet("__ballot_sync", {vote});
  unsigned all = 0;
  for (int i = 0; i < 32; ++i) all |= votes[i][0] << i;
  return all;
}
inline bool __any_sync(unsigned mask, bool vote) { return __ballot_sync(mask, vote) != 0; }
template <class V>
UNSEEN unsigned __match_any_sync(unsigned, V value) {
  const auto* words = on_cpu::meet("__match_any_sync", {static_cast<uint32_t>(value)});
  unsigned same = 0;
  for (int i = 0; i < 32; ++i) same |= (words[i][0] == static_cast<uint32_t>(value)) << i;
  return same;
}
template <class V, class Op>
UNSEEN V reduce(const char* where, V value, Op op) {
  const auto* words = on_cpu::meet(where, {static_cast<uint32_t>(value)});
  V all = static_cast<V>(words[0][0]);
  for (int i = 1; i < 32; ++i) all = op(all, static_cast<V>(words[i][0]));
  return all;
}
template <class V> V __reduce_max_sync(unsigned, V v) { return reduce("__reduce_max_sync", v, [](V a, V b) { return a > b ? a : b; }); }
template <class V> V __reduce_min_sync(unsigned, V v) { return reduce("__reduce_min_sync", v, [](V a, V b) { return a < b ? a : b; }); }
template <class V> V __reduce_add_sync(unsigned, V v) { return reduce("__reduce_add_sync", v, [](V a, V b) { return static_cast<V>(a + b); }); }
UNSEEN inline void wait_in_block(int barrier, unsigned n_threads) {
  on_cpu::Barrier& b = on_cpu::block.barriers[barrier];
  char* const turn = &b.turns[b.generation & 1];
  races::come_before(turn);
  if (++b.n_here == n_threads) b.n_here = 0, ++b.generation;
  else on_cpu::pause(&b.generation);
  races::come_after(turn);
}
inline void __syncthreads() { wait_in_block(0, blockDim.x); }
inline void __nanosleep(unsigned) { on_cpu::pause(); }
inline void __threadfence_block() { races::fence(on_cpu::block.fences[0]); }
inline void __threadfence() { races::fence(on_cpu::block.fences[1]), __threadfence_block(); }

// Memory. Fibers change places only where they wait, so two accesses are as good as one; that they are atomic is for the
// check of races. Of atomics only those that locks and the count of blocks use order anything: from the rest no thread
// may conclude what others did.

inline bool is_shared(const void* at) {
  using maxact::cuda::shared;
  return at >= shared && at < shared + sizeof(shared);
}
inline races::Fences& fences_of(const void* at) { return on_cpu::block.fences[!is_shared(at)]; }
template <class V>
V read_now(const V& place) {
  V value;
  __atomic_load(&place, &value, __ATOMIC_RELAXED);
  return value;
}
template <class V>
void write_now(V& place, V value) { __atomic_store(&place, &value, __ATOMIC_RELAXED); }
template <class V, class Op>
V change(V* at, Op op) {
  const V old = read_now(*at);
  write_now(*at, static_cast<V>(op(old)));
  return old;
}
template <class V, class W> V atomicMax(V* at, W n) { return change(at, [&](V old) { return max<V, V>(old, n); }); }
template <class V, class W> V atomicMin(V* at, W n) { return change(at, [&](V old) { return min<V, V>(old, n); }); }
template <class V, class W>
V atomicAdd(V* at, W n) {
  return change(at, [&](V old) { return old + static_cast<V>(n); });
}
template <class V, class W>
V atomicExch(V* at, W n) {
  races::changed(fences_of(at), at);
  return change(at, [&](V) { return n; });
}
template <class V>
V atomicCAS(V* at, V expected, V n) {
  races::read(fences_of(at), at);
  return change(at, [&](V old) { return old == expected ? n : old; });
}
template <class V> V __ldcg(const V* at) {
  if constexpr (sizeof(V) <= 8) return read_now(*at);
  else return *at;
}
template <class V> V __ldg(const V* at) { return *at; }

// csrc/cuda_asm.cuh

#include "rules.h"

namespace maxact::cuda {

constexpr unsigned kWarp = 0xFFFFFFFFu;
inline int lane_id() { return threadIdx.x % 32; }
inline int warp_id() { return threadIdx.x / 32; }

template <class T>
UNSEEN void mma(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1) {
  const auto* words = on_cpu::meet("mma", {a0, a1, a2, a3, b0, b1});
  const auto value = [](uint32_t pattern) -> double {
    return std::is_same_v<T, BFloat16> ? bits_float(pattern << 16) : from_half(static_cast<uint16_t>(pattern));
  };
  const int quad = lane_id() / 4, member = lane_id() % 4;
  for (int i = 0; i < 4; ++i) {
    const int row = i / 2, column = member * 2 + i % 2;  // of A: quad + 8 row
    double sum = c[i];
    for (int k = 0; k < 16; ++k) {
      const int word = k / 8, from = k % 8 / 2, half = k % 2 * 16;
      const uint32_t b = words[column * 4 + from][4 + word] >> half & 0xFFFF;
      sum += value(words[quad * 4 + from][row + 2 * word] >> half & 0xFFFF) * value(b);  // nan, too, of inf and 0
    }
    c[i] = static_cast<float>(sum);
  }
}

template <class V>
V& at_shared(uint32_t at) { return *reinterpret_cast<V*>(shared + at); }
inline uint32_t __cvta_generic_to_shared(const void* p) { return static_cast<uint32_t>(static_cast<const char*>(p) - shared); }
inline uint32_t shared_address(const void* p) { return __cvta_generic_to_shared(p); }
inline uint4 load_shared(uint32_t at) { return at_shared<uint4>(at); }
inline void store_shared(uint32_t at, const uint4& v) { at_shared<uint4>(at) = v; }
inline void store_shared(uint32_t at, float v) { at_shared<float>(at) = v; }
inline void add_shared(uint32_t at, uint32_t n) { change(&at_shared<uint32_t>(at), [&](uint32_t old) { return old + n; }); }
inline void list_if_same(uint32_t& at, uint32_t last, uint32_t word, uint32_t upper) {
  if ((word ^ upper) >= 65536) return;
  at_shared<uint16_t>(at) = static_cast<uint16_t>(word);
  at = min(at + 64, last);
}
template <bool kUpper>
void add_ones(uint32_t base, uint32_t w0, uint32_t w1, uint32_t w2, uint32_t w3) {
  for (const uint32_t w : {w0, w1, w2, w3}) {
    if (!kUpper) add_shared(base + (w & 0xFFFF) * 4, 1);
    add_shared(base + (w >> 16) * 4, 1);
  }
}
inline void follow_kernel() {}
// A copy is written when its thread has waited for it, which nobody else sees before a barrier, but may come at any time from
// where it is asked for: that is a write that races see, too.
UNSEEN inline void copy_async(uint32_t to, const void* from) {
  on_cpu::Fiber& me = on_cpu::me();
  if (me.n_copies == 64) on_cpu::fail("has too many copies on their way");
  me.copies[me.n_copies++] = {to, me.n_groups, from};
  races::may_write(&at_shared<uint4>(to));
}
UNSEEN inline void copies_end() { ++on_cpu::me().n_groups; }
inline void write_copy(uint32_t to, const void* from) { at_shared<uint4>(to) = *static_cast<const uint4*>(from); }
template <int kBut>
UNSEEN void copies_arrived() {
  on_cpu::Fiber& me = on_cpu::me();
  uint32_t n_left = 0;
  for (uint32_t i = 0; i < me.n_copies; ++i) {
    const on_cpu::Copy copy = me.copies[i];
    if (copy.group + kBut < me.n_groups) write_copy(copy.to, copy.from);
    else me.copies[n_left++] = copy;
  }
  me.n_copies = n_left;
}
// The engine's barrier: bytes that are expected, and turns that are over. Its copies, too, are written when a warp waits, but
// may come at any time from where they are asked for: that is the write that races see.
UNSEEN inline void barrier_begin(uint32_t barrier) { at_shared<uint2>(barrier) = {0, 0}; }
inline void before_engine() { __syncwarp(); }
UNSEEN inline void expect_bytes(uint32_t barrier, uint32_t n_bytes) {
  if (at_shared<uint2>(barrier).x) on_cpu::fail("expects bytes before those of the last turn are there");
  at_shared<uint2>(barrier).x = n_bytes;
}
UNSEEN inline void copy_by_engine(uint32_t to, const void* from, uint32_t n_bytes, uint32_t barrier) {
  on_cpu::Fiber& me = on_cpu::me();
  if (me.n_flights == 64) on_cpu::fail("has too many copies on their way");
  if (to % 16 || n_bytes % 16 || reinterpret_cast<uintptr_t>(from) % 16 || !n_bytes) on_cpu::fail("copies what is no multiple of 16 bytes");
  me.flights[me.n_flights++] = {to, n_bytes, barrier, from};
  for (uint32_t at = to; at < to + n_bytes; at += 16) races::may_write(&at_shared<uint4>(at));
}
UNSEEN inline void wait_for_engine(uint32_t barrier, uint32_t parity) {
  __syncwarp();
  on_cpu::Fiber& me = on_cpu::me();
  uint32_t n_left = 0;
  for (uint32_t i = 0; i < me.n_flights; ++i) {
    const on_cpu::Flight flight = me.flights[i];
    if (flight.barrier != barrier) {
      me.flights[n_left++] = flight;
      continue;
    }
    const auto* const from = static_cast<const uint4*>(flight.from);
    for (uint32_t k = 0; k < flight.n_bytes / 16; ++k) at_shared<uint4>(flight.to + 16 * k) = from[k];
    at_shared<uint2>(barrier).x -= flight.n_bytes;
  }
  me.n_flights = n_left;
  __syncwarp();
  if (at_shared<uint2>(barrier).x) on_cpu::fail("waits for other bytes than are copied");
  if ((at_shared<uint2>(barrier).y & 1) != parity) on_cpu::fail("waits for the wrong turn");
  __syncwarp();
  if (lane_id() == 0) ++at_shared<uint2>(barrier).y;
}
inline float quotient(float a, float b) { return a / b; }
template <class V>
V read_together(const V& place) { return __shfl_sync(kWarp, read_now(place), 0); }
inline void and_in_place(uint32_t& word, uint32_t mask) { word &= mask; }
inline uint32_t pick(bool first, uint32_t a, uint32_t b) { return first ? a : b; }
inline float max_or_nan(float a, float b) { return isnan(a) || isnan(b) ? NAN : a > b ? a : b; }
inline void wait_at(int barrier, int n_threads) { wait_in_block(barrier, n_threads); }
inline void add_global(int64_t* at, unsigned long long n) { change(at, [&](int64_t old) { return old + n; }); }
inline void max_global(float* at, uint32_t magnitude) { change(at, [&](float old) { return max(old, bits_float(magnitude)); }); }
inline void max_global(unsigned long long* at, unsigned long long n) { atomicMax(at, n); }
inline void add_and_ask(uint32_t* number, bool asks, uint32_t& answer) {
  if (asks) answer = change(number, [](uint32_t old) { return old + 1; });
}
inline unsigned long long add_between(unsigned long long* number, unsigned long long n) {
  __threadfence();
  races::changed(fences_of(number), number), races::read(fences_of(number), number);
  const unsigned long long before = atomicAdd(number, n);
  __threadfence();
  return before;
}
inline bool load_if(const uint8_t* from, bool valid) { return valid && *from; }
inline void put_away(uint4* place, const uint4& v) { *place = v; }
inline uint4 take_back(const uint4* place) { return *place; }

struct Launch;

}  // namespace maxact::cuda

// The runtime of a device, an H100 unless the environment says otherwise.

using cudaError_t = int;
using cudaStream_t = void*;
enum { cudaSuccess, cudaErrorInsufficientDriver = 35 };
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount, cudaDevAttrMaxSharedMemoryPerBlockOptin };
enum { cudaFuncAttributeMaxDynamicSharedMemorySize };
#define CUDART_VERSION 0
inline const char* cudaGetErrorString(cudaError_t) { return "an error"; }
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr name, int) {
  const char* const names[] = {"N_MULTIPROCESSORS", "SHARED_BYTES"};
  const int values[] = {3, static_cast<int>(maxact::cuda::kShared)};
  const char* given = getenv(names[name]);
  *value = given ? atoi(given) : values[name];
  return 0;
}
inline cudaError_t cudaGetDevice(int* device) { return *device = 0; }
inline cudaError_t cudaSetDevice(int) { return 0; }
inline cudaError_t cudaGetDeviceCount(int* n) { *n = 1; return 0; }
inline cudaError_t cudaDriverGetVersion(int* version) { *version = 1; return 0; }
inline cudaError_t cudaFuncSetAttribute(const void*, int, int) { return 0; }
struct cudaFuncAttributes { int ptxVersion; };
inline cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void*) {
  const char* target = getenv("TARGET");
  return attributes->ptxVersion = target ? atoi(target) : 90, 0;
}
enum { cudaLaunchAttributeProgrammaticStreamSerialization };
struct cudaLaunchAttribute {
  int id;
  struct { int programmaticStreamSerializationAllowed; } val;
};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
  cudaLaunchAttribute* attrs;
  unsigned numAttrs;
};
template <class = void>
UNSEEN cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* function, void** arguments) {
  using maxact::cuda::Launch, maxact::cuda::shared;
  static const void* kernel;
  static const Launch* launch;
  kernel = function, launch = static_cast<const Launch*>(arguments[0]);
  if (config->dynamicSmemBytes > maxact::cuda::kShared) return 1;
  const dim3 grid = config->gridDim, block = config->blockDim;
  gridDim = grid, blockDim = block;
  on_cpu::host = __tsan_get_current_fiber();
  on_cpu::body = [] { reinterpret_cast<void (*)(Launch)>(const_cast<void*>(kernel))(*launch); };
  for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x) {
    races::renew(shared);
    memset(shared, 0xAA, sizeof(shared));  // nobody may rely on what was there
    on_cpu::run_block(block.x);
  }
  races::come_after(&on_cpu::launch_done);
  return 0;
}
