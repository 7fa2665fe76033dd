// maxact_kernels._cpu: the CPU backend for Python. Tensors cross as addresses; no PyTorch is linked.
#include "bindings.h"
#include "cpu.h"

namespace py = pybind11;
using namespace maxact;

PYBIND11_MODULE(_cpu, module) {
  py::class_<CpuProbe>(module, "CpuProbe")
      .def(py::init([](const py::dict& fields, const std::string& dtype, int64_t d, int topk, float t_abs, float t_ratio,
                       int64_t n_samples) {
        return std::make_unique<CpuProbe>(fields_from(fields), Options{d, topk, t_abs, t_ratio, n_samples},
                                          dtype_from(dtype));
      }))
      .def("update", [](CpuProbe& probe, uintptr_t data, int64_t n_rows, int64_t inner, int64_t inner_stride,
                        int64_t outer_stride, uintptr_t mask, uintptr_t token_ids, int n_threads) {
        const py::gil_scoped_release release;
        probe.update({reinterpret_cast<const void*>(data), n_rows, inner, inner_stride, outer_stride,
                      reinterpret_cast<const uint8_t*>(mask), reinterpret_cast<const int64_t*>(token_ids)},
                     n_threads);
      });
}
