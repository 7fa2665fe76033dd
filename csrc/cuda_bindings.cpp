// maxact_kernels._cuda: the CUDA backend for Python. Tensors and the stream cross as integers; no PyTorch is linked.
#include "bindings.h"
#include "cuda_ceiling.h"
#include "cuda_probe.h"

namespace py = pybind11;
using namespace maxact;
using namespace maxact::cuda;

PYBIND11_MODULE(_cuda, module) {
  module.def("why_not", &why_not);
  module.def("scratch_bytes", &CudaProbe::scratch_bytes);
  module.def("read_only", [](uintptr_t data, size_t n_bytes, uintptr_t out, int n_blocks, uintptr_t stream) {
    read_only(reinterpret_cast<const void*>(data), n_bytes, reinterpret_cast<void*>(out), n_blocks,
              reinterpret_cast<void*>(stream));
  });
  py::class_<CudaProbe>(module, "CudaProbe")
      .def(py::init([](const py::dict& fields, const std::string& dtype, int64_t d, int topk, float t_abs, float t_ratio,
                       int64_t n_samples, int device, uintptr_t scratch) {
        return std::make_unique<CudaProbe>(fields_from(fields), Options{d, topk, t_abs, t_ratio, n_samples},
                                           dtype_from(dtype), device, reinterpret_cast<void*>(scratch));
      }))
      .def("update", [](CudaProbe& probe, uintptr_t data, int64_t n_rows, int64_t inner, int64_t inner_stride,
                        int64_t outer_stride, uintptr_t mask, uintptr_t token_ids, uintptr_t stream) {
        probe.update(reinterpret_cast<const void*>(data), n_rows, inner, inner_stride, outer_stride,
                     reinterpret_cast<const uint8_t*>(mask), reinterpret_cast<const int64_t*>(token_ids),
                     reinterpret_cast<void*>(stream));
      });
}
