// The ceiling of the benchmark: a kernel that reads and does nothing else, 16 bytes a load, four loads in flight.
#include <cuda_runtime.h>

#include <cstdint>
#include <stdexcept>

#include "cuda_ceiling.h"

namespace maxact::cuda {

namespace {
__global__ void read_only_kernel(const uint4* x, size_t n, uint32_t* out) {
  uint32_t seen = 0;
  const size_t stride = static_cast<size_t>(gridDim.x) * blockDim.x;
  size_t i = static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  for (; i + 3 * stride < n; i += 4 * stride) {
    uint4 v[4];
#pragma unroll
    for (int k = 0; k < 4; ++k) v[k] = x[i + k * stride];
#pragma unroll
    for (int k = 0; k < 4; ++k) seen ^= v[k].x ^ v[k].y ^ v[k].z ^ v[k].w;
  }
  for (; i < n; i += stride) seen ^= x[i].x ^ x[i].y ^ x[i].z ^ x[i].w;
  if (seen == 0x12345679u) *out = seen;  // keeps the loads
}
}  // namespace

void read_only(const void* data, size_t n_bytes, void* out, int n_blocks, void* stream) {
  read_only_kernel<<<n_blocks, 256, 0, static_cast<cudaStream_t>(stream)>>>(static_cast<const uint4*>(data),
                                                                            n_bytes / 16, static_cast<uint32_t*>(out));
  if (const cudaError_t error = cudaGetLastError()) throw std::runtime_error(cudaGetErrorString(error));
}

}  // namespace maxact::cuda
