// CUDA's words for a CPU, in place of csrc/cuda_asm.cuh, so that the kernels run where no GPU is (test_cuda_on_cpu.py). Each
// thread of a block is a fiber; what threads do together waits until all are there. Blocks run one after the other, of a
// device of N_MULTIPROCESSORS. Lanes of a warp that wait at different places, and threads that wait for ever, end the
// process with a sentence.
#pragma once

#include <math.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <type_traits>
#include <vector>

#include "cuda_numbers_on_cpu.h"

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
struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
inline dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace maxact::cuda {
inline __attribute__((aligned(128))) char shared[232448];
}

namespace on_cpu {

[[noreturn]] inline void fail(const char* sentence, const char* a = "", const char* b = "") {
  fprintf(stderr, "block %u, thread %u: %s %s %s\n", blockIdx.x, threadIdx.x, sentence, a, b);
  fflush(stderr);
  abort();
}

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack{new char[kStack]};
  const uint64_t* waits_for = nullptr;  // until it is no longer `seen`
  uint64_t seen = 0;
  bool done = false;
  static constexpr size_t kStack = 1 << 17;
};
struct Warp {
  uint64_t generation = 0;
  int n_here = 0;
  const char* where = "";
  uint32_t words[2][32][6];
};
struct Barrier {
  uint64_t generation = 0;
  unsigned n_here = 0;
};
inline std::vector<Fiber> fibers;
inline std::vector<Warp> warps;
inline Barrier barriers[16];
inline ucontext_t scheduler;
inline void (*body)();

inline void pause(const uint64_t* until_changed = nullptr) {
  Fiber& me = fibers[threadIdx.x];
  me.waits_for = until_changed, me.seen = until_changed ? *until_changed : 0;
  swapcontext(&me.context, &scheduler);
}

// All lanes of a warp give up to six words, and see what all gave.
inline uint32_t (*meet(const char* where, std::initializer_list<uint32_t> mine))[6] {
  Warp& warp = warps[threadIdx.x / 32];
  auto* words = warp.words[warp.generation & 1];
  std::copy(mine.begin(), mine.end(), words[threadIdx.x % 32]);
  if (warp.n_here == 0) warp.where = where;
  if (strcmp(warp.where, where)) fail("lanes of a warp wait at", warp.where, where);
  if (++warp.n_here == 32) warp.n_here = 0, ++warp.generation;
  else pause(&warp.generation);
  return words;
}

inline void start() {
  body();
  fibers[threadIdx.x].done = true;
  swapcontext(&fibers[threadIdx.x].context, &scheduler);
}

inline void run_block(unsigned n_threads) {
  fibers = std::vector<Fiber>(n_threads);
  warps = std::vector<Warp>(n_threads / 32);
  for (Barrier& barrier : barriers) barrier = {};
  for (Fiber& fiber : fibers) {
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get(), fiber.context.uc_stack.ss_size = Fiber::kStack;
    makecontext(&fiber.context, start, 0);
  }
  // A missing barrier shows where the threads' order changes a result: REVERSED runs them from the last to the first.
  const bool reversed = getenv("REVERSED");
  for (int idle = 0; idle < 10000; ++idle) {  // passes in which nobody could go on but those that spin
    bool all_done = true;
    for (unsigned place = 0; place < n_threads; ++place) {
      const unsigned i = reversed ? n_threads - 1 - place : place;
      Fiber& fiber = fibers[i];
      all_done &= fiber.done;
      if (fiber.done || (fiber.waits_for && *fiber.waits_for == fiber.seen)) continue;
      if (fiber.waits_for) idle = 0;
      threadIdx.x = i;
      swapcontext(&scheduler, &fiber.context);
      if (fiber.done) idle = 0;
    }
    if (all_done) return;
  }
  for (threadIdx.x = 0; fibers[threadIdx.x].done; ++threadIdx.x) {}
  fail("waits for ever; its warp was last at", warps[threadIdx.x / 32].where);
}

}  // namespace on_cpu

// The warp's words

