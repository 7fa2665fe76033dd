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
template <class T>
Kernel slow() {
  return {reinterpret_cast<const void*>(&slow_kernel<T>), 0, 1, 1};
}

}  // namespace maxact::cuda
