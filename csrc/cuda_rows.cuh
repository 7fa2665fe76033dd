// The rows, or slices of rows, that a warp holds in registers: how they get there, and what is largest and least in them.
// What is counted is in cuda_tile.cuh.
//
// 16-bit magnitudes order as numbers of float16 whatever their type, up to 0x7C00; rows with a larger pattern take the
// slow way (cuda_slow.cuh). So compares, maxima and the counting around a pivot are float16's. Elements keep their sign
// until drop_signs().
#pragma once

#include "cuda_lanes.cuh"
#include "cuda_read.cuh"

namespace maxact::cuda {

__device__ __forceinline__ __half2 as_half2(uint32_t bits) { return *reinterpret_cast<__half2*>(&bits); }
__device__ __forceinline__ uint32_t bits_of(__half2 value) { return *reinterpret_cast<uint32_t*>(&value); }
// max(|a|, |b|, c) by halves: one instruction on sm_90, two before. A nan is passed over.
__device__ __forceinline__ uint32_t max_magnitude(uint32_t a, uint32_t b, uint32_t c) {
  return bits_of(__hmax2(__hmax2(__habs2(as_half2(a)), __habs2(as_half2(b))), as_half2(c)));
}
__device__ __forceinline__ uint32_t max_magnitude(uint32_t a, uint32_t c) {
  return bits_of(__hmax2(__habs2(as_half2(a)), as_half2(c)));
}
// The same, but a nan wins: no large pattern stays unseen.
__device__ __forceinline__ uint32_t max_or_nan(uint32_t a, uint32_t b, uint32_t c) {
  return bits_of(__hmax2_nan(__hmax2_nan(__habs2(as_half2(a)), __habs2(as_half2(b))), as_half2(c)));
}

template <class T, int P, int R, int kSide, int kWarps, bool kVectors>
struct Rows {
  using Bits = typename T::Bits;
  using L = Lanes<R, kSide>;
  static constexpr bool k16 = sizeof(Bits) == 2;
  static constexpr int kWords = 4 * P, kPieces = P, kPasses = R, kSides = kSide;

  uint32_t w[R][kWords];

  // One or two rows have numbers of their own in matrix units; more share them, see Tile::column().
  static constexpr bool kFew = R <= 2 && kSide == 1;
  static constexpr int kChains = R < 4 ? 4 / R : 1;  // of dependent instructions a row, so that one hides the other's latency

  // Chunk c of a row, of this lane: features 8 (or 4) chunk and on. Warps of a team have slices of it, one after the other.
  __device__ static __forceinline__ int chunk(int rank, int c) {
    return (rank * P + c) * L::kPerRow + (lane_id() & (L::kPerRow - 1));
  }

  // Where this lane's chunks wait: chunk c of pass p at (p * P + c) * 512 bytes. No warp waits for another.
  static constexpr int kStageBytes = kVectors ? R * P * 512 : 0;

