// Short rows, all statistics: each lane takes a row, so that nothing of it has to be exchanged, and sorts it for its median.
//
// A tile of a warp is 32 rows of up to P pieces of 16 bytes. Lanes look at it in two ways. Along: lane r has row r, for all that
// is of rows. Across: lanes side by side have pieces side by side, as memory does, for copies and for the maxima of features.
// Piece c of row r lies at place c ^ r % 8 of its row, so that no way meets itself in a bank of shared memory.
#pragma once

#include "cuda_kernel.cuh"

namespace maxact::cuda {

// Where pieces of a warp's tile lie.
template <int P>
struct NarrowStage {
  static constexpr int kSide = 32 / P;  // rows that lanes across have at once
  static constexpr int kBytes = P * 512;
  uint32_t begin;
  __device__ static __forceinline__ int piece() { return lane_id() % P; }
  __device__ static __forceinline__ int row(int p) { return p * kSide + lane_id() / P; }
  __device__ __forceinline__ uint32_t along(int c) const {
    return begin + lane_id() * P * 16 + (lane_id() % 8 ^ c % 8) * 16 + c / 8 * 128;
  }
  __device__ __forceinline__ uint32_t across(int p) const {
    const uint32_t first = begin + lane_id() / P * (P * 16) + (piece() ^ lane_id() / P) * 16;
    return (first ^ (p * kSide % 8) * 16) + p * 512;
  }

