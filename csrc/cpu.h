// The CPU backend: one probe a state.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "rules.h"

namespace maxact {

// Rows of a tensor [n_rows, d] in memory: row r begins (r / inner) * outer_stride + (r % inner) * inner_stride elements
// after `data`, its elements side by side. `mask` (bytes) and `token_ids` have one entry a row or are null.
struct Rows {
  const void* data;
  int64_t n_rows, inner, inner_stride, outer_stride;
  const uint8_t* mask;
  const int64_t* token_ids;
};

struct Worker;

class CpuProbe {
 public:
  CpuProbe(const Fields& fields, const Options& options, Dtype dtype);
  ~CpuProbe();
  // Fold rows into the state with at most n_threads threads; the answer does not depend on how many.
  void update(const Rows& rows, int n_threads);

 private:
  template <class T>
  void update_as(const Rows& rows, int n_threads);
  Fields fields_;
  Options options_;
  Dtype dtype_;
  std::vector<std::unique_ptr<Worker>> workers_;  // kept between calls: tables and scratch
};

}  // namespace maxact
