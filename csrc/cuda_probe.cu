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

constexpr int kLarge = 160 << 10;  // shared memory of a block: sm_80, 90 and 100 have it, 86, 89 and 120 have 99 KB

size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

// Scratch, as pointers from `base`; returns its size.
size_t lay_out(Scratch& s, char* base, int n_blocks, int topk) {
  size_t at = 0;
  const auto take = [&](auto*& pointer, size_t n) {
    pointer = reinterpret_cast<std::remove_reference_t<decltype(pointer)>>(base + at);
    at = round_up(at + n * sizeof(*pointer), 128);
  };
  take(s.n_entries, 1);
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
  shared_ = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device), major_ = attribute(cudaDevAttrComputeCapabilityMajor, device);
  launch_.f = fields, launch_.o = options;
  lay_out(launch_.scratch, static_cast<char*>(scratch), n_sms_, options.topk);
  const DeviceGuard guard(device_);
  for (const bool vectors : {false, true}) {
    Plan& p = plans_[vectors] = plan(vectors);
    if (p.shared_bytes > shared_) throw std::runtime_error("cuda backend: topk needs more shared memory than this device has");
    check(cudaFuncSetAttribute(p.kernel.function, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_), "setting up");
  }
}

// The kernel and the team that waste the least: a tile costs its pieces, and as much as 8 more for what its rows cost
// beside their elements, and one for each warp that must agree; warps without a team do nothing.
CudaProbe::Plan CudaProbe::plan(bool vectors) const {
  const Options& o = launch_.o;
  const bool fp32 = dtype_ == Dtype::float32, counts = launch_.f.counts;
  const bool all = vectors && counts && launch_.f.ratio_table && !launch_.f.int8_square_sum;
  const int64_t per_piece = fp32 ? 4 : 8, row_pieces = (o.d + per_piece - 1) / per_piece;
  Plan best{};
  Geometry& g = best.g;
  g.vectors = vectors, g.team = 1;
  double least = 1e30;
  for (const Kernel& kernel : kernels_of(dtype_, vectors)) {
    if (kernel.pieces == 0 && !best.kernel.function) best.kernel = kernel;
    const int64_t lanes = 32 / std::max(kernel.side, 1);  // of a row
    if (!kernel.pieces || kernel.all != all || (kernel.pieces > 4 && shared_ < kLarge)) continue;
    for (int team = 1; team <= (kernel.team ? kernel.warps : 1); ++team) {
      if (team * lanes * kernel.pieces < row_pieces) continue;
      const bool fits = !vectors || team * lanes * (kernel.pieces - 2) <= row_pieces;  // see Tile::fetch
      const double cost = (kernel.rows * kernel.pieces + (7 + team)) / double(kernel.rows * kernel.side) * kernel.warps / (kernel.warps / team);
      if (fits && cost < least) least = cost, best.kernel = kernel, g.team = team;
      break;
    }
  }
  const int pieces = best.kernel.pieces, warps = best.kernel.warps;
  g.n_teams = warps / g.team;
  best.n_threads = warps * 32;
  g.slots = pieces ? static_cast<int>(g.team * (32 / best.kernel.side) * pieces * per_piece) : 0;
  g.slope = (dtype_ == Dtype::float16 ? 2400.f : 300.f) / static_cast<float>(o.d);
  g.per_key = 1.f / std::max(1.f, static_cast<float>(g.slots) / 2);
  g.n_order = 32;
  while (g.n_order < static_cast<uint32_t>(o.topk)) g.n_order *= 2;
  g.n_buffer = shared_ >= kLarge ? 4096 : 2048;
  size_t stage = static_cast<size_t>(warps) * pieces * 512 * (vectors ? best.kernel.rows : 1);
  const size_t facts = warps * sizeof(Facts), sums = static_cast<size_t>(warps) * 32 * sums_stride(best.kernel.sums) * sizeof(float);
  const size_t exchange = g.team > 1 ? warps * kExchangeBytes : 0, fine = fp32 ? warps * sizeof(FineList) : 0;
  const size_t rest = kControlBytes + facts + sums + list_bytes(o.topk) + exchange + fine + 6 * 128;
  // All of float16's magnitudes, or bfloat16's up to 2^21 (74 KB); rows beyond take the slow way. A second stage where
  // there is room beside that. sm_120 has room for a window, up to 2^10 (float16: 2^4), and counts the rest in the state's
  // table. On sm_86 and 89 nearly all rows take the slow way.
  g.limit = dtype_ == Dtype::float16 ? Float16::kInf : 18944;
  g.stages = vectors && pieces && rest + 2 * stage + (counts ? g.limit * 4 : 0) <= static_cast<size_t>(shared_) && !getenv("ONE_STAGE") ? 2 : 1;
  stage *= g.stages;
  if (counts) {
    const int64_t room = (static_cast<int64_t>(shared_) - static_cast<int64_t>(rest + stage)) / 512 * 128;
    g.n_bins = static_cast<int>(std::clamp<int64_t>(room, 128, g.limit));
    if (shared_ < kLarge && major_ >= 12)
      g.first_bin = (dtype_ == Dtype::float16 ? 19456 : 17536) - g.n_bins;
    else
      g.limit = g.n_bins;
  }
  // The table and the stage, which the end of a block sorts in.
  const size_t table = static_cast<size_t>(g.n_bins) * 4;
  const size_t sorting = static_cast<size_t>(g.n_order + g.n_buffer) * sizeof(Entry) + n_sms_ * sizeof(BlockRecord);
  g.stage_at = static_cast<uint32_t>(kControlBytes + table);
  size_t at = kControlBytes + std::max(table + stage, sorting);
  const auto place = [&](size_t n_bytes) {
    const size_t begin = at = round_up(at, 128);
    at += n_bytes;
    return static_cast<uint32_t>(begin);
  };
  g.facts_at = place(facts), g.sums_at = place(sums), g.list_at = place(list_bytes(o.topk));
  g.exchange_at = place(exchange), g.fine_at = place(fine);
  best.shared_bytes = static_cast<int>(at);
  return best;
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
    check(cudaLaunchKernel(p.kernel.function, grid, dim3(p.n_threads), arguments, p.shared_bytes, static_cast<cudaStream_t>(stream)),
          "launching");
  }
}

}  // namespace maxact::cuda
