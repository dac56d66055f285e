// The data path of the training programs: text to rows, ids to keys, keys to columns, products.
#include "data/libsvm.h"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/hash.h"
#include "data/csr.h"
#include "data/dedupe.h"

namespace fastps {
namespace {

namespace py = pybind11;

// An input array: C-contiguous, of exactly this dtype (no silent conversion of the callers' data).
template <class T>
using Array = py::array_t<T, py::array::c_style>;

// Gives the vector's memory to a numpy array, without a copy.
template <class T>
py::array_t<T> ToNumpy(std::vector<T> values) {
  auto owned = std::make_unique<std::vector<T>>(std::move(values));
  const std::vector<T>* vector = owned.get();
  py::capsule owner(owned.release(), [](void* p) { delete static_cast<std::vector<T>*>(p); });
  return py::array_t<T>(static_cast<py::ssize_t>(vector->size()), vector->data(), owner);
}

template <class T>
std::span<const T> Span(const Array<T>& array, const char* name) {
  if (array.ndim() != 1) throw py::value_error(std::string(name) + " must have one dimension");
  return {array.data(), static_cast<size_t>(array.size())};
}

template <class T>
std::span<const T> Span(const Array<T>& array, const char* name, size_t n) {
  const std::span<const T> span = Span(array, name);
  if (span.size() != n) {
    throw py::value_error(std::string(name) + " has " + std::to_string(span.size()) +
                          " elements, expected " + std::to_string(n));
  }
  return span;
}

py::tuple ParseLibsvmBytes(const py::buffer& data, int64_t first_line, bool skip_bad_lines,
                           bool require_labels, std::optional<bool> has_labels) {
  const py::buffer_info info = data.request();
  if (info.ndim != 1 || info.itemsize != 1 || info.strides[0] != 1) {
    throw py::value_error("data must be contiguous bytes");
  }
  const std::string_view bytes(static_cast<const char*>(info.ptr), static_cast<size_t>(info.size));
  LabelRule labels = require_labels ? LabelRule::kBinary : LabelRule::kOptional;
  if (has_labels.has_value()) labels = *has_labels ? LabelRule::kAny : LabelRule::kNone;
  const LibsvmOptions options{
      .first_line = first_line,
      .skip_bad_lines = skip_bad_lines,
      .labels = labels,
  };
  LibsvmRows rows;
  {
    py::gil_scoped_release release;
    rows = ParseLibsvm(bytes, options);
  }
  py::object first_bad = py::none();
  if (rows.n_bad > 0) first_bad = py::make_tuple(rows.first_bad_line, rows.first_bad_message);
  return py::make_tuple(ToNumpy(std::move(rows.labels)), ToNumpy(std::move(rows.indptr)),
                        ToNumpy(std::move(rows.ids)), ToNumpy(std::move(rows.values)), rows.n_bad,
                        first_bad);
}

py::tuple UniqueInverseArrays(const Array<uint64_t>& keys) {
  const std::span<const uint64_t> in = Span(keys, "keys");
  if (in.size() > kUniqueKeysMax) throw py::value_error("keys has more than 2^31-1 elements");
  py::array_t<int32_t> inverse(static_cast<py::ssize_t>(in.size()));
  const std::span<int32_t> out(inverse.mutable_data(), in.size());
  std::vector<uint64_t> unique;
  {
    py::gil_scoped_release release;
    unique = UniqueInverse(in, out);
  }
  return py::make_tuple(ToNumpy(std::move(unique)), inverse);
}

py::array_t<uint64_t> HashIds(const Array<uint64_t>& ids, int bits) {
  if (bits < 1 || bits > 64) throw py::value_error("bits must be from 1 to 64");
  const std::span<const uint64_t> in = Span(ids, "ids");
  py::array_t<uint64_t> keys(static_cast<py::ssize_t>(in.size()));
  uint64_t* out = keys.mutable_data();
  py::gil_scoped_release release;
  for (size_t i = 0; i < in.size(); ++i) out[i] = MixKey(in[i]) >> (64 - bits);
  return keys;
}

std::unique_ptr<CsrMatrix> MakeCsr(const Array<int64_t>& indptr, const Array<int32_t>& columns,
                                   const Array<float>& values, int32_t n_columns) {
  const auto copy = [](const auto& span) { return std::vector(span.begin(), span.end()); };
  Status status;
  auto matrix = CsrMatrix::Make(copy(Span(indptr, "indptr")), copy(Span(columns, "columns")),
                                copy(Span(values, "values")), n_columns, &status);
  if (matrix == nullptr) throw py::value_error(status.message());
  return matrix;
}

py::tuple TakeRows(const CsrMatrix& matrix, const Array<int64_t>& rows) {
  const std::span<const int64_t> in = Span(rows, "rows");
  Minibatch batch;
  {
    py::gil_scoped_release release;
    for (int64_t row : in) {
      if (row < 0 || row >= static_cast<int64_t>(matrix.n_rows())) {
        throw py::index_error("row " + std::to_string(row) + " is not in [0, " +
                              std::to_string(matrix.n_rows()) + ")");
      }
    }
    batch = matrix.Take(in);
  }
  return py::make_tuple(std::move(batch.matrix), ToNumpy(std::move(batch.columns)));
}

// Runs `loop(in, out)` on fresh output of `n_out` floats, without the GIL.
template <class Loop>
py::array_t<float> Product(std::span<const float> in, size_t n_out, Loop loop) {
  py::array_t<float> result(static_cast<py::ssize_t>(n_out));
  const std::span<float> out(result.mutable_data(), n_out);
  py::gil_scoped_release release;
  loop(in, out);
  return result;
}

}  // namespace

void BindLibsvm(pybind11::module_& m) {
  m.def("parse_libsvm", &ParseLibsvmBytes, py::arg("data"), py::arg("first_line") = 1,
        py::arg("skip_bad_lines") = false, py::arg("require_labels") = true,
        py::arg("has_labels") = py::none(),
        "Parse libsvm text: (labels, indptr, ids, values, n_bad, first_bad).");
  m.def("unique_inverse", &UniqueInverseArrays, py::arg("keys").noconvert(),
        "Distinct keys in order of first occurrence, and for each key its position in them.");
  m.def("hash_ids", &HashIds, py::arg("ids").noconvert(), py::arg("bits"),
        "The top `bits` bits of each id's mixed 64 bits.");

  py::class_<CsrMatrix>(m, "CsrMatrix", "Examples x features in compressed sparse rows.")
      .def(py::init(&MakeCsr), py::arg("indptr").noconvert(), py::arg("columns").noconvert(),
           py::arg("values").noconvert(), py::arg("n_columns"))
      .def_property_readonly("n_rows", &CsrMatrix::n_rows)
      .def_property_readonly("n_columns", &CsrMatrix::n_columns)
      .def_property_readonly("n_entries", &CsrMatrix::n_entries)
      .def("take", &TakeRows, py::arg("rows").noconvert(),
           "The given rows as (matrix of only their columns, the column each one was).")
      .def(
          "margins",
          [](const CsrMatrix& matrix, const Array<float>& weights) {
            return Product(Span(weights, "weights", matrix.n_columns()), matrix.n_rows(),
                           [&](auto in, auto out) { matrix.Margins(in, out); });
          },
          py::arg("weights").noconvert(), "X weights.")
      .def(
          "gradient",
          [](const CsrMatrix& matrix, const Array<float>& residuals) {
            return Product(Span(residuals, "residuals", matrix.n_rows()), matrix.n_columns(),
                           [&](auto in, auto out) { matrix.Gradient(in, out); });
          },
          py::arg("residuals").noconvert(), "X^T residuals.")
      .def(
          "column_counts",
          [](const CsrMatrix& matrix) {
            return Product({}, matrix.n_columns(),
                           [&](auto, auto out) { matrix.ColumnCounts(out); });
          },
          "How many entries each column has.");
}

}  // namespace fastps
