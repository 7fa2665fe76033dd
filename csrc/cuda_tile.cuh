// A tile: the rows, or slices of rows, that a warp holds in registers, and what is done with all of their elements.
//
// Elements keep their sign. 16-bit magnitudes order as numbers of float16 whatever their type, up to 0x7C00; rows with
// a larger pattern take the slow way (cuda_slow.cuh). So compares and maxima are float16's, which take |x| for nothing.
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
__device__ __forceinline__ float max_or_nan(float a, float b) {
  float c;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(c) : "f"(a), "f"(b));
  return c;
}
// 1.0 (float16) in each half whose magnitude is at most that half of `b`, else 0.
__device__ __forceinline__ uint32_t magnitude_at_most(uint32_t a, uint32_t b) {
  return bits_of(__hle2(__habs2(as_half2(a)), as_half2(b)));
}

template <class T, int P, int R, int kSide, bool kVectors>
struct Tile {
  using Bits = typename T::Bits;
  using L = Lanes<R, kSide>;
  static constexpr bool k16 = sizeof(Bits) == 2;
  static constexpr int kWords = 4 * P, kPieces = P, kPasses = R, kSides = kSide;

  uint32_t w[R][kWords];

  // What makes matrix units put the sum of pass p in column p % 8. One or two passes have a sum of their own instead,
  // alike in all columns: that needs fewer registers.
  static constexpr bool kFew = R <= 2 && kSide == 1;
  __device__ static __forceinline__ uint32_t column(int p) {
    return kFew || lane_id() / 4 == p % 8 ? kOnes<Float16> : 0;
  }

  // Chunk c of a row, of this lane: features 8 (or 4) chunk and on.
  __device__ static __forceinline__ int chunk(int rank, int size, int c) {
    return (c * size + rank) * L::kPerRow + (lane_id() & (L::kPerRow - 1));
  }

  // row: of which this lane keeps the books. Zeros where there is none, and behind a row's end; but every lane loads
  // something, always: a load that may not happen needs registers to wait in.
  __device__ __forceinline__ void load(const Launch& a, uint32_t row, int rank, int size) {
    const int64_t at = row == kNoRow ? 0 : row_offset(a, row);
    const int d = static_cast<int>(a.o.d);
    const Bits* const data = static_cast<const Bits*>(a.data);
    if constexpr (kVectors) {
      int offset[P];
#pragma unroll
      for (int c = 0; c < P; ++c) offset[c] = min(chunk(rank, size, c) * kPerChunk<T>, d - kPerChunk<T>);
#pragma unroll
      for (int p = 0; p < R; ++p) {
        const Bits* x = data + L::of(at, p);
#pragma unroll
        for (int c = 0; c < P; ++c) put(p, c, __ldcs(reinterpret_cast<const uint4*>(x + offset[c])));
      }
#pragma unroll
      for (int c = 0; c < P; ++c)
        if (c >= a.g.n_whole && chunk(rank, size, c) * kPerChunk<T> >= d)
#pragma unroll
          for (int p = 0; p < R; ++p) put(p, c, make_uint4(0, 0, 0, 0));
    } else {
#pragma unroll
      for (int p = 0; p < R; ++p) {
        const Bits* x = data + L::of(at, p);
#pragma unroll
        for (int c = 0; c < P; ++c) {
          uint32_t words[4] = {};
          constexpr int kPerWord = 4 / sizeof(Bits);
          const int begin = chunk(rank, size, c) * kPerChunk<T>;
#pragma unroll
          for (int e = 0; e < kPerChunk<T>; ++e)
            if (begin + e < d) words[e / kPerWord] |= static_cast<uint32_t>(x[begin + e]) << (32 / kPerWord * (e % kPerWord) % 32);
          put(p, c, make_uint4(words[0], words[1], words[2], words[3]));
        }
      }
    }
    if (__any_sync(kAll, row == kNoRow && L::pass() < R)) clear(row == kNoRow);
  }
  __device__ __forceinline__ void put(int p, int c, uint4 v) {
    w[p][4 * c] = v.x, w[p][4 * c + 1] = v.y, w[p][4 * c + 2] = v.z, w[p][4 * c + 3] = v.w;
  }

  // Forgets the rows whose keepers say so.
  __device__ __forceinline__ void clear(bool mine) {
#pragma unroll
    for (int p = 0; p < R; ++p)
      if (L::of(mine, p)) {
#pragma unroll
        for (int i = 0; i < kWords; ++i) w[p][i] = 0;
      }
  }

