// A tile: rows with all that is counted in them, once they are magnitudes.
#pragma once

#include "cuda_rows.cuh"

namespace maxact::cuda {

template <class T, int P, int R, int kSide, int kWarps, bool kVectors>
struct Tile : Rows<T, P, R, kSide, kWarps, kVectors> {
  using Base = Rows<T, P, R, kSide, kWarps, kVectors>;
  using Base::w, Base::k16, Base::kWords, Base::kFew, Base::kChains;
  using L = typename Base::L;

  // What makes matrix units put the sum of pass p in column p. One or two passes have a sum of their own instead, alike in
  // all columns: that needs fewer registers.
  __device__ static __forceinline__ uint32_t column(int p, uint32_t ones) { return kFew || lane_id() / 4 == p ? ones : 0; }

  // The sum of the keys of every second word of each row, at its keeper: some 128 (float16: 1024) times the logarithm of
  // |x|. The search for the median begins by it, and no outlier can mislead it. kSigned: elements still have their signs.
  template <bool kSigned>
  __device__ __forceinline__ int key_sum() const {
    uint32_t v[R];
#pragma unroll
    for (int p = 0; p < R; ++p) {
      uint32_t chain[kChains] = {};
#pragma unroll
      for (int i = 0; i < kWords; i += 2) {
        const uint32_t keys = kSigned ? w[p][i] & (k16 ? 0x7FFF7FFF : 0x7FFFFFFF) : w[p][i];
        chain[i / 2 % kChains] = __dp2a_lo(keys, k16 ? 0x0101u : 0x0100u, chain[i / 2 % kChains]);
      }
      v[p] = chain[0];
#pragma unroll
      for (int i = 1; i < kChains; ++i) v[p] += chain[i];
    }
    if constexpr (kFew) {
      const uint32_t first = __reduce_add_sync(kWarp, v[0]), second = R == 2 ? __reduce_add_sync(kWarp, v[R - 1]) : 0;
      return static_cast<int>(R > 1 && (lane_id() & 4) ? second : first);
    } else {
      return static_cast<int>(L::fold(v, Add()));
    }
  }
  // The upper halves of words i and i + 1.
  __device__ __forceinline__ uint32_t upper(int p, int i) const { return __byte_perm(w[p][i], w[p][i + 1], 0x7632); }

  // Adds over the quads of a row what columns hold, and leaves each keeper its own: v[j] is column 2 (lane % 4) + j.
  __device__ static __forceinline__ uint32_t of_columns(const uint32_t (&v)[2]) {
    // Lanes that differ in bit 2 keep different passes: each sends what the other keeps.
    const bool odd = lane_id() & 4;
    uint32_t mine = pick(odd, v[1], v[0]) + __shfl_xor_sync(kWarp, pick(odd, v[0], v[1]), 4);
    if (L::kPerRow > 8) mine += __shfl_xor_sync(kWarp, mine, 8);
    if (L::kPerRow > 16) mine += __shfl_xor_sync(kWarp, mine, 16);
    return mine;
  }

  // How many elements of each row have a key (the upper 16 bits of a float32) below its keeper's `key`, and how many that
  // key: equal | less << 16. `open`: whether the keeper wants to know; with kSkip, passes
  // where none does are left out.
  //
  // kTwo: key k is the float16 number (1024 + m) ulp with m = k & 1023, and (m + 1) / 2 - |x| / (2 ulp), cut to [0, 1], is
  // 1 below k, 1/2 at k and 0 above, by one fused multiply-add for two elements. The bits of 1 and 1/2 read as bfloat16 are
  // 2^-7 and 2^-15, so that the matrix units, which multiply by 2^15, add 256 for each smaller and 1 for each equal
  // element. That needs kLeastKey <= k (the slope must be a float16) and m != 0 (below lies another ulp).
  // Otherwise: `equal` is 0 and `less` includes them, by a compare for two elements.
  static constexpr int kLeastKey = 9 << 10;
  // between(c): called for c < P / 2, where there is something to do meanwhile.
  struct Nothing {
    __device__ __forceinline__ void operator()(int) const {}
  };
  template <bool kTwo, bool kSkip = true, class Between = Nothing>
  __device__ __forceinline__ uint32_t around(int key, bool open, Between between = {}) const {
    constexpr uint32_t kUnit = 0x47004700u;  // 2^15 twice, bfloat16
    const uint32_t line = kTwo ? (0x6001u + (key & 0x3FF)) | (0x8000u | (39 - (key >> 10)) << 10) << 16 : static_cast<uint32_t>(key);
    const unsigned wanted = kSkip ? __ballot_sync(kWarp, open) : kWarp;
    constexpr int kSets = kFew ? R : 1;
    static_assert((kFew && P > 4 ? P * R / 4 + 1 : P) * 16 < 256, "a digit of 8 bits holds the elements of a cell");
    constexpr int kChains = kFew && P > 4 ? 4 / R : 2;  // of matrix units
    float cells[kSets][kChains][4] = {};
#pragma unroll
    for (int p = 0; p < R; ++p) {
      const uint32_t both = L::of(line, p);
      if (kSkip && R > 1 && !(wanted & keepers(p))) continue;
      const __half2 low = as_half2(__byte_perm(both, 0, 0x1010)), high = as_half2(__byte_perm(both, 0, 0x3232));
#pragma unroll
      for (int c = 0; c < P; c += k16 ? 1 : 2) {
        uint32_t x[4] = {};
#pragma unroll
        for (int i = 0; i < (k16 ? 4 : c + 1 < P ? 4 : 2); ++i) {
          const __half2 keys = as_half2(k16 ? w[p][4 * c + i] : upper(p, (4 * c + 2 * i) % kWords));
          x[i] = bits_of(kTwo ? __hfma2_sat(keys, high, low) : __hle2(keys, low));
        }
        const uint32_t ones = column(p, kUnit);
        mma<BFloat16>(cells[kFew ? p : 0][(c / (k16 ? 1 : 2) + (kFew ? 0 : p)) % kChains], x[0], x[1], x[2], x[3], ones, ones);
        // The chunks of the last pass, and what is left, each for two chunks of the others.
        if (p == R - 1 && (k16 ? c % 2 == 1 : c / 2 < P / 2)) between(c / 2);
      }
    }
    // A cell is a whole number below 2^16: its digits, 16 bits apart.
    const auto digits = [](float cell) { return __byte_perm(float_bits(cell + 0x1p23f), 0, 0x4140); };
    if constexpr (kFew) {
      uint32_t all[2] = {};
#pragma unroll
      for (int p = 0; p < R; ++p) {
        const auto& c = cells[p];
        uint32_t mine = 0;
#pragma unroll
        for (int i = 0; i < kChains && i < P; ++i) mine += digits(c[i][0]) + digits(c[i][2]);
        // The four lanes of a quad have the same, so one speaks; a warp has at most 5,120 elements of a row.
        all[p] = __reduce_add_sync(kWarp, lane_id() & 3 ? 0 : mine);
      }
      return R > 1 && (lane_id() & 4) ? all[1] : all[0];
    } else {
      uint32_t v[2];
#pragma unroll
      for (int j = 0; j < 2; ++j)
        v[j] = digits(cells[0][0][j]) + digits(cells[0][0][j + 2]) + digits(cells[0][1][j]) + digits(cells[0][1][j + 2]);
      return of_columns(v);
    }
  }
  // The lanes that keep the books of the rows of pass p.
  __device__ static constexpr unsigned keepers(int p) {
    unsigned all = 0;
    for (int side = 0; side < kSide; ++side) all |= 1u << (side * L::kPerRow % 32 + L::keeper(p));
    return all;
  }

