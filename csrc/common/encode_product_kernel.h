// Products of windows with a matrix in panels. For both directions of mask-mix-encode.
// Included inside a kernel file (each_isa.h), after common/encode.h.

// result[p, :] = factor * (bias + window p * matrix) + addend[p, :] for the positions of spans.
template <class S>
struct Product {
  WindowLayout windows;
  const S* pixels;  // what spans count from
  const S* matrix;  // panels of [windows.rows * windows.taps, columns]
  int64_t columns;
  const S* bias;  // [columns padded]
  S factor;
  const S* addend;  // placed like result; may be result itself, or null
  S* result;
  int64_t result_step;   // from one position's results to the next one's; they may overlap where they are added to
  const int32_t* where;  // place of each of the spans' positions among the results; null: they are their own places
};

// Keeps the compiler from knowing `pointer`: it would otherwise carry pixels from one tap over to the next in registers, to save
// loads that are free here, and pay with moves that are not.
#define MIXFAST_OPAQUE(pointer) asm("" : "+r"(pointer))

template <class S>
inline int64_t place_of(const Product<S>& product, int64_t position) {
  return (product.where ? product.where[position] : position) * product.result_step;
}

// The last vectors of a result whose columns do not fill them.
template <class S>
__attribute__((noinline)) void store_partly(const Product<S>& product, const Vector<S>* values, int64_t positions, int64_t vectors,
                                            int64_t column, int64_t first) {
  for (int64_t p = 0; p < positions; ++p) {
    const int64_t place = place_of(product, first + p);
    for (int64_t n = 0; n < vectors; ++n) {
      for (int64_t lane = 0; lane < LANES<S> && column + n * LANES<S> + lane < product.columns; ++lane) {
        const int64_t at = place + column + n * LANES<S> + lane;
        const S value = product.factor * values[p * vectors + n][lane];
        product.result[at] = product.addend ? value + product.addend[at] : value;
      }
    }
  }
}

// P positions by N vectors of columns: all sums stay in registers. STEP: windows.step where it is known, else 0.
template <class S, int P, int N, int STEP>
__attribute__((noinline)) void product_tile(const Product<S>& product, const S* pixels, const S* panel, int64_t width,
                                            int64_t column, int64_t first) {
  constexpr int64_t lanes = LANES<S>;
  const int64_t step = STEP > 0 ? STEP : product.windows.step;
  Vector<S> sums[P][N];
#pragma GCC unroll 16
  for (int p = 0; p < P; ++p) {
#pragma GCC unroll 2
    for (int n = 0; n < N; ++n) sums[p][n] = load(product.bias + column + n * lanes);
  }
  for (int64_t row = 0; row < product.windows.rows; ++row) {
    const S* tap = pixels + row * product.windows.row_stride;
    for (const S* const end = tap + product.windows.taps; tap < end; ++tap, panel += width) {
      MIXFAST_OPAQUE(tap);
      Vector<S> weights[N];
#pragma GCC unroll 2
      for (int n = 0; n < N; ++n) weights[n] = load(panel + n * lanes);
#pragma GCC unroll 16
      for (int p = 0; p < P; ++p) {
#pragma GCC unroll 2
        for (int n = 0; n < N; ++n) sums[p][n] += weights[n] * tap[p * step];
      }
    }
  }
  if (column + N * lanes > product.columns) {
    Vector<S> spilled[P * N];  // a copy: the sums themselves must not have an address, or they would live in memory
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) {
#pragma GCC unroll 2
      for (int n = 0; n < N; ++n) spilled[p * N + n] = sums[p][n];
    }
    return store_partly(product, spilled, P, N, column, first);
  }
#pragma GCC unroll 16
  for (int p = 0; p < P; ++p) {
    const int64_t place = place_of(product, first + p) + column;
#pragma GCC unroll 2
    for (int n = 0; n < N; ++n) {
      const Vector<S> values = sums[p][n] * product.factor;
      store(product.result + place + n * lanes, product.addend ? values + load(product.addend + place + n * lanes) : values);
    }
  }
}

