// Test-only: one shard, sparse or dense, with its sequence bookkeeping. Codes are numbers.
#include "store/shard.h"

#include <pybind11/stl.h>

#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "binding/testing/testing.h"
#include "data/xxh64.h"
#include "kernels/kernels.h"
#include "rules/initializer.h"
#include "store/page_pool.h"

namespace py = pybind11;

namespace fastps {
namespace {

using testing::ArrayOf;
using testing::FlagArray;
using testing::FloatArray;
using testing::KeyArray;
using testing::Require;
using testing::SpanOf;

int Number(Code code) { return static_cast<int>(code); }

Write::Kind KindOf(const std::string& name) {
  if (name == "push") return Write::Kind::kPush;
  if (name == "assign") return Write::Kind::kAssign;
  if (name == "set_lr") return Write::Kind::kSetLr;
  Require(name == "remove", "a write is a push, an assign, a remove or a set_lr, not " + name);
  return Write::Kind::kRemove;
}

std::string NameOf(Write::Kind kind) {
  switch (kind) {
    case Write::Kind::kPush:
      return "push";
    case Write::Kind::kAssign:
      return "assign";
    case Write::Kind::kRemove:
      return "remove";
    case Write::Kind::kSetLr:
      break;
  }
  return "set_lr";
}

std::string NameOf(EntryFate fate) {
  switch (fate) {
    case EntryFate::kApplied:
      return "applied";
    case EntryFate::kOld:
      return "old";
    case EntryFate::kGap:
      return "gap";
    case EntryFate::kMalformed:
      break;
  }
  return "malformed";
}

// In the order of apply_entry's arguments.
py::tuple TupleOf(const Entry& entry) {
  const py::object step = entry.step ? py::object(py::int_(entry.step->value)) : py::none();
  return py::make_tuple(entry.index.value, entry.session.value, entry.sequence.value,
                        NameOf(entry.kind), Number(entry.code), entry.detail, step,
                        ArrayOf(entry.selection), ArrayOf(entry.values));
}

// A shard with all that a server holds for it.
class ShardUnderTest {
 public:
  ShardUnderTest(const py::dict& table, uint32_t shard) : spec_(testing::SpecOfDict(table)) {
    testing::RequireOk(CheckInitializer(spec_.initializer));
    Status status;
    rule_ = MakeUpdateRule(spec_.rule, ActiveKernels(), &status);
    testing::RequireOk(status);
    std::unique_ptr<ShardData> data = spec_.kind == TableKind::kSparse
                                          ? MakeSparseShard(&spec_, rule_, &pool_)
                                          : MakeDenseShard(&spec_, ShardId(shard), rule_, &pool_);
    shard_ = spec_.rounds ? std::make_unique<Shard>(std::move(data), book_, spec_.rounds->first)
                          : std::make_unique<Shard>(std::move(data));
  }

