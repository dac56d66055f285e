// ClusterMap and Heartbeat to bytes and back; the formats stand in FORMAT.md. Decoding trusts
// nothing. Pure functions.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "base/bytes.h"
#include "base/status.h"
#include "routing/cluster_map.h"

namespace fastps {

std::string EncodeClusterMap(const ClusterMap& map);
Status DecodeClusterMap(Bytes bytes, ClusterMap* map);

enum class Role : uint8_t { kServer = 1, kWorker = 2 };

// "I am alive", from a server or a worker to the scheduler.
struct Heartbeat {
  Role role = Role::kServer;
  uint64_t id = 0;  // a ServerId or a SessionId
  BootId boot_id;
  ClusterId cluster_id;
  Incarnation incarnation;    // of the scheduler, as far as the sender knows
  MapVersion map_version;     // the map the sender works with
  uint64_t rows = 0;          // servers: rows held
  uint64_t requests = 0;      // requests handled or sent so far: progress
  uint64_t clock = 0;         // workers: steps ended
  uint64_t busy_us = 0;       // workers: microseconds of work in these steps, waits left out
  uint64_t heard = 0;         // number of the newest notice taken in (see notices.h)
  uint64_t told_minimum = 0;  // workers: the highest minimum, and number of closed rounds, that it
  uint64_t told_rounds = 0;   // was told: a scheduler that was started again must not say less
};

std::string EncodeHeartbeat(const Heartbeat& heartbeat);
std::optional<Heartbeat> DecodeHeartbeat(Bytes frame);

// A map on its way from the scheduler is one frame: these four bytes, then the map.
inline constexpr char kMapFrameTag[] = "FPM1";
inline constexpr char kHeartbeatFrameTag[] = "FPH1";
inline constexpr size_t kFrameTagBytes = 4;

void PutTag(ByteWriter* writer, const char* tag);
bool HasTag(Bytes frame, const char* tag);

// The map bytes of a tagged frame; nothing when the tag is another.
std::optional<Bytes> MapOfFrame(Bytes frame);

}  // namespace fastps
