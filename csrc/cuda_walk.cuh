// Which rows a team of warps takes, from the last to the first: what the kernel before wrote last is still in the L2, and so is
// what this one reads last when the next one reads it first. Most tiles are dealt in advance, tile t from the end to team
// t % n_teams of the grid; the rest go to whoever asks, because multiprocessors do not read alike: with all dealt in advance the
// first were done after 72 % of the time (H100). With a mask all are dealt, so that a padded batch, whose hidden rows lie
// together, is shared evenly; rows that the mask hides are stepped over without being read.
#pragma once

#include "cuda_lanes.cuh"

namespace maxact::cuda {

// kRows: of a tile.
template <int kRows>
class Walk {
 public:
  uint32_t following;  // the tile after the next less those dealt, at lane 0: it may still be on its way
  bool more;           // whether there was a next tile

  __device__ __forceinline__ Walk(const Launch& a, int team)
      : tile_(team < a.g.n_teams ? team * gridDim.x + blockIdx.x : a.n_tiles), left_(a.n_dealt) {
    if (a.mask) kept_ = look_up(a, true);
    ask(a, true);
  }

  // Row `place` of the next tile (0 <= place < kRows), or kNoRow. There is no loop here and no branch that lanes could
  // disagree on, for the compiler to see that the lanes of a warp stay together: after one it had doubts, and made two
  // versions of all that follows. So a tile can have few rows, or none, where the mask hides many. `following`: what the
  // team's first warp knows; `asks`: whether this is that warp.
  __device__ __forceinline__ uint32_t next(const Launch& a, int place, uint32_t following_tile, bool asks) {
    if (!a.mask) {
      more = tile_ < a.n_tiles;
      // Below 2^32 where there is a tile, and of no interest elsewhere.
      const uint32_t row = (a.n_tiles - 1 - tile_) * kRows + place;
      tile_ = following_tile + a.n_dealt * step(a);
      ask(a, asks);
      return (kRows == 1 || (place < kRows && row < a.n_rows)) && more ? row : kNoRow;
    }
    more = kept_ || tile_ < a.n_tiles;
    const int n = min(__popc(kept_), kRows);
    const uint64_t row = row_of(a, tile_ - kTiles * step(a), nth(kept_, min(place, 31)));
    kept_ = n ? kept_ & ~((2u << nth(kept_, n - 1)) - 1) : 0;
    const bool ends = kept_ == 0;
    const uint32_t ahead = look_up(a, ends);
    kept_ = ends ? ahead : kept_;
    return place < n ? static_cast<uint32_t>(row) : kNoRow;
  }

 private:
  uint32_t tile_, left_, kept_ = 0;  // the next tile; how many are dealt; rows that a window's mask has left

  __device__ __forceinline__ void ask(const Launch& a, bool asks) {
    following = tile_ + step(a) - a.n_dealt * step(a);
    const bool dealt = left_ > 1;
    left_ -= dealt;
    // Nothing touches the answer before the next turn.
    add_and_ask(a.scratch.n_asked, !dealt && asks && lane_id() == 0 && !a.mask, following);
  }
  static constexpr uint32_t kTiles = 32 / kRows;  // of the window that is looked up ahead
  __device__ static __forceinline__ uint32_t step(const Launch& a) { return a.g.n_teams * gridDim.x; }
  __device__ static __forceinline__ uint64_t row_of(const Launch& a, uint64_t tile, int slot) {
    return (a.n_tiles - 1 - (tile + static_cast<uint64_t>(slot / kRows) * step(a))) * kRows + slot % kRows;
  }
  // The next window: whole tiles of up to 32 rows, one a lane. A load and a vote.
  __device__ __forceinline__ uint32_t look_up(const Launch& a, bool wanted) {
    const uint64_t row = row_of(a, tile_, lane_id());
    if (wanted) tile_ += kTiles * step(a);
    return __ballot_sync(kWarp, load_if(a.mask + row, wanted && lane_id() < kTiles * kRows && row < a.n_rows));
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
