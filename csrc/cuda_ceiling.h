// The read-only kernel by which the benchmark measures what the card can read.
#pragma once

#include <cstddef>

namespace maxact::cuda {

// Reads n_bytes (a multiple of 16) from `data` with n_blocks blocks of 256 threads; `out`: 4 bytes.
void read_only(const void* data, size_t n_bytes, void* out, int n_blocks, void* stream);

}  // namespace maxact::cuda