  // Whether rows have so few elements that most keys near the median have none: then the last steps of a search go from
  // element to element.
  static constexpr bool kSparse = k16 && P * L::kPerRow <= 80;
  // How far the nearest key of each row lies from its keeper's `key`, which counts, too: upwards or downwards. Beyond lie
  // numbers from 2^15: x - key, or ~x + key + 1, by halves.
  __device__ __forceinline__ int nearest(bool up, int key) const {
    const uint32_t line = up ? static_cast<uint32_t>(-key) << 16 : static_cast<uint32_t>(key + 1) << 16 | 0xFFFF;
    uint32_t v[R];
#pragma unroll
    for (int p = 0; p < R; ++p) {
      const uint32_t both = L::of(line, p), flip = __byte_perm(both, 0, 0x1010), add = __byte_perm(both, 0, 0x3232);
      uint32_t least = 0xFFFFFFFFu;
#pragma unroll
      for (int i = 0; i < kWords; ++i) least = __viaddmin_u16x2(w[p][i] ^ flip, add, least);
      v[p] = min(least & 0xFFFF, least >> 16);
    }
    return static_cast<int>(L::fold(v, Min()));
  }

  // How many float32 elements of each row have a magnitude of at most its keeper's.
  __device__ __forceinline__ int words_at_most(uint32_t magnitude) const {
    int v[R];
#pragma unroll
    for (int p = 0; p < R; ++p) {
      const float pivot = bits_float(L::of(magnitude, p));
      v[p] = 0;
#pragma unroll
      for (int i = 0; i < kWords; ++i) v[p] += bits_float(w[p][i]) <= pivot;
    }
    return L::fold(v, Add());
  }

  // One shared counter for each element of chunk c; `cells`: the address of the table.
  __device__ __forceinline__ void count(const Launch& a, uint32_t cells, int c) const {
#if __CUDA_ARCH__ >= 1200
    if (a.g.first_bin) {
#pragma unroll
      for (int p = 0; p < R; ++p)
#pragma unroll
        for (int i = 4 * c; i < 4 * c + 4; ++i) {
          if constexpr (k16) count_in_window(a, w[p][i] & 0x7FFF);
          count_in_window(a, w[p][i] >> 16);
        }
      return;
    }
#endif
#pragma unroll
    for (int p = 0; p < R; ++p) add_ones<!k16>(cells, w[p][4 * c], w[p][4 * c + 1], w[p][4 * c + 2], w[p][4 * c + 3]);
  }

  // Whether this lane has a magnitude of zero.
  __device__ __forceinline__ bool has_zero() const {
    bool found = false;
#pragma unroll
    for (int p = 0; p < R; ++p) {
      uint32_t least[kChains];
#pragma unroll
      for (int i = 0; i < kChains; ++i) least[i] = 0x7FFF7FFFu;
#pragma unroll
      for (int i = 0; i < kWords; i += 2) {
        uint32_t& chain = least[i / 2 % kChains];
        chain = k16 ? __vimin3_u16x2(chain, w[p][i], w[p][i + 1]) : __vimin3_u32(chain, w[p][i], w[p][i + 1]);
      }
#pragma unroll
      for (int i = 0; i < kChains; ++i) found |= k16 ? (least[i] & 0xFFFF) == 0 || least[i] >> 16 == 0 : least[i] == 0;
    }
    return found;
  }
};

}  // namespace maxact::cuda
