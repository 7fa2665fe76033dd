// Which lane keeps the books of which row of a tile, and how numbers get there.
//
// A warp holds `R` passes, each with `kSide` rows side by side (32 / kSide lanes a row), so R * kSide <= 32 rows. One
// lane a row keeps what is known of it: its number, m_t, the bracket of its median. So what a row costs beside its
// elements is shared by all rows of the tile.
#pragma once

#include "cuda_warp.cuh"

namespace maxact::cuda {

// As pick() in cuda_asm.cuh.
__device__ __forceinline__ int pick(bool first, int a, int b) {
  return static_cast<int>(pick(first, static_cast<uint32_t>(a), static_cast<uint32_t>(b)));
}
__device__ __forceinline__ float pick(bool first, float a, float b) {
  return __uint_as_float(pick(first, __float_as_uint(a), __float_as_uint(b)));
}

template <int R, int kSide>
struct Lanes {
  static constexpr int kPerRow = 32 / kSide, kRows = R * kSide;
  static_assert(kRows <= 32 && R <= 8);

  // The pass whose books this lane keeps (none if it is R or more); matrix units leave the sums of pass p in column p,
  // that is in lanes with lane % 4 == p / 2, hence the order of the bits.
  // A single row has no keeper: every lane keeps its books, and nothing is sent; nor where each lane has a row of its own.
  static constexpr bool kAlone = R == 1 && kSide == 1, kOwn = R == 1 && kSide == 32;
  __device__ static __forceinline__ int pass() {
    if (kAlone || kOwn) return 0;
    const int lane = lane_id();
    return (lane & 3) * 2 | (lane >> 2 & 1);
  }
  // The row of the tile: side by side first.
  __device__ static __forceinline__ int row() {
    return pass() < R ? pass() * kSide + (kSide > 1 ? lane_id() / kPerRow : 0) : 32;
  }
  // Of lanes that keep the same books the first.
  __device__ static __forceinline__ bool first() {
    if (kAlone) return lane_id() == 0;
    return pass() < R && (lane_id() & (kPerRow - 1)) < 8;
  }
  __device__ static constexpr int keeper(int pass) { return (pass >> 1 & 3) | (pass & 1) << 2; }
  // What the keeper of this lane's row in `pass` holds.
  template <class V>
  __device__ static __forceinline__ V of(V value, int pass) {
    if constexpr (kAlone || kOwn) return value;
    return __shfl_sync(kWarp, value, kSide == 1 ? keeper(pass) : (lane_id() & ~(kPerRow - 1)) | keeper(pass));
  }

  // One value a pass from every lane becomes one value a row, at its keeper.
  template <class V, class Op>
  __device__ static __forceinline__ V fold(V (&v)[R], Op op) {
    constexpr int kSize = R > 4 ? 8 : R > 2 ? 4 : R > 1 ? 2 : 1;
    V w[kSize] = {};
#pragma unroll
    for (int p = 0; p < R; ++p) w[p] = v[p];
    step<kSize, 2>(w, 1, op);  // bit 1 of the pass is bit 0 of the lane, and so on
    step<kSize, 4>(w, 2, op);
    step<kSize, 1>(w, 4, op);
    step<kSize, 8>(w, 8, op);
    step<kSize, 16>(w, 16, op);
    return w[0];
  }

 private:
  template <int kSize, int kBit, class V, class Op>
  __device__ static __forceinline__ void step(V (&w)[kSize], int mask, Op op) {
    if (mask >= kPerRow) return;
    if constexpr (kBit < kSize) {
      const bool upper = lane_id() & mask;
#pragma unroll
      for (int i = 0; i < kSize; ++i)
        if (!(i & kBit) && used<kSize>(i, mask)) {
          const V keep = pick(upper, w[i | kBit], w[i]), send = pick(upper, w[i], w[i | kBit]);
          w[i] = op(keep, __shfl_xor_sync(kWarp, send, mask));
        }
    } else {
#pragma unroll
      for (int i = 0; i < kSize; ++i)
        if (used<kSize>(i, mask)) w[i] = op(w[i], __shfl_xor_sync(kWarp, w[i], mask));
    }
  }
  // Whether entry i is still in use when lane bit `mask` is folded: those folded before it left only clear bits.
  template <int kSize>
  __device__ static constexpr bool used(int i, int mask) {
    return !((mask > 1 && (i & 2)) || (mask > 2 && (i & 4)) || (mask > 4 && (i & 1)));
  }
};

}  // namespace maxact::cuda
