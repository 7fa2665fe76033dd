// The error of per-token dynamic INT-8.
#pragma once

#include "cuda_team.cuh"
#include "cuda_tile.cuh"

namespace maxact::cuda {

// Sums of y^2, |x|, err^2 and |err| of each row, at its keeper: y = x, or x * lift if any row `lifts`, u = y * inverse = x * 127 /
// m_t and err = u - round(u), which the second fused product rounds once. Float32: chains of 8, 4 and 5 numbers, then a tree of
// lanes, so an error below 17 * 2^-24. kCells: sums[1] is there already, of matrix units: three cuts of 2^-23, five additions
// and the tree, no more.
template <class T, bool kCells, class TileT>
__device__ __forceinline__ void int8_sums(const TileT& tile, bool lifts, float lift, float inverse, float (&sums)[4]) {
  using Bits = typename T::Bits;
  using L = typename TileT::L;
  constexpr int P = TileT::kPieces, R = TileT::kPasses;
  constexpr float kRound = 0x1.8p23f;  // adding it leaves a rounded integer, ties to even
  float v[4][R];
#pragma unroll
  for (int p = 0; p < R; ++p) {
    const float row_lift = L::of(lift, p), row_inverse = L::of(inverse, p);
#pragma unroll
    for (int k = 0; k < 4; ++k) v[k][p] = 0;
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
        for (int k = 0; k < 4; ++k)
          if (k != 1 || !kCells) four[k] += part[k];
      }
#pragma unroll
      for (int k = 0; k < 4; ++k) v[k][p] += four[k];
    }
  }
#pragma unroll
  for (int k = 0; k < 4; ++k)
    if (k != 1 || !kCells) sums[k] = L::fold(v[k], Add());
}

// Adds the INT-8 sums of the tokens of a tile to the state's.
template <class T, bool kCells, class TileT, class TeamT>
__device__ __forceinline__ void add_int8(const Launch& a, const TileT& tile, TeamT& team, uint32_t top, bool on, float absolute) {
  using L = typename TileT::L;
  const bool counted = on && top != 0;
  // Rows of the fast way are below 2^21. lift keeps the squares of smaller ones in range, and 127 / m_t where the quick
  // reciprocal is good; one Newton step then rounds it as a division would.
  const float m = bits_float(T::wide(static_cast<typename T::Bits>(top))), lift = m < 0x1p-40f ? 0x1p80f : 1.0f;
  const float near = __fdividef(127.0f, m * lift);
  const float inverse = fmaf(fmaf(-near, m * lift, 127.0f), __fdividef(1.0f, m * lift), near);
  float sums[4] = {0, absolute, 0, 0};
  const bool lifts = !std::is_same_v<T, Float16> && __any_sync(kWarp, counted && lift > 1);  // numbers of fp16 are large enough
  const float row_lift = counted ? lift : 1, row_inverse = counted ? inverse : 0;
  // Twice the code where it is to be fast: a product for each element that is not to be is an instruction, too.
  if (!kCells || lifts)
    int8_sums<T, kCells>(tile, lifts, row_lift, row_inverse, sums);
  else
    int8_sums<T, kCells>(tile, false, 1, row_inverse, sums);
  const double unlift = lift > 1 ? 0x1p-80 : 1.0, scale = static_cast<double>(m) * (1.0 / 127);
  int64_t* const fields[4] = {a.f.int8_square_sum, a.f.int8_abs_sum, a.f.int8_error_square_sum, a.f.int8_error_abs_sum};
  const double units[4] = {unlift * unlift, 1, scale * scale, scale};
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    const double whole = team.template add<L, double>(a, sums[k]) * units[k];
    if (team.rank == 0) add_exactly_warp(fields[k], whole, counted && L::first());
  }
}

}  // namespace maxact::cuda