  std::pair<int, uint64_t> Apply(const std::string& kind, const KeyArray& selection,
                                 const std::optional<FloatArray>& values, uint64_t session,
                                 uint64_t sequence, std::optional<uint64_t> step) {
    const WriteResult result = shard_->Apply({KindOf(kind),
                                              SessionId(session),
                                              Sequence(sequence),
                                              SpanOf(selection),
                                              values ? SpanOf(*values) : std::span<const float>(),
                                              {},
                                              step ? Step(Round(*step)) : Step()});
    return {Number(result.code), result.detail};
  }
  // (code, detail, index, whether it is an entry, the entry or None)
  py::tuple Take(const std::string& kind, const KeyArray& selection,
                 const std::optional<FloatArray>& values, uint64_t session, uint64_t sequence,
                 std::optional<uint64_t> step) {
    const Write write{KindOf(kind),
                      SessionId(session),
                      Sequence(sequence),
                      SpanOf(selection),
                      values ? SpanOf(*values) : std::span<const float>(),
                      {},
                      step ? Step(Round(*step)) : Step()};
    const WriteResult result = shard_->Apply(write);
    py::object entry = py::none();
    if (result.is_entry) entry = TupleOf(EntryOf(write, result));
    return py::make_tuple(Number(result.code), result.detail, result.index.value, result.is_entry,
                          entry);
  }
  // [(index, round, sessions by rank)]
  std::vector<std::tuple<uint64_t, uint64_t, std::vector<uint64_t>>> TakeFolds() {
    std::vector<std::tuple<uint64_t, uint64_t, std::vector<uint64_t>>> folds;
    for (const FoldEntry& fold : shard_->TakeFolds()) {
      auto& [index, round, sessions] = folds.emplace_back();
      index = fold.index.value;
      round = fold.round.value;
      for (const RoundMember& member : fold.members) sessions.push_back(member.session.value);
    }
    return folds;
  }
  std::string ApplyFold(uint64_t index, uint64_t round, const std::vector<uint64_t>& sessions) {
    return NameOf(shard_->ApplyFold({ApplyIndex(index), Round(round), MembersOf(sessions)}));
  }
  std::string ApplyEntry(uint64_t index, uint64_t session, uint64_t sequence,
                         const std::string& kind, int code, uint64_t detail,
                         std::optional<uint64_t> step, const KeyArray& selection,
                         const FloatArray& values) {
    const Entry entry{ApplyIndex(index),
                      SessionId(session),
                      Sequence(sequence),
                      KindOf(kind),
                      static_cast<Code>(code),
                      detail,
                      step ? Step(Round(*step)) : Step(),
                      SpanOf(selection),
                      SpanOf(values)};
    return NameOf(shard_->ApplyEntry(entry));
  }
  int Check(const KeyArray& selection) {
    size_t n_values = 0;
    return Number(shard_->CountValues(SpanOf(selection), {}, &n_values));
  }
  // None while the pull must wait for a round.
  std::optional<FloatArray> Pull(const KeyArray& selection, std::optional<uint64_t> step) {
    size_t n_values = 0;
    Require(shard_->CountValues(SpanOf(selection), {}, &n_values) == Code::kOk,
            "the selection does not fit");
    FloatArray values(static_cast<py::ssize_t>(n_values));
    const PullResult result = shard_->Pull(
        SpanOf(selection), {}, step ? Step(Round(*step)) : Step(), values.mutable_data());
    if (result.code == Code::kRetry) return std::nullopt;
    return values;
  }
  FlagArray Contains(const KeyArray& keys) {
    FlagArray flags(keys.size());
    shard_->Contains(SpanOf(keys), flags.mutable_data());
    return flags;
  }
  py::tuple Scan(uint64_t position, size_t n_goal) {
    ScanBatch batch;
    shard_->Scan(position, n_goal, &batch);
    return py::make_tuple(ArrayOf(std::span<const Key>(batch.keys)),
                          ArrayOf(std::span<const float>(batch.values)), batch.next_position,
                          batch.finished);
  }
  py::tuple Figures() {
    const Shard::Figures figures = shard_->figures();
    return py::make_tuple(figures.rows, figures.bytes, figures.apply_index.value);
  }
  // (rounds folded, late pushes)
  std::pair<uint64_t, uint64_t> Rounds() {
    const Shard::Figures figures = shard_->figures();
    return {figures.folded.value, figures.n_late};
  }
  // (rows or elements that folds left out, the last round with one, its first key or element)
  std::tuple<uint64_t, uint64_t, uint64_t> LeftOut() {
    const FoldsLeftOut left_out = shard_->figures().left_out;
    return {left_out.n, left_out.round, left_out.key};
  }
  // Closes a round for the sessions given, by rank. The shard notices at the next call.
  void CloseRound(uint64_t round, const std::vector<uint64_t>& sessions) {
    book_->Close(Round(round), MembersOf(sessions));
  }
  std::pair<uint64_t, py::bytes> Image() {
    ApplyIndex index;
    const std::vector<std::byte> image = shard_->Image(&index);
    return {index.value, py::bytes(reinterpret_cast<const char*>(image.data()), image.size())};
  }
  // (code, message)
  std::pair<int, std::string> LoadImage(const py::bytes& image) {
    const std::string_view bytes = image;
    const Status status = shard_->LoadImage(std::as_bytes(std::span(bytes)));
    return {Number(status.code()), status.message()};
  }
  // (code, is full, rows, index); ids of cuts are numbers, 0 is none.
  py::tuple BeginCut(uint64_t id, uint64_t parent, std::optional<uint64_t> rounds) {
    CutBegun begun;
    const Status status = shard_->BeginCut(
        CutId{{id, id}}, parent == 0 ? std::nullopt : std::optional(CutId{{parent, parent}}),
        rounds ? std::optional(Round(*rounds)) : std::nullopt, &begun);
    return py::make_tuple(Number(status.code()), begun.is_full, begun.n_rows, begun.index.value);
  }
  // (keys, rows, removed, block, arrays, finished), or None when the cut is not under way.
  py::object ReadCut(uint64_t id, size_t n_max) {
    CutSlice slice;
    if (!shard_->ReadCut(CutId{{id, id}}, n_max, &slice).ok()) return py::none();
    py::list arrays;
    for (const std::vector<float>& each : slice.arrays) {
      arrays.append(ArrayOf(std::span<const float>(each)));
    }
    return py::make_tuple(
        ArrayOf(std::span<const Key>(slice.keys)), ArrayOf(std::span<const float>(slice.rows)),
        ArrayOf(std::span<const Key>(slice.removed)),
        py::make_tuple(slice.block.begin, slice.block.end), arrays, slice.finished);
  }
  int LoadRows(const KeyArray& keys, const FloatArray& rows) {
    return Number(shard_->LoadRows(SpanOf(keys), SpanOf(rows)).code());
  }
  int LoadRemoved(const KeyArray& keys) { return Number(shard_->LoadRemoved(SpanOf(keys)).code()); }
  int LoadBlock(size_t array, uint64_t begin, const FloatArray& values) {
    return Number(shard_->LoadBlock(array, begin, SpanOf(values)).code());
  }
  int FinishLoad(const std::vector<float>& constants) {
    return Number(shard_->FinishLoad(constants).code());
  }
  uint64_t Digest(const std::optional<std::set<uint64_t>>& sessions) {
    return shard_->Digest(
        [&](SessionId session) { return !sessions || sessions->contains(session.value); });
  }
  void ForgetAllBut(const std::set<uint64_t>& sessions) {
    shard_->ForgetSessions([&](SessionId session) { return sessions.contains(session.value); });
  }

