// The launcher: which kernel, how many blocks, how shared memory is divided. No kernel is defined here.
#include "cuda_probe.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <stdexcept>
#include <vector>

#include "cuda_block.cuh"

namespace maxact::cuda {

template <class T>
std::vector<Kernel> kernels(bool vectors);
template <>
std::vector<Kernel> kernels<BFloat16>(bool);
template <>
std::vector<Kernel> kernels<Float16>(bool);
template <>
std::vector<Kernel> kernels<Float32>(bool);

namespace {

void check(cudaError_t error, const char* doing) {
  if (error != cudaSuccess) throw std::runtime_error(std::string("cuda backend, ") + doing + ": " + cudaGetErrorString(error));
}

int attribute(cudaDeviceAttr name, int device) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, name, device), "asking the device");
  return value;
}

// The launch goes to the tensor's device, whatever the current one is.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device) {
    check(cudaGetDevice(&before_), "asking for the device");
    if (before_ == device) return;
    check(cudaSetDevice(device), "choosing the device");
    changed_ = true;
  }
  ~DeviceGuard() {
    if (changed_) cudaSetDevice(before_);
  }

 private:
  int before_ = 0;
  bool changed_ = false;
};

constexpr uint32_t kFewestBins = 128;  // of a table of counts: what a warp flushes at once
constexpr int kLarge = 160 << 10;  // shared memory of a block: sm_80, 90 and 100 have it, 86, 89 and 120 have 99 KB

size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

// Scratch, as pointers from `base`; returns its size.
size_t lay_out(Scratch& s, char* base, int n_blocks, int topk) {
  size_t at = 0;
  const auto take = [&](auto*& pointer, size_t n) {
    pointer = reinterpret_cast<std::remove_reference_t<decltype(pointer)>>(base + at);
    at = round_up(at + n * sizeof(*pointer), 128);
  };
  take(s.n_waiting, 1);
  take(s.n_asked, 1);
  take(s.n_rows_kept, 1);
  take(s.slots, topk);
  take(s.piece_kept, n_blocks);
  take(s.records, n_blocks);
  take(s.entries, static_cast<size_t>(n_blocks) * topk);
  return at;
}

std::vector<Kernel> kernels_of(Dtype dtype, bool vectors) {
  switch (dtype) {
    case Dtype::bfloat16: return kernels<BFloat16>(vectors);
    case Dtype::float16: return kernels<Float16>(vectors);
    case Dtype::float32: return kernels<Float32>(vectors);
  }
  return {};
}

}  // namespace

std::string why_not() {
  int n = 0, driver = 0;
  const cudaError_t error = cudaGetDeviceCount(&n);
  if (cudaDriverGetVersion(&driver) == cudaSuccess && driver == 0) return "the cuda backend finds no NVIDIA driver";
  if (error == cudaErrorInsufficientDriver)
    return "the cuda backend was built for CUDA " + std::to_string(CUDART_VERSION / 1000) + ", this driver is of CUDA " +
           std::to_string(driver / 1000) + "." + std::to_string(driver % 1000 / 10) + ": update the NVIDIA driver";
  if (error != cudaSuccess) return std::string("the cuda backend finds no GPU: ") + cudaGetErrorString(error);
  if (n == 0) return "the cuda backend finds no GPU";
  return "";
}

size_t CudaProbe::scratch_bytes(int device, int topk) {
  Scratch s;
  return lay_out(s, nullptr, attribute(cudaDevAttrMultiProcessorCount, device), topk);
}

CudaProbe::CudaProbe(const Fields& fields, const Options& options, Dtype dtype, int device, void* scratch)
    : dtype_(dtype), device_(device) {
  if (options.d == 0) return;
  n_sms_ = attribute(cudaDevAttrMultiProcessorCount, device);
  shared_ = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  launch_.f = fields, launch_.o = options;
  lay_out(launch_.scratch, static_cast<char*>(scratch), n_sms_, options.topk);
  const DeviceGuard guard(device_);
  cudaFuncAttributes attributes{};
  check(cudaFuncGetAttributes(&attributes, kernels_of(dtype, true).front().function), "looking for machine code");
  target_ = attributes.ptxVersion;
  for (const bool vectors : {false, true}) {
    Plan& p = plans_[vectors] = plan(vectors);
    if (p.shared_bytes > shared_) throw std::runtime_error("cuda backend: topk needs more shared memory than this device has");
    check(cudaFuncSetAttribute(p.kernel.function, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_), "setting up");
  }
}

