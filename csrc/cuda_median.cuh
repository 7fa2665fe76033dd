// The search for the lower median of a row by counting: the smallest key that enough elements do not exceed. Here are its
// numbers only, one row a lane; who counts is in cuda_tile.cuh.
#pragma once

#include "cuda_warp.cuh"

namespace maxact::cuda {

// n_below elements are at most `below`, n_enough at most `enough`; n_below < rank <= n_enough.
struct Search {
  int below, enough, n_below, n_enough;
  float width;  // keys per rank near the median, as far as known
  int last_key = 0, last_n = 0;

  __device__ __forceinline__ bool open() const { return enough - below > 1; }
  __device__ __forceinline__ void close() { below = enough - 1; }
  // Whether the median is the element next above `below`, or else the next down from `enough`: then no count is needed.
  __device__ __forceinline__ bool is_next_up(int rank) const { return n_below + 1 == rank; }
  __device__ __forceinline__ bool is_next(int rank) const { return is_next_up(rank) || n_enough == rank; }

  // Takes in, where a row was `counted`, that `most` elements are at most `key` and `less` at most `low`, key - 1 or key
  // itself; this was count `turn`, from 1. Returns the next key to count around: the missing ranks times the width, from
  // the count just made. Two counts that differ enough give a width of their own; where a step changed little of what was
  // missing, the next is longer. From the eighth count on halving, so that no data need more than 8 + log2(range). No
  // branch: lanes must not part.
  __device__ __forceinline__ int narrow(bool counted, int turn, int key, int low, int less, int most, int rank) {
    const bool is_above = most < rank, is_below = less >= rank;
    const float missing = static_cast<float>(rank - (is_above ? most : less)) - 0.5f;
    const float ranks = static_cast<float>(most - last_n), keys = static_cast<float>(key - last_key);
    const bool tells = fabsf(ranks) >= 16, stuck = fabsf(missing) > 4 * fabsf(ranks) + 4;
    const float own = tells ? fminf(fmaxf(quotient(keys, ranks), 0x1p-8f), 0x1p10f) : stuck ? 4 * width : width;
    width = turn > 1 && counted ? own : width;
    last_key = key, last_n = most;
    if (counted) {
      n_below = is_above ? most : is_below ? n_below : less;
      below = is_above ? key : is_below ? below : low;
      n_enough = is_above ? n_enough : is_below ? less : most;
      enough = is_above ? enough : is_below ? low : key;
    }
    // Upwards the first key is 1 away, downwards `low` itself is 0 away.
    const int step = static_cast<int>(ceilf(fminf(fmaxf(missing * width, -0x1p15f), 0x1p15f)));
    const int next = turn > 7 ? (below + enough) >> 1 : (is_above ? key : low) + step;
    return max(below + 1, min(next, enough - 1));
  }
};

}  // namespace maxact::cuda
