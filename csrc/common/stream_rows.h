// Writing rows of a result past the caches. Included by a kernel file, so once for each instruction set; streaming.h says from when
// on.

// Copies past the caches: what will not fit into them anyway is written without being read first, which halves the traffic.
template <class T>
inline void stream_copy(T* to, const T* from, int64_t count) {
#if MIXFAST_AVX2
  constexpr int64_t STEP = MIXFAST_VECTOR_BYTES;
  char* target = reinterpret_cast<char*>(to);
  const char* source = reinterpret_cast<const char*>(from);
  const int64_t bytes = count * int64_t(sizeof(T)), unaligned = -reinterpret_cast<uintptr_t>(target) & (STEP - 1);
  int64_t i = unaligned < bytes ? unaligned : bytes;
  std::memcpy(target, source, i);
  for (; i + STEP <= bytes; i += STEP) {
#if MIXFAST_AVX512
    _mm512_stream_si512(reinterpret_cast<__m512i*>(target + i), _mm512_loadu_si512(source + i));
#else
    _mm256_stream_si256(reinterpret_cast<__m256i*>(target + i), _mm256_loadu_si256(reinterpret_cast<const __m256i*>(source + i)));
#endif
  }
  std::memcpy(target + i, source + i, bytes - i);
#else
  std::memcpy(to, from, count * sizeof(T));
#endif
}

// After the last stream_copy of a thread: what it wrote becomes visible to others before anything that follows.
inline void finish_streaming() {
#if MIXFAST_AVX2
  _mm_sfence();
#endif
}

template <class T>
inline void put(T* to, const T* from, int64_t count, bool stream) {
  if (stream) {
    stream_copy(to, from, count);
  } else {
    std::memcpy(to, from, count * sizeof(T));
  }
}

// Writes `rows` rows side by side: write(r, where) makes row r, and may overwrite up to a vector past its end. tile:
// tile_capacity(row).
template <class T, class Write>
inline void write_rows(T* to, int64_t rows, int64_t row_elements, T* tile, bool stream, Write&& write) {
  const bool nothing_past_ends = row_elements % LANES<sum_t<T>> == 0;
  if (!stream && nothing_past_ends) {
    for (int64_t r = 0; r < rows; ++r) write(r, to + r * row_elements);
    return;
  }
  const int64_t step = row_elements < TILE ? TILE / (row_elements > 0 ? row_elements : 1) : 1;
  for (int64_t start = 0; start < rows; start += step) {
    const int64_t end = start + step < rows ? start + step : rows;
    for (int64_t r = start; r < end; ++r) write(r, tile + (r - start) * row_elements);
    put(to + start * row_elements, tile, (end - start) * row_elements, stream);
  }
  if (stream) finish_streaming();
}
