// The kernels for float16. Chunks a lane that occur: 2 (d = 64), 4 (128), 9 (576), 16 (1024), 8 (2048), 12 (2880),
// 16 (4096); in teams 10 (4608, 5120), 12 (5376), 16 (8192 and up). Other widths take the next larger one.
#include "cuda_kernels.cuh"

namespace maxact::cuda {
#define LIST(T)                                                                                              \
  MAXACT_KERNEL(T, 2, 0, Alone) MAXACT_KERNEL(T, 4, 0, Alone) MAXACT_KERNEL(T, 9, 0, Alone)                  \
  MAXACT_KERNEL(T, 16, 0, Alone) MAXACT_KERNEL(T, 8, 32, Alone) MAXACT_KERNEL(T, 12, 32, Alone)              \
  MAXACT_KERNEL(T, 16, 32, Alone) MAXACT_KERNEL(T, 10, 32, Team) MAXACT_KERNEL(T, 12, 32, Team)              \
  MAXACT_KERNEL(T, 16, 32, Team)
MAXACT_KERNELS(Float16, LIST)
}  // namespace maxact::cuda