  Shard& shard() { return *shard_; }

 private:
  static std::vector<RoundMember> MembersOf(const std::vector<uint64_t>& sessions) {
    std::vector<RoundMember> members;
    for (const uint64_t session : sessions) {
      members.push_back({Rank(static_cast<uint32_t>(members.size())), SessionId(session)});
    }
    return members;
  }

  const TableSpec spec_;
  PagePool pool_;
  std::shared_ptr<const UpdateRule> rule_;
  const std::shared_ptr<RoundBook> book_ = std::make_shared<RoundBook>();
  std::unique_ptr<Shard> shard_;
};

// With the checksum behind it that makes it an image.
py::bytes Sealed(const py::bytes& content) {
  const std::string_view bytes = content;
  const uint64_t checksum = Xxh64(bytes, 0);
  return py::bytes(std::string(bytes) +
                   std::string(reinterpret_cast<const char*>(&checksum), sizeof(checksum)));
}

}  // namespace

void BindShard(py::module_& m) {
  m.def("sealed_image", &Sealed, py::arg("content"), "An image of these bytes and their checksum.");
  py::class_<ShardUnderTest>(m, "Shard")
      .def(py::init<const py::dict&, uint32_t>(), py::arg("table"), py::arg("shard"))
      .def("apply", &ShardUnderTest::Apply, py::arg("kind"), py::arg("selection"),
           py::arg("values"), py::arg("session") = 1, py::arg("sequence") = 0,
           py::arg("step") = py::none(), "(code, detail) of one write.")
      .def("take", &ShardUnderTest::Take, py::arg("kind"), py::arg("selection"), py::arg("values"),
           py::arg("session") = 1, py::arg("sequence") = 0, py::arg("step") = py::none(),
           "(code, detail, index, is entry, entry or None) of one write. An entry is the "
           "arguments of apply_entry.")
      .def("take_folds", &ShardUnderTest::TakeFolds,
           "The folds since the last call; each the arguments of apply_fold.")
      .def("apply_fold", &ShardUnderTest::ApplyFold, py::arg("index"), py::arg("round"),
           py::arg("sessions"), "What became of it.")
      .def(
          "set_leads",
          [](ShardUnderTest& s, bool leads, bool logs) { s.shard().SetLeads(leads, logs); },
          py::arg("leads"), py::arg("logs"))
      .def("apply_entry", &ShardUnderTest::ApplyEntry, py::arg("index"), py::arg("session"),
           py::arg("sequence"), py::arg("kind"), py::arg("code"), py::arg("detail"),
           py::arg("step"), py::arg("selection"), py::arg("values"), "What became of it.")
      .def("check", &ShardUnderTest::Check, py::arg("selection"))
      .def(
          "value_count",
          [](ShardUnderTest& s, const KeyArray& selection) {
            size_t n_values = 0;
            (void)s.shard().CountValues(SpanOf(selection), {}, &n_values);
            return n_values;
          },
          py::arg("selection"))
      .def_property_readonly("is_sparse", [](ShardUnderTest& s) { return s.shard().is_sparse(); })
      .def("pull", &ShardUnderTest::Pull, py::arg("selection"), py::arg("step") = py::none())
      .def("rounds", &ShardUnderTest::Rounds, "(rounds folded, late pushes)")
      .def("left_out", &ShardUnderTest::LeftOut)
      .def("close_round", &ShardUnderTest::CloseRound, py::arg("round"), py::arg("sessions"))
      .def("fold_closed", [](ShardUnderTest& s) { s.shard().FoldClosed(); })
      .def("contains", &ShardUnderTest::Contains, py::arg("keys"))
      .def("scan", &ShardUnderTest::Scan, py::arg("position"), py::arg("n_goal"),
           "(keys, values, next position, finished)")
      .def("figures", &ShardUnderTest::Figures, "(rows, bytes, apply index)")
      .def("image", &ShardUnderTest::Image, "(index, image)")
      .def("load_image", &ShardUnderTest::LoadImage, py::arg("image"), "(code, message)")
      .def("begin_cut", &ShardUnderTest::BeginCut, py::arg("id"), py::arg("parent") = 0,
           py::arg("rounds") = py::none(), "(code, is full, rows, index)")
      .def("read_cut", &ShardUnderTest::ReadCut, py::arg("id"), py::arg("n_max"),
           "(keys, rows, removed, block, arrays, finished) or None")
      .def(
          "drop_cut", [](ShardUnderTest& s, uint64_t id) { s.shard().DropCut(CutId{{id, id}}); },
          py::arg("id"))
      .def("load_rows", &ShardUnderTest::LoadRows, py::arg("keys"), py::arg("rows"))
      .def("load_removed", &ShardUnderTest::LoadRemoved, py::arg("keys"))
      .def("load_block", &ShardUnderTest::LoadBlock, py::arg("array"), py::arg("begin"),
           py::arg("values"))
      .def("finish_load", &ShardUnderTest::FinishLoad, py::arg("constants"))
      .def("digest", &ShardUnderTest::Digest, py::arg("sessions") = py::none())
      .def("forget_all_but", &ShardUnderTest::ForgetAllBut, py::arg("sessions"));
}

}  // namespace fastps
