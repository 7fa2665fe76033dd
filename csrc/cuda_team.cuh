// The warps that share rows, each a slice of every one, and how they agree on numbers of rows.
#pragma once

#include "cuda_block.cuh"

namespace maxact::cuda {

// Of one row: what warps of a team tell each other at once.
struct __align__(16) Slice {
  uint32_t bits;
  float ratio, peak, spare;
};

static_assert(sizeof(Slice) * 2 * 2 == kExchangeBytes);  // kernels for teams take at most two rows at a time

// kTeam: whether there are any; a warp alone agrees with itself, without a word.
template <bool kTeam>
struct Team {
  int size = 1, index, rank = 0;
  unsigned turn = 0;
  // By a shuffle, so that the compiler knows that all lanes have the same: then it needs no registers for it, and no
  // second version of everything for lanes that part.
  __device__ __forceinline__ explicit Team(int warps) {
    index = __shfl_sync(kWarp, warp_id(), 0);
    if constexpr (kTeam) size = warps, rank = index % warps, index /= warps;
  }

  // Waits for the other warps. One barrier an exchange is enough: the turn after the next cannot begin before all have
  // read this one.
  __device__ __forceinline__ void meet() const {
    if (kTeam && size > 1) wait_at(index + 1, size * 32);
  }
  __device__ __forceinline__ Slice* slices(const Launch& a, int row) {
    return reinterpret_cast<Slice*>(shared + a.g.exchange_at) + ((index * 2 + turn) * 2 + (row & 1)) * size;
  }
  // The sum over the team of a number of this lane's row.
  template <class L>
  __device__ __forceinline__ int add(const Launch& a, int mine) {
    if (!kTeam || size == 1) return mine;
    int* const slots = reinterpret_cast<int*>(slices(a, L::row()));
    if (L::first()) slots[rank] = mine;
    meet();
    int all = 0;
    for (int i = 0; i < size; ++i) all += slots[i];
    turn ^= 1;
    return all;
  }
  // What the first warp gave.
  template <class L>
  __device__ __forceinline__ Slice first(const Launch& a, const Slice& mine) {
    if (!kTeam || size == 1) return mine;
    Slice* const slots = slices(a, L::row());
    if (L::first() && rank == 0) slots[0] = mine;
    meet();
    turn ^= 1;
    return slots[0];
  }
  // The largest that any warp gave, and the sum of what all did; and all learn what the first was `told`.
  template <class L>
  __device__ __forceinline__ uint32_t largest(const Launch& a, uint32_t mine, int& sum, uint32_t& told) {
    if (!kTeam || size == 1) return mine;
    uint4* const slots = reinterpret_cast<uint4*>(slices(a, L::row()));
    if (L::first()) slots[rank] = make_uint4(mine, static_cast<uint32_t>(sum), told, 0);
    meet();
    uint32_t all = 0;
    sum = 0;
    for (int i = 0; i < size; ++i) all = max(all, slots[i].x), sum += static_cast<int>(slots[i].y);
    told = reinterpret_cast<uint4*>(slices(a, 0))->z;
    turn ^= 1;
    return all;
  }
};

}  // namespace maxact::cuda
