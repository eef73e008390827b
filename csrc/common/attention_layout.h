// Rows of queries, keys, values and gradients, from tensors of any element type and row stride to the padded matrices of
// attention_products.h, and back. Included inside a kernel file, so once for each instruction set (each_isa.h).

// Two vectors lane by lane in turn: their first halves, and their second.
template <class S>
struct Zip {
  Mask<S> first, second;
  Zip() {
    for (int64_t i = 0; i < LANES<S>; ++i) {
      first[i] = i / 2 + i % 2 * LANES<S>;
      second[i] = first[i] + LANES<S> / 2;
    }
  }
};

// LANES rows become LANES columns: zipping rows that are half of all apart, log2(LANES) times.
template <class S>
[[gnu::always_inline]] inline void transpose_lanes(Vector<S>* rows) {
  constexpr int64_t HALF = LANES<S> / 2;
  const Zip<S> zip;
#pragma GCC unroll 4
  for (int64_t step = 1; step < LANES<S>; step *= 2) {
    Vector<S> zipped[LANES<S>];
#pragma GCC unroll 8
    for (int64_t i = 0; i < HALF; ++i) {
      zipped[2 * i] = __builtin_shuffle(rows[i], rows[i + HALF], zip.first);
      zipped[2 * i + 1] = __builtin_shuffle(rows[i], rows[i + HALF], zip.second);
    }
#pragma GCC unroll 16
    for (int64_t i = 0; i < LANES<S>; ++i) rows[i] = zipped[i];
  }
}

// `count` elements from `from`, at most a vector of them; the other lanes are 0.
template <class T>
inline Vector<sum_t<T>> load_up_to(const T* from, int64_t count) {
  using S = sum_t<T>;
  return count >= LANES<S> ? load(from) : count > 0 ? load_first(from, count) : Vector<S>{};
}

template <class T>
inline void store_up_to(T* to, Vector<sum_t<T>> values, int64_t count) {
  if (count >= LANES<sum_t<T>>) {
    store(to, values);
  } else if (count > 0) {
    store_first(to, values, count);
  }
}

// to [rows, to_step] = factor * from [rows, width]; what is left of a row is filled with zeros.
template <class T, class S = sum_t<T>>
inline void pack_rows(const T* from, int64_t from_step, int64_t rows, int64_t width, S factor, S* to, int64_t to_step) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < to_step; c += LANES<S>) {
      store(to + r * to_step + c, load_up_to(from + r * from_step + c, width - c) * factor);
    }
  }
}

// to [width, to_step] = from [rows, width] transposed; columns past the rows are zeros.
template <class T, class S = sum_t<T>>
__attribute__((noinline)) void pack_columns(const T* from, int64_t from_step, int64_t rows, int64_t width, S* to, int64_t to_step) {
  for (int64_t row = 0; row < to_step; row += LANES<S>) {
    for (int64_t c = 0; c < width; c += LANES<S>) {
      Vector<S> block[LANES<S>];
      for (int64_t i = 0; i < LANES<S>; ++i) {
        block[i] = row + i < rows ? load_up_to(from + (row + i) * from_step + c, width - c) : Vector<S>{};
      }
      transpose_lanes<S>(block);
      const int64_t columns = width - c < LANES<S> ? width - c : LANES<S>;
      for (int64_t i = 0; i < columns; ++i) store(to + (c + i) * to_step + row, block[i]);
    }
  }
}

// to [rows, width] = factor * from [rows, from_step], without what fills up its rows.
template <class T, class S = sum_t<T>>
inline void unpack_rows(const S* from, int64_t from_step, int64_t rows, int64_t width, S factor, T* to, int64_t to_step) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < width; c += LANES<S>) {
      store_up_to(to + r * to_step + c, load(from + r * from_step + c) * factor, width - c);
    }
  }
}
