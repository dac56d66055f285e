// Requests and replies to frames and back. Encoding cannot fail; decoding trusts nothing: every
// count is checked against the bytes that came before it is used, and nothing is allocated from a
// count. Free functions and one scratch class; no locks: one thread per object.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/status.h"
#include "wire/message.h"

namespace fastps {

inline constexpr uint32_t kFramesMax = 4;

// The first frame: header and part list. The keys, values and flags follow as frames of their own,
// each only if it is not empty.
void EncodeRequestHead(const Request& request, std::vector<std::byte>* head);
void EncodeReplyHead(const OwnedReply& reply, std::vector<std::byte>* head);

// Decodes one message. The spans of what it returns point into the frames where these are aligned,
// else into copies that the decoder holds; they are valid until its next call.
class Decoder {
 public:
  // The op and every count of `request` are consistent; table, shards and shapes are not looked at.
  Status DecodeRequest(std::span<const Bytes> frames, Request* request);
  Status DecodeReply(std::span<const Bytes> frames, Reply* reply);

 private:
  std::vector<PartHeader> part_headers_;
  std::vector<PartResult> part_results_;
  std::vector<uint64_t> keys_;
  std::vector<float> values_;
};

}  // namespace fastps
