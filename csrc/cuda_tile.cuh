// A tile: the row, or the up to 8 rows side by side, or the slice of a row, that a warp holds in registers.
#pragma once

#include <utility>

#include "cuda_median.cuh"
#include "cuda_read.cuh"
#include "cuda_team.cuh"

namespace maxact::cuda {

// Where a lane's elements lie: chunk c holds features first + c * lanes * kPerChunk and the next kPerChunk - 1.
template <class T>
struct Place {
  int first, stride;
  __device__ __forceinline__ Place(int lanes, int begin)
      : first(begin + (lane_id() & (lanes - 1)) * kPerChunk<T>), stride(lanes * kPerChunk<T>) {}
  __device__ __forceinline__ int feature(int chunk) const { return first + chunk * stride; }
};

// Counts an element where the block holds only a window of the table; zeros lie outside it and have a counter.
__device__ __forceinline__ void count_in_window(const Launch& a, uint32_t key) {
  const uint32_t bin = key - a.g.first_bin;
  if (bin < static_cast<uint32_t>(a.g.n_bins))
    atomicAdd(table() + bin, 1u);
  else if (key == 0)
    atomicAdd(&control().zero_keys, 1u);
  else
    atomicAdd(reinterpret_cast<unsigned long long*>(a.f.counts + key), 1ull);
}

// Signed extremes of a row, in its own bits: as signed integers all negatives order below zero, as unsigned ones above
// every positive value. So the pair knows the largest positive and the largest negative magnitude.
template <class T>
struct Ends {
  int as_signed;
  uint32_t as_unsigned;
  __device__ __forceinline__ uint32_t magnitude() const {
    return max(static_cast<uint32_t>(max(as_signed, 0)), (as_unsigned & T::kSign) ? as_unsigned & (T::kSign - 1) : 0u);
  }
};

// Row sums in float32 would pass the largest float32 beyond this; such rows take the slow way.
template <class T>
constexpr uint32_t kSpecial = T::kInf;
template <>
constexpr uint32_t kSpecial<BFloat16> = (127 + 118) << 7;
template <>
constexpr uint32_t kSpecial<Float32> = (127u + 118) << 23;

template <class T, int kChunks>
struct Tile {
  using Bits = typename T::Bits;
  static constexpr bool k16 = sizeof(Bits) == 2;
  static constexpr int kWords = 4 * kChunks, kKeys = k16 ? kWords : kWords / 2;
  using KeyType = std::conditional_t<k16, T, BFloat16>;  // a float32's upper half orders as a bfloat16

  uint32_t magnitudes[kWords];
  uint32_t keys32[k16 ? 1 : kKeys];

  // Asks for a row; it lies in `stage` when copies_arrived(). The lane reads back what it wrote, nothing else.
  template <int kLanes>
  __device__ static __forceinline__ void fetch(const Launch& a, char* stage, uint32_t row, const Place<T>& place) {
    const Bits* x = static_cast<const Bits*>(a.data) + (row == kNoRow ? 0 : row_offset(a, row)) + place.first;
    if (a.g.vectors) {
      const uint32_t to = static_cast<uint32_t>(__cvta_generic_to_shared(stage)) + lane_id() * 16;
      if (kLanes == 32 && a.g.full) {
        fetch_full(to, x, std::make_integer_sequence<int, kChunks>());
      } else {
        const int end = row == kNoRow ? 0 : static_cast<int>(a.o.d) - place.first;
#pragma unroll
        for (int c = 0; c < kChunks; ++c) copy_async(to + c * 512, x + c * place.stride, c * place.stride < end);
      }
    } else {
#pragma unroll 1
      for (int c = 0; c < kChunks; ++c)
        reinterpret_cast<uint4*>(stage)[c * 32 + lane_id()] =
            row == kNoRow ? make_uint4(0, 0, 0, 0) : load_chunk<T>(a, x - place.first, place.feature(c));
    }
  }
  template <int... kIndex>
  __device__ static __forceinline__ void fetch_full(uint32_t to, const Bits* x, std::integer_sequence<int, kIndex...>) {
    (copy_async_at<kIndex * 512>(to, x), ...);
  }

