// Tokens of one head into a tile (attention_tiles.h) and out of one. Included by a kernel file, so once for each instruction set, after
// each_vector.h.

// Rows of `width` elements, `stride` apart in memory, times `factor`, into a tile [tile_padded(count), tile_padded(width)].
template <class T>
inline void pack_rows(const T* from, int64_t stride, int64_t count, int64_t width, sum_t<T> factor, sum_t<T>* tile) {
  using S = sum_t<T>;
  const int64_t step = tile_padded(width), rows = tile_padded(count);
  for (int64_t r = 0; r < count; ++r) {
    S* to = tile + r * step;
    int64_t c = 0;
    for (; c + LANES<S> <= width; c += LANES<S>) store(to + c, load(from + r * stride + c) * factor);
    if (c < width) store(to + c, load_first(from + r * stride + c, width - c) * factor);
    for (c += c < width ? LANES<S> : 0; c < step; c += LANES<S>) store(to + c, Vector<S>{});
  }
  std::memset(tile + count * step, 0, (rows - count) * step * sizeof(S));
}

// And back: the first `width` elements of a tile's rows, times `factor`.
template <class T>
inline void unpack_rows(const sum_t<T>* tile, int64_t count, int64_t width, sum_t<T> factor, T* to, int64_t stride) {
  using S = sum_t<T>;
  const int64_t step = tile_padded(width);
  for (int64_t r = 0; r < count; ++r) {
    for_each_vector<S>(width, [&](int64_t c, auto extent) { store_at(to + r * stride + c, load(tile + r * step + c) * factor, extent); });
  }
}

#if MIXFAST_AVX512
inline Vector<float> pick(Vector<float> a, Mask<float> lanes, Vector<float> b) {
  return Vector<float>(_mm512_permutex2var_ps(__m512(a), __m512i(lanes), __m512(b)));
}
inline Vector<double> pick(Vector<double> a, Mask<double> lanes, Vector<double> b) {
  return Vector<double>(_mm512_permutex2var_pd(__m512d(a), __m512i(lanes), __m512d(b)));
}

// Exchanges the lanes of a whose number has the bit HALF with those of b whose number has not.
template <int HALF, class S>
[[gnu::always_inline]] inline void exchange_lanes(Vector<S>& a, Vector<S>& b) {
  Mask<S> first, second;
  for (int64_t lane = 0; lane < LANES<S>; ++lane) {
    first[lane] = lane & HALF ? LANES<S> + lane - HALF : lane;
    second[lane] = lane & HALF ? LANES<S> + lane : lane + HALF;
  }
  const Vector<S> low = pick(a, first, b);
  b = pick(a, second, b);
  a = low;
}

template <int HALF, class S>
[[gnu::always_inline]] inline void exchange_halves(Vector<S> (&rows)[LANES<S>]) {
#pragma GCC unroll 16
  for (int r = 0; r < LANES<S>; ++r) {
    if (!(r & HALF)) exchange_lanes<HALF, S>(rows[r], rows[r + HALF]);
  }
  if constexpr (HALF > 1) exchange_halves<HALF / 2, S>(rows);
}

template <class S>
inline void transpose_block(const S* from, int64_t from_step, S* to, int64_t to_step) {
  Vector<S> rows[LANES<S>];
#pragma GCC unroll 16
  for (int r = 0; r < LANES<S>; ++r) rows[r] = load(from + r * from_step);
  exchange_halves<LANES<S> / 2, S>(rows);
#pragma GCC unroll 16
  for (int r = 0; r < LANES<S>; ++r) store(to + r * to_step, rows[r]);
}
#else
template <class S>
inline void transpose_block(const S* from, int64_t from_step, S* to, int64_t to_step) {
  for (int64_t r = 0; r < LANES<S>; ++r) {
    for (int64_t c = 0; c < LANES<S>; ++c) to[c * to_step + r] = from[r * from_step + c];
  }
}
#endif

// A tile of `count` rows of `width` into one of `width` rows of `count`.
template <class S>
inline void transpose_tile(const S* from, int64_t count, int64_t width, S* to) {
  const int64_t from_step = tile_padded(width), to_step = tile_padded(count);
  for (int64_t r = 0; r < to_step; r += LANES<S>) {
    for (int64_t c = 0; c < from_step; c += LANES<S>) transpose_block(from + r * from_step + c, from_step, to + c * to_step + r, to_step);
  }
}
