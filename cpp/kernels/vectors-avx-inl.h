// What AVX and its successors add to vectors-inl.h.

inline Vector<4> Sqrt(Vector<4> x) { return _mm_sqrt_ps(x); }
inline Vector<8> Sqrt(Vector<8> x) { return _mm256_sqrt_ps(x); }

// Two halves. Requires: 5 <= n <= 7.
inline Vector<8> LoadPart(Vector<8>, const float* from, size_t n) {
  return _mm256_set_m128(LoadPart(Vector<4>{}, from + 4, n - 4), Load<Vector<4>>(from));
}
inline void StorePart(float* to, Vector<8> vector, size_t n) {
  Store<Vector<4>>(to, _mm256_castps256_ps128(vector));
  StorePart(to + 4, _mm256_extractf128_ps(vector, 1), n - 4);
}
