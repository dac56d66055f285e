// How Python writes what cluster maps and reports hold, in the module and in the tests' one.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "routing/cluster_map.h"
#include "wire/reports.h"

namespace fastps {

// (id, boot_id, lost, endpoints, chain_endpoints)
using ServerTuple =
    std::tuple<uint32_t, pybind11::bytes, bool, std::vector<std::string>, std::vector<std::string>>;
// (number, chain, sealed, read_only, joiner)
using ViewTuple = std::tuple<uint32_t, std::vector<uint32_t>, bool, bool, std::optional<uint32_t>>;
// (table, shard, view, index, folded, state)
using ProgressTuple = std::tuple<uint32_t, uint32_t, uint32_t, uint64_t, uint64_t, int>;

// Nothing when the chain is empty or too long.
inline std::optional<ShardView> ViewOfTuple(const ViewTuple& tuple) {
  const auto& [number, chain, sealed, read_only, joiner] = tuple;
  ShardView view;
  if (chain.empty() || chain.size() > view.members.size()) return std::nullopt;
  view.number = ViewNumber(number);
  for (const uint32_t member : chain) view.members[view.n_members++] = ServerId(member);
  view.sealed = sealed;
  view.read_only = read_only;
  if (joiner) view.joiner = ServerId(*joiner);
  return view;
}

inline ProgressTuple TupleOfProgress(const ShardProgress& shard) {
  return {shard.table.value, shard.shard.value,  shard.view.value,
          shard.index.value, shard.folded.value, static_cast<int>(shard.state)};
}

}  // namespace fastps
