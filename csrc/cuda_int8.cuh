// The error of per-token dynamic INT-8.
#pragma once

#include "cuda_facts.cuh"
#include "cuda_tile.cuh"

namespace maxact::cuda {

// A row's sums of y^2, |x|, err^2 and |err| wait as four floats in shared memory, this far from those of the next row: behind
// its other sums where these leave room, since a second stage of rows needs all there is.
template <int kSums>
constexpr int kInt8Stride = kSums == 1 ? 16 : sums_stride(kSums) * 4;

// Keeps the squares of small rows in range, and 127 / m_t where the quick reciprocal is good. Rows of the fast way are below 2^21.
__device__ __forceinline__ float lift_of(float m) { return m < 0x1p-40f ? 0x1p80f : 1.0f; }

// This lane's part of y^2, |x|, err^2 and |err| of pass p in v[0..3][p]: y = x, or x * lift if any row `lifts`, u = y * inverse =
// x * 127 / m_t and err = u - round(u), which the second fused product rounds once. Float32: chains of 8, 4 and 5 numbers, then
// a tree of lanes, so an error below 17 * 2^-24. kCells: v[1] is there already, of matrix units: three cuts of 2^-23, five
// additions and the tree, no more.
template <class T, bool kCells, class TileT, int R>
__device__ __forceinline__ void int8_parts(const TileT& tile, bool lifts, float lift, float inverse, float (&v)[4][R]) {
  using Bits = typename T::Bits;
  using L = typename TileT::L;
  constexpr int P = TileT::kPieces;
  constexpr float kRound = 0x1.8p23f;  // adding it leaves a rounded integer, ties to even
#pragma unroll
  for (int p = 0; p < R; ++p) {
    const float row_lift = L::of(lift, p), row_inverse = L::of(inverse, p);
#pragma unroll
    for (int k = 0; k < 4; ++k)
      if (k != 1 || !kCells) v[k][p] = 0;
#pragma unroll
    for (int group = 0; group < P; group += 4) {
      float four[4] = {};
#pragma unroll
      for (int c = group; c < group + 4 && c < P; ++c) {
        float part[4] = {};
#pragma unroll
        for (int e = 0; e < kPerChunk<T>; ++e) {
          const uint32_t word = tile.w[p][4 * c + e * static_cast<int>(sizeof(Bits)) / 4];
          const auto bits = static_cast<Bits>(TileT::k16 ? word >> (16 * (e % 2)) : word);
          const float x = bits_float(T::wide(bits));
          float y = x;
          if (lifts) y *= row_lift;
          const float rounded = fmaf(y, row_inverse, kRound) - kRound, error = fmaf(y, row_inverse, -rounded);
          part[0] = fmaf(y, y, part[0]);
          if (!kCells) part[1] += x;
          part[2] = fmaf(error, error, part[2]), part[3] += fabsf(error);
        }
#pragma unroll
        for (int k = 0; k < 4; ++k) four[k] += part[k];
      }
#pragma unroll
      for (int k = 0; k < 4; ++k)
        if (k != 1 || !kCells) v[k][p] += four[k];
    }
  }
}

// The same from m_t of the keeper's row, 0 where it is not `counted`.
template <class T, bool kCells, class TileT, int R>
__device__ __forceinline__ void int8_parts(const TileT& tile, float m, bool counted, float (&v)[4][R]) {
  const float lift = lift_of(m), near = __fdividef(127.0f, m * lift);
  // One Newton step rounds the quotient as a division would.
  const float inverse = fmaf(fmaf(-near, m * lift, 127.0f), __fdividef(1.0f, m * lift), near);
  const bool lifts = !std::is_same_v<T, Float16> && __any_sync(kWarp, counted && lift > 1);  // numbers of fp16 are large enough
  const float row_lift = counted ? lift : 1, row_inverse = counted ? inverse : 0;
  // Twice the code where it is to be fast: a product for each element that is not to be is an instruction, too.
  if ((!kCells && !TileT::L::kOwn) || lifts)
    int8_parts<T, kCells>(tile, lifts, row_lift, row_inverse, v);
  else
    int8_parts<T, kCells>(tile, false, 1, row_inverse, v);
}

// Leaves the INT-8 sums of the rows at place `at` of `sums` and on. kCells: `absolute` is this lane's part of the sum of |x| of the one
// row there is.
template <class T, bool kCells, class TileT>
__device__ __forceinline__ void leave_int8(const TileT& tile, float m, bool counted, float absolute, uint32_t sums, int at) {
  using L = typename TileT::L;
  constexpr int kStride = kInt8Stride<TileT::kSums>;
  float v[4][TileT::kPasses];
  if (kCells) v[1][0] = absolute;
  int8_parts<T, kCells>(tile, m, counted, v);
  if constexpr (L::kAlone) {  // four sums travel together, as those of four rows would
    using Four = Lanes<4, 1>;
    float all[4] = {v[0][0], v[1][0], v[2][0], v[3][0]};
    const float sum = Four::fold(all, Add());
    if (Four::first()) store_shared(sums + at * kStride + Four::pass() * 4, sum);
  } else {
    const auto folded = [&](int k) { return float_bits(L::fold(v[k], Add())); };
    const uint4 all = make_uint4(folded(0), folded(1), folded(2), folded(3));
    if (L::first()) store_shared(sums + (at + L::row()) * kStride, all);
  }
}

// Adds the INT-8 sums of rows to the state's, a lane a row: at once, or where rows are short by way of the block's.
template <bool kShort>
__device__ __forceinline__ void add_int8(const Launch& a, const float4& all, float m, bool on) {
  const double unlift = lift_of(m) > 1 ? 0x1p-80 : 1.0, scale = static_cast<double>(m) * (1.0 / 127);
  const Addend square{all.x * (unlift * unlift), on}, absolute{all.y, on};
  const Addend error_square{all.z * (scale * scale), on}, error{all.w * scale, on};
  if constexpr (kShort) {
    add_exactly_block<kInt8SquareSum>(a, square), add_exactly_block<kInt8AbsSum>(a, absolute);
    add_exactly_block<kInt8ErrorSquareSum>(a, error_square), add_exactly_block<kInt8ErrorAbsSum>(a, error);
  } else {
    add_exactly_warp(a.f.int8_square_sum, square), add_exactly_warp(a.f.int8_abs_sum, absolute);
    add_exactly_warp(a.f.int8_error_square_sum, error_square), add_exactly_warp(a.f.int8_error_abs_sum, error);
  }
}

// Those of a round of n rows; a warp of a team has its part of each.
template <class T, int kSums>
__device__ __forceinline__ void fold_int8(const Launch& a, int n, uint32_t sums) {
  __syncwarp();
  const uint4 all = load_shared(sums + lane_id() * kInt8Stride<kSums>), row = facts_of(a).rows[lane_id()];
  const bool on = lane_id() < n && row.x != kNoRow && row.z != kSlow && row.y != 0;
  add_int8<false>(a, make_float4(bits_float(all.x), bits_float(all.y), bits_float(all.z), bits_float(all.w)),
           bits_float(T::wide(static_cast<typename T::Bits>(row.y))), on);
  __syncwarp();
}

}  // namespace maxact::cuda
