// The kernels for bfloat16.
#include "cuda_kernels.cuh"

namespace maxact::cuda {

template <>
std::vector<Kernel> kernels<BFloat16>(bool vectors) {
  if (!vectors) return {kernel<BFloat16, 1, 1, false>(), kernel<BFloat16, 8, 1, false>(), slow<BFloat16>()};
  return {kernel<BFloat16, 1, 4, true>(), kernel<BFloat16, 1, 2, true>(), kernel<BFloat16, 1, 1, true>(), kernel<BFloat16, 2, 1, true>(), kernel<BFloat16, 3, 1, true>(), kernel<BFloat16, 4, 1, true>(), kernel<BFloat16, 5, 1, true>(), kernel<BFloat16, 6, 1, true>(), kernel<BFloat16, 8, 1, true>(), kernel<BFloat16, 10, 1, true>(), slow<BFloat16>()};
}

}  // namespace maxact::cuda
