// The kernel: every statistic in one read. One block a multiprocessor, its warps independent until the end.
//
// A warp (or a team of warps, for rows past 8 KB) takes a row at a time into registers, while its next row is on the
// way to shared memory. From registers it raises the per-feature maxima, which live in registers too since a lane
// always holds the same features; counts each magnitude in shared memory; and finds the median by counting
// (cuda_median.cuh). What is left of a row is a few numbers (cuda_facts.cuh). Blocks meet at the end (cuda_end.cuh).
#pragma once

#include "cuda_end.cuh"
#include "cuda_facts.cuh"
#include "cuda_special.cuh"
#include "cuda_walk.cuh"

namespace maxact::cuda {

// The pattern of the largest magnitude that is at most `value`, in the element type's bits or the float32's upper half.
template <class T>
__device__ __forceinline__ int floor_pattern(float value) {
  if constexpr (sizeof(typename T::Bits) == 2 && T::kInf == 0x7C00)
    return __half_as_ushort(__float2half_rz(value));
  else
    return static_cast<int>(float_bits(value) >> 16);
}

// 16 chunks leave 168 registers to 12 warps, 64 for the row and 64 for the features' maxima; up to 8 leave room for 16.
// What else lives through a row is kept little, and asked for again where it can be (lane_id() is volatile for that):
// when the maxima spilled, the kernel ran at 28 % of memory speed.
template <class T, int kChunks>
constexpr int kThreads = kChunks > 8 ? 384 : 512;

template <class T, int kChunks, int kLanes, class AnyTeam>
__global__ void __launch_bounds__(kThreads<T, kChunks>, 1) probe_kernel(const __grid_constant__ Launch a) {
  using Bits = typename T::Bits;
  using TileT = Tile<T, kChunks>;
  constexpr bool k16 = TileT::k16;
  Control& ctl = control();
  const int lanes = kLanes ? kLanes : a.g.lanes, d = static_cast<int>(a.o.d), slots = a.g.slots;
  constexpr int kSlice = 32 * kChunks * kPerChunk<T>;

  AnyTeam team(a.g.team);
  const bool works = team.index() < a.g.n_teams;
  const auto place = [&] { return Place<T>(lanes, team.rank() * kSlice); };
  const auto stage = [&] { return stage_of(a, warp_id()); };
  const auto leads = [&] { return (lane_id() & (lanes - 1)) == 0 && team.rank() == 0; };

  Walk walk(a);
  bool more = false;
  uint32_t row = works ? walk.next(a, team.index(), &more) : kNoRow;
  if (more) TileT::template fetch<kLanes>(a, stage(), row, place());
  block_begin(a);
  wait_for_none<T>(a);
  __syncthreads();

  TileT tile;
  uint32_t peaks[TileT::kWords];
#pragma unroll
  for (uint32_t& peak : peaks) peak = 0;
  int guess = -1;
  const float slope = (k16 && T::kInf == 0x7C00 ? 3200.f : 400.f) / static_cast<float>(d);  // normal data have 0.1 at d = 4096
  int n_facts = 0, n_tiles = 0;

  while (more) {
    copies_arrived();
    double sum;
    Ends<T> ends;
    uint32_t flag = 0;
    bool is_special = false;
    for (;;) {
      const Ends<T> mine = tile.take(stage(), sum);
      ends.as_signed = max_lanes(mine.as_signed, lanes);
      ends.as_unsigned = max_lanes(mine.as_unsigned, lanes);
      if (team.size > 1) {
        team.all(static_cast<unsigned long long>(static_cast<uint32_t>(ends.as_signed)) << 32 | ends.as_unsigned,
                 [&](unsigned long long v) {
                   ends.as_signed = max(ends.as_signed, static_cast<int>(v >> 32));
                   ends.as_unsigned = max(ends.as_unsigned, static_cast<uint32_t>(v));
                 });
      }
      if (is_special) break;
      is_special = row != kNoRow && ends.magnitude() >= kSpecial<T>;
      if (!__any_sync(kAll, is_special)) break;
      flag = take_special<T>(a, stage(), place(), kChunks, is_special, row, lanes, team);
      if (!is_special) is_special = true, flag = kOrdinary;  // so that all lanes take their rows again
    }
    if (flag == kOrdinary) is_special = false, flag = 0;
    const uint32_t row_now = row;
    row = walk.next(a, team.index(), &more);
    if (more) TileT::template fetch<kLanes>(a, stage(), row, place());
    ++n_tiles;

    const bool on = row_now != kNoRow;
    const uint32_t top = ends.magnitude();
    keep_ends<T>(a, tile, place, ends, on && !is_special);

    const auto total_keys = [&](int key) {
      const float n = tile.quad_keys_at_most(static_cast<uint32_t>(key));
      return team.add(add_quads(n, lanes));
    };
    const auto total_words = [&](int magnitude) {
      return team.add(reduce_lanes(tile.words_at_most(static_cast<uint32_t>(magnitude)), lanes, Add()));
    };

    // The first count of the search for the median belongs here: these four have no branch between them, so each
    // fills the others' gaps.
    const int top_key = static_cast<int>(k16 ? top : top >> 16);
    if (guess < 0) guess = max(0, top_key - (k16 && T::kInf == 0x7C00 ? 2560 : 320));
    guess = min(guess, top_key);
    float n_quad;
    if (a.f.counts && __all_sync(kAll, top_key < a.g.n_bins && a.g.first_bin == 0)) {
      sum = reduce_lanes(sum, lanes, Add());
      tile.raise(peaks);
      n_quad = tile.quad_keys_at_most(static_cast<uint32_t>(guess));
      tile.count();
    } else {
      sum = reduce_lanes(sum, lanes, Add());
      tile.raise(peaks);
      n_quad = tile.quad_keys_at_most(static_cast<uint32_t>(guess));
      if (a.f.counts) tile.count_in_window(a);
    }
    if ((lane_id() & (lanes - 1)) == 0)  // a special row has given its sum and its ends
      reinterpret_cast<double*>(facts_of(a, warp_id(), sizeof(Bits)))[n_facts + lane_id() / lanes] = on && !is_special ? sum : 0;
    const int n_guess = team.add(add_quads(n_quad, lanes));

    if (!(k16 && a.f.counts)) {  // no table tells of zeros and of the largest elements
      int zeros = total_keys(0);
      if constexpr (!k16)
        if (__any_sync(kAll, zeros != 0)) zeros = total_words(0);
      if (leads() && on) count(kZeros, zeros - (slots - d));
      // The warps of a team see one record: it moves under them.
      const uint32_t record = team.first(*static_cast<volatile uint32_t*>(&ctl.record.absmax_bits));
      const bool ties = on && T::wide(static_cast<Bits>(top)) >= record;
      if (__any_sync(kAll, ties)) {
        int below = slots - d;  // in a row of zeros all but the pads are largest
        if (__any_sync(kAll, top != 0)) {
          const int pivot = static_cast<int>(max(top, 1u)) - 1, less = k16 ? total_keys(pivot) : total_words(pivot);
          if (top != 0) below = less;
        }
        keep_tied(T::wide(static_cast<Bits>(top)), static_cast<uint32_t>(slots - below), ties && leads());
      }
    }

    // The median, unless nothing depends on it: no table of ratios, no record in reach, and the token is not massive.
    const int rank = (d - 1) / 2 + 1 + (slots - d);
    bool needs = on && flag == 0;
    if (!a.f.ratio_table) {
      const float m = bits_float(T::wide(static_cast<Bits>(top)));
      const float best = bits_float(team.first(*static_cast<volatile uint32_t*>(reinterpret_cast<uint32_t*>(&ctl.record.ratio.ratio))));
      const float peak = bits_float(team.first(*static_cast<volatile uint32_t*>(reinterpret_cast<uint32_t*>(&ctl.record.peak.absmax))));
      const bool record = !(best < 0x1p100f) || isnan(peak) || m >= peak;
      // A ratio of at least `reach` needs a median of at most m_t / reach; a little more is allowed for rounding.
      const float reach = m > a.o.t_abs ? fminf(best, a.o.t_ratio) : best;
      const float most = __fdividef(m, reach) * 1.00001f;
      const int enough = total_keys(most < m ? floor_pattern<T>(most) : top_key);
      needs = needs && (record || enough >= rank);
    }
    uint32_t median = kUnneeded;  // in the bits of T
    if (__any_sync(kAll, needs)) {
      Bracket keys{needs ? -1 : top_key - 1, top_key, 0, slots};
      narrow<std::is_same_v<T, Float16>>(keys, false, rank, guess, n_guess, slope, total_keys);
      if (needs) guess = keys.enough;
      median = keys.enough;
      if constexpr (!k16) {
        // The upper halves are decided; now the lower ones, among the few elements that share that upper half.
        const int base = keys.enough << 16;
        Bracket words{base - 1, min(base | 0xFFFF, static_cast<int>(top)), keys.n_below, keys.n_enough};
        if (!needs) words.below = words.enough - 1;
        const float fine = __fdividef(65536.f, static_cast<float>(max(1, keys.n_enough - keys.n_below)));
        const int first = max(words.below + 1, min(base + static_cast<int>(fine * static_cast<float>(rank - keys.n_below)), words.enough - 1));
        if (__any_sync(kAll, words.enough - words.below > 1))
          narrow<true>(words, true, rank, first, total_words(first), fine, total_words);
        median = words.enough;
      }
      // Not is_massive(): this product and its quotient can round to different sides.
      const float m = bits_float(T::wide(static_cast<Bits>(top)));
      const float floor = fmaxf(a.o.t_abs, a.o.t_ratio * bits_float(T::wide(static_cast<Bits>(median))));
      const bool massive = needs && m > floor;
      if (__any_sync(kAll, massive)) {
        const int most = k16 ? total_keys(massive ? floor_pattern<T>(floor) : 0)
                             : total_words(massive ? static_cast<int>(float_bits(floor)) : 0);
        if (massive && leads()) count(kMassiveElements, slots - most);
      }
      if (!needs) median = kUnneeded;
    }

    if (a.f.int8_square_sum) tile.add_int8(a, top, on && flag == 0 && top != 0, lanes, team, leads());

    if ((lane_id() & (lanes - 1)) == 0) keep_fact<T>(a, n_facts + lane_id() / lanes, row_now, top, flag ? flag : median);
    n_facts += 32 / lanes;
    if (n_facts == 32 || !more) fold_facts<T>(a, n_facts, team.rank() == 0), n_facts = 0;
  }

  if (works && lane_id() == 0) count(kPads, static_cast<unsigned long long>(n_tiles) * kSlice);
  flush_peaks<T>(a, peaks, works);
  if (works && team.rank() == 0) offer_rows<T>(a, kNoRow, 0, false);  // those that still wait
  __syncthreads();
  block_close<T>(a);
}

}  // namespace maxact::cuda
