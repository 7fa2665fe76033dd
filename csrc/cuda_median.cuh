// The lower median of a row in registers, by counting: the smallest pattern that enough elements do not exceed.
#pragma once

#include "cuda_warp.cuh"

namespace maxact::cuda {

// Elements of this lane's quad that are at most the two patterns of `pivot`. Compares make ones and zeros, the matrix
// units add them: 1.25 instructions for two elements where compare and add take 2. Exact: far below 2^24.
template <class T, int kWords>
__device__ __forceinline__ float quad_at_most(const uint32_t (&keys)[kWords], uint32_t pivot) {
  static_assert(kWords % 4 == 0);
  float even[4] = {}, odd[4] = {};  // two chains, so that one hides half of the other's latency
#pragma unroll
  for (int i = 0; i < kWords; i += 4)
    mma<T>(i / 4 % 2 ? odd : even, at_most<T>(keys[i], pivot), at_most<T>(keys[i + 1], pivot),
           at_most<T>(keys[i + 2], pivot), at_most<T>(keys[i + 3], pivot), kOnes<T>, kOnes<T>);
  return (even[0] + even[2]) + (odd[0] + odd[2]);
}

// What is known of a median: n_below elements are at most `below`, n_enough at most `enough`; n_below < rank <= n_enough.
struct Bracket {
  int below, enough, n_below, n_enough;
};

// Narrows a bracket until it holds one pattern, `enough`. count(p): elements at most p, for this lane's row.
// The first pivot is a guess that has been counted; then steps of (missing ranks) * slope, where slope is patterns per
// rank, a little longer each time; where patterns are fine (kInterpolate), between two counted ends by interpolation;
// after four counts (six) halving, so that no data need more than 8 + log2(width). `counted`: the ends given are counts.
// Neighbouring rows have near medians: some four counts do. (Divisions are approximate: an exact one calls a function,
// and a call in the loop over rows costs the registers that hold the row.)
template <bool kInterpolate, class Count>
__device__ __forceinline__ void narrow(Bracket& k, bool counted, int rank, int guess, int n_guess, float slope, Count count) {
  int pivot = guess, n = n_guess, reach = 1;
  bool low = counted, high = counted;
  bool open = k.enough - k.below > 1;
  while (true) {
    const bool up = n < rank;
    if (open) {
      if (up)
        k.below = pivot, k.n_below = n, low = true;
      else
        k.enough = min(k.enough, pivot), k.n_enough = n, high = true;
    }
    open = k.enough - k.below > 1;
    if (!__any_sync(kAll, open)) break;
    // By density, a pattern further each time; once it is far, by halves.
    const int stride = min(static_cast<int>(static_cast<float>(abs(rank - n)) * slope), 4096) + reach;
    const int middle = (k.below + k.enough) >> 1;
    pivot += up ? stride : -stride;
    if constexpr (kInterpolate) {
      const float share = __fdividef(static_cast<float>(rank - k.n_below) - 0.5f, static_cast<float>(k.n_enough - k.n_below));
      if (low && high && reach > 1) pivot = k.below + static_cast<int>(share * static_cast<float>(k.enough - k.below));
    }
    if (reach > (kInterpolate ? 32 : 8)) pivot = middle;
    pivot = max(k.below + 1, min(pivot, k.enough - 1));
    reach *= 2;
    n = count(pivot);
  }
}

}  // namespace maxact::cuda
