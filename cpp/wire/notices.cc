#include "wire/notices.h"

#include <algorithm>
#include <cstring>

#include "wire/map_codec.h"

namespace fastps {
namespace {

// What one entry takes at least, so that a count can be checked before anything is reserved.
constexpr size_t kMemberBytes = sizeof(uint32_t) + sizeof(uint64_t);
constexpr size_t kRoundBytesMin = sizeof(uint32_t) + sizeof(uint64_t) + sizeof(uint32_t);

bool GetRound(ByteReader* reader, ClosedRound* round) {
  uint32_t n_members = 0;
  if (!reader->Get(&round->group.value) || !reader->Get(&round->round.value) ||
      !reader->Get(&n_members) || size_t{n_members} * kMemberBytes > reader->remaining()) {
    return false;
  }
  round->members.resize(n_members);
  for (RoundMember& member : round->members) {
    if (!reader->Get(&member.rank.value) || !reader->Get(&member.session.value)) return false;
  }
  return std::ranges::is_sorted(round->members, {}, &RoundMember::rank);
}

}  // namespace

std::string EncodeClockNotice(const ClockNotice& notice) {
  ByteWriter writer;
  PutTag(&writer, kClockNoticeTag);
  writer.Put(notice.cluster_id.value);
  writer.Put(notice.session.value);
  writer.Put(notice.number);
  writer.Put(notice.clock);
  writer.Put(notice.minimum);
  writer.Put(notice.rounds);
  writer.Put(notice.backup);
  writer.Put(notice.map_version.value);
  return writer.Take();
}

std::optional<ClockNotice> DecodeClockNotice(Bytes frame) {
  if (!HasTag(frame, kClockNoticeTag)) return std::nullopt;
  ByteReader reader(frame.subspan(kFrameTagBytes));
  ClockNotice notice;
  if (!reader.Get(&notice.cluster_id.value) || !reader.Get(&notice.session.value) ||
      !reader.Get(&notice.number) || !reader.Get(&notice.clock) || !reader.Get(&notice.minimum) ||
      !reader.Get(&notice.rounds) || !reader.Get(&notice.backup) ||
      !reader.Get(&notice.map_version.value) || reader.remaining() != 0) {
    return std::nullopt;
  }
  return notice;
}

std::string EncodeRoundsNotice(const RoundsNotice& notice) {
  ByteWriter writer;
  PutTag(&writer, kRoundsNoticeTag);
  writer.Put(notice.cluster_id.value);
  writer.Put(notice.map_version.value);
  writer.Put(notice.first_number);
  writer.Put(notice.forgotten);
  writer.Put(static_cast<uint32_t>(notice.rounds.size()));
  for (const ClosedRound& round : notice.rounds) {
    writer.Put(round.group.value);
    writer.Put(round.round.value);
    writer.Put(static_cast<uint32_t>(round.members.size()));
    for (const RoundMember& member : round.members) {
      writer.Put(member.rank.value);
      writer.Put(member.session.value);
    }
  }
  return writer.Take();
}

std::optional<RoundsNotice> DecodeRoundsNotice(Bytes frame) {
  if (!HasTag(frame, kRoundsNoticeTag)) return std::nullopt;
  ByteReader reader(frame.subspan(kFrameTagBytes));
  RoundsNotice notice;
  uint32_t n_rounds = 0;
  if (!reader.Get(&notice.cluster_id.value) || !reader.Get(&notice.map_version.value) ||
      !reader.Get(&notice.first_number) || !reader.Get(&notice.forgotten) ||
      !reader.Get(&n_rounds) || notice.first_number == 0 ||
      size_t{n_rounds} * kRoundBytesMin > reader.remaining()) {
    return std::nullopt;
  }
  notice.rounds.resize(n_rounds);
  for (ClosedRound& round : notice.rounds) {
    if (!GetRound(&reader, &round)) return std::nullopt;
  }
  if (reader.remaining() != 0) return std::nullopt;
  return notice;
}

}  // namespace fastps
