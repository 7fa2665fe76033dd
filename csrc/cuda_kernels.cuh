// The kernels of one element type, for the launcher: a table of what is compiled.
#pragma once

#include <vector>

#include "cuda_narrow.cuh"

namespace maxact::cuda {

template <class T>
std::vector<Kernel> kernels(bool vectors);

template <class T, int P, int R, int kSide, int kWarps, bool kVectors, bool kTeam, bool kAll, bool kInt8 = false>
Kernel kernel() {
  constexpr int kSums = Tile<T, P, R, kSide, kWarps, kVectors>::kSums;
  static_assert(!kAll || has_room<T>(kWarps, P * R * 512, 1, kSums, kTeam), "the launcher would never pick it");
  return {reinterpret_cast<const void*>(&probe_kernel<T, P, R, kSide, kWarps, kVectors, kTeam, kAll, kInt8>), P, R, kSide, kWarps,
          kSums, kStagesOf<T, P, R, kWarps, kSums, kTeam, kVectors && kAll>, kTeam, kAll, kInt8};
}

template <class T, int P, int kWarps, bool kInt8 = false>
Kernel narrow() {
  static_assert(has_room<T>(kWarps, P * 512, 1, 0, false), "the launcher would never pick it");
  return {reinterpret_cast<const void*>(&narrow_kernel<T, P, kWarps, kInt8>), P, 1, 32, kWarps, 0, 1, false, true, kInt8};
}

// Widths of a lane: 16 bytes (several rows side by side where they are short) to 320; beyond, teams of warps. A tile is one
// row or as many as 32 registers hold; 16 warps a block where rows and features' maxima leave room for that, else 12 or 8.
// A kernel is two seconds of compilation a target, so widths between others have one for bfloat16 and all statistics only, and
// all statistics with int8_per_token for bfloat16 from 1,025 on and for short rows of 16 bits. These have as many warps as registers
// allow, or as there is room for tiles beside float16's table of 127 KB.
template <class T>
std::vector<Kernel> list_kernels(bool vectors) {
  const Kernel slow{reinterpret_cast<const void*>(&slow_kernel<T>), 0, 1, 1, kSlowWarps, 1, 1, false, false, false};
#ifdef TRIAL  // a few kernels, for an experiment: they compile in seconds
  if (!vectors) return {slow};
  return {slow, TRIAL};
#else
  if (!vectors) return {slow, kernel<T, 1, 8, 1, 8, false, false, false>(), kernel<T, 8, 2, 1, 8, false, true, false>()};
  constexpr int kMost = std::is_same_v<T, Float16> ? 15 : 16;  // warps whose tiles have room beside the table
  std::vector<Kernel> list{slow,
                           kernel<T, 4, 2, 1, kMost, true, false, true>(),
                           kernel<T, 8, 1, 1, kMost, true, false, true>(),
                           kernel<T, 16, 1, 1, 8, true, false, true>(),
                           kernel<T, 20, 1, 1, 8, true, false, true>(),
                           kernel<T, 16, 1, 1, 8, true, true, true>(),
                           kernel<T, 20, 1, 1, 8, true, true, true>(),
                           kernel<T, 1, 8, 4, 16, true, false, false>(),
                           kernel<T, 1, 8, 1, 16, true, false, false>(),
                           kernel<T, 4, 2, 1, 16, true, false, false>(),
                           kernel<T, 8, 1, 1, 12, true, false, false>(),
                           kernel<T, 16, 1, 1, 8, true, false, false>(),
                           kernel<T, 16, 1, 1, 8, true, true, false>(),
                           kernel<T, 20, 1, 1, 8, true, true, false>()};
  if constexpr (std::is_same_v<T, Float32>)
    list.insert(list.end(), {narrow<T, 8, 16>(), narrow<T, 16, 12>(), narrow<T, 32, 8>()});
  else
    list.push_back(kernel<T, 1, 8, 1, 16, true, false, true>());
  if constexpr (std::is_same_v<T, Float16>)
    list.insert(list.end(), {narrow<T, 8, 16>(), narrow<T, 16, 10>(), narrow<T, 8, 16, true>(), narrow<T, 16, 10, true>()});
  if constexpr (std::is_same_v<T, BFloat16>)
    list.insert(list.end(), {narrow<T, 8, 24>(), narrow<T, 16, 16>(), narrow<T, 8, 20, true>(), narrow<T, 16, 16, true>(),
                             kernel<T, 5, 2, 2, 16, true, false, true>(), kernel<T, 2, 4, 1, 16, true, false, true>(),
                             kernel<T, 6, 1, 1, 16, true, false, true>(), kernel<T, 12, 1, 1, 12, true, false, true>(),
                             kernel<T, 12, 1, 1, 12, true, true, true>(), kernel<T, 8, 1, 1, 16, true, false, true, true>(),
                             kernel<T, 16, 1, 1, 8, true, false, true, true>(), kernel<T, 20, 1, 1, 8, true, false, true, true>(),
                             kernel<T, 16, 1, 1, 8, true, true, true, true>()});
  return list;
#endif
}

}  // namespace maxact::cuda