inline void __syncwarp() { on_cpu::meet("__syncwarp", {}); }
template <class V>
V __shfl_sync(unsigned, V value, int lane, int = 32) {
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
inline unsigned __ballot_sync(unsigned, bool vote) {
  const auto* votes = on_cpu::meet("__ballot_sync", {vote});
  unsigned all = 0;
  for (int i = 0; i < 32; ++i) all |= votes[i][0] << i;
  return all;
}
inline bool __any_sync(unsigned mask, bool vote) { return __ballot_sync(mask, vote) != 0; }
template <class V>
unsigned __match_any_sync(unsigned, V value) {
  const auto* words = on_cpu::meet("__match_any_sync", {static_cast<uint32_t>(value)});
  unsigned same = 0;
  for (int i = 0; i < 32; ++i) same |= (words[i][0] == static_cast<uint32_t>(value)) << i;
  return same;
}
template <class V, class Op>
V reduce(const char* where, V value, Op op) {
  const auto* words = on_cpu::meet(where, {static_cast<uint32_t>(value)});
  V all = static_cast<V>(words[0][0]);
  for (int i = 1; i < 32; ++i) all = op(all, static_cast<V>(words[i][0]));
  return all;
}
template <class V> V __reduce_max_sync(unsigned, V v) { return reduce("__reduce_max_sync", v, [](V a, V b) { return a > b ? a : b; }); }
template <class V> V __reduce_min_sync(unsigned, V v) { return reduce("__reduce_min_sync", v, [](V a, V b) { return a < b ? a : b; }); }
template <class V> V __reduce_add_sync(unsigned, V v) { return reduce("__reduce_add_sync", v, [](V a, V b) { return static_cast<V>(a + b); }); }
inline void wait_in_block(int barrier, unsigned n_threads) {
  on_cpu::Barrier& b = on_cpu::barriers[barrier];
  if (++b.n_here == n_threads) b.n_here = 0, ++b.generation;
  else on_cpu::pause(&b.generation);
}
inline void __syncthreads() { wait_in_block(0, blockDim.x); }
inline void __nanosleep(unsigned) { on_cpu::pause(); }
inline void __threadfence() {}
inline void __threadfence_block() {}

// Memory. Fibers change places only where they wait, so nothing needs to be atomic.

template <class V, class W> V atomicAdd(V* at, W n) { const V old = *at; *at = old + static_cast<V>(n); return old; }
template <class V, class W> V atomicMax(V* at, W n) { const V old = *at; *at = max(old, static_cast<V>(n)); return old; }
template <class V, class W> V atomicMin(V* at, W n) { const V old = *at; *at = min(old, static_cast<V>(n)); return old; }
template <class V, class W> V atomicExch(V* at, W n) { const V old = *at; *at = static_cast<V>(n); return old; }
template <class V> V atomicCAS(V* at, V expected, V n) { const V old = *at; if (old == expected) *at = n; return old; }
template <class V> V __ldcg(const V* at) { return *at; }
template <class V> V __ldg(const V* at) { return *at; }

// csrc/cuda_asm.cuh

#include "rules.h"

namespace maxact::cuda {

constexpr unsigned kWarp = 0xFFFFFFFFu;
inline int lane_id() { return threadIdx.x % 32; }
inline int warp_id() { return threadIdx.x / 32; }

template <class T>
void mma(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1) {
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
      if (b) sum += value(words[quad * 4 + from][row + 2 * word] >> half & 0xFFFF) * value(b);
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
inline void add_shared(uint32_t at, uint32_t n) { at_shared<uint32_t>(at) += n; }
template <bool kUpper>
void add_ones(uint32_t base, uint32_t w0, uint32_t w1, uint32_t w2, uint32_t w3) {
  for (const uint32_t w : {w0, w1, w2, w3}) {
    if (!kUpper) add_shared(base + (w & 0xFFFF) * 4, 1);
    add_shared(base + (w >> 16) * 4, 1);
  }
}
inline void copy_async(uint32_t to, const void* from) { memcpy(shared + to, from, 16); }
inline void copies_end() {}
template <int>
void copies_arrived() {}
inline float quotient(float a, float b) { return a / b; }
template <class V>
V read_together(const V& place) { return __shfl_sync(kWarp, place, 0); }
inline void hide(int&) {}
inline void and_in_place(uint32_t& word, uint32_t mask) { word &= mask; }
inline uint32_t pick(bool first, uint32_t a, uint32_t b) { return first ? a : b; }
inline float max_or_nan(float a, float b) { return isnan(a) || isnan(b) ? NAN : a > b ? a : b; }
inline void wait_at(int barrier, int n_threads) { wait_in_block(barrier, n_threads); }
inline void add_global(int64_t* at, unsigned long long n) { *at += n; }
inline void max_global(float* at, uint32_t magnitude) { *at = std::max(*at, bits_float(magnitude)); }
inline void max_global(unsigned long long* at, unsigned long long n) { *at = std::max(*at, n); }
inline void add_and_ask(uint32_t* number, bool asks, uint32_t& answer) { if (asks) answer = (*number)++; }
inline bool load_if(const uint8_t* from, bool valid) { return valid && *from; }
inline void put_away(uint4* place, const uint4& v) { *place = v; }
inline uint4 take_back(const uint4* place) { return *place; }

struct Launch;

}  // namespace maxact::cuda

// The runtime of a device with 227 KB of shared memory a block, as an H100 has.

using cudaError_t = int;
using cudaStream_t = void*;
enum { cudaSuccess, cudaErrorInsufficientDriver = 35 };
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount, cudaDevAttrMaxSharedMemoryPerBlockOptin, cudaDevAttrComputeCapabilityMajor };
enum { cudaFuncAttributeMaxDynamicSharedMemorySize };
#define CUDART_VERSION 0
inline const char* cudaGetErrorString(cudaError_t) { return "an error"; }
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr name, int) {
  const char* n = getenv("N_MULTIPROCESSORS");
  const int values[] = {n ? atoi(n) : 3, 232448, 9};
  *value = values[name];
  return 0;
}
inline cudaError_t cudaGetDevice(int* device) { return *device = 0; }
inline cudaError_t cudaSetDevice(int) { return 0; }
inline cudaError_t cudaGetDeviceCount(int* n) { *n = 1; return 0; }
inline cudaError_t cudaDriverGetVersion(int* version) { *version = 1; return 0; }
inline cudaError_t cudaFuncSetAttribute(const void*, int, int) { return 0; }
struct cudaFuncAttributes { int ptxVersion; };
inline cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void*) { return attributes->ptxVersion = 90, 0; }
template <class = void>
cudaError_t cudaLaunchKernel(const void* function, dim3 grid, dim3 block, void** arguments, size_t n_shared, cudaStream_t) {
  using maxact::cuda::Launch;
  static const void* kernel;
  static const Launch* launch;
  kernel = function, launch = static_cast<const Launch*>(arguments[0]);
  if (n_shared > sizeof(maxact::cuda::shared)) return 1;
  gridDim = grid, blockDim = block;
  on_cpu::body = [] { reinterpret_cast<void (*)(Launch)>(const_cast<void*>(kernel))(*launch); };
  for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x) {
    memset(maxact::cuda::shared, 0xAA, sizeof(maxact::cuda::shared));  // nobody may rely on what was there
    on_cpu::run_block(block.x);
  }
  return 0;
}
