// The kernels of one element type, for the launcher: a table of what is compiled.
#pragma once

#include <type_traits>

#include "cuda_kernel.cuh"
#include "cuda_wide.cuh"

namespace maxact::cuda {

// The kernel for rows of up to `chunks` pieces a lane, or the one for wide rows (chunks 0).
template <class T>
Kernel find_kernel(int chunks, int lanes, int team);

// Rows of n chunks a lane, on l lanes (0: fewer than 32), by one warp (Alone) or several (Team).
#define MAXACT_KERNEL(T, ...) MAXACT_KERNEL_OF(T, __VA_ARGS__)
#define MAXACT_KERNEL_OF(T, n, l, team_type)                                                                          \
  if (chunks <= n && (lanes == 32) == (l == 32) && (team == 1 || std::is_same_v<team_type, Team>))                 \
    return {reinterpret_cast<const void*>(&probe_kernel<T, n, l, team_type>), n, kThreads<T, n>};

#define MAXACT_KERNELS(T, LIST)                                                                          \
  template <>                                                                                            \
  Kernel find_kernel<T>(int chunks, int lanes, int team) {                                                                    \
    if (chunks == 0) return {reinterpret_cast<const void*>(&wide_kernel<T>), 0, kWideThreads};           \
    LIST(T) return {nullptr, 0, 0};                                                                      \
  }

}  // namespace maxact::cuda
