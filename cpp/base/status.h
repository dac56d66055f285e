// Status: how a function below the binding says that something went wrong. Nothing there throws.
// The codes travel on the wire: their numbers never change.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

namespace fastps {

enum class Code : uint8_t {
  kOk = 0,
  // Not now; the same content is sent again under the same sequence number.
  kRetry = 1,      // the server does not know enough yet (a newer map, session or table exists)
  kMoved = 2,      // the shard is served elsewhere, in another view
  kGap = 3,        // an earlier sequence number has not arrived
  kNeedKeys = 5,   // the key set is not known here: the same content is sent again with its keys
  kDuplicate = 4,  // applied before; to the caller the same as kOk
  // Final.
  kMalformed = 16,      // the bytes are not a message of this protocol version
  kTableNotFound = 17,  // no table of that id
  kShapeMismatch = 18,  // counts do not fit the table's shape
  kValueRange = 19,     // NaN, Inf or a row out of range
  kSessionEnded = 20,   // the session was ended by the scheduler
  kServerLost = 21,     // every copy of the shard is lost
  kTimeout = 22,        // the caller's deadline passed; the outcome is unknown
  kClosed = 23,         // the client or server was closed
  kConfig = 24,         // a setting is wrong or something needed is not installed
  kWrongCluster = 25,   // another cluster, epoch or process life
  kUnavailable = 26,    // an operating system call failed
  kEpochChanged = 27,   // the job was restored: what was before is over
};

class [[nodiscard]] Status {
 public:
  Status() = default;  // ok
  Status(Code code, std::string message) : code_(code), message_(std::move(message)) {}

  bool ok() const { return code_ == Code::kOk; }
  Code code() const { return code_; }
  const std::string& message() const { return message_; }

 private:
  Code code_ = Code::kOk;
  std::string message_;
};

}  // namespace fastps
