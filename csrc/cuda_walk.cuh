// Which rows a team of warps takes: tile t of the tensor goes to team t % n_teams of the grid, so that a padded batch,
// whose hidden rows lie together, is shared evenly. Rows that the mask hides are stepped over without being read.
#pragma once

#include "cuda_lanes.cuh"

namespace maxact::cuda {

// kRows: of a tile.
template <int kRows>
class Walk {
 public:
  uint32_t tile, kept = 0;  // where it stands: of the next tile, or of the rows that a window's mask has left
  bool more;                // whether there was a next tile

  __device__ __forceinline__ Walk(const Launch& a, int team)   : tile(team < a.g.n_teams ? team * gridDim.x + blockIdx.x : a.n_rows) {
    if (a.mask) kept = look_up(a, true);
  }

  // Row `place` of the next tile (0 <= place < kRows), or kNoRow. There is no loop here and no branch that lanes could
  // disagree on, for the compiler to see that the lanes of a warp stay together: after one it had doubts, and made two
  // versions of all that follows. So a tile can have few rows, or none, where the mask hides many.
  __device__ __forceinline__ uint32_t next(const Launch& a, int place) {
    const uint64_t first = static_cast<uint64_t>(tile) * kRows;
    if (!a.mask) {
      more = first < a.n_rows;
      tile += step(a);
      return place < kRows && first + place < a.n_rows ? static_cast<uint32_t>(first) + place : kNoRow;
    }
    more = kept || first < a.n_rows;
    const int n = min(__popc(kept), kRows);
    const uint64_t row = row_of(a, tile - kTiles * step(a), nth(kept, min(place, 31)));
    kept = n ? kept & ~((2u << nth(kept, n - 1)) - 1) : 0;
    const bool ends = kept == 0;
    const uint32_t ahead = look_up(a, ends);
    kept = ends ? ahead : kept;
    return place < n ? static_cast<uint32_t>(row) : kNoRow;
  }

 private:
  static constexpr uint32_t kTiles = 32 / kRows;  // of the window that is looked up ahead
  __device__ static __forceinline__ uint32_t step(const Launch& a) { return a.g.n_teams * gridDim.x; }
  __device__ static __forceinline__ uint64_t row_of(const Launch& a, uint64_t tile, int slot) {
    return (tile + static_cast<uint64_t>(slot / kRows) * step(a)) * kRows + slot % kRows;
  }
  // The next window: whole tiles of up to 32 rows, one a lane. A load and a vote.
  __device__ __forceinline__ uint32_t look_up(const Launch& a, bool wanted) {
    const uint64_t row = row_of(a, tile, lane_id());
    if (wanted) tile += kTiles * step(a);
    return __ballot_sync(kAll, load_if(a.mask + row, wanted && lane_id() < kTiles * kRows && row < a.n_rows));
  }
  __device__ static __forceinline__ bool load_if(const uint8_t* from, bool valid) {
    uint32_t value = 0;
    asm volatile("{.reg .pred p; setp.ne.b32 p, %2, 0; @p ld.global.u8 %0, [%1];}" : "+r"(value) : "l"(from), "r"(static_cast<int>(valid)));
    return value;
  }
  // Where the n-th bit that is set lies, by halves.
  __device__ static __forceinline__ int nth(uint32_t bits, int n) {
    int at = 0;
#pragma unroll
    for (int half = 16; half; half /= 2) {
      const int below = __popc(bits >> at & ((1u << half) - 1));
      if (n >= below) n -= below, at += half;
    }
    return at;
  }

};

}  // namespace maxact::cuda
