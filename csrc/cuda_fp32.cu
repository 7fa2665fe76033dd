// The kernels for float32: a file of its own, so that types compile side by side.
#include "cuda_kernels.cuh"

namespace maxact::cuda {
template <>
std::vector<Kernel> kernels<Float32>(bool vectors) { return list_kernels<Float32>(vectors); }
}  // namespace maxact::cuda
