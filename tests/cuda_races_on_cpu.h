// What orders the threads of a GPU, told to ThreadSanitizer: to it each fiber of cuda_threads_on_cpu.h is a thread, and what two
// of them do is ordered by nothing but what orders memory in PTX: barriers, __syncwarp, and fences around atomics.
// Shuffles, votes and mma wait and order nothing. Without -fsanitize=thread nothing of this does anything.
#pragma once

#include <sys/mman.h>

#include <cstdlib>

#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
extern "C" void __tsan_write16(void*);
#define UNSEEN __attribute__((no_sanitize_thread))  // the accesses of what stands in for the machine
#else
#define UNSEEN
inline void* __tsan_create_fiber(unsigned) { return nullptr; }
inline void* __tsan_get_current_fiber() { return nullptr; }
inline void __tsan_destroy_fiber(void*) {}
inline void __tsan_switch_to_fiber(void*, unsigned) {}
inline void __tsan_acquire(void*) {}
inline void __tsan_release(void*) {}
inline void __tsan_write16(void*) {}
#endif

namespace races {

// Memory that, as far as anybody can tell, no block has used: accesses and orders of an earlier block are forgotten.
template <class V>
UNSEEN void renew(V& place) {
  static_assert(sizeof(V) % 4096 == 0);
  munmap(&place, sizeof(V));
  constexpr int kHere = MAP_FIXED_NOREPLACE | MAP_PRIVATE | MAP_ANONYMOUS;
  if (mmap(&place, sizeof(V), PROT_READ | PROT_WRITE, kHere, -1, 0) != &place) abort();
}

UNSEEN inline void go_to(void* thread) { __tsan_switch_to_fiber(thread, 1); }  // without an order
// What this thread did before come_before(place) is ordered before what another does after a later come_after(place).
inline void come_before(void* place) { __tsan_release(place); }
inline void come_after(void* place) { __tsan_acquire(place); }

// From now on 16 bytes may change at any time.
inline void may_write(void* place) { __tsan_write16(place); }

// Fences of one scope in a block. What is before a fence comes before what is behind another if, after the first, an atomic
// changed what an atomic before the second read; fences are sequentially consistent, so both may be of other threads of
// the block than the atomics, with a barrier between (here: with or without). Two more threads do nothing but know.
struct Fences {
  void *fenced, *read;  // what came before the block's fences; what its atomics read that others had fenced
  char into, out;
};
UNSEEN inline void as(void* thread, void (*does)(void*), void* place) {
  void* const me = __tsan_get_current_fiber();
  go_to(thread);
  does(place);
  go_to(me);
}
UNSEEN inline void fence(Fences& of) {
  as(of.read, come_before, &of.out), come_after(&of.out);
  come_before(&of.into), as(of.fenced, come_after, &of.into);
}
UNSEEN inline void changed(Fences& of, void* atomic) { as(of.fenced, come_before, atomic); }
UNSEEN inline void read(Fences& of, void* atomic) { as(of.read, come_after, atomic); }

}  // namespace races
