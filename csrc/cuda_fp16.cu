// The kernels for float16: a file of its own, so that types compile side by side.
#include "cuda_kernels.cuh"

namespace maxact::cuda {
template <>
std::vector<Kernel> kernels<Float16>(bool vectors) { return list_kernels<Float16>(vectors); }
}  // namespace maxact::cuda
