// Test-only: the parts that a shard is made of: pages, rows and the index.
#include <pybind11/stl.h>

#include <cstring>
#include <memory>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "base/check.h"
#include "binding/testing/testing.h"
#include "store/key_index.h"
#include "store/page_pool.h"
#include "store/row_arena.h"

namespace py = pybind11;

namespace fastps {

// Sees what KeyIndex keeps to itself.
struct KeyIndexInspector {
  static size_t Buckets(const KeyIndex& index) { return index.n_buckets_; }
  static size_t SizeMax(const KeyIndex& index) { return index.size_max_; }
  static size_t HomeOf(const KeyIndex& index, Key key) { return index.HomeOf(key); }
  static std::vector<uint16_t> Overflows(const KeyIndex& index) {
    std::vector<uint16_t> overflows;
    for (size_t b = 0; b < index.n_buckets_; ++b) {
      overflows.push_back(index.BucketAt(b).overflow);
    }
    return overflows;
  }
};

namespace {

using testing::FloatArray;
using testing::KeyArray;
using testing::Require;

// Keeps its pool alive, as the server does for its shards.
class IndexUnderTest {
 public:
  explicit IndexUnderTest(std::shared_ptr<PagePool> pool) : pool_(std::move(pool)) {}

  void Insert(Key key, uint32_t payload) {
    Require(index_.Find(key) == nullptr, "Insert requires that the key is absent");
    index_.ReserveFor(1);
    *index_.Insert(key) = payload;
  }
  std::optional<uint32_t> Find(Key key) {
    index_.Prefetch(key);
    const uint32_t* const payload = index_.Find(key);
    return payload == nullptr ? std::nullopt : std::optional(*payload);
  }
  std::optional<uint32_t> Erase(Key key) {
    uint32_t payload = 0;
    return index_.Erase(key, &payload) ? std::optional(payload) : std::nullopt;
  }
  void InsertAll(const KeyArray& keys) {
    index_.ReserveFor(static_cast<size_t>(keys.size()));
    for (const Key key : testing::SpanOf(keys)) *index_.Insert(key) = static_cast<uint32_t>(key);
  }
  size_t EraseAll(const KeyArray& keys) {
    size_t erased = 0;
    uint32_t payload = 0;
    for (const Key key : testing::SpanOf(keys)) erased += index_.Erase(key, &payload);
    return erased;
  }
  // (pairs of key and payload, where to go on, whether that was all)
  using Step = std::tuple<std::vector<std::pair<Key, uint32_t>>, uint64_t, bool>;
  Step Scan(uint64_t position, size_t n_goal) const {
    std::vector<std::pair<Key, uint32_t>> visited;
    bool finished = false;
    const uint64_t next = index_.Scan(position, n_goal, &finished, [&](Key key, uint32_t payload) {
      visited.emplace_back(key, payload);
    });
    return {std::move(visited), next, finished};
  }

  // What stands at the key's place, by the number of the place.
  std::optional<uint32_t> AtPlaceOf(Key key) {
    const uint32_t* const payload = index_.Find(key);
    return payload == nullptr ? std::nullopt : std::optional(*index_.At(index_.PlaceOf(payload)));
  }

  const std::shared_ptr<PagePool> pool_;
  KeyIndex index_{pool_.get()};
};

class ArenaUnderTest {
 public:
  explicit ArenaUnderTest(size_t row_floats)
      : row_floats_(row_floats), arena_(&pool_, row_floats) {}

  uint32_t Allocate() { return arena_.Allocate(); }
  void Free(uint32_t row) { arena_.Free(row); }
  void Write(uint32_t row, const FloatArray& values) {
    Require(static_cast<size_t>(values.size()) == row_floats_, "a row has row_floats floats");
    std::memcpy(arena_.Row(row), values.data(), row_floats_ * sizeof(float));
  }
  FloatArray Read(uint32_t row) const {
    return testing::ArrayOf(std::span<const float>(arena_.Row(row), row_floats_));
  }
  size_t bytes() const { return arena_.bytes(); }

 private:
  const size_t row_floats_;
  PagePool pool_;
  RowArena arena_;
};

}  // namespace

void BindStore(py::module_& m) {
  using Inspector = KeyIndexInspector;
  py::class_<PagePool, std::shared_ptr<PagePool>>(m, "PagePool")
      .def(py::init<>())
      .def_property_readonly_static("page_bytes", [](py::object) { return PagePool::kPageBytes; })
      .def(
          "allocate",
          [](PagePool& pool, size_t bytes) {
            return reinterpret_cast<uintptr_t>(pool.Allocate(bytes));
          },
          py::arg("bytes"), "The address of an extent.")
      .def(
          "free",
          [](PagePool& pool, uintptr_t address, size_t bytes) {
            pool.Free(reinterpret_cast<void*>(address), bytes);
          },
          py::arg("address"), py::arg("bytes"));

  py::class_<ArenaUnderTest>(m, "RowArena")
      .def(py::init<size_t>(), py::arg("row_floats"))
      .def("allocate", &ArenaUnderTest::Allocate)
      .def("free", &ArenaUnderTest::Free, py::arg("row"))
      .def("write", &ArenaUnderTest::Write, py::arg("row"), py::arg("values"))
      .def("read", &ArenaUnderTest::Read, py::arg("row"))
      .def_property_readonly("bytes", &ArenaUnderTest::bytes);

  py::class_<IndexUnderTest>(m, "KeyIndex")
      .def(py::init([] { return std::make_unique<IndexUnderTest>(std::make_shared<PagePool>()); }))
      .def(py::init<std::shared_ptr<PagePool>>(), py::arg("pool"))
      .def("__len__", [](const IndexUnderTest& i) { return i.index_.size(); })
      .def_property_readonly("bytes", [](const IndexUnderTest& i) { return i.index_.bytes(); })
      .def("insert", &IndexUnderTest::Insert, py::arg("key"), py::arg("payload"))
      .def("find", &IndexUnderTest::Find, py::arg("key"))
      .def("at_place_of", &IndexUnderTest::AtPlaceOf, py::arg("key"))
      .def("erase", &IndexUnderTest::Erase, py::arg("key"))
      .def("insert_all", &IndexUnderTest::InsertAll, py::arg("keys"),
           "Adds absent keys; each payload is the lower half of its key.")
      .def("erase_all", &IndexUnderTest::EraseAll, py::arg("keys"))
      .def(
          "reserve_for", [](IndexUnderTest& i, size_t n) { i.index_.ReserveFor(n); }, py::arg("n"))
      .def("scan", &IndexUnderTest::Scan, py::arg("position"), py::arg("n_goal"))
      .def_static("position_of", &KeyIndex::PositionOf, py::arg("key"))
      .def_property_readonly("n_buckets",
                             [](const IndexUnderTest& i) { return Inspector::Buckets(i.index_); })
      .def_property_readonly("size_max",
                             [](const IndexUnderTest& i) { return Inspector::SizeMax(i.index_); })
      .def(
          "home_of",
          [](const IndexUnderTest& i, Key key) { return Inspector::HomeOf(i.index_, key); },
          py::arg("key"))
      .def("overflows", [](const IndexUnderTest& i) { return Inspector::Overflows(i.index_); });
}

}  // namespace fastps
