// Medians of float32: the search among upper halves leaves a few elements, and one of them is the median.
#pragma once

#include "cuda_team.cuh"
#include "cuda_tile.cuh"

namespace maxact::cuda {

// The element that is the keeper's `nth` (from 1) smallest of those of its float32 row with its key. They are few,
// so the lanes that have one write it to a list (`room` places a row, enough for all), and each finds how many are
// smaller. 14 counts a row by halving were 60 % of the kernel's time.
template <class TileT, class TeamT>
__device__ __forceinline__ uint32_t nth_with_key(const TileT& tile, const TeamT& team, FineList& fine, int room, uint32_t key,
                                                 int nth, bool wanted) {
  using L = typename TileT::L;
  uint16_t* const list = fine.low_halves;
  uint32_t* const n_listed = fine.n;
  const uint32_t base = wanted ? key << 16 : 0xFFFFFFFFu;
  __syncwarp();
  if (team.rank == 0) n_listed[lane_id()] = 0;
  team.meet();
  __syncwarp();
#pragma unroll
  for (int p = 0; p < TileT::kPasses; ++p) {
    const uint32_t b = L::of(base, p);
    const int row = p * TileT::kSides + (TileT::kSides > 1 ? lane_id() / L::kPerRow : 0);
#pragma unroll
    for (int i = 0; i < TileT::kWords; i += 4) {
      bool found = false;
#pragma unroll
      for (int e = 0; e < 4; ++e) found |= (tile.w[p][i + e] & 0xFFFF0000u) == b;
      if (!found) continue;
#pragma unroll
      for (int e = 0; e < 4; ++e)
        if ((tile.w[p][i + e] & 0xFFFF0000u) == b) list[row * room + atomicAdd(n_listed + row, 1u)] = static_cast<uint16_t>(tile.w[p][i + e]);
    }
  }
  team.meet();
  __syncwarp();
  uint32_t result = 0;
#pragma unroll 1
  for (unsigned todo = __ballot_sync(kWarp, wanted && L::first()); todo; todo &= todo - 1) {
    const int keeper = __ffs(todo) - 1;
    const int row = __shfl_sync(kWarp, L::row(), keeper), rank = __shfl_sync(kWarp, nth, keeper);
    const int n = static_cast<int>(n_listed[row]);
    uint32_t median = 0;
#pragma unroll 1
    for (int first = 0; first < n; first += 32) {
      const uint32_t mine = first + lane_id() < n ? list[row * room + first + lane_id()] : 0xFFFFFFFFu;
      int less = 0, at_most = 0;
#pragma unroll 4
      for (int i = 0; i < n; ++i) {
        const uint32_t other = list[row * room + i];
        less += other < mine, at_most += other <= mine;
      }
      const unsigned it = __ballot_sync(kWarp, mine != 0xFFFFFFFFu && less < rank && rank <= at_most);
      if (it) median = __shfl_sync(kWarp, mine, __ffs(it) - 1);
    }
    if (row == L::row()) result = key << 16 | median;
  }
  return result;
}

}  // namespace maxact::cuda