  // Starts the copy of the next tile to `stage`. row: of which this lane keeps the books; where there is none, another is
  // copied (see drop_signs). Places behind a row's end stay as they were at first, zero. kTeam: whether `size` is not 1.
  template <bool kTeam>
  __device__ static __forceinline__ void fetch(const Launch& a, uint32_t row, int rank, int size, uint32_t stage) {
    const int64_t at = row_offset(a, row == kNoRow ? 0 : row);
    const Bits* const data = static_cast<const Bits*>(a.data) + chunk(rank, 0) * kPerChunk<T>;
    const int left = static_cast<int>(a.o.d) - chunk(rank, 0) * kPerChunk<T>;
    constexpr int step = L::kPerRow * kPerChunk<T>;
    int64_t offset[R];
#pragma unroll
    for (int p = 0; p < R; ++p) offset[p] = L::of(at, p);
    const auto copy = [&](int n_whole) {
#pragma unroll
      for (int p = 0; p < R; ++p)
#pragma unroll
        for (int c = 0; c < P; ++c)
          if (c < n_whole || c * step < left) copy_async(stage + (p * P + c) * 512, data + offset[p] + c * step);
    };
    if ((kTeam && rank + 1 < size) || a.g.n_whole >= P - 2) copy(P - 2);
    else copy(0);
  }
  // The same by the engine: whole rows of one warp each, or a slice of one. Where there is no row another is copied, so that a tile
  // always has the same number of bytes.
  static constexpr int kSliceBytes = P * 512;
  __device__ static __forceinline__ uint32_t slice_bytes(const Launch& a, int rank) {
    const int left = static_cast<int>(a.o.d * sizeof(Bits)) - rank * kSliceBytes;
    return max(0, min(left, kSliceBytes));
  }
  __device__ static __forceinline__ void fetch_by_engine(const Launch& a, uint32_t row, int rank, uint32_t stage, uint32_t barrier) {
    static_assert(kSide == 1);
    const uint32_t n_bytes = slice_bytes(a, rank);
    __syncwarp();  // every lane has taken what was there
    if (lane_id() == 0) expect_bytes(barrier, R * n_bytes);
    const Bits* const x = static_cast<const Bits*>(a.data) + row_offset(a, row == kNoRow ? 0 : row);
    if (L::first() && n_bytes)
      copy_by_engine(stage - lane_id() * 16 + L::pass() * kSliceBytes, x + rank * (kSliceBytes / sizeof(Bits)), n_bytes, barrier);
  }
  __device__ static __forceinline__ void clear_stage(uint32_t stage) {
#pragma unroll
    for (int i = 0; i < R * P; ++i) store_shared(stage + i * 512, make_uint4(0, 0, 0, 0));
  }
  __device__ __forceinline__ void take(uint32_t stage) {
#pragma unroll
    for (int p = 0; p < R; ++p)
#pragma unroll
      for (int c = 0; c < P; ++c) put(p, c, load_shared(stage + (p * P + c) * 512));
  }
  // For rows that 16 bytes a load do not fit.
  __device__ __forceinline__ void read(const Launch& a, uint32_t row, int rank) {
    const int64_t at = row == kNoRow ? 0 : row_offset(a, row);
    const int d = static_cast<int>(a.o.d);
#pragma unroll
    for (int p = 0; p < R; ++p) {
      const Bits* x = static_cast<const Bits*>(a.data) + L::of(at, p);
      const bool is_row = L::of(row, p) != kNoRow;
#pragma unroll
      for (int c = 0; c < P; ++c) {
        uint32_t words[4] = {};
        constexpr int kPerWord = 4 / sizeof(Bits);
        const int begin = chunk(rank, c) * kPerChunk<T>;
#pragma unroll
        for (int e = 0; e < kPerChunk<T>; ++e)
          if (is_row && begin + e < d) words[e / kPerWord] |= static_cast<uint32_t>(x[begin + e]) << (32 / kPerWord * (e % kPerWord) % 32);
        put(p, c, make_uint4(words[0], words[1], words[2], words[3]));
      }
    }
  }
  __device__ __forceinline__ void put(int p, int c, uint4 v) {
    w[p][4 * c] = v.x, w[p][4 * c + 1] = v.y, w[p][4 * c + 2] = v.z, w[p][4 * c + 3] = v.w;
  }

  // From here on words are magnitudes, and zero in the rows whose keepers do not say `on`.
  __device__ __forceinline__ void drop_signs(bool on) {
#pragma unroll
    for (int p = 0; p < R; ++p) {
      const uint32_t mask = L::of(static_cast<uint32_t>(on ? (k16 ? 0x7FFF7FFF : 0x7FFFFFFF) : 0), p);
#pragma unroll
      for (int i = 0; i < kWords; ++i) and_in_place(w[p][i], mask);
    }
  }

