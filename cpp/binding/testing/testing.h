// What the files of the test-only module share. Each Bind function adds one unit of the core, with
// numbers for its ids and dicts for its structs. Throws ValueError where the core returns a Status.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "base/status.h"
#include "base/types.h"
#include "routing/cluster_map.h"

namespace fastps {

void BindBatch(pybind11::module_& m);
void BindCall(pybind11::module_& m);
void BindChain(pybind11::module_& m);
void BindChainMessages(pybind11::module_& m);
void BindCodec(pybind11::module_& m);
void BindInFlight(pybind11::module_& m);
void BindKernels(pybind11::module_& m);
void BindMapCodec(pybind11::module_& m);
void BindRouting(pybind11::module_& m);
void BindShard(pybind11::module_& m);
void BindStore(pybind11::module_& m);
void BindTraffic(pybind11::module_& m);

}  // namespace fastps

namespace fastps::testing {

using KeyArray = pybind11::array_t<uint64_t, pybind11::array::c_style>;
using FloatArray = pybind11::array_t<float, pybind11::array::c_style>;
using FlagArray = pybind11::array_t<uint8_t, pybind11::array::c_style>;

inline void Require(bool condition, const std::string& message) {
  if (!condition) throw std::invalid_argument(message);
}
inline void RequireOk(const Status& status) { Require(status.ok(), status.message()); }

template <class T>
std::span<const T> SpanOf(const pybind11::array_t<T, pybind11::array::c_style>& array) {
  return {array.data(), static_cast<size_t>(array.size())};
}

template <class T>
pybind11::array_t<T, pybind11::array::c_style> ArrayOf(std::span<const T> values) {
  using Array = pybind11::array_t<T, pybind11::array::c_style>;
  return Array(static_cast<pybind11::ssize_t>(values.size()), values.data());
}

BootId BootIdOf(const pybind11::bytes& bytes);
pybind11::bytes BytesOf(BootId boot_id);

// A table as a dict: id, name, kind ("sparse", "dense"), row_width, n_rows, num_shards,
// rule (kind, constants) and initializer (kind, seed, a, b).
TableSpec SpecOfDict(const pybind11::dict& table);
pybind11::dict DictOfSpec(const TableSpec& spec);

// A map as a dict: cluster_id, epoch, incarnation, version, highest_session, sessions, servers as
// (id, boot_id, lost, endpoints, chain_endpoints) and tables as dicts of a spec with views as
// (number, chain, sealed, read_only, joiner). Nothing is sorted and nothing checked.
ClusterMap MapOfDict(const pybind11::dict& map);
pybind11::dict DictOfMap(const ClusterMap& map);

}  // namespace fastps::testing
