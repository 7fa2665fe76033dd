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

// Device memory between launches, all zero then. `slots`: each row raises slot (row % topk) to its list_key; the smallest
// slot is one that topk rows reach.
struct Scratch {
  unsigned long long* n_waiting;  // three numbers, see kOneBlock in cuda_close.cuh
  uint32_t* n_asked;     // tiles that went to teams that asked, see Walk
  unsigned long long* n_rows_kept;  // where there is a mask
  unsigned long long* slots;  // [topk]
  uint32_t* piece_kept;  // [blocks] rows that the mask keeps in the block's piece of it
  BlockRecord* records;  // [blocks] of those that have news
  Entry* entries;        // [blocks * topk]
};

// How rows of `d` elements lie in the registers of teams of warps, and what a block's shared memory holds.
struct Geometry {
  int team, n_teams;           // warps that share a row; teams of a block
  int slots;                   // elements of a row with the zeros behind it
  int n_whole;                 // chunks of a lane of the team's last warp that are elements of a row in every lane
  bool vectors;                // rows begin at multiples of 16 bytes and end there too
  float per_key;               // the share of Tile::key_sum() that each of its keys has
  float slope;                 // keys per rank near the median of normal data, for a significand of 1
  uint32_t limit;              // keys of the fast way are below
  int n_bins, first_bin;       // the part of the table of counts that shared memory holds
  uint32_t n_order, n_buffer;  // entries that the end of a block sorts: listed rows, and elements of rows
  // Where things lie in shared memory: the rows on their way to each warp (at the end its features' maxima), facts, sums and
  // INT-8 sums of rows, the list of rows, what the warps of a team exchange, elements of float32 that may be medians, the near part
  // of the table of ratios.
  uint32_t stage_at, facts_at, sums_at, int8_at, list_at, exchange_at, fine_at, ratios_at;
  int int8_cells;              // how many cells of exact INT-8 sums lie at int8_at, in place of sums of rows
};
constexpr int kInt8Cells = 256;  // of short rows, see cuda_exact.cuh
// The part of the table of ratios that a block of short rows has for itself: m_t from 2^-5 to 2^7, r_t to 2^8, four cells an octave.
constexpr int kNearRows = 48, kNearCols = 32, kFirstNearRow = (24 - 5) * 4, kNearBytes = kNearRows * kNearCols * 4;

// From the sums of one row to those of the next: a lane a row, so not a multiple of all banks. Four behind many are for INT-8.
#ifdef __CUDACC__
__host__ __device__
#endif
constexpr int sums_stride(int n_sums) { return n_sums <= 1 ? n_sums : n_sums + 4; }

struct Launch {
  Fields f;
  Options o;
  Scratch scratch;
  Geometry g;
  const void* data;
  uint32_t n_rows, inner, n_tiles, n_dealt;  // n_dealt: tiles that each team has without asking, at least 2
  int64_t inner_stride, outer_stride;
  const uint8_t* mask;
  const int64_t* ids;
};

// Keys of the fast way are below: all of float16's magnitudes, or bfloat16's up to 2^21 (a table of 74 KB); rows with larger
// ones take the slow way.
template <class T>
constexpr int kLimit = 18944;
template <>
inline constexpr int kLimit<Float16> = Float16::kInf;

constexpr int kSlowWarps = 8;

// A kernel for rows of up to `pieces` times 16 bytes a lane, `side` of them side by side in a warp, `rows` in a tile.
// No pieces: the slow kernel, for rows of any width. `team`: whether several warps may share rows. `all`: for all
// statistics, with int8_per_token where `int8`, else without, and for nothing else.
struct Kernel {
  const void* function;
  int pieces, rows, side, warps;
  int sums;    // of a row that a warp leaves to be added; none of short rows, whose lane adds them
  int stages;  // tiles that each warp has on their way
  bool team, all, int8;
};

// Whether a kernel for rows of `pieces` exists in code for compute capability `target`. Kernels for all statistics need
// 227 KB of shared memory to be fast and are made for sm_90, on which they were measured. sm_120 has 99 KB, and no room for
// many pieces.
#ifdef __CUDACC__
__host__ __device__
#endif
constexpr bool runs_on(int target, int pieces, bool all) {
  if (all) return target == 90;
  return target < 120 || pieces <= 4;
}

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
  struct Plan {
    Kernel kernel;
    Geometry g;
    int n_threads, shared_bytes;
  };
  Plan plan(bool vectors) const;
  int place(Plan& p, uint32_t n_bins) const;

  Launch launch_{};
  Dtype dtype_;
  int device_, n_sms_ = 0, shared_ = 0;
  int target_ = 0;  // the compute capability that the code in use was compiled for
  Plan plans_[2];  // for rows in pieces of 16 bytes, and for others
};

// Why no kernel can run here, or an empty string.
std::string why_not();

}  // namespace maxact::cuda
