// Notices: what the scheduler tells workers and servers, beside maps, while steps end. Each is one
// frame; the formats stand in FORMAT.md. Notices are numbered, and a receiver says in its
// heartbeats which it heard last, so that a lost one is sent again. Decoding trusts nothing. Pure
// functions.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/types.h"

namespace fastps {

// To one worker: where it and its group stand.
struct ClockNotice {
  ClusterId cluster_id;
  SessionId session;       // whom it is for
  uint64_t number = 0;     // within the group, rising
  uint64_t clock = 0;      // of the session, as the scheduler holds it
  uint64_t minimum = 0;    // steps that every worker which counts has ended
  uint64_t rounds = 0;     // rounds below are closed
  uint64_t backup = 0;     // how many slow workers a round is closed without
  MapVersion map_version;  // which the receiver must have before it acts on this
};

struct RoundMember {
  Rank rank;
  SessionId session;
  friend bool operator==(const RoundMember&, const RoundMember&) = default;
};

// A round is closed: the pushes of these sessions are in it, and no others.
struct ClosedRound {
  GroupId group;
  Round round;
  std::vector<RoundMember> members;  // by rank
};

// To servers: closed rounds in the order they were closed, over all groups.
struct RoundsNotice {
  ClusterId cluster_id;
  MapVersion map_version;     // which the receiver must have before it acts on this
  uint64_t first_number = 1;  // of the first round here in the list of all
  uint64_t forgotten = 0;     // up to this number, every server that may need them has the rounds
  std::vector<ClosedRound> rounds;
};

std::string EncodeClockNotice(const ClockNotice& notice);
std::string EncodeRoundsNotice(const RoundsNotice& notice);

// Nothing when the frame is of another kind or malformed.
std::optional<ClockNotice> DecodeClockNotice(Bytes frame);
std::optional<RoundsNotice> DecodeRoundsNotice(Bytes frame);

inline constexpr char kClockNoticeTag[] = "FPC1";
inline constexpr char kRoundsNoticeTag[] = "FPR1";

}  // namespace fastps
