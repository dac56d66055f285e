// Test-only: kernels, update rules and initializers as plain functions of numpy arrays, each on the
// kernel set that the caller names. Throws ValueError where the core returns a Status.
#include "kernels/kernels.h"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "rules/initializer.h"
#include "rules/update_rule.h"

namespace py = pybind11;

namespace fastps {
namespace {

// Never converted: a converted copy would be changed in the place of the caller's array.
using FloatArray = py::array_t<float, py::array::c_style>;
using RuleArgument = std::pair<int, std::vector<float>>;  // kind, constants

void Require(bool condition, const std::string& message) {
  if (!condition) throw std::invalid_argument(message);
}

const Kernels& FindKernels(const std::string& name) {
  for (const Kernels* kernels : AvailableKernels()) {
    if (kernels->name == name) return *kernels;
  }
  throw std::invalid_argument("no kernels of that name: " + name);
}

std::unique_ptr<const UpdateRule> Rule(const std::string& kernels, const RuleArgument& rule) {
  RuleSpec spec;
  spec.kind = static_cast<RuleKind>(rule.first);
  Require(rule.second.size() <= spec.constants.size(), "too many constants");
  std::copy(rule.second.begin(), rule.second.end(), spec.constants.begin());
  Status status;
  std::unique_ptr<const UpdateRule> made = MakeUpdateRule(spec, FindKernels(kernels), &status);
  Require((made != nullptr) == status.ok(), "rule and status disagree");
  Require(made != nullptr, status.message());
  return made;
}

size_t Size(const FloatArray& array) { return static_cast<size_t>(array.size()); }

// A slot's floats; null when the caller gave None.
float* SlotData(std::optional<FloatArray>& slot, size_t n) {
  if (!slot) return nullptr;
  Require(Size(*slot) == n, "a slot and the values differ in size");
  return slot->mutable_data();
}

void ApplyRows(const std::string& kernels, const RuleArgument& rule, FloatArray rows,
               const FloatArray& gradients) {
  const auto made = Rule(kernels, rule);
  Require(rows.ndim() == 2 && gradients.ndim() == 2 && rows.shape(0) == gradients.shape(0),
          "needed are rows (n, row_floats) and gradients (n, width)");
  const auto n = static_cast<size_t>(rows.shape(0));
  const auto row_floats = static_cast<size_t>(rows.shape(1));
  const auto width = static_cast<size_t>(gradients.shape(1));
  Require(row_floats >= width * (1 + made->n_slots()), "rows are too short for width and slots");
  std::vector<float*> pointers(n);
  for (size_t i = 0; i < n; ++i) pointers[i] = rows.mutable_data() + i * row_floats;
  made->ApplyRows(pointers.data(), gradients.data(), n, width);
}

void ApplyBlock(const std::string& kernels, const RuleArgument& rule, FloatArray values,
                std::optional<FloatArray> slot0, std::optional<FloatArray> slot1,
                const FloatArray& gradients) {
  const auto made = Rule(kernels, rule);
  const size_t n = Size(values);
  Require(Size(gradients) == n, "gradients and values differ in size");
  Require(made->n_slots() < 1 || slot0, "this rule needs slot0");
  Require(made->n_slots() < 2 || slot1, "this rule needs slot1");
  float* slot0_data = SlotData(slot0, n);
  float* slot1_data = SlotData(slot1, n);
  made->ApplyBlock(values.mutable_data(), slot0_data, slot1_data, gradients.data(), n);
}

void ResetState(const std::string& kernels, const RuleArgument& rule, const FloatArray& values,
                std::optional<FloatArray> slot0, std::optional<FloatArray> slot1) {
  const auto made = Rule(kernels, rule);
  const size_t n = Size(values);
  Require(made->n_slots() < 1 || slot0, "this rule needs slot0");
  Require(made->n_slots() < 2 || slot1, "this rule needs slot1");
  float* slot0_data = SlotData(slot0, n);
  float* slot1_data = SlotData(slot1, n);
  made->ResetState(values.data(), slot0_data, slot1_data, n);
}

FloatArray Fill(int kind, uint64_t seed, float a, float b, uint64_t key, uint64_t column_begin,
                size_t n) {
  const InitializerSpec spec{static_cast<InitializerKind>(kind), seed, a, b};
  const Status status = CheckInitializer(spec);
  Require(status.ok(), status.message());
  FloatArray values(static_cast<py::ssize_t>(n));
  FillInitial(spec, key, column_begin, values.mutable_data(), n);
  return values;
}

}  // namespace

void BindKernels(py::module_& m) {
  m.def("available_kernels", [] {
    std::vector<std::string> names;
    for (const Kernels* kernels : AvailableKernels()) names.emplace_back(kernels->name);
    return names;
  });
  m.def("active_kernels", [] { return std::string(ActiveKernels().name); });
  m.def("force_kernels", [](const std::string& name) { return ForceKernels(name); });
  m.def(
      "n_slots",
      [](const RuleArgument& rule) {
        return Rule(std::string(AvailableKernels().front()->name), rule)->n_slots();
      },
      py::arg("rule"), "Floats of state a value; ValueError says what is wrong with the rule.");
  m.def("apply_rows", &ApplyRows, py::arg("kernels"), py::arg("rule"), py::arg("rows").noconvert(),
        py::arg("gradients").noconvert(),
        "Updates rows (n, row_floats) in place; floats past value and slots stay.");
  m.def("apply_block", &ApplyBlock, py::arg("kernels"), py::arg("rule"),
        py::arg("values").noconvert(), py::arg("slot0").noconvert(), py::arg("slot1").noconvert(),
        py::arg("gradients").noconvert(), "Updates values and slots in place; unused slots: None.");
  m.def("reset_state", &ResetState, py::arg("kernels"), py::arg("rule"),
        py::arg("values").noconvert(), py::arg("slot0").noconvert(), py::arg("slot1").noconvert(),
        "Sets the slots to the state of values that were just assigned.");
  m.def("fill_initial", &Fill, py::arg("kind"), py::arg("seed"), py::arg("a"), py::arg("b"),
        py::arg("key"), py::arg("column_begin"), py::arg("n"));
  m.def(
      "add",
      [](const std::string& kernels, FloatArray sums, const FloatArray& addends) {
        Require(Size(sums) == Size(addends), "sums and addends differ in size");
        FindKernels(kernels).add(sums.mutable_data(), addends.data(), Size(sums));
      },
      py::arg("kernels"), py::arg("sums").noconvert(), py::arg("addends").noconvert());
  m.def(
      "all_finite",
      [](const std::string& kernels, const FloatArray& values) {
        return AllFinite(FindKernels(kernels), values.data(), Size(values));
      },
      py::arg("kernels"), py::arg("values").noconvert());
}

}  // namespace fastps
