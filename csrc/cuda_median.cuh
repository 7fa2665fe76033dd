// The search for the lower median of a row by counting: the smallest pattern that enough elements do not exceed. Here
// are its numbers only, one row a lane; who counts is in cuda_tile.cuh.
#pragma once

#include "cuda_warp.cuh"

namespace maxact::cuda {

// n_below elements are at most `below`, n_enough at most `enough`; n_below < rank <= n_enough.
struct Bracket {
  int below, enough, n_below, n_enough;

  __device__ __forceinline__ bool open() const { return enough - below > 1; }

  // Takes in that n elements are at most `pivot`, and returns the next pivot. First a step of (missing ranks) * slope,
  // where slope is patterns per rank; between two counted ends the nearer end's missing ranks at the density between
  // them; from the seventh count on halving, so that no data need more than 7 + log2(width). Real rows take 3.5 counts.
  // `turn`: which count this was, from 0; n_all: elements of the row.
  // Divisions are approximate: an exact one calls a function, and a call where a row is in registers costs them.
  __device__ __forceinline__ int narrow(int turn, int pivot, int n, int rank, int n_all, float slope) {
    const bool up = n < rank;
    if (open()) {
      if (up)
        below = pivot, n_below = n;
      else if (pivot <= enough)
        enough = pivot, n_enough = n;
    }
    const bool both = n_below > 0 && n_enough < n_all, from_below = both ? 2 * rank <= n_below + n_enough + 1 : up;
    const float width = both ? __fdividef(static_cast<float>(enough - below), static_cast<float>(n_enough - n_below)) : slope;
    const int missing = from_below ? rank - n_below : n_enough - rank;
    const int step = max(1, static_cast<int>(fminf(static_cast<float>(missing) * width, 0x1p20f) + (both ? 0.5f : 1.0f)));
    int next = from_below ? below + step : enough - step;
    if (turn > 5) next = (below + enough) >> 1;
    return max(below + 1, min(next, enough - 1));
  }
};

}  // namespace maxact::cuda
