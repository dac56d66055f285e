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

#include "binding/testing/testing.h"
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

RuleSpec SpecOf(const RuleArgument& rule) {
  RuleSpec spec;
  spec.kind = static_cast<RuleKind>(rule.first);
  Require(rule.second.size() <= spec.constants.size(), "too many constants");
  std::copy(rule.second.begin(), rule.second.end(), spec.constants.begin());
  return spec;
}

std::unique_ptr<const UpdateRule> Rule(const std::string& kernels, const RuleArgument& rule) {
  const RuleSpec spec = SpecOf(rule);
  Status status;
  std::unique_ptr<const UpdateRule> made = MakeUpdateRule(spec, FindKernels(kernels), &status);
  Require((made != nullptr) == status.ok(), "rule and status disagree");
  Require(made != nullptr, status.message());
  return made;
}

size_t Size(const FloatArray& array) { return static_cast<size_t>(array.size()); }

void ApplyRows(const std::string& kernels, const RuleArgument& rule, FloatArray rows,
               const FloatArray& gradients) {
  const auto made = Rule(kernels, rule);
  Require(rows.ndim() == 2 && gradients.ndim() == 2 && rows.shape(0) == gradients.shape(0),
          "needed are rows (n, row_floats) and gradients (n, width)");
  const auto n = static_cast<size_t>(rows.shape(0));
  const auto row_floats = static_cast<size_t>(rows.shape(1));
  const auto width = static_cast<size_t>(gradients.shape(1));
  Require(row_floats >= made->row_floats(width), "rows are too short for width and slots");
  std::vector<float*> pointers(n);
  for (size_t i = 0; i < n; ++i) pointers[i] = rows.mutable_data() + i * row_floats;
  made->ApplyRows(pointers.data(), gradients.data(), n, width);
}

// Value and slots of a dense block, each an array of its own: (n_rows, width) for value and slots,
// (n_rows,) for row slots.
using State = std::vector<FloatArray>;

RowSpan SpanOf(const UpdateRule& rule, FloatArray& values, State& state) {
  Require(values.ndim() == 2, "needed are values (n_rows, width)");
  Require(state.size() == rule.n_slots() + rule.n_row_slots(), "number of slots");
  RowSpan rows{values.mutable_data(), nullptr, nullptr, nullptr, nullptr};
  float** const slots[] = {&rows.slot0, &rows.slot1};
  float** const row_slots[] = {&rows.row_slot0, &rows.row_slot1};
  for (size_t i = 0; i < state.size(); ++i) {
    const bool of_rows = i >= rule.n_slots();
    Require(Size(state[i]) == (of_rows ? static_cast<size_t>(values.shape(0)) : Size(values)),
            "a slot does not have the size of the values or rows");
    *(of_rows ? row_slots[i - rule.n_slots()] : slots[i]) = state[i].mutable_data();
  }
  return rows;
}

void ApplyBlock(const std::string& kernels, const RuleArgument& rule, FloatArray values,
                State state, const FloatArray& gradients) {
  const auto made = Rule(kernels, rule);
  Require(Size(gradients) == Size(values), "gradients and values differ in size");
  made->ApplyBlock(SpanOf(*made, values, state), gradients.data(),
                   static_cast<size_t>(values.shape(0)), static_cast<size_t>(values.shape(1)));
}

void ResetState(const std::string& kernels, const RuleArgument& rule, FloatArray values,
                State state) {
  const auto made = Rule(kernels, rule);
  made->ResetState(SpanOf(*made, values, state), static_cast<size_t>(values.shape(0)),
                   static_cast<size_t>(values.shape(1)));
}

std::pair<int, std::vector<float>> ChangeLr(const RuleArgument& rule, float lr) {
  RuleSpec spec = SpecOf(rule);
  const Status status = WithLr(spec, lr, &spec);
  Require(status.ok(), status.message());
  return {static_cast<int>(spec.kind), {spec.constants.begin(), spec.constants.end()}};
}

// Pointers to the rows of each array in turn.
std::vector<const float*> RowsOf(const std::vector<FloatArray>& arrays, size_t width) {
  std::vector<const float*> rows;
  for (const FloatArray& array : arrays) {
    Require(array.ndim() == 2 && static_cast<size_t>(array.shape(1)) == width,
            "needed are addends (any, width)");
    for (py::ssize_t i = 0; i < array.shape(0); ++i) rows.push_back(array.data(i, 0));
  }
  return rows;
}

void SumBlocks(const std::string& kernels, FloatArray sums, const std::vector<FloatArray>& blocks) {
  std::vector<const float*> addends;
  for (const FloatArray& block : blocks) {
    Require(Size(block) == Size(sums), "an addend and the sums differ in size");
    addends.push_back(block.data());
  }
  Require(!addends.empty(), "needed is at least one addend");
  FindKernels(kernels).sum_blocks(sums.mutable_data(), addends.data(), addends.size(), Size(sums));
}

void SumRows(const std::string& kernels, FloatArray sums, const std::vector<FloatArray>& addends) {
  Require(sums.ndim() == 2 && static_cast<size_t>(sums.shape(0)) == addends.size(),
          "needed are sums (n_rows, width) and addends for each row");
  const auto width = static_cast<size_t>(sums.shape(1));
  std::vector<size_t> begins = {0};
  for (const FloatArray& each : addends) {
    Require(each.ndim() == 2 && each.shape(0) > 0, "needed is at least one addend for each row");
    begins.push_back(begins.back() + static_cast<size_t>(each.shape(0)));
  }
  const std::vector<const float*> rows = RowsOf(addends, width);
  FindKernels(kernels).sum_rows(sums.mutable_data(), rows.data(), begins.data(), addends.size(),
                                width);
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
  m.def(
      "n_row_slots",
      [](const RuleArgument& rule) {
        return Rule(std::string(AvailableKernels().front()->name), rule)->n_row_slots();
      },
      py::arg("rule"));
  m.def("apply_block", &ApplyBlock, py::arg("kernels"), py::arg("rule"),
        py::arg("values").noconvert(), py::arg("state"), py::arg("gradients").noconvert(),
        "Updates values (n_rows, width) and the arrays of slots and row slots in place.");
  m.def("reset_state", &ResetState, py::arg("kernels"), py::arg("rule"),
        py::arg("values").noconvert(), py::arg("state"),
        "Sets slots and row slots to the state of values that were just assigned.");
  m.def("with_lr", &ChangeLr, py::arg("rule"), py::arg("lr"), "The rule with another rate.");
  m.def(
      "check_row_parts",
      [](const py::dict& table) { testing::RequireOk(CheckRowParts(testing::SpecOfDict(table))); },
      py::arg("table"));
  m.def("sum_blocks", &SumBlocks, py::arg("kernels"), py::arg("sums").noconvert(),
        py::arg("blocks"), "sums = ((block 0 + block 1) + block 2) + ...");
  m.def("sum_rows", &SumRows, py::arg("kernels"), py::arg("sums").noconvert(), py::arg("addends"),
        "Row i of sums is the sum of the rows of addends[i], from the first to the last.");
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