// The kernel and the team that waste the least: a tile costs its pieces, and as much as 8 more for what its rows cost
// beside their elements, and one for each warp that must agree; warps without a team do nothing. A kernel for all
// statistics must have room for all of its table of counts, others for a part of it.
CudaProbe::Plan CudaProbe::plan(bool vectors) const {
  const Options& o = launch_.o;
  const bool fp32 = dtype_ == Dtype::float32, counts = launch_.f.counts;
  const bool all = vectors && counts && launch_.f.ratio_table, int8 = launch_.f.int8_square_sum;
  const int64_t per_piece = fp32 ? 4 : 8, row_pieces = (o.d + per_piece - 1) / per_piece;
  const uint32_t limit = dtype_ == Dtype::float16 ? kLimit<Float16> : kLimit<BFloat16>;
  Plan best{};
  double least = 1e30;
  for (const Kernel& kernel : kernels_of(dtype_, vectors)) {
    Plan p{};
    p.kernel = kernel, p.g.vectors = vectors, p.g.team = 1;
    if (kernel.pieces == 0 && !best.kernel.function) best = p;
    const int64_t lanes = 32 / std::max(kernel.side, 1);  // of a row
    if (!kernel.pieces || (kernel.all && !(all && kernel.int8 == int8)) || (kernel.pieces > 4 && shared_ < kLarge)) continue;
    if (!runs_on(target_, kernel.pieces, kernel.all)) continue;
    for (int team = 1; team <= (kernel.team ? kernel.warps : 1); ++team) {
      if (team * lanes * kernel.pieces < row_pieces) continue;
      p.g.team = team;
      const bool has_room = place(p, kernel.all ? limit : counts ? kFewestBins : 0) <= shared_;
      double cost = (kernel.rows * kernel.pieces + (7 + team)) / double(kernel.rows * kernel.side) * kernel.warps / (kernel.warps / team);
      if (!kernel.all) cost *= 1 + all;  // right for all statistics, too, but slower
      if (has_room && cost < least) least = cost, best = p;
      break;
    }
  }
  Geometry& g = best.g;
  const int pieces = best.kernel.pieces;
  best.n_threads = best.kernel.warps * 32;
  g.n_teams = best.kernel.warps / g.team;
  g.slots = pieces ? static_cast<int>(g.team * (32 / best.kernel.side) * pieces * per_piece) : 0;
  const int64_t per_chunk = pieces ? 32 / best.kernel.side * per_piece : 1;
  g.n_whole = static_cast<int>(o.d / per_chunk - (g.team - 1) * pieces);
  g.slope = (dtype_ == Dtype::float16 ? 2400.f : 300.f) / static_cast<float>(o.d);
  g.per_key = 2.f / static_cast<float>(o.d);
  // sm_120 has room for a window of the table, up to 2^10 (float16: 2^4), and counts the rest in the state's. On sm_86 and
  // 89 nearly all rows take the slow way.
  g.limit = limit;
  uint32_t n_bins = limit;
  while (counts && n_bins > kFewestBins && place(best, n_bins) > shared_) n_bins -= kFewestBins;
  best.shared_bytes = place(best, counts ? n_bins : 0);
  if (counts && shared_ < kLarge && target_ >= 120)
    g.first_bin = (dtype_ == Dtype::float16 ? 19456 : 17536) - g.n_bins;
  else if (counts)
    g.limit = g.n_bins;
  return best;
}