  // The largest magnitude of each row, at its keeper; what is too large for it to order is larger than all.
  __device__ __forceinline__ uint32_t top() const {
    if constexpr (k16) {
      uint32_t v[R];
#pragma unroll
      for (int p = 0; p < R; ++p) {
        v[p] = 0;
#pragma unroll
        for (int i = 0; i < kWords; i += 2) v[p] = max_or_nan(w[p][i], w[p][i + 1], v[p]);
        v[p] = max(v[p] & 0xFFFF, v[p] >> 16);
      }
      return largest(v);
    } else {
      uint32_t v[R];
#pragma unroll
      for (int p = 0; p < R; ++p) {
        float most = 0;
#pragma unroll
        for (int i = 0; i < kWords; ++i) most = max_or_nan(most, fabsf(bits_float(w[p][i])));
        v[p] = float_bits(most);
      }
      return largest(v);
    }
  }
  __device__ static __forceinline__ uint32_t largest(uint32_t (&v)[R]) {
    if constexpr (R <= 2 && kSide == 1) {  // one instruction where a chain of shuffles takes five
      const uint32_t first = __reduce_max_sync(kAll, v[0]), second = R == 2 ? __reduce_max_sync(kAll, v[R - 1]) : 0;
      return lane_id() & 4 ? second : first;
    } else {
      return L::fold(v, Max());
    }
  }

  // The sum of each row, at its keeper, by a tree of float32. 16 bits: column n of B picks elements 2n and 2n + 1, so
  // each of D's 128 cells adds two numbers a step, and starts anew after four. Matrix units cut where others round:
  // at most 4 * 2^-23 + 8 * 2^-24 = 9.6e-7 of the sum of |x|.
  __device__ __forceinline__ float sum() const {
    float v[R];
    const int quad = lane_id() / 4, member = lane_id() % 4;
    const uint32_t b0 = quad == member ? kOnes<T> : 0, b1 = quad == member + 4 ? kOnes<T> : 0;
#pragma unroll
    for (int p = 0; p < R; ++p) {
      float part[P];
      if constexpr (k16) {
#pragma unroll
        for (int group = 0; group < P; group += 4) {
          float cells[4] = {};
#pragma unroll
          for (int c = group; c < group + 4 && c < P; ++c)
            mma<T>(cells, w[p][4 * c], w[p][4 * c + 1], w[p][4 * c + 2], w[p][4 * c + 3], b0, b1);
          part[group / 4] = (cells[0] + cells[1]) + (cells[2] + cells[3]);
        }
        v[p] = tree<(P + 3) / 4>(part);
      } else {
#pragma unroll
        for (int c = 0; c < P; ++c)
          part[c] = (bits_float(w[p][4 * c]) + bits_float(w[p][4 * c + 1])) + (bits_float(w[p][4 * c + 2]) + bits_float(w[p][4 * c + 3]));
        v[p] = tree<P>(part);
      }
    }
    return L::fold(v, Add());
  }
  template <int n>
  __device__ static __forceinline__ float tree(float (&part)[P]) {
#pragma unroll
    for (int step = 1; step < n; step *= 2)
#pragma unroll
      for (int i = 0; i + step < n; i += 2 * step) part[i] += part[i + step];
    return part[0];
  }

  // Some number that follows the mean of |x| of each row: the sum over every fourth word, in arbitrary units. The
  // search for the median begins by it.
  __device__ __forceinline__ float sample() const {
    float cells[2][4] = {};
#pragma unroll
    for (int p = 0; p < R; ++p)
#pragma unroll
      for (int c = 0; c < P; c += 4) {
        uint32_t x[4] = {};
#pragma unroll
        for (int i = 0; i < 4; ++i)
          if (c + i < P) x[i] = (k16 ? w[p][4 * (c + i) % kWords] : upper(p, 4 * (c + i) % kWords)) & 0x7FFF7FFFu;
        if (P == 1) x[1] = (k16 ? w[p][1] : upper(p, 2)) & 0x7FFF7FFFu;
        mma<Key>(cells[kFew ? p : p / 8], x[0], x[1], x[2], x[3], column(p), column(p));
      }
    float v[4] = {cells[0][0] + cells[0][2], cells[0][1] + cells[0][3], cells[1][0] + cells[1][2], cells[1][1] + cells[1][3]};
    if (kFew) v[1] = v[2];
    return of_columns(v);
  }
  using Key = std::conditional_t<k16, T, BFloat16>;
  // The upper halves of words i and i + 1.
  __device__ __forceinline__ uint32_t upper(int p, int i) const { return __byte_perm(w[p][i], w[p][i + 1], 0x7632); }

