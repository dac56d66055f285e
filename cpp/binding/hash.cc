// Hashes: strings to keys without a Python object for each, checksums of files, keys to shards.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <charconv>
#include <limits>
#include <string>
#include <string_view>

#include "binding/bind.h"
#include "data/xxh64.h"
#include "routing/cluster_map.h"

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

// The hashes of "field=id" for each id, as HashStrings has them.
template <typename Id>
py::array_t<uint64_t> HashIds(const std::string& field,
                              const py::array_t<Id, py::array::c_style>& ids) {
  py::array_t<uint64_t> hashes(ids.size());
  const auto n = static_cast<size_t>(ids.size());
  const Id* const in = ids.data();
  uint64_t* const out = hashes.mutable_data();
  py::gil_scoped_release release;
  std::string text = field + '=';
  const size_t prefix = text.size();
  text.resize(prefix + std::numeric_limits<Id>::digits10 + 2);  // a sign and a last digit
  for (size_t i = 0; i < n; ++i) {
    const char* const end =
        std::to_chars(text.data() + prefix, text.data() + text.size(), in[i]).ptr;
    out[i] = Xxh64(std::string_view(text.data(), static_cast<size_t>(end - text.data())), 0);
  }
  return hashes;
}

// The bytes of a contiguous buffer of any type, held until the end of its scope.
class HeldBytes {
 public:
  explicit HeldBytes(const py::handle& owner) {
    if (PyObject_GetBuffer(owner.ptr(), &view_, PyBUF_SIMPLE) != 0) throw py::error_already_set();
  }
  ~HeldBytes() { PyBuffer_Release(&view_); }
  HeldBytes(const HeldBytes&) = delete;
  HeldBytes& operator=(const HeldBytes&) = delete;
  std::string_view bytes() const {
    return {static_cast<const char*>(view_.buf), static_cast<size_t>(view_.len)};
  }

 private:
  Py_buffer view_{};
};

uint64_t Checksum(const py::object& data) {
  const HeldBytes held(data);
  py::gil_scoped_release release;
  return Xxh64(held.bytes(), 0);
}

py::array_t<uint32_t> ShardsOfKeys(const py::array_t<uint64_t, py::array::c_style>& keys,
                                   uint32_t num_shards) {
  if (keys.ndim() != 1 || num_shards == 0)
    throw py::value_error("needed are keys of one dimension and at least one shard");
  const auto n = static_cast<size_t>(keys.size());
  py::array_t<uint32_t> shards(keys.size());
  const uint64_t* const in = keys.data();
  uint32_t* const out = shards.mutable_data();
  py::gil_scoped_release release;
  for (size_t i = 0; i < n; ++i) out[i] = ShardOfKey(in[i], num_shards).value;
  return shards;
}

}  // namespace

void BindHash(py::module_& m) {
  m.def("xxh64", &Checksum, py::arg("data"));
  m.def("shards_of_keys", &ShardsOfKeys, py::arg("keys"), py::arg("num_shards"));
  m.def("hash_field_ids", &HashIds<uint64_t>, py::arg("field"), py::arg("ids").noconvert());
  m.def("hash_field_ids", &HashIds<int64_t>, py::arg("field"), py::arg("ids").noconvert());
  m.def("hash_strings", &HashStrings, py::arg("strings"), py::arg("seed"));
}

}  // namespace fastps
