// The launcher: which kernel, how many blocks, how shared memory is divided. No kernel is defined here.
#include "cuda_probe.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <stdexcept>

#include "cuda_block.cuh"

namespace maxact::cuda {

template <class T>
Kernel find_kernel(int chunks, int lanes, int team);
template <>
Kernel find_kernel<BFloat16>(int, int, int);
template <>
Kernel find_kernel<Float16>(int, int, int);
template <>
Kernel find_kernel<Float32>(int, int, int);

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

size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

// Scratch, as pointers from `base`; returns its size.
size_t lay_out(Scratch& s, char* base, int n_blocks, int topk) {
  size_t at = 0;
  const auto take = [&](auto*& pointer, size_t n) {
    pointer = reinterpret_cast<std::remove_reference_t<decltype(pointer)>>(base + at);
    at = round_up(at + n * sizeof(*pointer), 128);
  };
  take(s.blocks_done, 1);
  take(s.n_entries, 1);
  take(s.n_rows_kept, 1);
  take(s.slots, topk);
  take(s.piece_kept, n_blocks);
  take(s.records, n_blocks);
  take(s.entries, static_cast<size_t>(n_blocks) * topk);
  return at;
}

Kernel kernel_of(Dtype dtype, int chunks, int lanes, int team) {
  switch (dtype) {
    case Dtype::bfloat16: return find_kernel<BFloat16>(chunks, lanes, team);
    case Dtype::float16: return find_kernel<Float16>(chunks, lanes, team);
    case Dtype::float32: return find_kernel<Float32>(chunks, lanes, team);
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
  const int shared = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  Launch& a = launch_;
  a.f = fields, a.o = options;
  lay_out(a.scratch, static_cast<char*>(scratch), n_sms_, options.topk);

  const bool fp32 = dtype == Dtype::float32;
  const int64_t per_chunk = fp32 ? 4 : 8, row_chunks = (options.d + per_chunk - 1) / per_chunk;
  const auto divide_up = [](int64_t n, int64_t by) { return (n + by - 1) / by; };
  const int most = fp32 ? 12 : 16;  // pieces of 16 bytes that a lane's registers hold beside everything else
  Geometry& g = a.g;
  // As few lanes a row as hold it: then what a row costs beside its elements is shared by up to 8 rows. (d = 1024 on 8
  // lanes runs at 1,472 GB/s, on 16 at 1,222; d = 2048 on 16 lanes at 1,637, on all 32 in 16 warps at 1,860.)
  g.lanes = 4, g.team = 1;
  while (g.lanes < 16 && g.lanes * (fp32 ? 8 : 16) < row_chunks) g.lanes *= 2;
  if (g.lanes * (fp32 ? 8 : 16) < row_chunks || (!fp32 && g.lanes == 16)) g.lanes = 32;
  g.log_side_by_side = g.lanes == 4 ? 3 : g.lanes == 8 ? 2 : g.lanes == 16 ? 1 : 0;
  kernel_ = {};
  if (g.lanes < 32) {
    kernel_ = kernel_of(dtype, static_cast<int>(divide_up(row_chunks, g.lanes)), g.lanes, 1);
  } else {
    // The team that wastes the fewest slots; of equals the smallest.
    int64_t fewest = INT64_MAX;
    g.team = 1000;
    for (int64_t team = divide_up(row_chunks, 32 * 16); team <= std::min<int64_t>(row_chunks / 64 + 1, 16); ++team) {
      const Kernel kernel = kernel_of(dtype, static_cast<int>(divide_up(row_chunks, 32 * team)), 32, static_cast<int>(team));
      if (!kernel.function || kernel.chunks > most || team > kernel.threads / 32) continue;
      const int64_t cost = team * kernel.chunks + team / 2;  // half a piece a lane for what a warp costs beside
      if (cost < fewest) fewest = cost, kernel_ = kernel, g.team = static_cast<int>(team);
    }
  }
  g.stage_bytes = kernel_.chunks * 512;

  g.n_order = 32;
  while (g.n_order < static_cast<uint32_t>(options.topk)) g.n_order *= 2;
  // 227 KB hold all of float16's table, or bfloat16's up to 2^33 (80 KB; what lies above goes to the state's table);
  // elsewhere a window of 128 or 64 octaves of bfloat16, 16 or 8 of float16.
  const int size = shared >= 200 << 10 ? 4 : shared >= 140 << 10 ? 2 : 1;
  g.n_buffer = size > 1 ? 4096 : 2048;
  g.n_bins = !fields.counts ? 0 : size < 4 ? size * 8192 : dtype == Dtype::float16 ? Float16::kInf : 20480;
  if (size < 4) g.first_bin = dtype == Dtype::float16 ? (size == 2 ? 4096 : 10240) : size == 2 ? 8064 : 10112;
  const size_t per_warp = facts_words(fp32 ? 4 : 2) * 4;
  const size_t fixed = kControlBytes + list_bytes(options.topk) + 32, table = static_cast<size_t>(g.n_bins) * 4;
  int n_warps = !kernel_.function ? 0 : std::min<int>(kernel_.threads / 32, static_cast<int>((shared - fixed - table) / (g.stage_bytes + per_warp)));
  if (g.team > n_warps) {
    kernel_ = kernel_of(dtype, 0, 32, 1);
    g.stage_bytes = 0, g.lanes = 32, g.team = 1, n_warps = kernel_.threads / 32;
    wide_ = true;
  }
  g.n_teams = n_warps / g.team;
  n_threads_ = n_warps * 32;
  const size_t arena = std::max(table + static_cast<size_t>(n_warps) * g.stage_bytes,
                                std::max<size_t>(g.n_order + g.n_buffer, g.n_buffer + 16) * sizeof(Entry) + n_sms_ * sizeof(BlockRecord));
  g.slots = static_cast<int>(g.team * static_cast<int64_t>(g.lanes) * kernel_.chunks * per_chunk);
  g.full = g.slots == options.d && g.lanes == 32;
  g.facts_at = static_cast<uint32_t>(round_up(kControlBytes + arena, 16));
  g.list_at = static_cast<uint32_t>(round_up(g.facts_at + n_warps * per_warp, 16));
  shared_bytes_ = static_cast<int>(g.list_at + list_bytes(options.topk));
  if (shared_bytes_ > shared) throw std::runtime_error("cuda backend: topk needs more shared memory than this device has");
  const DeviceGuard guard(device_);
  check(cudaFuncSetAttribute(kernel_.function, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes_), "setting up");
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
    a.g.vectors = reinterpret_cast<uintptr_t>(a.data) % 16 == 0 && aligned(a.o.d) && aligned(inner_stride) && aligned(outer_stride);
    const int side_by_side = wide_ ? 1 : 32 / a.g.lanes;
    const int64_t tiles = (a.n_rows + static_cast<int64_t>(side_by_side) - 1) / side_by_side;
    const dim3 grid(static_cast<unsigned>(std::min<int64_t>(n_sms_, tiles)));
    void* arguments[] = {&a};
    check(cudaLaunchKernel(kernel_.function, grid, dim3(n_threads_), arguments, shared_bytes_, static_cast<cudaStream_t>(stream)),
          "launching");
  }
}

}  // namespace maxact::cuda
