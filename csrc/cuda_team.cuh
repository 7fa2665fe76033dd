// The warps that share a row, and how they agree.
#pragma once

#include "cuda_block.cuh"

namespace maxact::cuda {

// A warp that has its row for itself.
struct Alone {
  static constexpr int size = 1;
  __device__ __forceinline__ explicit Alone(int) {}
  __device__ __forceinline__ int index() const { return warp_id(); }
  __device__ __forceinline__ int rank() const { return 0; }
  template <class Take>
  __device__ __forceinline__ void all(unsigned long long mine, Take take) { take(mine); }
  template <class V>
  __device__ __forceinline__ V add(V mine) { return mine; }
  __device__ __forceinline__ uint32_t least(uint32_t mine) { return mine; }
  __device__ __forceinline__ uint32_t first(uint32_t mine) { return mine; }
};

struct Team {
  int size;
  unsigned turn, place;  // place: index << 8 | rank
  __device__ __forceinline__ explicit Team(int warps) : size(warps), turn(0), place(warp_id() / warps << 8 | warp_id() % warps) {}
  __device__ __forceinline__ int index() const { return place >> 8; }
  __device__ __forceinline__ int rank() const { return place & 0xFF; }
  // Calls take() with what every warp of the team gave (all lanes alike), in the order of warps.
  template <class Take>
  __device__ __forceinline__ void all(unsigned long long mine, Take take) {
    Control& c = control();
    unsigned long long* const slots = c.exchange[turn] + index() * size;
    if (lane_id() == 0) slots[rank()] = mine;
    asm volatile("bar.sync %0, %1;" ::"r"(index() + 1), "r"(size * 32) : "memory");
    take(slots[0]);
    take(slots[1]);
    for (int i = 2; i < size; ++i) take(slots[i]);
    turn ^= 1;
  }
  __device__ __forceinline__ int add(int mine) {
    if (size == 1) return mine;
    int total = 0;
    all(static_cast<unsigned>(mine), [&](unsigned long long v) { total += static_cast<int>(v); });
    return total;
  }
  __device__ __forceinline__ double add(double mine) {
    if (size == 1) return mine;
    double total = 0;
    all(static_cast<unsigned long long>(__double_as_longlong(mine)),
        [&](unsigned long long v) { total += __longlong_as_double(static_cast<long long>(v)); });
    return total;
  }
  __device__ __forceinline__ uint32_t least(uint32_t mine) {
    if (size == 1) return mine;
    uint32_t smallest = 0xFFFFFFFFu;
    all(mine, [&](unsigned long long v) { smallest = min(smallest, static_cast<uint32_t>(v)); });
    return smallest;
  }
  // What the first warp gave.
  __device__ __forceinline__ uint32_t first(uint32_t mine) {
    if (size == 1) return mine;
    uint32_t theirs = 0;
    bool is_first = true;
    all(mine, [&](unsigned long long v) { theirs = is_first ? static_cast<uint32_t>(v) : theirs, is_first = false; });
    return theirs;
  }
};

}  // namespace maxact::cuda
