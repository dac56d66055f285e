#include "fuzz/fuzz.h"

#include <algorithm>
#include <cstring>

namespace fastps::fuzz {
namespace {

constexpr size_t kFramesMax = 6;
constexpr uint8_t kMisaligned = 0x80;

// A u16 length and as many bytes, or all that are left.
Bytes TakeChunk(Bytes* rest) {
  uint16_t size = 0;
  std::memcpy(&size, rest->data(), std::min(rest->size(), sizeof(size)));
  *rest = rest->subspan(std::min(rest->size(), sizeof(size)));
  const Bytes chunk = rest->first(std::min<size_t>(size, rest->size()));
  *rest = rest->subspan(chunk.size());
  return chunk;
}

}  // namespace

ExactBytes::ExactBytes(Bytes bytes, bool misaligned)
    : block_(new std::byte[bytes.size() + misaligned]),
      bytes_(block_.get() + misaligned, bytes.size()) {
  if (!bytes.empty()) std::memcpy(block_.get() + misaligned, bytes.data(), bytes.size());
}

std::vector<ExactBytes> FramesOf(Bytes bytes, bool misaligned) {
  std::vector<ExactBytes> frames;
  while (!bytes.empty() && frames.size() < kFramesMax) {
    frames.emplace_back(TakeChunk(&bytes), misaligned);
  }
  return frames;
}

}  // namespace fastps::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace fastps;
  using namespace fastps::fuzz;
  const auto victim = MakeVictim();
  Bytes rest = std::as_bytes(std::span(data, size));
  while (!rest.empty()) {
    const uint8_t kind = static_cast<uint8_t>(rest[0]);
    const bool misaligned = (kind & kMisaligned) != 0;
    rest = rest.subspan(1);
    if (rest.empty()) break;
    const Bytes chunk = TakeChunk(&rest);
    const Step step = static_cast<Step>((kind & ~kMisaligned) % kSteps);
    std::vector<ExactBytes> exact;
    if (step == Step::kRequest || step == Step::kReply || step == Step::kChainFrames) {
      exact = FramesOf(chunk, misaligned);
    } else {
      exact.emplace_back(chunk, misaligned);
    }
    std::vector<Bytes> frames;
    for (const ExactBytes& frame : exact) frames.push_back(frame.bytes());
    switch (step) {
      case Step::kRequest:
        TakeRequest(*victim, frames);
        break;
      case Step::kReply:
        TakeReply(*victim, frames);
        break;
      case Step::kMap:
        TakeMap(*victim, frames[0]);
        break;
      case Step::kHeartbeat:
        TakeHeartbeat(frames[0]);
        break;
      case Step::kShaped:
        TakeShaped(*victim, frames[0], misaligned);
        break;
      case Step::kClocks:
        TakeClocks(*victim, frames[0]);
        break;
      case Step::kRounds:
        TakeRounds(*victim, frames[0]);
        break;
      case Step::kReport:
        TakeReport(frames[0]);
        break;
      case Step::kChainFrames:
        TakeChainFrames(*victim, frames);
        break;
      case Step::kChainStory:
        TakeChainStory(*victim, frames[0]);
        break;
    }
  }
  return 0;
}
