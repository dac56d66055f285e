// The wire decoder and what lies behind it, fed with bytes from strangers. Every input is a story
// of its own: it starts from a new server, so that each finding can be replayed.
//
// An input is a sequence of steps: one byte says which kind, a u16 how many bytes follow for it (as
// many as there are, if there are fewer). Bit 7 of the kind moves frames one byte away from their
// alignment. Corpus seeds come from tests/golden.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/bytes.h"

namespace fastps::fuzz {

enum class Step : uint8_t {
  kRequest = 0,      // frames, each a u16 length and its bytes: decoded, then handled by a server
  kReply = 1,        // the same: decoded, then taken by a call of every operation
  kMap = 2,          // decoded, encoded again, planned with, installed when it is small
  kHeartbeat = 3,    // decoded, encoded again
  kShaped = 4,       // the fields of a request whose counts agree, so that it reaches a shard
  kClocks = 5,       // a clock notice: decoded, encoded again, given to a client with closed gates
  kRounds = 6,       // a rounds notice: decoded, encoded again, given to a server
  kReport = 7,       // decoded, encoded again
  kChainFrames = 8,  // frames of a message between servers: decoded, given to one of them
  kChainStory = 9,   // requests, messages, views and time for two servers with chains
};
inline constexpr uint8_t kSteps = 10;

// A copy of exactly the size of the bytes, so that a sanitizer sees each step outside.
class ExactBytes {
 public:
  ExactBytes(Bytes bytes, bool misaligned);
  Bytes bytes() const { return bytes_; }

 private:
  std::unique_ptr<std::byte[]> block_;
  Bytes bytes_;
};

// The frames of a kRequest, kReply or kChainFrames step.
std::vector<ExactBytes> FramesOf(Bytes bytes, bool misaligned);

class Victim;  // servers and a client to be attacked: victim.h
std::unique_ptr<Victim, void (*)(Victim*)> MakeVictim();
void TakeRequest(Victim& victim, std::span<const Bytes> frames);
void TakeShaped(Victim& victim, Bytes fields, bool misaligned);
void TakeReply(Victim& victim, std::span<const Bytes> frames);
void TakeMap(Victim& victim, Bytes bytes);
void TakeHeartbeat(Bytes bytes);
void TakeClocks(Victim& victim, Bytes bytes);
void TakeRounds(Victim& victim, Bytes bytes);
void TakeReport(Bytes bytes);
void TakeChainFrames(Victim& victim, std::span<const Bytes> frames);
void TakeChainStory(Victim& victim, Bytes bytes);

}  // namespace fastps::fuzz
