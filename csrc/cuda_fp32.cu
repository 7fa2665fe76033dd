// The kernels for float32.
#include "cuda_kernels.cuh"

namespace maxact::cuda {

template <>
std::vector<Kernel> kernels<Float32>(bool vectors) {
  if (!vectors) return {kernel<Float32, 1, 1, false>(), kernel<Float32, 8, 1, false>(), slow<Float32>()};
  return {kernel<Float32, 1, 2, true>(), kernel<Float32, 1, 1, true>(), kernel<Float32, 2, 1, true>(), kernel<Float32, 4, 1, true>(), kernel<Float32, 5, 1, true>(), kernel<Float32, 6, 1, true>(), kernel<Float32, 8, 1, true>(), kernel<Float32, 10, 1, true>(), slow<Float32>()};
}

}  // namespace maxact::cuda
