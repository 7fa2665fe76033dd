// Rows too wide for the registers of a block's warps: a block takes a row and reads it again for every count that the
// search for its median needs, mostly from the L2 cache. Right for any width, at some tenth of the speed.
#pragma once

#include "cuda_end.cuh"
#include "cuda_tile.cuh"

namespace maxact::cuda {

constexpr int kWideThreads = 512;

// Every thread gets op over all threads' values, in the order of warps. `scratch`: a word for each warp.
template <class V, class Op>
__device__ __forceinline__ V reduce_block(Control& c, V value, Op op) {
  value = reduce_lanes(value, 32, op);
  unsigned long long word = 0;
  memcpy(&word, &value, sizeof(V));
  __syncthreads();
  if (lane_id() == 0) c.exchange[0][warp_id()] = word;
  __syncthreads();
  memcpy(&value, &c.exchange[0][0], sizeof(V));
  for (int i = 1; i < kWideThreads / 32; ++i) {
    V other;
    memcpy(&other, &c.exchange[0][i], sizeof(V));
    value = op(value, other);
  }
  return value;
}

template <class T>
__global__ void __launch_bounds__(kWideThreads, 1) wide_kernel(const __grid_constant__ Launch a) {
  using Bits = typename T::Bits;
  Control& ctl = control();
  block_begin(a);
  if (warp_id() == 0) wait_for_none<T>(a);
  __syncthreads();
  const int64_t d = a.o.d;
  const bool table_tells = sizeof(Bits) == 2 && a.f.counts;
  const float infinity = bits_float(kInfinity);
  float highest = -infinity, lowest = infinity;
  int turn = 0;

  for (uint32_t row = blockIdx.x; row < a.n_rows; row += gridDim.x) {
    if (a.mask && !a.mask[row]) continue;
    const Bits* x = static_cast<const Bits*>(a.data) + row_offset(a, row);
    // Calls take(magnitude, bits, feature) for every element of this thread.
    const auto each = [&](auto take) {
      for (int64_t start = threadIdx.x * kPerChunk<T>; start < d; start += kWideThreads * kPerChunk<T>) {
        const uint4 chunk = load_chunk<T>(a, x, start);
#pragma unroll
        for (int e = 0; e < kPerChunk<T>; ++e)
          if (start + e < d) {
            const Bits bits = static_cast<Bits>(element_of<T>(chunk, e));
            take(static_cast<Bits>(bits & (T::kSign - 1)), bits, start + e);
          }
      }
    };
    double sum = 0;
    int n_nan = 0, n_inf = 0, n_zero = 0;
    uint32_t top = 0, first_bad = 0xFFFFFFFFu;
    each([&](Bits magnitude, Bits bits, int64_t feature) {
      if (magnitude >= T::kInf) {
        (magnitude == T::kInf ? n_inf : n_nan) += 1;
        first_bad = min(first_bad, static_cast<uint32_t>(feature));
        return;
      }
      const float size = bits_float(T::wide(magnitude)), value = bits & T::kSign ? -size : size;
      top = max(top, static_cast<uint32_t>(magnitude));
      highest = fmaxf(highest, value), lowest = fminf(lowest, value);
      sum += value;
      n_zero += magnitude == 0;
      if (size > __ldcg(a.f.channel_absmax + feature))
        atomicMax(reinterpret_cast<int*>(a.f.channel_absmax + feature), static_cast<int>(T::wide(magnitude)));
      if (!a.f.counts) return;
      count_in_window(a, T::count_key(magnitude));
    });
    sum = reduce_block(ctl, sum, Add()), top = reduce_block(ctl, top, Max()), first_bad = reduce_block(ctl, first_bad, Min());
    n_nan = reduce_block(ctl, n_nan, Add()), n_inf = reduce_block(ctl, n_inf, Add()), n_zero = reduce_block(ctl, n_zero, Add());
    const int n_bad = n_nan + n_inf;
    const uint32_t top_bits = T::wide(static_cast<Bits>(top));
    const auto at_most = [&](uint32_t pivot) {
      int n = 0;
      each([&](Bits magnitude, Bits, int64_t) { n += magnitude <= pivot; });
      return reduce_block(ctl, n, Add());
    };
    if (!table_tells && top_bits >= ctl.record.absmax_bits && n_bad < d) {
      int n = 0;
      each([&](Bits magnitude, Bits, int64_t) { n += magnitude == top; });
      n = reduce_block(ctl, n, Add());
      if (warp_id() == 0) keep_tied(top_bits, n, lane_id() == 0);
    }
    uint32_t median = n_bad ? (n_bad == d ? kNoElements : kNonfinite) : 0;
    if (!n_bad) {
      const int rank = static_cast<int>((d - 1) / 2 + 1);
      int64_t below = -1, enough = top;
      while (enough - below > 1) {
        const int64_t middle = below + (enough - below) / 2;
        (at_most(static_cast<uint32_t>(middle)) < rank ? below : enough) = middle;
      }
      median = static_cast<uint32_t>(enough);
      const uint32_t median_bits = T::wide(static_cast<Bits>(enough));
      const Token token{bits_float(top_bits), bits_float(median_bits), bits_float(top_bits) / bits_float(median_bits), 0};
      if (const float floor = fmaxf(a.o.t_abs, a.o.t_ratio * token.median); token.absmax > floor) {
        int n = 0;
        each([&](Bits magnitude, Bits, int64_t) { n += bits_float(T::wide(magnitude)) > floor; });
        n = reduce_block(ctl, n, Add());
        if (threadIdx.x == 0) count(kMassiveElements, n);
      }
      if (a.f.int8_square_sum && top) {
        const double scale = static_cast<double>(token.absmax) / 127;
        double sums[4] = {};
        each([&](Bits magnitude, Bits, int64_t) {
          const double value = bits_float(T::wide(magnitude)), error = fabs(value - rint(value / scale) * scale);
          sums[0] += value * value, sums[1] += value, sums[2] += error * error, sums[3] += error;
        });
        int64_t* const fields[4] = {a.f.int8_square_sum, a.f.int8_abs_sum, a.f.int8_error_square_sum, a.f.int8_error_abs_sum};
        for (int k = 0; k < 4; ++k) {
          const double whole = reduce_block(ctl, sums[k], Add());
          if (warp_id() == 0) add_exactly_warp(fields[k], whole, lane_id() == 0);
        }
      }
    }
    if (threadIdx.x == 0) {
      count(kPads, d);
      count(kNan, n_nan), count(kInf, n_inf);
      if (!table_tells) count(kZeros, n_zero + n_bad);  // block_close takes n_bad off
      if (n_bad) {
        count(kNonfiniteTokens, 1);
        const int64_t token = row_token(a, row);
        if (token < ctl.record.nonfinite_token || (token == ctl.record.nonfinite_token && first_bad < ctl.record.nonfinite_feature))
          ctl.record.nonfinite_token = token, ctl.record.nonfinite_feature = first_bad;
      }
    }
    if (warp_id() == 0) {
      if (lane_id() == 0) reinterpret_cast<double*>(facts_of(a, 0, sizeof(Bits)))[turn] = sum;
      if (lane_id() == 0) keep_fact<T>(a, turn, row, top, median);
      if (turn == 31) fold_facts<T>(a, 32, true);
    }
    turn = (turn + 1) % 32;
  }
  if (warp_id() == 0 && turn) fold_facts<T>(a, turn, true);
  if (warp_id() == 0) offer_rows<T>(a, kNoRow, 0, false);
  highest = reduce_block(ctl, highest, Max()), lowest = reduce_block(ctl, lowest, Min());
  if (threadIdx.x == 0) ctl.record.highest = highest, ctl.record.lowest = lowest;
  __syncthreads();
  block_close<T>(a);
}

}  // namespace maxact::cuda
