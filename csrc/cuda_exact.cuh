// Exact sums (rules.h, add_exactly): whole numbers in a bin for each exponent, so that no order of additions changes a bit.
#pragma once

#include "cuda_block.cuh"

namespace maxact::cuda {

// What an addend adds to which bin (-1: nothing). A row's sum has the exponents of a float32 or its square: never a subnormal
// float64. Of a float32 that is not subnormal either, the mantissa is that of its bits. By all lanes of a warp.
struct Addend {
  int index, mantissa;
  __device__ __forceinline__ Addend(float addend, bool on) {
    const uint32_t bits = float_bits(addend), field = bits >> 23 & 0xFF;
    const int magnitude = static_cast<int>((bits & 0x7FFFFF) | 0x800000);
    index = on && field ? static_cast<int>(field) - 126 - kExponentMin : -1;
    mantissa = static_cast<int>(bits) < 0 ? -magnitude : magnitude;
    if (__any_sync(kWarp, on && !field && addend != 0)) *this = Addend(static_cast<double>(addend), on);
  }
  __device__ __forceinline__ Addend(double addend, bool on) {
    const int64_t bits = __double_as_longlong(addend);
    const int field = static_cast<int>(bits >> 52) & 0x7FF;
    index = on && field ? field - 1022 - kExponentMin : -1;
    mantissa = __double2int_rn(__longlong_as_double((bits & ~(0x7FFll << 52)) | (1022ll << 52)) * 0x1p24);
  }
};

// Adds each lane's addend to the sum `bins` on the device: one atomic for each exponent in the warp.
__device__ __forceinline__ void add_exactly_warp(int64_t* bins, const Addend& addend) {
  unsigned todo = __ballot_sync(kWarp, addend.index >= 0);
  while (todo) {
    const int leader = __ffs(todo) - 1;
    const bool mine = addend.index == __shfl_sync(kWarp, addend.index, leader);
    const int total = __reduce_add_sync(kWarp, mine ? addend.mantissa : 0);
    if (lane_id() == leader && total) add_global(bins + addend.index, static_cast<unsigned long long>(int64_t{total}));
    todo &= ~__ballot_sync(kWarp, mine);
  }
}

// The sums to which every row adds keep the bins of the exponents that nearly all addends have in the block, in two digits: a
// low one of 12 bits, and the rest. So nearly 2^19 addends fit, and between two turns of a cell to be flushed come at most 2^18 and
// those under way: 2 * kRowsAFlush rows, of which each adds as many parts as its team has warps, at most 12. Of INT-8 sums only
// those of short rows, which else all multiprocessors would add to a few addresses: 409 GB/s at d = 64.
enum ExactSum { kSum, kRatioSum, kRatioSquareSum, kInt8SquareSum, kInt8AbsSum, kInt8ErrorSquareSum, kInt8ErrorAbsSum };
constexpr unsigned kRowsAFlush = 1u << 13;  // of a block
// Bins from 2^-32, for ratios, which are at least 1, from 2^0, and for squares of errors from 2^-56.
__device__ constexpr int first_bin(ExactSum sum) {
  return (sum == kRatioSum || sum == kRatioSquareSum ? 1 : sum == kInt8ErrorSquareSum ? -55 : -31) - kExponentMin;
}
__device__ constexpr int first_cell(ExactSum sum) {
  return sum < kInt8SquareSum ? (sum == kSum ? 0 : sum == kRatioSum ? 64 : 96) : kExactCells + (sum - kInt8SquareSum) * 64;
}
__device__ constexpr int n_cells(ExactSum sum) { return sum == kRatioSum || sum == kRatioSquareSum ? 32 : 64; }
static_assert(first_cell(kInt8SquareSum) == first_cell(kRatioSquareSum) + n_cells(kRatioSquareSum));
static_assert(first_cell(kInt8ErrorAbsSum) + n_cells(kInt8ErrorAbsSum) == kExactCells + kInt8Cells);
__device__ __forceinline__ int64_t* bins_of(const Fields& f, ExactSum sum) {
  return sum == kSum ? f.sum : sum == kRatioSum ? f.ratio_sum : sum == kRatioSquareSum ? f.ratio_square_sum
       : sum == kInt8SquareSum ? f.int8_square_sum : sum == kInt8AbsSum ? f.int8_abs_sum
       : sum == kInt8ErrorSquareSum ? f.int8_error_square_sum : f.int8_error_abs_sum;
}
__device__ __forceinline__ uint32_t* digits_of(const Launch& a, int cell) {
  return cell < kExactCells ? control().exact[cell] : reinterpret_cast<uint32_t*>(shared + a.g.int8_at) + (cell - kExactCells) * 2;
}

template <ExactSum kWhich>
__device__ __forceinline__ void add_exactly_block(const Launch& a, Addend addend) {
  const unsigned cell = static_cast<unsigned>(addend.index - first_bin(kWhich));
  if (cell < n_cells(kWhich)) {
    const uint32_t digits = shared_address(digits_of(a, first_cell(kWhich))) + cell * 8;
    add_shared(digits, addend.mantissa & 0xFFF), add_shared(digits + 4, addend.mantissa >> 12);
    addend.index = -1;
  }
  if (__any_sync(kWarp, addend.index >= 0)) add_exactly_warp(bins_of(a.f, kWhich), addend);
}

// Moves cells of the block's sums to the state's: `first` and each `step` on. Others may add meanwhile.
__device__ __forceinline__ void flush_exact(const Launch& a, int first, int step) {
#pragma unroll 1
  for (int cell = first; cell < kExactCells + a.g.int8_cells; cell += step) {
    uint32_t* const digits = digits_of(a, cell);
    const int low = static_cast<int>(atomicExch(digits, 0u)), high = static_cast<int>(atomicExch(digits + 1, 0u));
    const int64_t n = int64_t{high} * 4096 + low;
    const ExactSum sum = cell >= kExactCells ? static_cast<ExactSum>(kInt8SquareSum + (cell - kExactCells) / 64)
                       : cell < first_cell(kRatioSum) ? kSum : cell < first_cell(kRatioSquareSum) ? kRatioSum : kRatioSquareSum;
    if (n) add_global(bins_of(a.f, sum) + first_bin(sum) + cell - first_cell(sum), static_cast<unsigned long long>(n));
  }
}

}  // namespace maxact::cuda
