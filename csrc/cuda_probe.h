// The CUDA backend: one probe a state. What the launcher hands to the kernels, and who calls it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "rules.h"

namespace maxact::cuda {

// An element with its coordinates as lists on the device keep it: |x| as float32 bits, feature << 1 | negative.
// `token` is an id, or the row's index in its tensor where the caller named no ids: equal in order.
struct Entry {
  uint32_t bits, feature_sign;
  int64_t token;
};

// What one block knows of all its rows that is no sum.
struct BlockRecord {
  Token ratio, peak;
  int64_t nonfinite_token, nonfinite_feature;
  float highest, lowest;
  uint32_t absmax_bits;
  uint32_t n_absmax;  // only where the table of counts cannot tell
};

// Device memory between launches, all zero then. `slots`: each row raises slot (row % topk) to its m_t; the smallest
// slot is a magnitude that topk rows reach.
struct Scratch {
  uint32_t* blocks_done;
  uint32_t* n_entries;
  unsigned long long* n_rows_kept;
  uint32_t* slots;       // [topk]
  uint32_t* piece_kept;  // [blocks] rows that the mask keeps in the block's piece of it
  BlockRecord* records;  // [blocks]
  Entry* entries;        // [blocks * topk]
};

// How a row of `d` elements lies in a warp's registers: `lanes` lanes (4 to 32, so up to 8 rows side by side) hold
// `chunks` (a template argument) pieces of 16 bytes each; wider rows are cut into `team` slices, one a warp.
struct Geometry {
  int lanes, team, n_teams;  // n_teams: a block's
  int log_side_by_side;      // 2^this rows side by side
  int slots;                 // elements of a row with the zeros behind it
  bool full;                 // there are none, and a chunk is 32 lanes wide
  int n_bins, first_bin;     // the window of the table of counts that shared memory holds
  uint32_t n_order, n_buffer;  // entries that the end of a block sorts: listed rows, and elements of rows
  uint32_t stage_bytes;        // a warp's slice of memory that the next rows arrive in
  uint32_t facts_at, list_at;  // where in shared memory the facts of rows wait, and the list of rows lies
  bool vectors;              // rows begin at multiples of 16 bytes and end there too
};

struct Launch {
  Fields f;
  Options o;
  Scratch scratch;
  Geometry g;
  const void* data;
  uint32_t n_rows, inner;
  int64_t inner_stride, outer_stride;
  const uint8_t* mask;
  const int64_t* ids;
};

struct Kernel {
  const void* function;
  int chunks, threads;
};

class CudaProbe {
 public:
  // `scratch`: scratch_bytes() bytes of zeros on the device.
  CudaProbe(const Fields& fields, const Options& options, Dtype dtype, int device, void* scratch);
  static size_t scratch_bytes(int device, int topk);
  // Fold rows into the state: enqueued on `stream`, nothing waits. Row r begins (r / inner) * outer_stride +
  // (r % inner) * inner_stride elements after `data`. Throws std::runtime_error if the launch fails.
  void update(const void* data, int64_t n_rows, int64_t inner, int64_t inner_stride, int64_t outer_stride,
              const uint8_t* mask, const int64_t* ids, void* stream);

 private:
  Launch launch_{};
  Dtype dtype_;
  Kernel kernel_{};
  bool wide_ = false;
  int device_, n_sms_ = 0, n_threads_ = 0, shared_bytes_ = 0;
};

// Why no kernel can run here, or an empty string.
std::string why_not();

}  // namespace maxact::cuda
