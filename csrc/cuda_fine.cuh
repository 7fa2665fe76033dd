// Medians of float32: the search among upper halves leaves a few elements, and one of them is the median.
#pragma once

#include "cuda_team.cuh"
#include "cuda_tile.cuh"

namespace maxact::cuda {

// The element that is the keeper's `nth` (from 1) smallest of those of its float32 row with its key, where it is `wanted`. They
// are few, so the lanes that have one write it to a list (`room` places a row, enough for all), and each finds how many are
// smaller. 14 counts a row by halving were 60 % of the kernel's time, a list by atomics a quarter. Where a lane has more than
// kLaneRoom - 2, the row is wanted no more.
template <class TileT, class TeamT>
__device__ __forceinline__ uint32_t nth_with_key(const Launch& a, const TileT& tile, const TeamT& team, int room, uint32_t key,
                                                 int nth, bool& wanted) {
  using L = typename TileT::L;
  FineList* const lists = reinterpret_cast<FineList*>(shared + a.g.fine_at);
  FineList &found = lists[team.index], &mine = lists[team.index * team.size + team.rank];
  const uint32_t base = wanted ? key << 16 : 0xFFFFFFFFu, last = shared_address(&mine.of_lanes[kLaneRoom - 1][lane_id()]);
  __syncwarp();
  if (team.rank == 0) found.n[lane_id()] = 0;
  team.meet();
  __syncwarp();
#pragma unroll
  for (int p = 0; p < TileT::kPasses; ++p) {
    const uint32_t b = L::of(base, p);
    uint32_t at = last - 64 * (kLaneRoom - 1);
#pragma unroll
    for (int i = 0; i < TileT::kWords; i += 4) {
      bool any = TileT::kPieces == 16;  // without a vote kernels of 8 and 20 pieces spill; with it that of 16 reads 10 % less
      if (!any) {
#pragma unroll
        for (int e = 0; e < 4; ++e) any |= (tile.w[p][i + e] & 0xFFFF0000u) == b;
        any = __any_sync(kWarp, any);
      }
      if (!any) continue;
#pragma unroll
      for (int e = 0; e < 4; ++e) list_if_same(at, last, tile.w[p][i + e], b);
    }
    const int n_mine = kLaneRoom - 1 - static_cast<int>(last - at) / 64, leader = lane_id() & ~(L::kPerRow - 1);
    const int row = p * TileT::kSides + (TileT::kSides > 1 ? lane_id() / L::kPerRow : 0);
    const unsigned of_row = (TileT::kSides > 1 ? (1u << L::kPerRow) - 1 : kWarp) << leader;
    if (n_mine == kLaneRoom - 1) atomicAdd(found.n + row, 1u << 16);
    // The first of every lane, then the second, and so on.
#pragma unroll 1
    for (int i = 0; const unsigned lanes = __ballot_sync(kWarp, i < n_mine); ++i) {
      uint32_t place = 0;
      if (lane_id() == leader) place = atomicAdd(found.n + row, static_cast<uint32_t>(__popc(lanes & of_row)));
      place = __shfl_sync(kWarp, place, leader) + __popc(lanes & of_row & ((1u << lane_id()) - 1));
      if (i < n_mine && place < static_cast<uint32_t>(room))
        found.low_halves[row * room + place] = mine.of_lanes[i][lane_id()];
    }
  }
  team.meet();
  __syncwarp();
  const uint16_t* const list = found.low_halves;
  const uint32_t* const n_listed = found.n;
  if (n_listed[L::row() & 31] > static_cast<uint32_t>(room)) wanted = false;
  uint32_t result = 0;
#pragma unroll 1
  for (unsigned todo = __ballot_sync(kWarp, wanted && L::first()); todo; todo &= todo - 1) {
    const int keeper = __ffs(todo) - 1;
    const int row = __shfl_sync(kWarp, L::row(), keeper), rank = __shfl_sync(kWarp, nth, keeper);
    const int n = static_cast<int>(n_listed[row]);
    uint32_t median = 0;
#pragma unroll 1
    for (int first = 0; first < n; first += 32) {
      const uint32_t low = first + lane_id() < n ? list[row * room + first + lane_id()] : 0xFFFFFFFFu;
      int less = 0, at_most = 0;
#pragma unroll 4
      for (int i = 0; i < n; ++i) {
        const uint32_t other = list[row * room + i];
        less += other < low, at_most += other <= low;
      }
      const unsigned it = __ballot_sync(kWarp, low != 0xFFFFFFFFu && less < rank && rank <= at_most);
      if (it) median = __shfl_sync(kWarp, low, __ffs(it) - 1);
    }
    if (row == L::row()) result = key << 16 | median;
  }
  return result;
}

}  // namespace maxact::cuda
