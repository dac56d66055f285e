#include "store/shard_image.h"

#include <algorithm>
#include <string>
#include <string_view>

#include "data/xxh64.h"
#include "rules/update_rule.h"
#include "store/shard.h"

namespace fastps {
namespace {

uint64_t ChecksumOf(Bytes bytes) {
  return Xxh64({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, 0);
}

Status Refusal(std::string_view why) {
  return {Code::kMalformed, "the image of a shard is refused: " + std::string(why)};
}

struct Header {
  uint8_t table_kind = 0;
  uint8_t rule_kind = 0;
  uint8_t n_slots = 0;
  uint8_t n_row_slots = 0;
  uint8_t is_bsp = 0;
  uint64_t row_width = 0;

  static Header Of(const ShardData& data, bool is_bsp) {
    return {static_cast<uint8_t>(data.spec().kind),
            static_cast<uint8_t>(data.spec().rule.kind),
            static_cast<uint8_t>(data.rule().n_slots()),
            static_cast<uint8_t>(data.rule().n_row_slots()),
            is_bsp,
            data.spec().row_width};
  }
  void Write(ImageWriter* image) const {
    for (const uint8_t field : {table_kind, rule_kind, n_slots, n_row_slots, is_bsp}) {
      image->Put(field);
    }
    image->Put(row_width);
  }
  [[nodiscard]] bool Read(ImageReader* image) {
    for (uint8_t* field : {&table_kind, &rule_kind, &n_slots, &n_row_slots, &is_bsp}) {
      if (!image->Get(field)) return false;
    }
    return image->Get(&row_width);
  }
  friend bool operator==(const Header&, const Header&) = default;
};

}  // namespace

std::vector<std::byte> Shard::Image(ApplyIndex* index) {
  MutexLock lock(mutex_);
  ImageWriter image;
  image.Put(kShardImageVersion);
  Header::Of(*data_, is_bsp()).Write(&image);
  image.PutAll(std::span<const float>(data_->rule_spec().constants));
  image.Put(apply_index_.value);
  image.Put(pending_.folded().value);
  image.Put(n_late_);
  image.Put(left_out_.n);
  image.Put(left_out_.round);
  image.Put(left_out_.key);
  WriteSessions([](SessionId) { return true; }, &image);
  pending_.Write(&image);
  data_->WriteRows(&image);
  image.Put(ChecksumOf(image.bytes()));
  *index = apply_index_;
  return image.Take();
}

Status Shard::LoadImage(Bytes bytes) {
  ImageReader image(bytes);
  Bytes content;
  uint64_t checksum = 0;
  if (bytes.size() < sizeof(checksum) || !image.Cut(bytes.size() - sizeof(checksum), 1, &content) ||
      !image.Get(&checksum)) {
    return Refusal("it has no checksum");
  }
  if (checksum != ChecksumOf(content)) return Refusal("its checksum does not match its bytes");
  image = ImageReader(content);
  uint32_t version = 0;
  if (!image.Get(&version)) return Refusal("it ends early");
  if (version != kShardImageVersion) {
    return Refusal("its layout has version " + std::to_string(version) + ", this program knows " +
                   std::to_string(kShardImageVersion) + ": run the same version everywhere");
  }
  MutexLock lock(mutex_);
  if (apply_index_ != ApplyIndex(0)) {
    return {Code::kConfig, "a shard that has entries takes no image: make a new shard for it"};
  }
  Header header;
  RuleSpec rule = data_->rule_spec();
  ApplyIndex index;
  Round folded;
  uint64_t n_late = 0;
  if (!header.Read(&image)) return Refusal("it ends early");
  for (float& constant : rule.constants) {
    if (!image.Get(&constant)) return Refusal("it ends early");
  }
  if (!image.Get(&index.value) || !image.Get(&folded.value) || !image.Get(&n_late)) {
    return Refusal("it ends early");
  }
  FoldsLeftOut left_out;
  if (!image.Get(&left_out.n) || !image.Get(&left_out.round) || !image.Get(&left_out.key)) {
    return Refusal("it ends early");
  }
  if (header != Header::Of(*data_, is_bsp())) {
    return Refusal("it is of a table of another kind, row width, rule or consistency");
  }
  if (!data_->CanHave(rule)) {
    return Refusal("its rule has other constants than the table's, or illegal ones");
  }
  Sessions sessions;
  if (!ReadSessions(&image, &sessions)) return Refusal("its sessions are not possible");
  PendingRounds pending(folded);
  if (!pending.Read(&image, *data_) || (!is_bsp() && !pending.empty())) {
    return Refusal("its open rounds are not possible");
  }
  ForgetCuts();
  if (!data_->ReadRows(&image)) return Refusal("its rows do not fit the shard");

  TakeRate(rule);
  apply_index_ = index;
  n_late_ = n_late;
  left_out_ = left_out;
  sessions_ = std::move(sessions);
  pending_ = std::move(pending);
  return {};
}

uint64_t Shard::Digest(const std::function<bool(SessionId)>& is_live) {
  MutexLock lock(mutex_);
  ImageWriter state;
  state.Put(data_->Digest());
  state.Put(data_->n_rows());
  state.PutAll(std::span<const float>(data_->rule_spec().constants));
  WriteSessions(is_live, &state);
  pending_.Write(&state);
  return ChecksumOf(state.bytes());
}

void Shard::WriteSessions(const std::function<bool(SessionId)>& is_live, ImageWriter* image) {
  std::vector<SessionId> live;
  for (const auto& [session, record] : sessions_) {
    if (is_live(session)) live.push_back(session);
  }
  std::ranges::sort(live);
  image->Put(static_cast<uint32_t>(live.size()));
  for (const SessionId session : live) {
    const SessionRecord& record = sessions_.at(session);
    image->Put(session.value);
    image->Put(record.last.value);
    image->Put(static_cast<uint32_t>(record.unusual.size()));
    for (const auto& [sequence, answer] : record.unusual) {
      image->Put(sequence);
      image->Put(static_cast<uint8_t>(answer.code));
      image->Put(answer.detail);
    }
  }
}

bool Shard::ReadSessions(ImageReader* image, Sessions* sessions) {
  uint32_t n = 0;
  if (!image->Get(&n)) return false;
  SessionId previous;
  for (uint32_t i = 0; i < n; ++i) {
    SessionId session;
    SessionRecord record;
    if (!image->Get(&session.value) || (i > 0 && session <= previous)) return false;
    previous = session;
    if (!ReadSession(image, &record)) return false;
    sessions->emplace(session, std::move(record));
  }
  return true;
}

bool Shard::ReadSession(ImageReader* image, SessionRecord* record) {
  uint32_t n_answers = 0;
  if (!image->Get(&record->last.value) || !image->Get(&n_answers)) return false;
  if (record->last == Sequence(0)) return false;
  uint64_t previous = 0;
  for (uint32_t i = 0; i < n_answers; ++i) {
    uint64_t sequence = 0, detail = 0;
    uint8_t code = 0;
    if (!image->Get(&sequence) || !image->Get(&code) || !image->Get(&detail)) return false;
    const Answer answer{static_cast<Code>(code), detail};
    const bool is_usual = answer.code == Code::kOk && detail == 0;
    if (sequence <= previous || sequence > record->last.value || is_usual ||
        !IsFinal(answer.code) || record->last.value - sequence >= SessionRecord::kDetailsKept) {
      return false;
    }
    record->unusual.emplace_hint(record->unusual.end(), sequence, answer);
    previous = sequence;
  }
  return true;
}

}  // namespace fastps
