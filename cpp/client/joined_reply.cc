#include "client/joined_reply.h"

namespace fastps {
namespace {

template <class T>
void Append(std::vector<T>* all, const std::vector<T>& some) {
  all->insert(all->end(), some.begin(), some.end());
}

}  // namespace

JoinedReply::JoinedReply(Op op, std::span<const PartHeader> parts)
    : op_(op), n_open_(parts.size()) {
  for (const PartHeader& part : parts) parts_.push_back({part.n_keys, {}, {}, {}, {}});
}

void JoinedReply::Take(std::span<const uint32_t> places, const Reply& reply) {
  const Code code = reply.code == Code::kOk ? TakeParts(places, reply) : reply.code;
  if (code_ == Code::kOk) code_ = code;
  n_open_ -= places.size();
}

Code JoinedReply::TakeParts(std::span<const uint32_t> places, const Reply& reply) {
  if (reply.parts.size() != places.size()) return Code::kMalformed;
  size_t n_flags_wanted = 0;
  if (op_ == Op::kContains) {
    for (const uint32_t place : places) n_flags_wanted += parts_[place].n_keys_asked;
    if (reply.flags.size() != n_flags_wanted) return Code::kMalformed;
  }
  size_t keys_begin = 0, values_begin = 0, flags_begin = 0;
  for (size_t i = 0; i < places.size(); ++i) {
    Part& part = parts_[places[i]];
    part.result = reply.parts[i];
    const auto keys = reply.keys.subspan(keys_begin, part.result.n_keys);
    const auto values = reply.values.subspan(values_begin, part.result.n_values);
    part.keys.assign(keys.begin(), keys.end());
    part.values.assign(values.begin(), values.end());
    keys_begin += keys.size();
    values_begin += values.size();
    if (n_flags_wanted == 0) continue;
    const auto flags = reply.flags.subspan(flags_begin, part.n_keys_asked);
    part.flags.assign(flags.begin(), flags.end());
    flags_begin += flags.size();
  }
  return Code::kOk;
}

void JoinedReply::Fail(std::span<const uint32_t> places, const Status& status) {
  if (failure_.ok()) failure_ = status;
  n_open_ -= places.size();
}

Reply JoinedReply::reply() {
  results_.clear();
  keys_.clear();
  values_.clear();
  flags_.clear();
  Reply whole;
  whole.code = code_;
  if (code_ != Code::kOk) return whole;
  for (const Part& part : parts_) {
    results_.push_back(part.result);
    Append(&keys_, part.keys);
    Append(&values_, part.values);
    Append(&flags_, part.flags);
  }
  whole.parts = results_;
  whole.keys = keys_;
  whole.values = values_;
  whole.flags = flags_;
  return whole;
}

}  // namespace fastps
