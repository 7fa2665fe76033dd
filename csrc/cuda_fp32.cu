// The kernels for float32. A row has twice the bytes and a key beside each element, so a lane holds half as much.
#include "cuda_kernels.cuh"

namespace maxact::cuda {
#define LIST(T)                                                                                      \
  MAXACT_KERNEL(T, 4, 0, Alone) MAXACT_KERNEL(T, 8, 0, Alone) MAXACT_KERNEL(T, 8, 32, Alone)         \
  MAXACT_KERNEL(T, 8, 32, Team) MAXACT_KERNEL(T, 12, 32, Team)
MAXACT_KERNELS(Float32, LIST)
}  // namespace maxact::cuda
