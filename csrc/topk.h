// The k first elements in the order of `before`, on the host.
#pragma once

#include <algorithm>
#include <vector>

#include "rules.h"

namespace maxact {

// Candidates gather unsorted; when there are 2 k of them the k first stay, and the last of these is the bar that any
// newcomer must beat. So a stream in the worst order costs O(1) an element, and one in any usual order almost nothing.
class TopK {
 public:
  // Start from what the state holds. `with_elements` false: only with its bar, for a list to be absorbed later.
  void load(const Fields& state, int k, bool with_elements) {
    k_ = k;
    kept_.clear();
    full_ = !std::isnan(state.topk_values[k - 1]);
    if (full_) bar_ = element(state, k - 1);
    for (int i = 0; with_elements && i < k && !std::isnan(state.topk_values[i]); ++i) kept_.push_back(element(state, i));
  }
  // Whether a token with this largest magnitude can hold an element that belongs here.
  bool wants(uint32_t bits, int64_t token) const {
    return !full_ || bits > bar_.bits || (bits == bar_.bits && token <= bar_.token);
  }
  void add(const Element& element) {
    if (full_ && !before(element, bar_)) return;
    kept_.push_back(element);
    if (kept_.size() >= 2 * static_cast<size_t>(k_)) shrink();
  }
  void absorb(const TopK& other) {
    for (const Element& element : other.kept_) add(element);
  }
  void store(const Fields& state) {
    shrink();
    std::sort(kept_.begin(), kept_.end(), before);
    for (size_t i = 0; i < kept_.size(); ++i) {
      state.topk_values[i] = bits_float(kept_[i].bits | (kept_[i].negative ? 0x80000000u : 0u));
      state.topk_token_ids[i] = kept_[i].token;
      state.topk_features[i] = kept_[i].feature;
    }
  }

 private:
  static Element element(const Fields& state, int i) {
    const uint32_t bits = float_bits(state.topk_values[i]);
    return {bits & 0x7FFFFFFFu, bits >> 31 != 0, state.topk_token_ids[i], state.topk_features[i]};
  }
  void shrink() {
    if (kept_.size() < static_cast<size_t>(k_)) return;
    std::nth_element(kept_.begin(), kept_.begin() + (k_ - 1), kept_.end(), before);
    kept_.resize(k_);
    bar_ = kept_.back();
    full_ = true;
  }
  int k_ = 0;
  bool full_ = false;
  Element bar_{};
  std::vector<Element> kept_;
};

}  // namespace maxact
