// Reports: what a server tells the scheduler of its shards while their views change, beside its
// heartbeats. Each is one frame; the format stands in FORMAT.md. Decoding trusts nothing. Pure
// functions.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/types.h"

namespace fastps {

struct ShardProgress {
  // Wire values: they never change.
  enum class State : uint8_t {
    kMember = 1,   // of the chain
    kFilling = 2,  // the joiner; what it holds is not whole
    kFilled = 3,   // the joiner; it holds what the tail held at `index`, and follows
  };
  TableId table;
  ShardId shard;
  ViewNumber view;
  ApplyIndex index;
  Round folded;  // under BSP: rounds below are folded
  State state = State::kMember;
  friend bool operator==(const ShardProgress&, const ShardProgress&) = default;
};

struct Report {
  ClusterId cluster_id;
  ServerId server;
  BootId boot_id;
  MapVersion map_version;             // that every data thread works with
  std::vector<ServerId> silent;       // successors from which nothing comes, though something waits
  std::vector<ShardProgress> shards;  // those that are sealed or being filled
};

std::string EncodeReport(const Report& report);
// Nothing when the frame is of another kind or malformed.
std::optional<Report> DecodeReport(Bytes frame);

inline constexpr char kReportTag[] = "FPP1";

}  // namespace fastps
