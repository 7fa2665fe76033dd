// The kernels for float16.
#include "cuda_kernels.cuh"

namespace maxact::cuda {

template <>
std::vector<Kernel> kernels<Float16>(bool vectors) {
  if (!vectors) return {kernel<Float16, 1, 1, false>(), kernel<Float16, 8, 1, false>(), slow<Float16>()};
  return {kernel<Float16, 1, 4, true>(), kernel<Float16, 1, 2, true>(), kernel<Float16, 1, 1, true>(), kernel<Float16, 2, 1, true>(), kernel<Float16, 3, 1, true>(), kernel<Float16, 4, 1, true>(), kernel<Float16, 5, 1, true>(), kernel<Float16, 6, 1, true>(), kernel<Float16, 8, 1, true>(), kernel<Float16, 10, 1, true>(), slow<Float16>()};
}

}  // namespace maxact::cuda