// Divides a block's shared memory, with a table of n_bins; returns its size.
int CudaProbe::place(Plan& p, uint32_t n_bins) const {
  const Kernel& k = p.kernel;
  Geometry& g = p.g;
  const int topk = launch_.o.topk;
  g.n_bins = static_cast<int>(n_bins);
  g.n_order = 32;
  while (g.n_order < static_cast<uint32_t>(topk)) g.n_order *= 2;
  g.n_buffer = shared_ >= kLarge ? 4096 : 2048;
  // The table and the stages, which the end of a block sorts in.
  const size_t table = static_cast<size_t>(n_bins) * 4;
  const size_t stage = static_cast<size_t>(k.warps) * k.pieces * 512 * (g.vectors ? k.rows * k.stages : 1);
  const size_t sorting = static_cast<size_t>(g.n_order + g.n_buffer) * sizeof(Entry) + n_sms_ * sizeof(BlockRecord);
  g.stage_at = static_cast<uint32_t>(kControlBytes + table);
  size_t at = kControlBytes + std::max(table + stage, sorting);
  const auto next = [&](size_t n_bytes) {
    const size_t begin = at = round_up(at, 128);
    at += n_bytes;
    return static_cast<uint32_t>(begin);
  };
  g.facts_at = next(k.warps * sizeof(Facts)), g.sums_at = next(static_cast<size_t>(k.warps) * 32 * sums_stride(k.sums) * sizeof(float));
  g.int8_cells = k.sums == 0 && k.int8 ? kInt8Cells : 0;
  if (k.sums > 1)
    g.int8_at = g.sums_at + k.sums * sizeof(float);
  else
    g.int8_at = next(k.sums == 0 ? g.int8_cells * 2 * sizeof(uint32_t) : launch_.f.int8_square_sum ? k.warps * 32 * sizeof(float4) : 0);
  g.list_at = next(list_bytes(topk));
  g.exchange_at = next(g.team > 1 ? k.warps * kExchangeBytes : 0);
  g.fine_at = next(dtype_ == Dtype::float32 && k.sums ? k.warps * sizeof(FineList) : 0);
  g.ratios_at = next(k.sums ? 0 : kNearBytes);
  return static_cast<int>(at);
}

void CudaProbe::update(const void* data, int64_t n_rows, int64_t inner, int64_t inner_stride, int64_t outer_stride,
                       const uint8_t* mask, const int64_t* ids, void* stream) {
  constexpr int64_t kMostRows = 0xFFFFFFF0u;  // of one launch: row numbers have 32 bits, the last of them no row
  const DeviceGuard guard(device_);
  Launch a = launch_;
  const int64_t element = dtype_ == Dtype::float32 ? 4 : 2;
  const auto aligned = [&](int64_t n) { return n * element % 16 == 0; };
  if (inner < n_rows && n_rows > kMostRows) throw std::runtime_error("cuda backend: more than 2^32 rows with two strides");
  for (int64_t first = 0; first < n_rows; first += kMostRows) {
    a.data = static_cast<const char*>(data) + first * inner_stride * element;
    a.n_rows = static_cast<uint32_t>(std::min(kMostRows, n_rows - first));
    a.inner = static_cast<uint32_t>(std::min(inner, kMostRows));
    a.inner_stride = inner_stride, a.outer_stride = outer_stride;
    a.mask = mask ? mask + first : nullptr, a.ids = ids ? ids + first : nullptr;
    const bool vectors = reinterpret_cast<uintptr_t>(a.data) % 16 == 0 && aligned(a.o.d) && aligned(inner_stride) && aligned(outer_stride);
    const Plan& p = plans_[vectors];
    a.g = p.g;
    const int rows = std::max(p.kernel.rows * p.kernel.side, 1);
    const int64_t tiles = (a.n_rows + static_cast<int64_t>(rows) - 1) / rows;
    a.n_tiles = static_cast<uint32_t>(tiles);
    // A fifth is left for those who ask, as far as a team has several of that.
    const int64_t each = tiles / (static_cast<int64_t>(n_sms_) * p.g.n_teams);
    a.n_dealt = each < 10 ? 0xFFFFFFFFu / (n_sms_ * kMostWarps) : static_cast<uint32_t>(each - each / 5);
    const dim3 grid(static_cast<unsigned>(std::min<int64_t>(n_sms_, tiles)));
    void* arguments[] = {&a};
    cudaLaunchAttribute follows{};  // see follow_kernel
    follows.id = cudaLaunchAttributeProgrammaticStreamSerialization, follows.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config{grid, dim3(p.n_threads), static_cast<size_t>(p.shared_bytes), static_cast<cudaStream_t>(stream), &follows,
                              target_ >= 90 ? 1u : 0u};
    check(cudaLaunchKernelExC(&config, p.kernel.function, arguments), "launching");
  }
}

}  // namespace maxact::cuda