template <class S>
using ProductTile = void (*)(const Product<S>&, const S*, const S*, int64_t, int64_t, int64_t);

// product_tile for 1, 2, ... positions: as many as leave registers for the weights.
template <class S, int N, int STEP, class Positions>
struct ProductTiles;
template <class S, int N, int STEP, int... P>
struct ProductTiles<S, N, STEP, std::integer_sequence<int, P...>> {
  static constexpr int MOST = sizeof...(P);
  static constexpr ProductTile<S> OF[] = {product_tile<S, P + 1, N, STEP>...};
};
template <int N>
constexpr int MOST_POSITIONS = MIXFAST_AVX512 ? (N == 1 ? 16 : 12) : 6;

// N vectors of columns, from `column` on, which begin at `panel` in a panel of `width` columns.
template <class S, int N, int STEP>
__attribute__((noinline)) void product_columns(const Product<S>& product, const Span* spans, int64_t count, const S* panel,
                                               int64_t width, int64_t column) {
  using Tiles = ProductTiles<S, N, STEP, std::make_integer_sequence<int, MOST_POSITIONS<N>>>;
  for (int64_t s = 0; s < count; ++s) {
    const S* pixels = product.pixels + spans[s].pixels;
    int64_t first = spans[s].first, left = spans[s].count;
    // Tiles of about equal size: a last one with few positions would wait for its own sums.
    for (int64_t tiles = (left + Tiles::MOST - 1) / Tiles::MOST; tiles > 0; --tiles) {
      const int64_t size = (left + tiles - 1) / tiles;
      Tiles::OF[size - 1](product, pixels, panel, width, column, first);
      pixels += size * product.windows.step;
      first += size;
      left -= size;
    }
  }
}

template <class S, int STEP>
void multiply_panels(const Product<S>& product, const Span* spans, int64_t count) {
  const int64_t depth = product.windows.rows * product.windows.taps;
  for (int64_t first = 0; first < product.columns; first += Panels<S>::WIDTH) {
    const S* panel = product.matrix + first * depth;
    const int64_t width = Panels<S>::width(product.columns, first);
    for (int64_t lane = 0; lane < width && first + lane < product.columns; lane += 2 * LANES<S>) {
      if (MIXFAST_AVX512 && lane + 2 * LANES<S> > width) {
        product_columns<S, MIXFAST_AVX512 ? 1 : 2, STEP>(product, spans, count, panel + lane, width, first + lane);
      } else {
        product_columns<S, 2, STEP>(product, spans, count, panel + lane, width, first + lane);
      }
    }
  }
}

// What is read again and again should be the smaller part: all of a small matrix for each span, or one panel for all spans.
template <class S, int STEP>
void multiply_by(const Product<S>& product, const Span* spans, int64_t count) {
  constexpr int64_t SMALL_BYTES = 16 * 1024;
  const int64_t bytes = product.windows.rows * product.windows.taps * product.columns * sizeof(S);
  const int64_t at_once = bytes <= SMALL_BYTES && product.columns > Panels<S>::WIDTH ? 1 : count;
  for (int64_t s = 0; s < count; s += at_once) multiply_panels<S, STEP>(product, spans + s, at_once);
}

// Strides of common stems (1 or 3 channels, stride 1 or 2) are worth a build of their own: addresses without an index register.
template <class S>
__attribute__((noinline)) void multiply(const Product<S>& product, const Span* spans, int64_t count) {
  if constexpr (sizeof(S) == 4 && MIXFAST_AVX2) {
    switch (product.windows.step) {
      case 1:
        return multiply_by<S, 1>(product, spans, count);
      case 3:
        return multiply_by<S, 3>(product, spans, count);
      case 6:
        return multiply_by<S, 6>(product, spans, count);
    }
  }
  multiply_by<S, 0>(product, spans, count);
}