  // The largest magnitude of each row, at its keeper; what is too large for it to order is larger than all.
  __device__ __forceinline__ uint32_t top() const {
    if constexpr (k16) {
      uint32_t v[R];
#pragma unroll
      for (int p = 0; p < R; ++p) {
        uint32_t most[kChains] = {};
#pragma unroll
        for (int i = 0; i < kWords; i += 2) most[i / 2 % kChains] = max_or_nan(w[p][i], w[p][i + 1], most[i / 2 % kChains]);
#pragma unroll
        for (int i = 1; i < kChains; ++i) most[0] = max_or_nan(most[0], most[i], 0);
        v[p] = max(most[0] & 0xFFFF, most[0] >> 16);
      }
      return largest(v);
    } else {
      uint32_t v[R];
#pragma unroll
      for (int p = 0; p < R; ++p) {
        float most[kChains] = {};
#pragma unroll
        for (int i = 0; i < kWords; ++i) most[i % kChains] = max_or_nan(most[i % kChains], fabsf(bits_float(w[p][i])));
#pragma unroll
        for (int i = 1; i < kChains; ++i) most[0] = max_or_nan(most[0], most[i]);
        v[p] = float_bits(most[0]);
      }
      return largest(v);
    }
  }
  __device__ static __forceinline__ uint32_t largest(uint32_t (&v)[R]) {
    if constexpr (R <= 2 && kSide == 1) {  // one instruction where a chain of shuffles takes five
      const uint32_t first = __reduce_max_sync(kWarp, v[0]), second = R == 2 ? __reduce_max_sync(kWarp, v[R - 1]) : 0;
      return R > 1 && (lane_id() & 4) ? second : first;
    } else {
      return L::fold(v, Max());
    }
  }

  // A lane's part of the sum of pass p. 16 bits: column n of B picks elements 2n and 2n + 1, so each of D's 128 cells adds two
  // numbers a step, and starts anew after kSteps, since matrix units cut where others round: kSteps * 2^-23 of the sum of |x|,
  // and some 2^-24 for each addition of those.
  template <int kSteps>
  __device__ __forceinline__ float part_of_sum(int p) const {
    float part[P];
    if constexpr (k16) {
      const int quad = lane_id() / 4, member = lane_id() % 4;
      const uint32_t b0 = quad == member ? kOnes<T> : 0, b1 = quad == member + 4 ? kOnes<T> : 0;
#pragma unroll
      for (int group = 0; group < P; group += kSteps) {
        float cells[4] = {};
#pragma unroll
        for (int c = group; c < group + kSteps && c < P; ++c)
          mma<T>(cells, w[p][4 * c], w[p][4 * c + 1], w[p][4 * c + 2], w[p][4 * c + 3], b0, b1);
        part[group / kSteps] = (cells[0] + cells[1]) + (cells[2] + cells[3]);
      }
      return tree<(P + kSteps - 1) / kSteps>(part);
    } else {
#pragma unroll
      for (int c = 0; c < P; ++c)
        part[c] = (bits_float(w[p][4 * c]) + bits_float(w[p][4 * c + 1])) + (bits_float(w[p][4 * c + 2]) + bits_float(w[p][4 * c + 3]));
      return tree<P>(part);
    }
  }

  // Leaves the sums of the rows, or for few rows those of quads, at place `at` of `sums` and on: a tree of float32, which
  // fold_facts continues. At most 4 * 2^-23 + 8 * 2^-24 = 9.6e-7 of the sum of |x| is lost.
  static constexpr int kSums = kFew ? 8 : 1;  // a row
  __device__ __forceinline__ void leave_sums(uint32_t sums, int at) const {
    float v[R];
    const int quad = lane_id() / 4, member = lane_id() % 4;
#pragma unroll
    for (int p = 0; p < R; ++p) v[p] = part_of_sum<4>(p);
    if constexpr (kFew) {
#pragma unroll
      for (int p = 0; p < R; ++p) {
        v[p] += __shfl_xor_sync(kWarp, v[p], 1);
        v[p] += __shfl_xor_sync(kWarp, v[p], 2);
        if (member == 0) store_shared(sums + ((at + p) * sums_stride(kSums) + quad) * 4, v[p]);
      }
    } else {
      const float sum = L::fold(v, Add());
      if (L::first()) store_shared(sums + (at + L::row()) * 4, sum);
    }
  }
  template <int n>
  __device__ static __forceinline__ float tree(float (&part)[P]) {
#pragma unroll
    for (int step = 1; step < n; step *= 2)
#pragma unroll
      for (int i = 0; i + step < n; i += 2 * step) part[i] += part[i + step];
    return part[0];
  }

