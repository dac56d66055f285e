// Operations that write, as messages and as shards name them.
#pragma once

#include "store/write.h"
#include "wire/message.h"

namespace fastps {

// Requires: IsWrite(op).
constexpr Write::Kind KindOf(Op op) {
  switch (op) {
    case Op::kPush:
      return Write::Kind::kPush;
    case Op::kAssign:
      return Write::Kind::kAssign;
    case Op::kSetLr:
      return Write::Kind::kSetLr;
    default:
      return Write::Kind::kRemove;
  }
}

constexpr Op OpOf(Write::Kind kind) {
  switch (kind) {
    case Write::Kind::kPush:
      return Op::kPush;
    case Write::Kind::kAssign:
      return Op::kAssign;
    case Write::Kind::kSetLr:
      return Op::kSetLr;
    case Write::Kind::kRemove:
      break;
  }
  return Op::kRemove;
}

}  // namespace fastps
