// JoinedReply: the replies to the pieces of one message, put together into the reply that the
// message would have had in one. Pure. Guarded by the client's mutex.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/status.h"
#include "wire/message.h"

namespace fastps {

class JoinedReply {
 public:
  // `parts` are those of the whole message.
  JoinedReply(Op op, std::span<const PartHeader> parts);

  // Takes the reply to a piece; its parts stand at `places` of the message.
  void Take(std::span<const uint32_t> places, const Reply& reply);
  // Ends a piece without a reply.
  void Fail(std::span<const uint32_t> places, const Status& status);

  bool complete() const { return n_open_ == 0; }
  // Not Ok when a piece ended without a reply. Meaningful once complete.
  const Status& failure() const { return failure_; }
  // Valid while this object lives. Requires: complete.
  Reply reply();

 private:
  struct Part {
    uint32_t n_keys_asked;
    PartResult result;
    std::vector<uint64_t> keys;
    std::vector<float> values;
    std::vector<uint8_t> flags;
  };

  Code TakeParts(std::span<const uint32_t> places, const Reply& reply);

  const Op op_;
  size_t n_open_;  // parts
  std::vector<Part> parts_;
  Code code_ = Code::kOk;  // the first refusal of a piece as a whole
  Status failure_;
  std::vector<PartResult> results_;  // from here on: what reply() shows
  std::vector<uint64_t> keys_;
  std::vector<float> values_;
  std::vector<uint8_t> flags_;
};

}  // namespace fastps
