// Which rows a team of warps takes: tile t of the tensor goes to team t % n_teams of the grid, so that a padded batch,
// whose hidden rows lie together, is shared evenly. Rows that the mask hides are stepped over without being read.
#pragma once

#include "cuda_block.cuh"

namespace maxact::cuda {

// 32 rows ahead are looked up at once: one load and one vote, whatever the mask.
class Walk {
 public:
  __device__ __forceinline__ explicit Walk(const Launch&) {}
  // This lane's next row, or kNoRow. *any: whether some lane of the warp has one.
  __device__ __forceinline__ uint32_t next(const Launch& a, uint32_t team_of_block, bool* any) {
    const uint32_t log = a.g.log_side_by_side, n_teams = a.g.n_teams * gridDim.x, team = team_of_block * gridDim.x + blockIdx.x;
    while (!kept_ && !ended_) look_ahead(a, log, n_teams, team);
    *any = kept_ != 0;
    unsigned rest = kept_;
    if (log)
      for (int skip = lane_id() >> (5 - log); skip; --skip) rest &= rest - 1;
    const uint32_t slot = (group_ - 1) * 32 + __ffs(rest) - 1;
    const uint32_t row = rest ? (((slot >> log) * n_teams + team) << log) + (slot & ((1u << log) - 1)) : kNoRow;
    for (int i = 0; i < 1 << log; ++i) kept_ &= kept_ - 1;
    return row;
  }

 private:
  // Slots run through the rows of a tile first, then to the team's next tile.
  __device__ __forceinline__ void look_ahead(const Launch& a, uint32_t log, uint32_t n_teams, uint32_t team) {
    const uint64_t tile = static_cast<uint64_t>((group_ * 32) >> log) * n_teams + team;
    ended_ = tile << log >= a.n_rows;
    if (ended_) return;
    const uint64_t row = ((static_cast<uint64_t>((group_ * 32 + lane_id()) >> log) * n_teams + team) << log) +
                         (lane_id() & ((1u << log) - 1));
    kept_ = __ballot_sync(kAll, row < a.n_rows && (!a.mask || a.mask[row]));
    ++group_;
  }
  uint32_t group_ = 0, kept_ = 0;
  bool ended_ = false;
};

}  // namespace maxact::cuda
