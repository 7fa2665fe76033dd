// Rows that hold nan or inf, or values whose float32 sum could pass the largest float32: one element at a time, and
// the non-finite ones replaced by zeros, so that the fast way can go on. Rare, so it may be slow.
#pragma once

#include "cuda_facts.cuh"
#include "cuda_tile.cuh"

namespace maxact::cuda {

struct SpecialRow {
  double sum;
  float highest, lowest;
  uint32_t n_bad, first_bad, n_finite;
};

// Every lane for its own part of its row; `on` where that row is special. What comes back is this lane's only.
template <class T>
__device__ __noinline__ SpecialRow scan_special(const Launch& a, char* stage, Place<T> place, int chunks,
                                                bool on) {
  SpecialRow s{0, -bits_float(kInfinity), bits_float(kInfinity), 0, 0xFFFFFFFFu, 0};
  unsigned n_nan = 0, n_inf = 0;
  auto* mine = reinterpret_cast<typename T::Bits*>(stage) + lane_id() * kPerChunk<T>;
  for (int c = 0; on && c < chunks; ++c)
    for (int e = 0; e < kPerChunk<T>; ++e) {
      const int feature = place.feature(c) + e;
      if (feature >= a.o.d) break;
      auto& bits = mine[c * 32 * kPerChunk<T> + e];
      const auto magnitude = static_cast<typename T::Bits>(bits & (T::kSign - 1));
      if (magnitude >= T::kInf) {
        (magnitude == T::kInf ? n_inf : n_nan) += 1;
        s.first_bad = min(s.first_bad, static_cast<uint32_t>(feature));
        bits = 0;
        continue;
      }
      const float size = bits_float(T::wide(magnitude)), value = bits & T::kSign ? -size : size;
      s.highest = fmaxf(s.highest, value), s.lowest = fminf(s.lowest, value);
      s.sum += value;
      ++s.n_finite;
    }
  s.n_bad = n_nan + n_inf;
  count(kNan, n_nan);
  count(kInf, n_inf);
  count(kPads, s.n_bad);
  return s;
}

constexpr uint32_t kOrdinary = 0xFFFFFFF0u;  // of a lane whose row is not special

// What a special row gives to the state besides what is the same for all rows. Returns 0 for a finite row, else its
// flag in place of a median.
template <class T, class AnyTeam>
__device__ __forceinline__ uint32_t take_special(const Launch& a, char* stage, const Place<T>& place, int chunks, bool on,
                                                 uint32_t row, int lanes, AnyTeam& team) {
  Control& c = control();
  const SpecialRow mine = scan_special<T>(a, stage, place, chunks, on);
  const bool leads = (lane_id() & (lanes - 1)) == 0 && team.rank() == 0;
  add_exactly_warp(a.f.sum, team.add(reduce_lanes(mine.sum, lanes, Add())), on && leads);
  const uint32_t n_bad = team.add(static_cast<int>(reduce_lanes(mine.n_bad, lanes, Add())));
  const uint32_t n_finite = team.add(static_cast<int>(reduce_lanes(mine.n_finite, lanes, Add())));
  const uint32_t first = team.least(reduce_lanes(mine.first_bad, lanes, Min()));
  acquire(&c.lock);
  for (unsigned todo = __ballot_sync(kAll, on); todo; todo &= todo - 1) {
    if (lane_id() == __ffs(todo) - 1) {
      BlockRecord& r = c.record;
      r.highest = fmaxf(r.highest, mine.highest), r.lowest = fminf(r.lowest, mine.lowest);
      if (n_bad && leads) {
        const int64_t token = row_token(a, row);
        if (token < r.nonfinite_token || (token == r.nonfinite_token && first < r.nonfinite_feature))
          r.nonfinite_token = token, r.nonfinite_feature = first;
        c.counters[kNonfiniteTokens] += 1;
      }
    }
    __syncwarp();
  }
  release(&c.lock);
  return !n_bad ? 0 : n_finite ? kNonfinite : kNoElements;
}

// Raises the block's signed extremes by those of ordinary rows. Without a positive element the largest is minus the
// smallest magnitude, and the other way round.
template <class T, class TileT, class GetPlace>
__device__ __forceinline__ void keep_ends(const Launch& a, const TileT& tile, GetPlace place, const Ends<T>& ends, bool on) {
  using Bits = typename T::Bits;
  Control& c = control();
  // A row that stays within what an earlier one showed, and showed both signs, changes nothing. (seen_* say less than
  // the record where no row had both; then every row comes past here.)
  if (__all_sync(kAll, !on || (ends.as_signed > 0 && (ends.as_unsigned & T::kSign) &&
                               ends.as_signed <= *static_cast<volatile int*>(&c.seen_signed) &&
                               ends.as_unsigned <= *static_cast<volatile uint32_t*>(&c.seen_unsigned))))
    return;
  if (on) {
    if (ends.as_signed > 0) atomicMax(&c.seen_signed, ends.as_signed);
    if (ends.as_unsigned & T::kSign) atomicMax(&c.seen_unsigned, ends.as_unsigned);
  }
  BlockRecord& r = c.record;
  float highest = *static_cast<volatile float*>(&r.highest), lowest = *static_cast<volatile float*>(&r.lowest);
  const float was_highest = highest, was_lowest = lowest;
  const bool positive = ends.as_signed > 0, negative = (ends.as_unsigned & T::kSign) != 0;
  if (on && positive) highest = fmaxf(highest, bits_float(T::wide(static_cast<Bits>(ends.as_signed))));
  if (on && negative) lowest = fminf(lowest, -bits_float(T::wide(static_cast<Bits>(ends.as_unsigned & (T::kSign - 1)))));
  if (__any_sync(kAll, on && ((!positive && highest < 0) || (!negative && lowest > 0)))) {
    const Place<T> at = place();
    const float least = bits_float(T::wide(static_cast<Bits>(tile.smallest(at, a.o.d))));
    if (on && !positive && at.first < a.o.d) highest = fmaxf(highest, -least);
    if (on && !negative && at.first < a.o.d) lowest = fminf(lowest, least);
  }
  const bool better = highest > was_highest || lowest < was_lowest;
  if (!__any_sync(kAll, better)) return;
  highest = reduce_lanes(highest, 32, Max()), lowest = reduce_lanes(lowest, 32, Min());
  acquire(&control().lock);
  if (lane_id() == 0) r.highest = fmaxf(r.highest, highest), r.lowest = fminf(r.lowest, lowest);
  release(&control().lock);
}

}  // namespace maxact::cuda
