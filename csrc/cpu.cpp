// The CPU backend: each thread takes a run of rows. What is large it gathers in tables of its own, what is small it
// folds into the state under a lock, some rows at a time. All of it is integers, maxima and total orders, so neither
// the number of threads nor their pace changes a bit of the answer.
#include "cpu.h"

#include <mutex>
#include <thread>

#include "row_loops.h"
#include "topk.h"

namespace maxact {

namespace loops {
MAXACT_ROW_LOOPS(BFloat16)
MAXACT_ROW_LOOPS(Float16)
MAXACT_ROW_LOOPS(Float32)
}  // namespace loops

namespace {

constexpr int kFoldRows = 64;  // rows folded under one lock: some 10 KB of facts, which stay in L1
constexpr int64_t kMinElements = 1 << 18;  // of a thread, so that starting it and adding its 256 KB of counts is little beside them

// All that the state needs to know of one row.
struct RowFacts {
  Token token;  // absmax over the finite elements; median and ratio only if there are no others
  int64_t n_absmax, n_zero, n_nan, n_inf, first_nonfinite, n_massive_elements;
  float highest, lowest;
  double sum;
  loops::Int8Sums int8;
};

}  // namespace

struct Worker {
  TopK topk;
  std::vector<int64_t> counts;      // empty for the first worker, which counts in the state's own table
  std::vector<uint32_t> channel;    // per-feature maxima, in the element type's bits
  std::vector<uint32_t> magnitudes;  // of the current row
  std::vector<RowFacts> facts;
  int64_t median_offset = 0;  // of the last row: its median less its mean magnitude, near the same for the next
  uint32_t absmax_seen = 0;
};

CpuProbe::CpuProbe(const Fields& fields, const Options& options, Dtype dtype)
    : fields_(fields), options_(options), dtype_(dtype) {}
CpuProbe::~CpuProbe() = default;

namespace {

template <class T>
class RowProbe {
  using Bits = typename T::Bits;
  using Loops = loops::RowLoops<T>;

 public:
  RowProbe(Worker& worker, const Fields& state, const Options& options)
      : w_(worker),
        o_(options),
        counts_(state.counts ? (worker.counts.empty() ? state.counts : worker.counts.data()) : nullptr),
        int8_(state.int8_square_sum != nullptr),
        magnitudes_(reinterpret_cast<Bits*>(worker.magnitudes.data())),
        channel_(reinterpret_cast<Bits*>(worker.channel.data())) {}

  RowFacts probe(const Bits* x, int64_t id) {
    const Bits largest = Loops::max_magnitude(x, o_.d);
    return largest < T::kInf ? finite_row(x, id, largest) : nonfinite_row(x, id);
  }

 private:
  RowFacts finite_row(const Bits* x, int64_t id, Bits largest) {
    const loops::Scan scan = Loops::scan(x, o_.d, magnitudes_, channel_);
    if (counts_) loops::count<T>(magnitudes_, o_.d, counts_);
    const Bits median = Loops::lower_median(magnitudes_, o_.d, largest, scan.mean_magnitude + w_.median_offset);
    w_.median_offset = median - scan.mean_magnitude;

    RowFacts facts{};
    const float absmax = bits_float(T::wide(largest)), med = bits_float(T::wide(median));
    facts.token = {absmax, med, absmax / med, id};
    facts.n_zero = scan.n_zero, facts.highest = scan.highest, facts.lowest = scan.lowest, facts.sum = scan.sum;
    facts.first_nonfinite = -1;
    // Not is_massive(): this product and its quotient can round to different sides.
    if (const float floor = std::max(o_.t_abs, o_.t_ratio * med); absmax > floor) {
      for (int64_t j = 0; j < o_.d; ++j) facts.n_massive_elements += bits_float(T::wide(magnitudes_[j])) > floor;
    }
    if (int8_ && largest) facts.int8 = Loops::int8_sums(x, o_.d, absmax);
    const uint32_t wide = T::wide(largest);
    if (wide >= w_.absmax_seen) {
      w_.absmax_seen = wide;
      for (int64_t j = 0; j < o_.d; ++j) facts.n_absmax += magnitudes_[j] == largest;
    }
    if (w_.topk.wants(wide, id))
      for (int64_t j = 0; j < o_.d; ++j) w_.topk.add({T::wide(magnitudes_[j]), (x[j] & T::kSign) != 0, id, j});
    return facts;
  }

  // A row that holds nan or inf: only its finite elements count, and none of the per-token statistics.
  RowFacts nonfinite_row(const Bits* x, int64_t id) {
    RowFacts facts{};
    facts.token.id = id;
    facts.first_nonfinite = -1;
    facts.highest = -std::numeric_limits<float>::infinity(), facts.lowest = -facts.highest;
    Bits largest = 0;
    for (int64_t j = 0; j < o_.d; ++j) {
      const Bits magnitude = x[j] & static_cast<Bits>(T::kSign - 1);
      if (magnitude >= T::kInf) {
        if (facts.first_nonfinite < 0) facts.first_nonfinite = j;
        (magnitude == T::kInf ? facts.n_inf : facts.n_nan) += 1;
        continue;
      }
      const float value = loops::finite_value<T>(x[j]);
      if (counts_) ++counts_[T::count_key(magnitude)];
      channel_[j] = std::max(channel_[j], magnitude);
      facts.highest = std::max(facts.highest, value), facts.lowest = std::min(facts.lowest, value);
      facts.n_zero += magnitude == 0;
      facts.sum += value;
      if (magnitude > largest) largest = magnitude, facts.n_absmax = 0;
      facts.n_absmax += magnitude == largest;
      w_.topk.add({T::wide(magnitude), (x[j] & T::kSign) != 0, id, j});
    }
    facts.token.absmax = bits_float(T::wide(largest));
    return facts;
  }

