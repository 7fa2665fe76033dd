// The threads of a block on a CPU: each is a fiber, and what threads do together waits until all are there. Blocks run one
// after the other, of a device of N_MULTIPROCESSORS. Lanes of a warp that wait at different places, and threads that wait
// for ever, end the process with a sentence.
#pragma once

#include <ucontext.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>

#include "cuda_races_on_cpu.h"

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
inline dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace maxact::cuda {
constexpr size_t kShared = 232448;
inline __attribute__((aligned(4096))) char shared[(kShared + 4095) / 4096 * 4096];
}

namespace on_cpu {

[[noreturn]] inline void fail(const char* sentence, const char* a = "", const char* b = "") {
  fprintf(stderr, "block %u, thread %u: %s %s %s\n", blockIdx.x, threadIdx.x, sentence, a, b);
  fflush(stderr);
  abort();
}

struct Copy { uint32_t to, group; const void* from; };
struct Flight { uint32_t to, n_bytes, barrier; const void* from; };  // a copy by the engine
struct Fiber {
  ucontext_t context;
  void* thread;  // as which cuda_races_on_cpu.h knows it
  const uint64_t* waits_for;  // until it is no longer `seen`
  uint64_t seen;
  bool done;
  uint32_t n_copies, n_groups;
  Copy copies[64];  // on their way to shared memory
  uint32_t n_flights;
  Flight flights[64];
};
struct Warp {
  uint64_t generation;
  int n_here;
  const char* where;
  uint32_t words[2][32][6];
  char turns[2];  // what __syncwarp orders: nobody is late for one before all are at the next
};
struct Barrier {
  uint64_t generation;
  unsigned n_here;
  char turns[2];
};
constexpr int kMostThreads = 768;
struct alignas(4096) Block {
  Warp warps[kMostThreads / 32];
  Barrier barriers[16];
  races::Fences fences[2];  // between threads of the block, and with others
  Fiber fibers[kMostThreads];
  char stacks[kMostThreads][1 << 18];
};
inline Block block;
inline ucontext_t scheduler;
inline void* host;
inline char launch_done;
inline void (*body)();

UNSEEN inline Fiber& me() { return block.fibers[threadIdx.x]; }
UNSEEN inline void leave() {
  races::go_to(host);
  swapcontext(&me().context, &scheduler);
}
UNSEEN inline void pause(const uint64_t* until_changed = nullptr) {
  me().waits_for = until_changed, me().seen = until_changed ? *until_changed : 0;
  leave();
}

// All lanes of a warp give up to six words, and see what all gave.
UNSEEN inline uint32_t (*meet(const char* where, std::initializer_list<uint32_t> mine))[6] {
  Warp& warp = block.warps[threadIdx.x / 32];
  auto* words = warp.words[warp.generation & 1];
  for (size_t i = 0; i < mine.size(); ++i) words[threadIdx.x % 32][i] = mine.begin()[i];
  if (warp.n_here == 0) warp.where = where;
  if (strcmp(warp.where, where)) fail("lanes of a warp wait at", warp.where, where);
  if (++warp.n_here == 32) warp.n_here = 0, ++warp.generation;
  else pause(&warp.generation);
  return words;
}

UNSEEN inline void start() {
  body();
  if (me().n_copies || me().n_flights) fail("ends before its copies arrived");
  me().done = true;
  races::come_before(&launch_done);
  leave();
}

UNSEEN inline void run_block(unsigned n_threads) {
  if (n_threads > kMostThreads) fail("no such block");
  races::renew(block);
  for (races::Fences& fences : block.fences) fences.fenced = __tsan_create_fiber(0), fences.read = __tsan_create_fiber(0);
  for (unsigned i = 0; i < n_threads; ++i) {
    Fiber& fiber = block.fibers[i];
    fiber.thread = __tsan_create_fiber(0);
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = block.stacks[i], fiber.context.uc_stack.ss_size = sizeof(block.stacks[i]);
    makecontext(&fiber.context, start, 0);
  }
  // A missing barrier shows where the threads' order changes a result: REVERSED runs them from the last to the first.
  const bool reversed = getenv("REVERSED");
  for (int idle = 0; idle < 10000; ++idle) {  // passes in which nobody could go on but those that spin
    bool all_done = true;
    for (unsigned place = 0; place < n_threads; ++place) {
      const unsigned i = reversed ? n_threads - 1 - place : place;
      Fiber& fiber = block.fibers[i];
      all_done &= fiber.done;
      if (fiber.done || (fiber.waits_for && *fiber.waits_for == fiber.seen)) continue;
      if (fiber.waits_for) idle = 0;
      threadIdx.x = i;
      races::go_to(fiber.thread);
      swapcontext(&scheduler, &fiber.context);
      if (fiber.done) idle = 0;
    }
    if (all_done) {
      for (unsigned i = 0; i < n_threads; ++i) __tsan_destroy_fiber(block.fibers[i].thread);
      for (races::Fences& fences : block.fences) __tsan_destroy_fiber(fences.fenced), __tsan_destroy_fiber(fences.read);
      return;
    }
  }
  for (threadIdx.x = 0; me().done; ++threadIdx.x) {}
  fail("waits for ever; its warp was last at", block.warps[threadIdx.x / 32].where);
}

}  // namespace on_cpu
