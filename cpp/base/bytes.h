// ByteWriter and ByteReader: little-endian fields to and from bytes. The reader checks every step
// and never allocates: bytes from outside are read with it.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace fastps {

static_assert(std::endian::native == std::endian::little, "formats are little-endian");

using Bytes = std::span<const std::byte>;

// Bytes as values: where they lie when that is aligned, else in a copy that `copy` holds.
template <class T>
std::span<const T> AlignedView(Bytes bytes, std::vector<T>* copy) {
  if (reinterpret_cast<uintptr_t>(bytes.data()) % alignof(T) == 0) {
    return {reinterpret_cast<const T*>(bytes.data()), bytes.size() / sizeof(T)};
  }
  copy->resize(bytes.size() / sizeof(T));
  std::memcpy(copy->data(), bytes.data(), bytes.size());
  return *copy;
}

class ByteWriter {
 public:
  template <class T>
  void Put(T value) {
    static_assert(std::is_arithmetic_v<T>);
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof(value));
  }
  // A u16 length, then the bytes.
  void PutString(std::string_view text) {
    Put(static_cast<uint16_t>(text.size()));
    bytes_.append(text);
  }
  std::string Take() { return std::move(bytes_); }

 private:
  std::string bytes_;
};

class ByteReader {
 public:
  explicit ByteReader(Bytes bytes) : rest_(bytes) {}

  // False, leaving `value` alone, when the bytes are used up.
  template <class T>
  [[nodiscard]] bool Get(T* value) {
    static_assert(std::is_arithmetic_v<T>);
    if (rest_.size() < sizeof(T)) return false;
    std::memcpy(value, rest_.data(), sizeof(T));
    rest_ = rest_.subspan(sizeof(T));
    return true;
  }
  [[nodiscard]] bool GetString(std::string* text, size_t bytes_max) {
    uint16_t size = 0;
    if (!Get(&size) || size > bytes_max || rest_.size() < size) return false;
    text->assign(reinterpret_cast<const char*>(rest_.data()), size);
    rest_ = rest_.subspan(size);
    return true;
  }
  size_t remaining() const { return rest_.size(); }

 private:
  Bytes rest_;
};

}  // namespace fastps