  Worker& w_;
  const Options& o_;
  int64_t* counts_;
  bool int8_;
  Bits* magnitudes_;
  Bits* channel_;
};

void fold(const Fields& f, const Options& o, std::vector<RowFacts>& rows) {
  for (const RowFacts& row : rows) {
    const bool finite = row.first_nonfinite < 0;
    *f.n_elements += o.d - row.n_nan - row.n_inf;
    *f.n_tokens += 1;
    *f.n_zero += row.n_zero;
    keep_absmax(f, row.token.absmax, row.n_absmax);
    *f.max = std::max(*f.max, row.highest + 0.0f);  // + 0.0 drops the sign of a zero
    *f.neg_min = std::max(*f.neg_min, 0.0f - row.lowest);
    add_exactly(f.sum, row.sum);
    if (f.sample_absmax) {
      const int64_t sample = row.token.id >> 32;
      if (sample >= 0 && sample < o.n_samples) {
        f.sample_absmax[sample] = std::max(f.sample_absmax[sample], row.token.absmax);
        f.sample_massive[sample] += finite && is_massive(o, row.token);
        f.sample_tokens[sample] += 1;
      } else {
        *f.n_outside_samples += 1;
      }
    }
    if (finite) {
      add_token(f, o, row.token);
      *f.n_massive_elements += row.n_massive_elements;
      if (f.int8_square_sum) {
        add_exactly(f.int8_square_sum, row.int8.square);
        add_exactly(f.int8_abs_sum, row.int8.abs);
        add_exactly(f.int8_error_square_sum, row.int8.error_square);
        add_exactly(f.int8_error_abs_sum, row.int8.error_abs);
      }
    } else {
      *f.n_nan += row.n_nan;
      *f.n_inf += row.n_inf;
      *f.n_nonfinite_tokens += 1;
      keep_nonfinite(f, row.token.id, row.first_nonfinite);
    }
  }
  rows.clear();
}

}  // namespace

template <class T>
void CpuProbe::update_as(const Rows& rows, int n_threads) {
  using Bits = typename T::Bits;
  const int64_t d = options_.d;
  const int64_t useful = rows.n_rows * d / kMinElements;
  n_threads = static_cast<int>(std::max<int64_t>(1, std::min<int64_t>({n_threads, useful, rows.n_rows})));
  while (workers_.size() < static_cast<size_t>(n_threads)) {
    auto worker = std::make_unique<Worker>();
    if (fields_.counts && !workers_.empty()) worker->counts.resize(kCounts);
    worker->channel.resize(d), worker->magnitudes.resize(d), worker->facts.reserve(kFoldRows);
    workers_.push_back(std::move(worker));
  }

  std::mutex state_lock;
  const int64_t first_id = *fields_.n_tokens;  // of the rows that nobody named
  const auto work = [&](int index) {
    Worker& worker = *workers_[index];
    const int64_t begin = rows.n_rows * index / n_threads, end = rows.n_rows * (index + 1) / n_threads;
    int64_t id = first_id + begin;
    if (rows.mask) id = first_id + std::count_if(rows.mask, rows.mask + begin, [](uint8_t kept) { return kept != 0; });
    RowProbe<T> probe(worker, fields_, options_);
    const auto fold_rows = [&] {
      const std::lock_guard<std::mutex> guard(state_lock);
      fold(fields_, options_, worker.facts);
    };
    for (int64_t row = begin; row < end; ++row) {
      if (rows.mask && !rows.mask[row]) continue;
      const int64_t offset = row / rows.inner * rows.outer_stride + row % rows.inner * rows.inner_stride;
      worker.facts.push_back(
          probe.probe(static_cast<const Bits*>(rows.data) + offset, rows.token_ids ? rows.token_ids[row] : id));
      ++id;
      if (worker.facts.size() == kFoldRows) fold_rows();
    }
    fold_rows();
  };

  for (int i = 0; i < n_threads; ++i) {
    workers_[i]->topk.load(fields_, options_.topk, i == 0);
    workers_[i]->absmax_seen = float_bits(*fields_.absmax);
  }
  std::vector<std::thread> threads;
  for (int i = 1; i < n_threads; ++i) threads.emplace_back(work, i);
  work(0);
  for (std::thread& thread : threads) thread.join();

  for (int i = 0; i < n_threads; ++i) {
    Worker& worker = *workers_[i];
    if (i) workers_[0]->topk.absorb(worker.topk);
    for (size_t key = 0; key < worker.counts.size(); ++key) {
      fields_.counts[key] += worker.counts[key];
      worker.counts[key] = 0;
    }
    Bits* channel = reinterpret_cast<Bits*>(worker.channel.data());
    for (int64_t j = 0; j < d; ++j) {
      fields_.channel_absmax[j] = std::max(fields_.channel_absmax[j], bits_float(T::wide(channel[j])));
      channel[j] = 0;
    }
  }
  workers_[0]->topk.store(fields_);
}

void CpuProbe::update(const Rows& rows, int n_threads) {
  switch (dtype_) {
    case Dtype::bfloat16: return update_as<BFloat16>(rows, n_threads);
    case Dtype::float16: return update_as<Float16>(rows, n_threads);
    case Dtype::float32: return update_as<Float32>(rows, n_threads);
  }
}

}  // namespace maxact