  // Adds over the quads of a row what columns hold, and leaves each keeper its own: v[2 s + j] is column
  // 2 (lane % 4) + j of passes 8 s and on.
  template <class V>
  __device__ static __forceinline__ V of_columns(V (&v)[4]) {
    const bool odd = lane_id() & 4, second = R > 8 && (lane_id() & 8);
    // Lanes that differ in bits 2 and 3 keep different passes: each sends what the other keeps.
    V mine[2];
#pragma unroll
    for (int s = 0; s < (R > 8 ? 2 : 1); ++s) {
      const V keep = pick(odd, v[2 * s + 1], v[2 * s]), send = pick(odd, v[2 * s], v[2 * s + 1]);
      mine[s] = keep + __shfl_xor_sync(kAll, send, 4);
    }
    if constexpr (R > 8) {
      const V keep = pick(second, mine[1], mine[0]), send = pick(second, mine[0], mine[1]);
      mine[0] = keep + __shfl_xor_sync(kAll, send, 8);
    } else if (L::kPerRow > 8) {
      mine[0] += __shfl_xor_sync(kAll, mine[0], 8);
    }
    if (L::kPerRow > 16) mine[0] += __shfl_xor_sync(kAll, mine[0], 16);
    return mine[0];
  }

  // How many elements of each row have a key (the upper 16 bits of a float32) of at most its keeper's `key`; `open`:
  // whether the keeper wants to know. Compares make ones and zeros and the matrix units add them: 1.25 instructions
  // for two elements where compare and add take 2.
  // kSkip: rows that are not wanted are left out.
  template <bool kSkip>
  __device__ __forceinline__ int keys_at_most(int key, bool open) const {
    const uint32_t both = static_cast<uint32_t>(key) * 0x10001u;
    const unsigned wanted = kSkip ? __ballot_sync(kAll, open) : kAll;
    float cells[R > 8 ? 4 : 2][4] = {};  // two chains a column, so that one hides half of the other's latency
    uint32_t pivots[R];
#pragma unroll
    for (int p = 0; p < R; ++p) pivots[p] = L::of(both, p);
#pragma unroll
    for (int p = 0; p < R; ++p) {
      if (kSkip && P > 2 && R > 1 && !(wanted & keepers(p))) continue;
#pragma unroll
      for (int c = 0; c < P; c += k16 ? 1 : 2) {
        uint32_t x[4] = {};
#pragma unroll
        for (int i = 0; i < (k16 ? 4 : c + 1 < P ? 4 : 2); ++i)
          x[i] = magnitude_at_most(k16 ? w[p][4 * c + i] : upper(p, (4 * c + 2 * i) % kWords), pivots[p]);
        mma<Float16>(cells[kFew && R == 2 ? p : p / 8 * 2 + (c / (k16 ? 1 : 2) + p) % 2], x[0], x[1], x[2], x[3], column(p), column(p));
      }
    }
    // Whole numbers below 2^16, two a word.
    constexpr float kWhole = 0x1p23f;  // adding it leaves a whole number in the lowest bits
    if constexpr (kFew) {
      const float first = (cells[0][0] + cells[0][2]) + (R == 1 ? cells[1][0] + cells[1][2] : 0), second = cells[1][0] + cells[1][2];
      const uint32_t two = __byte_perm(float_bits(first + kWhole), float_bits(second + kWhole), 0x5410);
      // The four lanes of a quad have the same, so one speaks; a warp has at most 2,560 elements of a row.
      const uint32_t all = __reduce_add_sync(kAll, lane_id() & 3 ? 0 : two);
      return static_cast<int>(lane_id() & 4 ? all >> 16 : all & 0xFFFF);
    } else {
      uint32_t v[2] = {};
#pragma unroll
      for (int s = 0; s < (R > 8 ? 2 : 1); ++s) {
        const auto& even = cells[2 * s];
        const auto& odd = cells[2 * s + 1];
        const float first = (even[0] + even[2]) + (odd[0] + odd[2]), second = (even[1] + even[3]) + (odd[1] + odd[3]);
        v[s] = __byte_perm(float_bits(first + kWhole), float_bits(second + kWhole), 0x5410);
      }
#pragma unroll
      for (int mask = 4; mask < L::kPerRow; mask *= 2) {
        v[0] += __shfl_xor_sync(kAll, v[0], mask);
        if (R > 8) v[1] += __shfl_xor_sync(kAll, v[1], mask);
      }
      const uint32_t mine = R > 8 && (lane_id() & 8) ? v[1] : v[0];
      return static_cast<int>(lane_id() & 4 ? mine >> 16 : mine & 0xFFFF);
    }
  }
  // The lanes that keep the books of the rows of pass p.
  __device__ static constexpr unsigned keepers(int p) {
    unsigned all = 0;
    for (int side = 0; side < kSide; ++side) all |= 1u << (side * L::kPerRow % 32 + L::keeper(p));
    return all;
  }

