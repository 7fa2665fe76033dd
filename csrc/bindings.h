// What the Python modules share: a state's fields from their addresses, an element type from its name.
#pragma once

#include <pybind11/pybind11.h>

#include <stdexcept>
#include <string>

#include "rules.h"

namespace maxact {

inline Fields fields_from(const pybind11::dict& addresses) {
  Fields fields;
  size_t taken = 0;
#define FIELD(type, name)                                                      \
  if (addresses.contains(#name)) {                                             \
    fields.name = reinterpret_cast<type*>(addresses[#name].cast<uintptr_t>()); \
    ++taken;                                                                   \
  }
  MAXACT_FIELDS(FIELD)
#undef FIELD
  if (taken != addresses.size()) throw std::invalid_argument("fields.py and rules.h name different fields; rebuild");
  return fields;
}

inline Dtype dtype_from(const std::string& name) {
  if (name == "bfloat16") return Dtype::bfloat16;
  if (name == "float16") return Dtype::float16;
  if (name == "float32") return Dtype::float32;
  throw std::invalid_argument("dtype: " + name + ", expected bfloat16, float16 or float32");
}

}  // namespace maxact