  // Raises the maxima of this lane's features by chunk c of its rows.
  __device__ __forceinline__ void raise(int c, uint4& maxima) const {
    uint32_t* const peaks[4] = {&maxima.x, &maxima.y, &maxima.z, &maxima.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      uint32_t& peak = *peaks[i];
      if constexpr (k16) {
#pragma unroll
        for (int p = 0; p + 1 < R; p += 2) peak = max_magnitude(w[p][4 * c + i], w[p + 1][4 * c + i], peak);
        if (R % 2) peak = max_magnitude(w[R - 1][4 * c + i], peak);
      } else {
#pragma unroll
        for (int p = 0; p < R; ++p) peak = float_bits(fmaxf(bits_float(peak), fabsf(bits_float(w[p][4 * c + i]))));
      }
    }
  }

  // The largest positive and the largest negative magnitude of this lane's elements in the rows whose keepers say `on`; 0:
  // there is none. As signed integers all negatives order below zero, as unsigned ones above every positive value.
  __device__ __forceinline__ void ends(bool on, uint32_t& positive, uint32_t& negative) const {
    positive = negative = 0;
#pragma unroll
    for (int p = 0; p < R; ++p) {
      uint32_t high = 0, low = 0;
      if constexpr (k16) {
        uint32_t highs[kChains] = {}, lows[kChains] = {};
#pragma unroll
        for (int i = 0; i < kWords; i += 2) {
          const int chain = i / 2 % kChains;
          highs[chain] = __vimax3_s16x2(highs[chain], w[p][i], w[p][i + 1]);
          lows[chain] = __vimax3_u16x2(lows[chain], w[p][i], w[p][i + 1]);
        }
#pragma unroll
        for (int i = 0; i < kChains; ++i) high = __vmaxu2(high, highs[i]), low = __vmaxu2(low, lows[i]);
        high = max(high >> 16, high & 0xFFFF), low = max(low >> 16, low & 0xFFFF);
      } else {
#pragma unroll
        for (int i = 0; i < kWords; ++i) high = max(static_cast<int>(high), static_cast<int>(w[p][i])), low = max(low, w[p][i]);
      }
      const uint32_t sign = T::kSign;
      if (L::of(on, p)) positive = max(positive, high), negative = max(negative, low & sign ? low & ~sign : 0);
    }
  }
  // The smallest magnitude of this lane's elements in the rows whose keepers say so.
  __device__ __forceinline__ uint32_t least(const Launch& a, bool on, int rank) const {
    const int d = static_cast<int>(a.o.d);
    uint32_t least = 0xFFFFFFFFu;
#pragma unroll
    for (int p = 0; p < R; ++p) {
      const bool is_row = L::of(on, p);
#pragma unroll
      for (int c = 0; c < P; ++c) {
        const int begin = chunk(rank, c) * kPerChunk<T>;
        if constexpr (kVectors) {
          const uint32_t* x = &w[p][4 * c];
          const uint32_t in_chunk =
              k16 ? __vminu2(__vminu2(x[0] & 0x7FFF7FFFu, x[1] & 0x7FFF7FFFu), __vminu2(x[2] & 0x7FFF7FFFu, x[3] & 0x7FFF7FFFu))
                  : min(min(x[0] & 0x7FFFFFFFu, x[1] & 0x7FFFFFFFu), min(x[2] & 0x7FFFFFFFu, x[3] & 0x7FFFFFFFu));
          if (is_row && begin < d) least = k16 ? __vminu2(least, in_chunk) : min(least, in_chunk);
        } else {
#pragma unroll
          for (int e = 0; e < kPerChunk<T>; ++e) {
            const uint32_t word = w[p][4 * c + e * static_cast<int>(sizeof(Bits)) / 4];
            const uint32_t x = k16 ? word >> (16 * (e % 2)) & 0x7FFF : word & 0x7FFFFFFFu;
            if (is_row && begin + e < d) least = k16 ? __vminu2(least, x * 0x10001u) : min(least, x);
          }
        }
      }
    }
    return !k16 || least == 0xFFFFFFFFu ? least : min(least >> 16, least & 0xFFFF);
  }
};

}  // namespace maxact::cuda
