// The kernels of one element type, for the launcher: a table of what is compiled.
#pragma once

#include <vector>

#include "cuda_kernel.cuh"

namespace maxact::cuda {

template <class T>
std::vector<Kernel> kernels(bool vectors);

// Rows of P pieces a lane: as many in a tile as 64 registers hold, at most 16.
constexpr int rows_of(int pieces) { return 16 / pieces; }

template <class T, int P, int kSide, bool kVectors>
Kernel kernel() {
  constexpr int R = kSide == 4 ? 8 : rows_of(P);
  return {reinterpret_cast<const void*>(&probe_kernel<T, P, R, kSide, kVectors>), P, R, kSide};
}

// Widths of a lane: 16 bytes (several rows side by side where they are short) to 160. Beyond, teams of warps.
template <class T>
std::vector<Kernel> list_kernels(bool vectors) {
  const Kernel slow{reinterpret_cast<const void*>(&slow_kernel<T>), 0, 1, 1};
  if (!vectors) return {kernel<T, 1, 1, false>(), kernel<T, 8, 1, false>(), slow};
  std::vector<Kernel> list{slow,
                           kernel<T, 1, 2, true>(),
                           kernel<T, 1, 1, true>(),
                           kernel<T, 2, 1, true>(),
                           kernel<T, 4, 1, true>(),
                           kernel<T, 5, 1, true>(),
                           kernel<T, 6, 1, true>(),
                           kernel<T, 8, 1, true>(),
                           kernel<T, 10, 1, true>()};
  if constexpr (sizeof(typename T::Bits) == 2) {
    list.push_back(kernel<T, 1, 4, true>());
    list.push_back(kernel<T, 3, 1, true>());
  }
  return list;
}

}  // namespace maxact::cuda
