// Strings to keys, without a Python object per hash.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <string>
#include <string_view>

#include "binding/bind.h"
#include "data/xxh64.h"

namespace py = pybind11;

namespace fastps {
namespace {

py::array_t<uint64_t> HashStrings(const py::list& strings, uint64_t seed) {
  py::array_t<uint64_t> hashes(static_cast<py::ssize_t>(strings.size()));
  uint64_t* const out = hashes.mutable_data();
  for (size_t i = 0; i < strings.size(); ++i) {
    const py::handle item = strings[i];
    Py_ssize_t size = 0;
    const char* const text =
        PyUnicode_Check(item.ptr()) ? PyUnicode_AsUTF8AndSize(item.ptr(), &size) : nullptr;
    if (text == nullptr) {
      PyErr_Clear();
      ThrowNamed("KeyTypeError", "hash_keys: element " + std::to_string(i) +
                                     " is no str that UTF-8 can hold; needed are str");
    }
    out[i] = Xxh64(std::string_view(text, static_cast<size_t>(size)), seed);
  }
  return hashes;
}

}  // namespace

void BindHash(py::module_& m) {
  m.def("hash_strings", &HashStrings, py::arg("strings"), py::arg("seed"));
}

}  // namespace fastps
