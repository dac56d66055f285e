// The image of a shard: its whole state at one index, as bytes, from which a replica is made. Shard
// writes and reads it (Shard::Image, Shard::LoadImage); here are its layout and the writer and the
// reader that its parts share. Values only.
//
// Little-endian, nothing aligned, lists in the order given, `*` repeats:
//
//   image    = header sessions pending rows checksum
//   header   = u32 version (2), u8 table kind, u8 rule kind, u8 n_slots, u8 n_row_slots,
//              u8 under BSP (0, 1), u64 row_width, f32 rule constant *8 (those in force: set_lr
//              changed the first), u64 index, u64 folded, u64 n_late, and what folds left
//              out: u64 n, u64 round, u64 key
//   sessions = u32 n, (u64 session, u64 last sequence, u32 n_answers, answer *)*, by session
//   answer   = u64 sequence, u8 code, u64 detail: those other than "ok, 0", by sequence
//   pending  = u32 n, (u64 round, u64 session, u32 n_pushes, push *)*, by (round, session)
//   push     = u64 n_selection, u64 n_values, u64 *n_selection, f32 *n_values, in call order
//   rows     = sparse: u64 n, (u64 key, f32 *row_floats)*, in any order; a row is
//                      [value | slot 0 | slot 1 | row slots]
//              dense:  u64 begin, u64 end of the block, then f32 of all values, all of slot 0, all
//                      of slot 1, all of row slot 0, all of row slot 1, as far as the rule has them
//   checksum = u64 XXH64, seed 0, of all before it
//
// Example: an empty sparse shard of rows of 2 floats with SGD(lr=0.5), not under BSP:
//   02000000 01 02 00 00 00  0200000000000000  0000003f 00000000 *7
//   0000000000000000 *6  00000000  00000000  0000000000000000  checksum
//
// Key sets are not part of it: a shard that forgot them asks for their keys.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include "base/bytes.h"

namespace fastps {

inline constexpr uint32_t kShardImageVersion = 2;

class ImageWriter {
 public:
  // Makes room for so many more bytes, so that a large part is not copied when others follow.
  void Reserve(size_t n_bytes) { bytes_.reserve(bytes_.size() + n_bytes); }

  // The next `n_bytes` bytes, for the caller to fill. Valid until the next call.
  std::byte* Extend(size_t n_bytes) {
    bytes_.resize(bytes_.size() + n_bytes);
    return bytes_.data() + bytes_.size() - n_bytes;
  }
  template <class T>
  void Put(T value) {
    static_assert(std::is_arithmetic_v<T>);
    std::memcpy(Extend(sizeof(T)), &value, sizeof(T));
  }
  template <class T>
  void PutAll(std::span<const T> values) {
    if (!values.empty())
      std::memcpy(Extend(values.size_bytes()), values.data(), values.size_bytes());
  }

  Bytes bytes() const { return bytes_; }
  std::vector<std::byte> Take() { return std::move(bytes_); }

 private:
  std::vector<std::byte> bytes_;
};

// Checks every step, and that there is room for a list before it is allocated.
class ImageReader {
 public:
  explicit ImageReader(Bytes bytes) : rest_(bytes) {}

  template <class T>
  [[nodiscard]] bool Get(T* value) {
    static_assert(std::is_arithmetic_v<T>);
    Bytes bytes;
    if (!Cut(1, sizeof(T), &bytes)) return false;
    std::memcpy(value, bytes.data(), sizeof(T));
    return true;
  }
  template <class T>
  [[nodiscard]] bool GetAll(uint64_t n, std::vector<T>* values) {
    Bytes bytes;
    if (!Cut(n, sizeof(T), &bytes)) return false;
    values->resize(n);
    if (n > 0) std::memcpy(values->data(), bytes.data(), bytes.size());
    return true;
  }
  // The next `n` things of `size` bytes each. Requires: size > 0.
  [[nodiscard]] bool Cut(uint64_t n, size_t size, Bytes* bytes) {
    if (n > rest_.size() / size) return false;
    *bytes = rest_.first(n * size);
    rest_ = rest_.subspan(n * size);
    return true;
  }
  size_t remaining() const { return rest_.size(); }

 private:
  Bytes rest_;
};

}  // namespace fastps
