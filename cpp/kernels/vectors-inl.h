// Vectors of floats as the compiler's own types, which have + - * / and comparisons. Part of
// loops-inl.h; a target adds Sqrt for the sizes it uses.

template <size_t n>
struct VectorType {
  typedef float Type __attribute__((vector_size(n * sizeof(float))));
};
template <size_t n>
using Vector = typename VectorType<n>::Type;

template <class F>
constexpr size_t kLanesOf = sizeof(F) / sizeof(float);

template <class F>
inline F Load(const float* from) {
  F vector;
  __builtin_memcpy(&vector, from, sizeof(F));
  return vector;
}

template <class F>
inline void Store(float* to, F vector) {
  __builtin_memcpy(to, &vector, sizeof(F));
}

// The first n floats, and 0 in the other lanes. The first argument is there for its type.
// Requires: 1 <= n <= 3.
inline Vector<4> LoadPart(Vector<4>, const float* from, size_t n) {
  if (n == 1) return Vector<4>{from[0], 0, 0, 0};
  if (n == 2) return Vector<4>{from[0], from[1], 0, 0};
  return Vector<4>{from[0], from[1], from[2], 0};
}
inline void StorePart(float* to, Vector<4> vector, size_t n) {
  to[0] = vector[0];
  if (n > 1) to[1] = vector[1];
  if (n > 2) to[2] = vector[2];
}

// The floats at `offset` of as many rows as the vector has lanes.
template <class F>
inline F LoadColumn(const float* const* rows, size_t offset) {
  F vector;
  for (size_t i = 0; i < kLanesOf<F>; ++i) vector[i] = rows[i][offset];
  return vector;
}

template <class F>
inline void StoreColumn(float* const* rows, size_t offset, F vector) {
  for (size_t i = 0; i < kLanesOf<F>; ++i) rows[i][offset] = vector[i];
}

// The same number in all lanes: the language has no other word for it. Exact, -0 included.
template <class F>
inline F Broadcast(float number) {
  return number - F{};
}
template <>
inline float Broadcast<float>(float number) {
  return number;
}

inline float Sqrt(float x) { return __builtin_sqrtf(x); }

// Sign and size by their bits: fewer instructions than by comparison.
template <class F>
struct BitsType {
  typedef unsigned Type __attribute__((vector_size(sizeof(F))));
};
template <>
struct BitsType<float> {
  using Type = unsigned;
};
constexpr unsigned kSignBit = 0x80000000u;

template <class F>
inline F Abs(F x) {
  typename BitsType<F>::Type bits;
  __builtin_memcpy(&bits, &x, sizeof(F));
  bits = bits & ~kSignBit;
  __builtin_memcpy(&x, &bits, sizeof(F));
  return x;
}

// `size` with the sign of x. Requires: size >= 0.
template <class F>
inline F CopySign(F size, F x) {
  typename BitsType<F>::Type size_bits, bits;
  __builtin_memcpy(&size_bits, &size, sizeof(F));
  __builtin_memcpy(&bits, &x, sizeof(F));
  bits = size_bits | (bits & kSignBit);
  __builtin_memcpy(&x, &bits, sizeof(F));
  return x;
}
