// The kernel: every statistic in one read. One block a multiprocessor; its warps work alone or in teams, which are
// independent of each other until the end.
//
// A team takes a few rows at a time into registers, each warp a slice of every row (cuda_rows.cuh), while the next ones
// are on their way to shared memory. From the registers it raises the per-feature maxima, which live there too since a
// lane always holds the same features; counts each magnitude in shared memory (cuda_tile.cuh); and finds the medians by
// counting (cuda_median.cuh). What is left of a row is a few numbers at one lane (cuda_lanes.cuh), folded 32 rows at
// once (cuda_facts.cuh). Blocks meet at the end (cuda_end.cuh).
#pragma once

#include "cuda_end.cuh"
#include "cuda_facts.cuh"
#include "cuda_fine.cuh"
#include "cuda_int8.cuh"
#include "cuda_median.cuh"
#include "cuda_walk.cuh"

namespace maxact::cuda {

// The pattern of the largest magnitude that is at most `value`, in the element type's bits or the float32's upper half.
template <class T>
__device__ __forceinline__ int floor_key(float value) {
  if constexpr (std::is_same_v<T, Float16>)
    return __half_as_ushort(__float2half_rz(value));
  else
    return static_cast<int>(float_bits(value) >> 16);
}

// How far into its octave a key lies, 1 to 2: near a median that follows the scale of its row, keys per rank grow so.
template <class T>
__device__ __forceinline__ float significand(int key) {
  constexpr int kBits = std::is_same_v<T, Float16> ? 10 : 7;
  return bits_float(0x3F800000u | (key & ((1 << kBits) - 1)) << (23 - kBits));
}

// Whether the table of counts and `stages` of rows fit into 227 KB beside what warps know of their rows and, at topk 100, what the
// block does. 384: what places that begin at multiples of 128 bytes leave between them.
template <class T>
constexpr bool has_room(int warps, int stage_bytes, int stages, int sums, bool team) {
  const int fine = sizeof(typename T::Bits) == 4 && sums ? sizeof(FineList) : 0, exchange = team ? kExchangeBytes : 0;
  const int warp = stages * stage_bytes + 32 * sums_stride(sums) * 4 + static_cast<int>(sizeof(Facts)) + fine + exchange;
  return warps * warp + (sums ? 0 : kNearBytes) + 4 * kLimit<T> + static_cast<int>(kControlBytes + list_bytes(100)) + 384 <= 227 << 10;
}
// How many stages of rows a kernel fills: two where they fit.
template <class T, int P, int R, int kWarps, int kSums, bool kTeam, bool kMay>
constexpr int kStagesOf = kMay && has_room<T>(kWarps, P * R * 512, 2, kSums, kTeam) ? 2 : 1;

// What the walk's lane 0 was told of the tile after the next.
template <class WalkT>
__device__ __forceinline__ uint32_t told(const WalkT& walk) {
  return __shfl_sync(kWarp, walk.following, 0);
}

// T: of elements. P: pieces of 16 bytes of a row that a lane holds. R, kSide: cuda_lanes.cuh. kWarps: of a block.
// kVectors: rows begin at multiples of 16 bytes and end there too. kTeam: whether several warps may share rows. kAll: what
// is asked for is the table of counts and the medians of all tokens, where kInt8 int8_per_token too; otherwise the launch says
// what.
template <class T, int P, int R, int kSide, int kWarps, bool kVectors, bool kTeam, bool kAll, bool kInt8>
__device__ __forceinline__ void probe(const Launch& a) {
  using Bits = typename T::Bits;
  using L = Lanes<R, kSide>;
  using TileT = Tile<T, P, R, kSide, kWarps, kVectors>;
  constexpr bool k16 = TileT::k16;
  Control& ctl = control();
  const int d = static_cast<int>(a.o.d), pads = a.g.slots - d, rank = (d - 1) / 2 + 1 + pads;
  const bool counts = kAll || a.f.counts, all_medians = kAll || a.f.ratio_table;
  const auto wide = [](uint32_t pattern) { return T::wide(static_cast<Bits>(pattern)); };

  follow_kernel();
  const Best best(a);
  Team<kTeam> team(a.g.team);
  Walk<L::kRows> walk(a, team.index);
  constexpr int kWarpStage = TileT::kStageBytes > P * 512 ? TileT::kStageBytes : P * 512;
  constexpr bool kEngine = kVectors && kAll && kSide == 1;  // kernels for all statistics run on sm_90 only
  constexpr int kStages = kStagesOf<T, P, R, kWarps, TileT::kSums, kTeam, kVectors && kAll>;
  const uint32_t cells = shared_address(table());
  const uint32_t facts = shared_address(facts_of(a).rows), sums = shared_address(sums_of(a, TileT::kSums));
  const uint32_t int8_sums = shared_address(shared + a.g.int8_at + warp_id() * 32 * kInt8Stride<TileT::kSums>);
  uint32_t stage = shared_address(shared + a.g.stage_at + warp_id() * kWarpStage + lane_id() * 16);
  const uint32_t both_stages = 2 * stage + kWarps * kWarpStage;
  const uint32_t barriers = facts + offsetof(Facts, arrived);
  uint32_t barrier = 0, n_taken = 0;  // which of the stages' barriers, in bytes; tiles
  // The rows to be taken next; with two stages those after them are under way, too, so that memory is hardly waited for.
  uint32_t next_row = kNoRow, later_row = kNoRow;
  bool more = false;
  const auto advance = [&](uint32_t following) {
    if (kStages == 2) next_row = later_row, more = walk.more;
    later_row = walk.next(a, L::row(), following, team.rank == 0);
    if constexpr (kEngine) {
      if (walk.more) TileT::fetch_by_engine(a, later_row, team.rank, stage, barriers + barrier);
    } else {
      if (kVectors && walk.more) TileT::template fetch<kTeam>(a, later_row, team.rank, team.size, stage);
      copies_end();
    }
    if (kStages == 2) stage = both_stages - stage, barrier ^= 8;
    else next_row = later_row, more = walk.more;
  };
  if (kVectors) TileT::clear_stage(stage);
  if (kStages == 2) TileT::clear_stage(both_stages - stage);
  if constexpr (kEngine) {
    if (lane_id() < kStages) barrier_begin(barriers + lane_id() * 8);
    before_engine();
  }
  if (kStages == 2) advance(told(walk));
  advance(told(walk));
  block_begin(a, best);
  wait_for_none(a);
  __syncthreads();

  uint4 away[P] = {};                  // the features' maxima between rounds
  // Of a row's median from the mean of its keys, at first as in normal data, and how much a row tells of it.
  float offset = std::is_same_v<T, Float16> ? 330 : 41, rate = 1;
  float width = a.g.slope;             // Search::width for a significand of 1
  uint32_t positive = 0, negative = 0; // the largest of each sign that this warp saw
  // Rounds of up to 32 rows, after which their facts are folded. The first is of none: while the first row is on its way the
  // code of the fold comes, too.
  for (int n_facts = 0;;) {
    fold_sums(a, n_facts, TileT::kSums);
    if constexpr (!kAll || kInt8)
      if (kInt8 || a.f.int8_square_sum) fold_int8<T, TileT::kSums>(a, n_facts, int8_sums);
    if (team.rank == 0) fold_facts<T, false>(a, facts_of_lane(a), n_facts);
    if (!more) break;
    uint4 peaks[P];
#pragma unroll
    for (int c = 0; c < P; ++c) peaks[c] = take_back(away + c);
    n_facts = 0;
    do {
      TileT tile;
      const uint32_t row = next_row;
      uint32_t following = told(walk);
      if constexpr (kVectors) {
        if constexpr (kEngine) wait_for_engine(barriers + barrier, n_taken++ / kStages & 1);
        else copies_arrived<kStages - 1>();
        tile.take(stage);
      } else {
        tile.read(a, row, team.rank);
      }
      int keys = kTeam ? tile.template key_sum<true>() : 0;  // with the maxima, so that warps of a team meet once
      const uint32_t row_top = team.template largest<L>(a, tile.top(), keys, following);
      tile.leave_sums(sums, n_facts);
      // Every element has been used by now, so its place is free.
      advance(following);

      const bool is_row = row != kNoRow;
      const bool is_slow = is_row && (k16 ? row_top : row_top >> 16) >= a.g.limit, on = is_row && !is_slow;
      const uint32_t top = on ? row_top : 0;
      const int top_key = static_cast<int>(k16 ? top : top >> 16);

      // A row that stays within what earlier ones showed of both signs changes nothing. Where a sign is missing and the
      // table of counts cannot tell the smallest magnitude either, it is looked for.
      const bool seeks = !table_knows_least<T>(a) && min(positive, negative) == 0;
      uint32_t most_positive = 0, most_negative = 0;
      if (__any_sync(kWarp, on && top > min(positive, negative))) tile.ends(on, most_positive, most_negative);
      tile.drop_signs(on);
      constexpr bool kCells = kInt8 && L::kAlone && k16;  // matrix units sum |x|
      const float absolute = kCells ? tile.template part_of_sum<3>(0) : 0;
      if (__any_sync(kWarp, (seeks && on) || most_positive > positive || most_negative > negative)) {
        positive = max(positive, __reduce_max_sync(kWarp, most_positive));
        negative = max(negative, __reduce_max_sync(kWarp, most_negative));
        keep_ends(positive, negative, seeks ? tile.least(a, on, team.rank) : 0xFFFFFFFFu);
      }
      if (!kTeam) keys = tile.template key_sum<false>();
      const float mean = static_cast<float>(keys) * a.g.per_key;
#pragma unroll
      for (int c = 0; c < P; ++c) tile.raise(c, peaks[c]);
      if (counts)
#pragma unroll
        for (int c = 0; c < (kAll ? P - P / 2 : P); ++c) tile.count(a, cells, c);
      int key = max(0, min(static_cast<int>(mean + offset), top_key));
      Search search{on ? -1 : top_key - 1, top_key, 0, a.g.slots, width * significand<T>(key)};

      bool needs = on;
      if constexpr (!kAll || !k16) {
        if (!(k16 && counts) || !all_medians) {
          // What the table of counts or the medians of all tokens would have told. The warps of a team go by what the
          // first of them reads of a record: it moves under them.
          const auto kept = [](const long long& key) { return bits_float(static_cast<uint32_t>(read_together(key) >> 32)); };
          const Slice record = team.template first<L>(a, {read_together(ctl.record.absmax_bits), kept(ctl.ratio_key), kept(ctl.peak_key), 0});
          const float m = bits_float(wide(top)), ratio = record.ratio, peak = record.peak;
          // A ratio of at least `reach` needs a median of at most m_t / reach; a little more is allowed for rounding.
          const float reach = quotient(m, m > a.o.t_abs ? fminf(ratio, a.o.t_ratio) : ratio) * 1.00001f;
          const int reach_key = reach < m ? floor_key<T>(reach) : top_key;
          const int reached = all_medians ? 0 : team.template add<L>(a, tile.template around<false>(reach_key, on) >> 16);
          // A median matters for a record, or where the token may be massive.
          needs = on && (all_medians || !(ratio < 0x1p100f) || isnan(peak) || m >= peak || reached >= rank);
          if (!(k16 && counts)) {
            int zeros = 0;
            if (__any_sync(kWarp, tile.has_zero())) zeros = k16 ? tile.template around<false>(0, on) >> 16 : tile.words_at_most(0);
            zeros = team.template add<L>(a, zeros);
            if (L::first() && team.rank == 0 && on) count(kZeros, zeros - pads);
            const bool ties = on && wide(top) >= record.bits;
            if (__any_sync(kWarp, ties)) {
              const int below = static_cast<int>(max(top, 1u)) - 1;
              const int n_below = team.template add<L>(a, k16 ? tile.template around<false>(below, ties) >> 16 : tile.words_at_most(below));
              // In a row of zeros all but the pads are largest.
              keep_tied(wide(top), static_cast<uint32_t>(a.g.slots - (top ? n_below : pads)), ties && L::first() && team.rank == 0);
            }
          }
        }
      }

      uint32_t median = kUnneeded;  // in the bits of T
      if (kAll || __any_sync(kWarp, needs)) {
        if (!needs) search.close();
        int turn = 1;
        const auto learn = [&](bool counted, uint32_t n, bool two) {
          n = static_cast<uint32_t>(team.template add<L>(a, static_cast<int>(n)));
          const int less = n >> 16;
          key = search.narrow(counted, turn++, key, two ? key - 1 : key, less, less + (n & 0xFFFF), rank);
        };
        if constexpr (kAll) {
          // The other half of the elements is counted during the first step: each fills the other's gaps.
          const bool two = !__any_sync(kWarp, on && key < TileT::kLeastKey);
          if (two) {
            key |= (key & 0x3FF) == 0;
            learn(search.open(), tile.template around<true, false>(key, on, [&](int c) { tile.count(a, cells, P - P / 2 + c); }), true);
          } else {
#pragma unroll
            for (int c = P - P / 2; c < P; ++c) tile.count(a, cells, c);
          }
        }
        while (__any_sync(kWarp, search.open())) {
          bool counted = search.open();
          if constexpr (TileT::kSparse) {
            counted = counted && !search.is_next(rank);
            if (!__any_sync(kWarp, counted)) {
              const bool up = search.is_next_up(rank);
              const int distance = tile.nearest(up, up ? search.below + 1 : search.enough);
              if (search.open()) search.enough = up ? search.below + 1 + distance : search.enough - distance, search.close();
              break;
            }
          }
          // Below and at a key at once, where that is possible for all rows; then no key may be the first of an octave.
          const bool two = !__any_sync(kWarp, counted && key < TileT::kLeastKey);
          if (two) key |= (key & 0x3FF) == 0;
          learn(counted, two ? tile.template around<true>(key, counted) : tile.template around<false>(key, counted), two);
        }
        median = search.enough;
        if (needs) {
          width += 0.25f * (quotient(search.width, significand<T>(search.enough)) - width);
          offset += rate * (static_cast<float>(search.enough) + 0.5f - mean - offset), rate = 0.25f;
        }
        if constexpr (!k16) {
          // The upper halves are decided; now the lower ones, among the few elements that share that upper half.
          const int n_same = search.n_enough - search.n_below, room = kListRoom / L::kRows, base = search.enough << 16;
          bool listed = needs && n_same <= room;
          if (__any_sync(kWarp, listed)) {
            const uint32_t found = nth_with_key(a, tile, team, room, search.enough, rank - search.n_below, listed);
            if (listed) median = found;
          }
          if (__any_sync(kWarp, needs && !listed)) {
            Search words{base - 1, min(base | 0xFFFF, static_cast<int>(top)), search.n_below, search.n_enough,
                         quotient(65536.f, static_cast<float>(max(1, n_same)))};
            if (!needs || listed) words.close();
            int word = base + static_cast<int>(words.width * static_cast<float>(rank - search.n_below));
            word = max(words.below + 1, min(word, words.enough - 1));
            for (int turn = 1; __any_sync(kWarp, words.open()); ++turn) {
              const int n = team.template add<L>(a, tile.words_at_most(word));
              word = words.narrow(words.open(), turn, word, word, n, n, rank);
            }
            if (!listed) median = words.enough;
          }
        }
        const float floor = massive_floor(a.o, bits_float(wide(median)));
        const bool massive = needs && bits_float(wide(top)) > floor;
        if (__any_sync(kWarp, massive)) {
          const int most = team.template add<L>(a, k16 ? tile.template around<false>(floor_key<T>(massive ? floor : 0), massive) >> 16
                                                       : tile.words_at_most(massive ? float_bits(floor) : 0));
          if (massive && L::first() && team.rank == 0) count(kMassiveElements, a.g.slots - most);
        }
        if (!needs) median = kUnneeded;
      }

      if constexpr (!kAll || kInt8)
        if (kInt8 || a.f.int8_square_sum) leave_int8<T, kCells>(tile, bits_float(wide(top)), top != 0, absolute, int8_sums, n_facts);
      if (L::first()) store_shared(facts + (n_facts + L::row()) * 16, make_uint4(row, top, is_slow ? kSlow : median, 0));
      n_facts += L::kRows;
    } while (more && n_facts + L::kRows <= 32);
#pragma unroll
    for (int c = 0; c < P; ++c) put_away(away + c, peaks[c]);
  }

  if (team.index < a.g.n_teams && team.rank == 0) offer_rows<T>(a, kNoRow, 0, false);  // those that still wait
#pragma unroll
  for (int c = 0; c < P; ++c) reinterpret_cast<uint4*>(shared + a.g.stage_at + warp_id() * kWarpStage)[c * 32 + lane_id()] = away[c];
  __syncthreads();
  flush_peaks<T, P, kSide, kWarps, kTeam, kWarpStage>(a);
  block_close<T>(a);
}

// Machine code of a kernel is made for the GPUs that the launcher picks it on; for others it is empty, so that four targets
// compile in the time of two.
template <class T, int P, int R, int kSide, int kWarps, bool kVectors, bool kTeam, bool kAll, bool kInt8>
__global__ void __launch_bounds__(kWarps * 32, 1) probe_kernel(const __grid_constant__ Launch a) {
#ifdef __CUDA_ARCH__
  if constexpr (!runs_on(__CUDA_ARCH__ / 10, P, kAll)) return;
  else
#endif
  probe<T, P, R, kSide, kWarps, kVectors, kTeam, kAll, kInt8>(a);
}

// Rows too wide for any tile: a warp takes one at a time.
template <class T>
__global__ void __launch_bounds__(kSlowWarps * 32, 1) slow_kernel(const __grid_constant__ Launch a) {
  follow_kernel();
  block_begin(a, Best(a));
  wait_for_none(a);
  __syncthreads();
  Facts& facts = facts_of(a);
  const uint32_t n_warps = gridDim.x * (blockDim.x / 32);
  for (uint64_t row = warp_id() * gridDim.x + blockIdx.x; row < a.n_rows;) {
    int n_facts = 0;
    for (; row < a.n_rows && n_facts < 32; row += n_warps) {
      if (a.mask && !a.mask[row]) continue;
      if (lane_id() == 0) facts.rows[n_facts] = make_uint4(static_cast<uint32_t>(row), 0, kSlow, 0);
      ++n_facts;
    }
    fold_facts<T, false>(a, facts_of_lane(a), n_facts);
  }
  offer_rows<T>(a, kNoRow, 0, false);
  __syncthreads();
  block_close<T>(a);
}

}  // namespace maxact::cuda