  // Takes the row into registers. Returns this lane's ends; `sum` is its quad's, spread over the lanes: float32 adds
  // at most 16 numbers, or 8 where the matrix units do, which cut where others round (so an error below 16 * 2^-24 =
  // 9.6e-7 on data of one sign), then float64.
  __device__ __forceinline__ Ends<T> take(const char* stage, double& sum) {
    const uint4* chunks = reinterpret_cast<const uint4*>(stage) + lane_id();
    sum = 0;
    if constexpr (k16) {
      // Column n of B picks elements 2n and 2n + 1, so each of D's 128 cells adds two numbers a step.
      const int quad = lane_id() / 4, member = lane_id() % 4;
      const uint32_t b0 = quad == member ? kOnes<T> : 0, b1 = quad == member + 4 ? kOnes<T> : 0;
      uint32_t high = 0x80008000u, low = 0;
      float cells[4] = {};
#pragma unroll
      for (int c = 0; c < kChunks; ++c) {
        const uint4 v = chunks[c * 32];
        const uint32_t words[4] = {v.x, v.y, v.z, v.w};
        mma<T>(cells, v.x, v.y, v.z, v.w, b0, b1);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          high = __vmaxs2(high, words[i]);
          low = __vmaxu2(low, words[i]);
          magnitudes[4 * c + i] = words[i] & 0x7FFF7FFFu;
          // Hides where it came from: a compiler that sees it keeps words beside magnitudes, and registers run out.
          asm("" : "+r"(magnitudes[4 * c + i]));
        }
        if (c % 4 == 3 || c == kChunks - 1) {
#pragma unroll
          for (float& cell : cells) sum += cell, cell = 0;
        }
      }
      return {max(static_cast<int>(high) >> 16, static_cast<int>(high << 16) >> 16), max(low >> 16, low & 0xFFFF)};
    } else {
      int high = INT32_MIN;
      uint32_t low = 0;
      float part = 0;
#pragma unroll
      for (int c = 0; c < kChunks; ++c) {
        const uint4 v = chunks[c * 32];
        const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          high = max(high, static_cast<int>(words[i]));
          low = max(low, words[i]);
          part += bits_float(words[i]);
          magnitudes[4 * c + i] = words[i] & 0x7FFFFFFFu;
          asm("" : "+r"(magnitudes[4 * c + i]));
        }
        keys32[2 * c] = __byte_perm(magnitudes[4 * c], magnitudes[4 * c + 1], 0x7632);
        keys32[2 * c + 1] = __byte_perm(magnitudes[4 * c + 2], magnitudes[4 * c + 3], 0x7632);
        if (c % 4 == 3 || c == kChunks - 1) sum += part, part = 0;
      }
      return {high, low};
    }
  }

  // Elements of this lane's quad with a key of at most `key`.
  __device__ __forceinline__ float quad_keys_at_most(uint32_t key) const {
    if constexpr (k16)
      return quad_at_most<KeyType>(magnitudes, key * 0x10001u);
    else
      return quad_at_most<KeyType>(keys32, key * 0x10001u);
  }

  // This lane's float32 elements of at most `magnitude`.
  __device__ __forceinline__ int words_at_most(uint32_t magnitude) const {
    int n = 0;
#pragma unroll
    for (int i = 0; i < kWords; ++i) n += magnitudes[i] <= magnitude;
    return n;
  }

  // This lane's smallest magnitude; what is behind the end of the row takes no part.
  __device__ __forceinline__ uint32_t smallest(const Place<T>& place, int64_t d) const {
    uint32_t least = 0xFFFFFFFFu;
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      if (place.feature(c) + kPerChunk<T> <= d) {
#pragma unroll
        for (int i = 0; i < 4; ++i)
          least = k16 ? __vminu2(least, magnitudes[4 * c + i]) : min(least, magnitudes[4 * c + i]);
      } else {
#pragma unroll
        for (int e = 0; e < kPerChunk<T>; ++e)
          if (place.feature(c) + e < d) {
            const uint32_t word = magnitudes[4 * c + e * static_cast<int>(sizeof(Bits)) / 4];
            least = k16 ? __vminu2(least, 0xFFFF0000u | (word >> (16 * (e % 2)) & 0xFFFF)) : min(least, word);
          }
      }
    }
    return k16 ? min(least >> 16, least & 0xFFFF) : least;
  }

  __device__ __forceinline__ void raise(uint32_t (&peaks)[kWords]) const {
#pragma unroll
    for (int i = 0; i < kWords; ++i)
      peaks[i] = k16 ? __vmaxu2(peaks[i], magnitudes[i]) : max(peaks[i], magnitudes[i]);
  }

  // One shared counter for each element.
  __device__ __forceinline__ void count() const {
    const uint32_t cells = static_cast<uint32_t>(__cvta_generic_to_shared(table()));
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
      if constexpr (k16) add_one(cells + 4 * (magnitudes[i] & 0xFFFF));
      add_one(cells + 4 * (magnitudes[i] >> 16));
    }
  }
  // The same where the block holds only a window of the table; the rest goes to the state's own.
  __device__ __forceinline__ void count_in_window(const Launch& a) const {
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
      if constexpr (k16) cuda::count_in_window(a, magnitudes[i] & 0xFFFF);
      cuda::count_in_window(a, magnitudes[i] >> 16);
    }
  }

  // Sums of u^2, |u|, err^2 and |err| of this lane, u = x * 127 / m_t and err = u - round(u): float32 over 16 elements.
  __device__ __forceinline__ void int8_sums(float lift, float inverse, double (&sums)[4]) const {
    constexpr float kRound = 0x1.8p23f;  // adding it leaves a rounded integer, ties to even
    float part[4] = {};
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
#pragma unroll
      for (int half = 0; half < (k16 ? 2 : 1); ++half) {
        const float x = bits_float(T::wide(static_cast<Bits>(k16 ? magnitudes[i] >> (16 * half) & 0xFFFF : magnitudes[i])));
        const float u = x * lift * inverse;
        const float error = fabsf(u - ((u + kRound) - kRound));
        part[0] = fmaf(u, u, part[0]);
        part[1] += u;
        part[2] = fmaf(error, error, part[2]);
        part[3] += error;
      }
      if (i % (k16 ? 8 : 16) == (k16 ? 7 : 15) || i == kWords - 1) {
#pragma unroll
        for (int k = 0; k < 4; ++k) sums[k] += part[k], part[k] = 0;
      }
    }
  }

  // Adds a token's INT-8 sums to the state's.
  template <class AnyTeam>
  __device__ __forceinline__ void add_int8(const Launch& a, uint32_t top, bool counted, int lanes, AnyTeam& team, bool leads) const {
    // lift keeps 127 / m_t where the quick reciprocal is good; one Newton step then rounds it as a division would.
    const float m = bits_float(T::wide(static_cast<Bits>(top))), lift = m < 0x1p-60f ? 0x1p66f : m > 0x1p60f ? 0x1p-66f : 1.0f;
    const float near = __fdividef(127.0f, m * lift);
    const float inverse = fmaf(fmaf(-near, m * lift, 127.0f), __fdividef(1.0f, m * lift), near);
    double sums[4] = {};
    int8_sums(counted ? lift : 0, counted ? inverse : 0, sums);
    const double scale = static_cast<double>(m) * (1.0 / 127);
    int64_t* const fields[4] = {a.f.int8_square_sum, a.f.int8_abs_sum, a.f.int8_error_square_sum, a.f.int8_error_abs_sum};
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const double whole = team.add(reduce_lanes(sums[k], lanes, Add()));
      add_exactly_warp(fields[k], whole * (k % 2 ? scale : scale * scale), counted && leads);
    }
  }
};

}  // namespace maxact::cuda
