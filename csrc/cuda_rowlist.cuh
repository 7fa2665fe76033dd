// Which rows may hold some of the k largest elements. Of the rows in the order (m_t descending, token, first feature
// of m_t) the k first hold them all: each brings an element that comes before any element of a later row. So a block
// lists its k first rows, one entry each, and reads them again when it is done: some four rows a block of random data.
#pragma once

#include "cuda_read.cuh"

namespace maxact::cuda {

// The last of the listed entries. The warp holds the lock.
__device__ __forceinline__ void find_worst(const Launch& a) {
  Entry worst{0xFFFFFFFFu, 0, INT64_MIN};
  uint32_t at = 0;
#pragma unroll 1
  for (int i = lane_id(); i < a.o.topk; i += 32)
    if (before(worst, list_entries(a)[i])) worst = list_entries(a)[i], at = i;
#pragma unroll 1
  for (int offset = 1; offset < 32; offset <<= 1) {
    const Entry other{__shfl_xor_sync(kWarp, worst.bits, offset), __shfl_xor_sync(kWarp, worst.feature_sign, offset),
                      __shfl_xor_sync(kWarp, worst.token, offset)};
    const uint32_t other_at = __shfl_xor_sync(kWarp, at, offset);
    if (before(worst, other) || (!before(other, worst) && other_at < at)) worst = other, at = other_at;
  }
  if (lane_id() == 0) {
    control().worst = worst, control().worst_at = at;
    write_now(control().worst_key, list_key(a, worst.bits, worst.token));
  }
}

// Lists a row unless topk rows of this block come before it. All lanes of the warp, same arguments.
template <class T>
__device__ __noinline__ void list_row(const Launch& a, uint32_t row, uint32_t bits) {
  Control& c = control();
  const uint32_t topk = a.o.topk;
  // The worst only gets better, so an old value refuses nobody wrongly.
  if (list_key(a, bits, row) < read_together(c.worst_key)) return;
  const Entry entry{bits, a.ids ? first_with<T>(a, row, bits) : 0, row_token(a, row)};
  acquire(&c.lock);
  const bool full = c.n_listed == topk;
  if (!full || before(entry, c.worst)) {
    const uint32_t at = full ? c.worst_at : c.n_listed;
    __syncwarp();
    if (lane_id() == 0) {
      list_entries(a)[at] = entry, list_rows(a)[at] = row;
      if (!full) c.n_listed = at + 1;
    }
    __syncwarp();
    if (at + 1 == topk || full) find_worst(a);
  }
  release(&c.lock);
}

__device__ __forceinline__ void wait_for_none(const Launch& a) { facts_of(a).waiting_row[lane_id()] = kNoRow; }

// Rows that this warp has just finished, one a lane: those that reach the bar raise the slots, and wait. Those that waited before
// them are listed if they still reach it: by then it has passed nearly all, in a stream that rises and at a stream's begin
// (listing the first 32 rows of every warp at once took 150 us). The bar decides ties by rows, as the list does: where all
// rows had the same m_t, every block listed topk of them, which took 600 us.
template <class T>
__device__ __forceinline__ void offer_rows(const Launch& a, uint32_t row, uint32_t bits, bool on) {
  Control& c = control();
  Facts& facts = facts_of(a);
  const unsigned long long key = list_key(a, bits, row), least = read_now(c.bar);
  const uint32_t old_row = facts.waiting_row[lane_id()];
  if (!__any_sync(kWarp, (on && key >= least) || old_row != kNoRow)) return;
  if (on && key > least) max_global(a.scratch.slots + row % a.o.topk, key);
  const uint32_t old_bits = facts.waiting_bits[lane_id()];
  const unsigned long long old_key = list_key(a, old_bits, old_row);
  facts.waiting_row[lane_id()] = on && key >= least ? row : kNoRow, facts.waiting_bits[lane_id()] = bits;
  unsigned todo = __ballot_sync(kWarp, old_row != kNoRow && old_key >= read_now(c.bar));
  if (__popc(todo) > 2) {  // to list so few takes no longer than to ask
    const unsigned long long bar = read_bar(a), worst = read_now(c.worst_key);
    if (lane_id() == 0) atomicMax(&c.bar, bar);
    todo = __ballot_sync(kWarp, old_row != kNoRow && old_key >= bar && old_key >= worst);
  }
  for (; todo; todo &= todo - 1) {
    const int lane = __ffs(todo) - 1;
    list_row<T>(a, __shfl_sync(kWarp, old_row, lane), __shfl_sync(kWarp, old_bits, lane));
  }
}

}  // namespace maxact::cuda
