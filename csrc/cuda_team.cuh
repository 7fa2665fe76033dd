// The warps that share rows, each a slice of every one, and how they agree on numbers of rows.
#pragma once

#include "cuda_block.cuh"

namespace maxact::cuda {

// Of one row: every warp of a team gives one, and reads what all gave.
struct __align__(16) Slice {
  uint32_t top;
  float sum, near, spare;
};

static_assert(sizeof(Slice) * 2 * 16 == kExchangeBytes);

struct Team {
  int size, index, rank;
  unsigned turn = 0;
  // By a shuffle, so that the compiler knows that all lanes have the same: then it needs no registers for it, and no
  // second version of everything for lanes that part.
  __device__ __forceinline__ explicit Team(int warps) : size(warps) {
    const int warp = __shfl_sync(kAll, warp_id(), 0);
    index = warp / warps, rank = warp % warps;
  }

  // Waits for the other warps. One barrier an exchange is enough: the turn after the next cannot begin before all have
  // read this one.
  __device__ __forceinline__ void meet() const {
    asm volatile("bar.sync %0, %1;" ::"r"(index + 1), "r"(size * 32) : "memory");
  }
  __device__ __forceinline__ Slice* slices(const Launch& a, int row) {
    return reinterpret_cast<Slice*>(shared + a.g.exchange_at) + ((index * 2 + turn) * 16 + (row & 15)) * size;
  }
  // The sum over the team of a number of this lane's row.
  template <class L>
  __device__ __forceinline__ int add(const Launch& a, int mine) {
    if (size == 1) return mine;
    uint32_t* const slots = reinterpret_cast<uint32_t*>(slices(a, L::row()));
    if (L::first()) slots[rank] = static_cast<uint32_t>(mine);
    meet();
    int total = 0;
    for (int i = 0; i < size; ++i) total += static_cast<int>(slots[i]);
    turn ^= 1;
    return total;
  }
  // What the first warp gave.
  template <class L>
  __device__ __forceinline__ Slice first(const Launch& a, const Slice& mine) {
    if (size == 1) return mine;
    Slice* const slots = slices(a, L::row());
    if (L::first() && rank == 0) slots[0] = mine;
    meet();
    turn ^= 1;
    return slots[0];
  }
  // Joins what the warps found of their slices: the largest element, and sums in the order of warps.
  template <class L>
  __device__ __forceinline__ double join(const Launch& a, Slice& slice) {
    if (size == 1) return slice.sum;
    Slice* const slots = slices(a, L::row());
    if (L::first()) slots[rank] = slice;
    meet();
    double sum = 0;
    slice.top = 0, slice.near = 0;
    for (int i = 0; i < size; ++i) {
      const Slice other = slots[i];
      slice.top = max(slice.top, other.top), slice.near += other.near, sum += other.sum;
    }
    turn ^= 1;
    return sum;
  }
};

}  // namespace maxact::cuda
