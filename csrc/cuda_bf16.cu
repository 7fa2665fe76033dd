// The kernels for bfloat16: a file of its own, so that types compile side by side.
#include "cuda_kernels.cuh"

namespace maxact::cuda {
template <>
std::vector<Kernel> kernels<BFloat16>(bool vectors) { return list_kernels<BFloat16>(vectors); }
}  // namespace maxact::cuda
