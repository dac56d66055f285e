// Shapes: requests whose counts agree, built from the bytes of a step, so that they reach a shard.
#pragma once

#include <vector>

#include "base/bytes.h"
#include "fuzz/fuzz.h"
#include "routing/cluster_map.h"
#include "wire/message.h"

namespace fastps::fuzz {

// Reads fields off bytes; zeros when these are used up.
class Fields {
 public:
  explicit Fields(Bytes bytes) : reader_(bytes) {}
  template <class T>
  T Get() {
    T value{};
    (void)reader_.Get(&value);
    return value;
  }
  // One of the numbers below `n`.
  uint32_t Below(uint32_t n) { return Get<uint8_t>() % n; }
  bool empty() const { return reader_.remaining() == 0; }

 private:
  ByteReader reader_;
};

// A request with what it views.
struct Shaped {
  Request request;
  std::vector<PartHeader> parts;
  std::vector<Key> keys;
  std::vector<float> values;

  // The request over the lists as they are now.
  const Request& View();
  // Its frames, each in memory of its own. Requires: View was called.
  std::vector<ExactBytes> Frames(bool misaligned) const;
};

// For a table of `map`, whose ids are 1, 2, 3 and so on, in the views of that map.
Shaped ShapeRequest(Fields& fields, const ClusterMap& map);

}  // namespace fastps::fuzz