  // How many float32 elements of each row have a magnitude of at most its keeper's.
  __device__ __forceinline__ int words_at_most(uint32_t magnitude) const {
    int v[R];
#pragma unroll
    for (int p = 0; p < R; ++p) {
      const float pivot = bits_float(L::of(magnitude, p));
      v[p] = 0;
#pragma unroll
      for (int i = 0; i < kWords; ++i) v[p] += fabsf(bits_float(w[p][i])) <= pivot;
    }
    return L::fold(v, Add());
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

  // One shared counter for each element of half the tile.
  template <int kHalf>
  __device__ __forceinline__ void count(const Launch& a) const {
#if __CUDA_ARCH__ >= 1200
    if (a.g.first_bin) {
#pragma unroll
      for (int p = 0; p < R; ++p)
#pragma unroll
        for (int i = kHalf * kWords / 2; i < (kHalf + 1) * kWords / 2; ++i) {
          if constexpr (k16) count_in_window(a, w[p][i] & 0x7FFF);
          count_in_window(a, w[p][i] >> 16 & 0x7FFF);
        }
      return;
    }
#endif
    const uint32_t cells = static_cast<uint32_t>(__cvta_generic_to_shared(table()));
#pragma unroll
    for (int p = 0; p < R; ++p)
#pragma unroll
      for (int i = kHalf * kWords / 2; i < (kHalf + 1) * kWords / 2; ++i) {
        if constexpr (k16) add_one(cells + (w[p][i] << 2 & 0x1FFFC));
        add_one(cells + (w[p][i] >> 14 & 0x1FFFC));
      }
  }

  // The largest positive and the largest negative magnitude of this lane's elements; 0: there is none. As signed
  // integers all negatives order below zero, as unsigned ones above every positive value.
  __device__ __forceinline__ void ends(uint32_t& positive, uint32_t& negative) const {
    if constexpr (k16) {
      uint32_t high = 0, low = 0;
#pragma unroll
      for (int p = 0; p < R; ++p)
#pragma unroll
        for (int i = 0; i < kWords; i += 2)
          high = __vimax3_s16x2(high, w[p][i], w[p][i + 1]), low = __vimax3_u16x2(low, w[p][i], w[p][i + 1]);
      positive = max(high >> 16, high & 0xFFFF), negative = max(low >> 16, low & 0xFFFF);
      negative = negative & 0x8000 ? negative & 0x7FFF : 0;
    } else {
      int high = 0;
      uint32_t low = 0;
#pragma unroll
      for (int p = 0; p < R; ++p)
#pragma unroll
        for (int i = 0; i < kWords; ++i) high = max(high, static_cast<int>(w[p][i])), low = max(low, w[p][i]);
      positive = high, negative = low >> 31 ? low & 0x7FFFFFFFu : 0;
    }
  }
  // The smallest magnitude of this lane's elements in the rows whose keepers say so.
  __device__ __forceinline__ uint32_t least(const Launch& a, bool on, int rank, int size) const {
    const int d = static_cast<int>(a.o.d);
    uint32_t least = 0xFFFFFFFFu;
#pragma unroll
    for (int p = 0; p < R; ++p) {
      const bool is_row = L::of(on, p);
#pragma unroll
      for (int c = 0; c < P; ++c) {
        const int begin = chunk(rank, size, c) * kPerChunk<T>;
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
