// The kernel: every statistic in one read. One block a multiprocessor; its warps work in teams of one to sixteen, which
// are independent of each other until the end.
//
// A team takes a few rows at a time into registers, each warp a slice of every row (cuda_tile.cuh). From there it raises
// the per-feature maxima, which live in registers too since a lane always holds the same features; counts each magnitude
// in shared memory; and finds the medians by counting (cuda_median.cuh). What is left of a row is a few numbers at one
// lane (cuda_lanes.cuh), folded 32 rows at once (cuda_facts.cuh). Blocks meet at the end (cuda_end.cuh).
#pragma once

#include "cuda_end.cuh"
#include "cuda_facts.cuh"
#include "cuda_fine.cuh"
#include "cuda_int8.cuh"
#include "cuda_median.cuh"
#include "cuda_walk.cuh"

namespace maxact::cuda {

constexpr int kThreads = kWarps * 32;  // 16 warps of 128 registers, 64 of them for rows and up to 40 for features' maxima

// The pattern of the largest magnitude that is at most `value`, in the element type's bits or the float32's upper half.
template <class T>
__device__ __forceinline__ int floor_key(float value) {
  if constexpr (std::is_same_v<T, Float16>)
    return __half_as_ushort(__float2half_rz(value));
  else
    return static_cast<int>(float_bits(value) >> 16);
}

// T: of elements. P: pieces of 16 bytes of a row that a lane holds. R, kSide: cuda_lanes.cuh. kVectors: rows begin at
// multiples of 16 bytes and end there too.
template <class T, int P, int R, int kSide, bool kVectors>
__global__ void __launch_bounds__(kThreads, 1) probe_kernel(const __grid_constant__ Launch a) {
  using Bits = typename T::Bits;
  using L = Lanes<R, kSide>;
  using TileT = Tile<T, P, R, kSide, kVectors>;
  constexpr bool k16 = TileT::k16;
  constexpr int kPeaks = P < 21 - R * P ? P : 21 - R * P;  // pieces of features' maxima that registers hold
  Control& ctl = control();
  const int d = static_cast<int>(a.o.d), pads = a.g.slots - d, rank = (d - 1) / 2 + 1 + pads;
  const auto wide = [](uint32_t pattern) { return T::wide(static_cast<Bits>(pattern)); };

  Team team(a.g.team);
  const bool works = team.index < a.g.n_teams;
  Walk<L::kRows> walk(a, team.index);
  block_begin(a);
  wait_for_none(a);
  // What a warp keeps while it folds facts: a place of 16 bytes for each chunk of a lane, and one more.
  const auto kept = [&] { return reinterpret_cast<uint4*>(shared + a.g.peaks_at) + warp_id() * (P + 1) * 32 + lane_id(); };
#pragma unroll
  for (int c = 0; c < P; ++c) kept()[c * 32] = make_uint4(0, 0, 0, 0);
  kept()[P * 32] = make_uint4(walk.tile, walk.kept, 0, 0);
  __syncthreads();

  // Rounds of up to 32 rows, after which their facts are folded. That is a call, and what lives through a call in
  // registers the compiler keeps in memory all the time; so all of it goes through shared memory once a round.
  for (bool more = true; more;) {
    const uint4 state = kept()[P * 32];
    walk.tile = state.x, walk.kept = state.y;
    float share = bits_float(state.z);  // of a row's sample() that its median was
    TileT tile;
    uint4 peaks[kPeaks];
#pragma unroll
    for (int c = 0; c < kPeaks; ++c) peaks[c] = kept()[c * 32];
    int n_facts = 0;
    while (n_facts + L::kRows <= 32) {
      const uint32_t row = walk.next(a, L::row());
      if (!walk.more) break;
      tile.load(a, row, team.rank, team.size);
      Slice slice{tile.top(), tile.sum(), tile.sample(), 0};
      double sum = team.join<L>(a, slice);
      uint32_t top = slice.top;
      const bool is_slow = row != kNoRow && (k16 ? top : top >> 16) >= a.g.limit;
      if (__any_sync(kAll, is_slow)) {
        tile.clear(is_slow);
        if (is_slow) top = 0, sum = 0;
      }
      const bool on = row != kNoRow && !is_slow, leads = L::first() && team.rank == 0;
      const int top_key = static_cast<int>(k16 ? top : top >> 16);
      // What the search for the medians does not need waits in shared memory: registers are short.
      Facts& facts = facts_of(a);
      const auto at = [&] { return n_facts + L::row(); };
      if (L::first()) facts.row[at()] = row, facts.sum[at()] = sum, facts.top[at()] = top, facts.near[at()] = slice.near;
      __syncwarp();

      // A row that stays within what an earlier one showed of both signs changes nothing.
      const uint32_t seen = min(*static_cast<volatile uint32_t*>(&ctl.positive), *static_cast<volatile uint32_t*>(&ctl.negative));
      if (const bool shows = on && (top > seen || seen == 0); __any_sync(kAll, shows)) {
        uint32_t positive, negative;
        tile.ends(positive, negative);
        keep_ends(positive, negative, seen ? 0xFFFFFFFFu : tile.least(a, shows, team.rank, team.size));
      }
      // The first two steps of the search for the medians, with half of the counting each: no branch between them, so
      // that they fill each other's gaps.
      const auto count_keys = [&](int key, bool open) { return team.add<L>(a, tile.template keys_at_most<true>(key, open)); };
      constexpr bool kHalf = std::is_same_v<T, Float16>;
      const bool all_medians = a.f.ratio_table != nullptr;
      Bracket keys{on ? -1 : top_key - 1, top_key, 0, a.g.slots};
      int pivot = share > 0 ? floor_key<T>(fminf(slice.near * share, kHalf ? 0x1p15f : 0x1p33f)) : top_key - (kHalf ? 2560 : 320);
      pivot = max(0, min(pivot, top_key));
#pragma unroll
      for (int c = 0; c < P; ++c)
        if (c < kPeaks) {
          tile.raise(c, peaks[c]);
        } else {
          uint4 peak = kept()[c * 32];
          tile.raise(c, peak);
          kept()[c * 32] = peak;
        }
      int n = 0;
      if (all_medians || a.f.counts) {
        n = tile.template keys_at_most<false>(pivot, true);
        if (a.f.counts) tile.template count<0>(a);
        n = team.add<L>(a, n);
        pivot = keys.narrow(0, pivot, n, rank, a.g.slots, a.g.slope);
        n = tile.template keys_at_most<false>(pivot, true);
        if (a.f.counts) tile.template count<1>(a);
        n = team.add<L>(a, n);
      }

      // What the table of counts or the medians of all tokens would have told. The warps of a team go by what the first
      // of them reads of a record: it moves under them.
      bool needs = on;
      if (!(k16 && a.f.counts) || !all_medians) {
        const BlockRecord& r = ctl.record;
        const Slice record = team.first<L>(a, {*static_cast<const volatile uint32_t*>(&r.absmax_bits), *static_cast<const volatile float*>(&r.ratio.ratio),
                                               *static_cast<const volatile float*>(&r.peak.absmax), 0});
        const float m = bits_float(wide(top)), best = record.sum, peak = record.near;
        // A ratio of at least `reach` needs a median of at most m_t / reach; a little more is allowed for rounding.
        const float most = __fdividef(m, m > a.o.t_abs ? fminf(best, a.o.t_ratio) : best) * 1.00001f;
        const int n_most = all_medians ? 0 : tile.template keys_at_most<true>(most < m ? floor_key<T>(most) : top_key, on);
        const uint32_t both = team.add<L>(a, tile.template keys_at_most<true>(0, on) | n_most << 16);
        // A median matters for a record, or where the token may be massive.
        needs = on && (all_medians || !(best < 0x1p100f) || isnan(peak) || m >= peak || static_cast<int>(both >> 16) >= rank);
        if (!(k16 && a.f.counts)) {
          int zeros = both & 0xFFFF;
          if constexpr (!k16)
            if (__any_sync(kAll, on && zeros != pads)) zeros = team.add<L>(a, tile.words_at_most(0));
          if (leads && on) count(kZeros, zeros - pads);
          const bool ties = on && wide(top) >= record.top;
          if (__any_sync(kAll, ties)) {
            const int less = static_cast<int>(max(top, 1u)) - 1;
            const int n_less = k16 ? count_keys(less, ties) : team.add<L>(a, tile.words_at_most(less));
            // In a row of zeros all but the pads are largest.
            keep_tied(wide(top), static_cast<uint32_t>(a.g.slots - (top ? n_less : pads)), ties && leads);
          }
        }
      }

      uint32_t median = kUnneeded;  // in the bits of T
      if (__any_sync(kAll, needs)) {
        if (!needs) keys.below = keys.enough - 1;
        if (!(all_medians || a.f.counts)) n = count_keys(pivot, needs);
        for (int turn = 1;; ++turn) {
          pivot = keys.narrow(turn, pivot, n, rank, a.g.slots, a.g.slope);
          if (!__any_sync(kAll, keys.open())) break;
          n = count_keys(pivot, keys.open());
        }
        median = keys.enough;
        if constexpr (!k16) {
          // The upper halves are decided; now the lower ones, among the few elements that share that upper half.
          const int n_same = keys.n_enough - keys.n_below, room = kListRoom / L::kRows, base = keys.enough << 16;
          const bool listed = needs && n_same <= room;
          if (__any_sync(kAll, listed)) {
            FineList& list = reinterpret_cast<FineList*>(shared + a.g.fine_at)[team.index];
            const uint32_t found = nth_with_key(tile, team, list, room, keys.enough, rank - keys.n_below, listed);
            if (listed) median = found;
          }
          if (__any_sync(kAll, needs && !listed)) {
            Bracket words{base - 1, min(base | 0xFFFF, static_cast<int>(top)), keys.n_below, keys.n_enough};
            if (!needs || listed) words.below = words.enough - 1;
            const float fine = __fdividef(65536.f, static_cast<float>(max(1, n_same)));
            int word = base + static_cast<int>(fine * static_cast<float>(rank - keys.n_below));
            word = max(words.below + 1, min(word, words.enough - 1));
            for (int turn = 0; __any_sync(kAll, words.open()); ++turn)
              word = words.narrow(turn, word, team.add<L>(a, tile.words_at_most(word)), rank, a.g.slots, fine);
            if (!listed) median = words.enough;
          }
        }
        const float middle = bits_float(wide(median)), near = L::pass() < R ? facts.near[at()] : 0;
        top = L::pass() < R ? facts.top[at()] : 0;
        if (needs && near > 0 && near < 0x1p100f) {
          const float now = __fdividef(middle, near);
          share = share > 0 ? share + 0.25f * (now - share) : now;
        }
        // Not is_massive(): this product and its quotient can round to different sides.
        const float floor = fmaxf(a.o.t_abs, a.o.t_ratio * middle);
        const bool massive = needs && bits_float(wide(top)) > floor;
        if (__any_sync(kAll, massive)) {
          const int most = k16 ? count_keys(floor_key<T>(massive ? floor : 0), massive)
                               : team.add<L>(a, tile.words_at_most(massive ? float_bits(floor) : 0));
          if (massive && leads) count(kMassiveElements, a.g.slots - most);
        }
        if (!needs) median = kUnneeded;
      }

      if (a.f.int8_square_sum) add_int8<T>(a, tile, team, L::pass() < R ? facts.top[at()] : 0, on);
      if (L::first()) facts.median[at()] = is_slow ? kSlow : median;
      n_facts += L::kRows;
    }
#pragma unroll
    for (int c = 0; c < kPeaks; ++c) kept()[c * 32] = peaks[c];
    kept()[P * 32] = make_uint4(walk.tile, walk.kept, float_bits(share), walk.more);
    if (n_facts && team.rank == 0) fold_facts<T>(a, n_facts);
    more = kept()[P * 32].w;
  }

  if (works && team.rank == 0) offer_rows<T>(a, kNoRow, 0, false);  // those that still wait
  __syncthreads();
  flush_peaks<T, P, kSide>(a);
  block_close<T>(a);
}

// Rows too wide for any tile: a warp takes one at a time.
template <class T>
__global__ void __launch_bounds__(kThreads, 1) slow_kernel(const __grid_constant__ Launch a) {
  block_begin(a);
  wait_for_none(a);
  __syncthreads();
  int n_facts = 0;
  Facts& facts = facts_of(a);
  const uint32_t n_warps = gridDim.x * (blockDim.x / 32);
  for (uint64_t row = warp_id() * gridDim.x + blockIdx.x; row < a.n_rows; row += n_warps) {
    if (a.mask && !a.mask[row]) continue;
    if (lane_id() == 0) facts.row[n_facts] = static_cast<uint32_t>(row), facts.sum[n_facts] = 0, facts.median[n_facts] = kSlow;
    if (++n_facts == 32) fold_facts<T>(a, n_facts), n_facts = 0;
  }
  if (n_facts) fold_facts<T>(a, n_facts);
  offer_rows<T>(a, kNoRow, 0, false);
  __syncthreads();
  block_close<T>(a);
}

}  // namespace maxact::cuda