  // Starts the copy of the rows of which each lane names one; where there is none, another is copied.
  template <class T>
  __device__ __forceinline__ void fetch(const Launch& a, uint32_t named) const {
    const int64_t at = row_offset(a, named == kNoRow ? 0 : named);
    const auto* const data = static_cast<const typename T::Bits*>(a.data) + piece() * kPerChunk<T>;
    const bool is_piece = piece() * kPerChunk<T> < a.o.d;
#pragma unroll
    for (int p = 0; p < P; ++p) {
      const int64_t offset = __shfl_sync(kWarp, at, row(p));
      if (is_piece) copy_async(across(p), data + offset);
    }
  }
};

// Raises the maxima of the features that this lane has across.
template <class T, int P>
__device__ __forceinline__ void raise_across(const NarrowStage<P>& stage, uint4& peaks) {
#pragma unroll
  for (int p = 0; p < P; p += 2) {
    Tile<T, 1, 2, 1, 1, true> two;
    two.put(0, 0, load_shared(stage.across(p))), two.put(1, 0, load_shared(stage.across(p + 1)));
    two.raise(0, peaks);
  }
}

// The sum of this lane's row, before signs are dropped. 16 bits: column 2 m of B picks a quad's elements 2 m and 2 m + 1, column
// 2 m + 1 those 8 further, so all four cells that matrix units give a lane are of its own words. Bounds as in Rows::leave_sums().
template <class T, class TileT>
__device__ __forceinline__ float sum_along(const TileT& tile) {
  constexpr int P = TileT::kPieces;
  if constexpr (!TileT::k16) {
    return tile.template part_of_sum<4>(0);
  } else {
    const int quad = lane_id() / 4, member = lane_id() % 4;
    const uint32_t b0 = quad == 2 * member ? kOnes<T> : 0, b1 = quad == 2 * member + 1 ? kOnes<T> : 0;
    float sum = 0;
#pragma unroll
    for (int group = 0; group < P; group += 4) {
      float cells[4] = {};
#pragma unroll
      for (int c = 4 * group; c < 4 * group + 16; c += 4)
        mma<T>(cells, tile.w[0][c], tile.w[0][c + 1], tile.w[0][c + 2], tile.w[0][c + 3], b0, b1);
      sum += (cells[0] + cells[1]) + (cells[2] + cells[3]);
    }
    return sum;
  }
}

// Batcher's merge exchange sort (Knuth, The Art of Computer Programming 3, 5.3.4) of w[begin] to w[begin + n - 1], or with k16 of
// their low halves and of their high halves: 191 exchanges for 32 words, 543 for 64. each(c): called once four words are sorted,
// where there is something to do with them between other work.
template <bool k16, int begin, int n, int step>
__device__ __forceinline__ void merge(uint32_t* w) {
  const auto exchange = [&](int i, int j) {
    const uint32_t low = k16 ? __vminu2(w[i], w[j]) : min(w[i], w[j]);
    w[j] = k16 ? __vmaxu2(w[i], w[j]) : max(w[i], w[j]), w[i] = low;
  };
  if constexpr (2 * step < n) {
    merge<k16, begin, n, 2 * step>(w);
    merge<k16, begin + step, n, 2 * step>(w);
#pragma unroll
    for (int i = step; i + step < n; i += 2 * step) exchange(begin + i, begin + i + step);
  } else {
    exchange(begin, begin + step);
  }
}
template <bool k16, int begin, int n, class Each>
__device__ __forceinline__ void sort(uint32_t* w, Each each) {
  if constexpr (n > 1) {
    sort<k16, begin, n / 2>(w, each);
    sort<k16, begin + n / 2, n / 2>(w, each);
    merge<k16, begin, n, 1>(w);
    if constexpr (n == 4) each(begin / 4);
  }
}

// The lower median of the magnitudes in w, two sorted lists: low and high halves of all words, or without k16 the words of the first
// half and of the second. The smaller half of both lists is the smaller of each element and of its opposite in the other list.
template <bool k16, int n>
__device__ __forceinline__ uint32_t median_of_sorted(const uint32_t (&w)[n]) {
  uint32_t most = 0;
#pragma unroll
  for (int i = 0; i < n / 2; ++i)
    most = k16 ? __vmaxu2(most, __vminu2(w[i], __byte_perm(w[n - 1 - i], 0, 0x1032))) : max(most, min(w[i], w[n - 1 - i]));
  return k16 ? max(most & 0xFFFF, most >> 16) : most;
}

// T: of elements; P: pieces of 16 bytes of a row; kWarps: of a block; kInt8: int8_per_token, too.
template <class T, int P, int kWarps, bool kInt8>
__device__ __forceinline__ void probe_narrow(const Launch& a) {
  using TileT = Tile<T, P, 1, 32, kWarps, true>;
  using Stage = NarrowStage<P>;
  constexpr int kWords = TileT::kWords, kHalf = kWords / 2;
  constexpr bool k16 = TileT::k16;
  const int d = static_cast<int>(a.o.d), index = Team<false>(1).index;
  const auto wide = [](uint32_t pattern) { return T::wide(static_cast<typename T::Bits>(pattern)); };
  const Stage stage{shared_address(shared + a.g.stage_at + index * Stage::kBytes)};
  const uint32_t cells = shared_address(table());

  follow_kernel();
  const Best best(a);
  Walk<32> walk(a, index);
  uint32_t row = kNoRow;
  const auto advance = [&](uint32_t following) {
    row = walk.next(a, lane_id(), following, true);
    if (walk.more) stage.template fetch<T>(a, row);
    copies_end();
  };
#pragma unroll
  for (int p = 0; p < P; ++p) store_shared(stage.across(p), make_uint4(0, 0, 0, 0));
  advance(told(walk));
  for (int i = threadIdx.x; i < kNearRows * kNearCols; i += blockDim.x) near_ratios(a)[i] = 0;
  block_begin(a, best);
  wait_for_none(a);
  __syncthreads();

  uint4 peaks{};                        // the maxima of this lane's features, across
  uint32_t positive = 0, negative = 0;  // the largest of each sign that this warp saw
  while (walk.more) {
    const uint32_t following = told(walk), this_row = row;
    copies_arrived<0>();
    __syncwarp();  // pieces that other lanes copied
    TileT tile;
#pragma unroll
    for (int c = 0; c < P; ++c) tile.put(0, c, load_shared(stage.along(c)));
    const uint32_t row_top = tile.top();
    const bool is_row = this_row != kNoRow, is_slow = is_row && (k16 ? row_top : row_top >> 16) >= a.g.limit, on = is_row && !is_slow;
    const uint32_t top = on ? row_top : 0;
    if (__any_sync(kWarp, !on)) {  // what does not count is zero
#pragma unroll
      for (int c = 0; c < P; ++c)
        if (!on) store_shared(stage.along(c), make_uint4(0, 0, 0, 0)), tile.put(0, c, make_uint4(0, 0, 0, 0));
      __syncwarp();
    }
    raise_across<T>(stage, peaks);
    __syncwarp();  // every lane has taken what was there
    advance(following);

    const float sum = sum_along<T>(tile);
    // A row that stays within what earlier ones showed of both signs changes nothing. The table of counts tells the smallest, or
    // with float32 it is looked for where a sign is missing.
    const bool seeks = !k16 && min(positive, negative) == 0;
    uint32_t most_positive = 0, most_negative = 0;
    if (__any_sync(kWarp, on && top > min(positive, negative))) tile.ends(on, most_positive, most_negative);
    tile.drop_signs(on);
    if (__any_sync(kWarp, (seeks && on) || most_positive > positive || most_negative > negative)) {
      positive = max(positive, __reduce_max_sync(kWarp, most_positive));
      negative = max(negative, __reduce_max_sync(kWarp, most_negative));
      keep_ends(positive, negative, seeks ? tile.least(a, on, 0) : 0xFFFFFFFFu);
    }
    if constexpr (kInt8) {
      const float m = bits_float(wide(top));
      float v[4][1];
      int8_parts<T, false>(tile, m, top != 0, v);
      add_int8<true>(a, make_float4(v[0][0], v[1][0], v[2][0], v[3][0]), m, top != 0);
    }
    // Of the places behind a row half stay zero, half are as large as its largest: the median is in the middle.
    const int n_pads = a.g.slots - d;
    if (n_pads > 0)
#pragma unroll
      for (int i = kHalf; i < kWords; ++i)
        if (i >= kWords - n_pads / (k16 ? 4 : 2)) tile.w[0][i] = k16 ? top * 0x10001u : top;
    // Half of the words at a time, in a loop that is not unrolled: code twice as long is waited for.
#pragma unroll 1
    for (int half = 0; half < 2; ++half) {
      sort<k16, 0, kHalf>(tile.w[0], [&](int c) { tile.count(a, cells, c); });
#pragma unroll
      for (int i = 0; i < kHalf; ++i) {
        const uint32_t word = tile.w[0][i];
        tile.w[0][i] = tile.w[0][i + kHalf], tile.w[0][i + kHalf] = word;
      }
    }
    if constexpr (k16) merge<k16, 0, kWords, 1>(tile.w[0]);
    const uint32_t median = median_of_sorted<k16>(tile.w[0]);
    if constexpr (!k16) {  // what the table of counts does not tell
      if (__any_sync(kWarp, on && min(tile.w[0][0], tile.w[0][kHalf]) == 0)) {
        const int zeros = tile.words_at_most(0) - (top ? n_pads / 2 : n_pads), n_zeros = __reduce_add_sync(kWarp, on ? zeros : 0);
        if (lane_id() == 0) count(kZeros, n_zeros);
      }
      const uint32_t record = read_together(control().record.absmax_bits);
      const bool ties = on && top >= record;
      if (__any_sync(kWarp, ties)) {
        const int n_largest = kWords - tile.words_at_most(max(top, 1u) - 1) - n_pads / 2;
        keep_tied(top, static_cast<uint32_t>(top ? n_largest : d), ties);
      }
    }

    const float floor = massive_floor(a.o, bits_float(wide(median)));
    const bool massive = on && bits_float(wide(top)) > floor;
    if (__any_sync(kWarp, massive)) {
      int n = 0;
      if constexpr (k16) {
        const uint32_t most = floor_key<T>(massive ? floor : 0);
#pragma unroll
        for (const uint32_t word : tile.w[0]) n += ((word & 0xFFFF) > most) + (word >> 16 > most);
      } else {
        n = kWords - tile.words_at_most(massive ? float_bits(floor) : 0);
      }
      if (massive) count(kMassiveElements, n - n_pads / 2);
    }
    if (n_pads > 0 && top > 0)  // large places count as zeros, too
      add_shared(cells + 4 * (k16 ? top : top >> 16), 0u - n_pads / 2), add_shared(cells, n_pads / 2);
    add_exactly_block<kSum>(a, {sum, on});
    fold_facts<T, true>(a, make_uint4(this_row, top, is_slow ? kSlow : median, 0), 32);
  }

  offer_rows<T>(a, kNoRow, 0, false);  // those that still wait
  reinterpret_cast<uint4*>(shared + a.g.stage_at + index * Stage::kBytes)[lane_id()] = peaks;
  __syncthreads();
  flush_peaks<T, 1, Stage::kSide, kWarps, false, Stage::kBytes>(a);
  flush_ratios(a);
  block_close<T>(a);
}

template <class T, int P, int kWarps, bool kInt8>
__global__ void __launch_bounds__(kWarps * 32, 1) narrow_kernel(const __grid_constant__ Launch a) {
#ifdef __CUDA_ARCH__
  if constexpr (!runs_on(__CUDA_ARCH__ / 10, P, true)) return;
  else
#endif
  probe_narrow<T, P, kWarps, kInt8>(a);
}

}  // namespace maxact::cuda
