// Small matrix products of rows in work memory: a whole number of vectors long, zeros behind their last element. Included by the
// kernel file, so once for each instruction set.

// --- products of rows with rows ---

constexpr int DOT_KEYS = 4, DOT_QUERIES = MIXFAST_AVX512 ? 4 : 2;

// sums[i] = the sum of all lanes of vectors[i]. Where there are instructions for it, all at once: two shuffles a vector, not four.
template <class S>
inline void sum_each(const Vector<S> (&vectors)[DOT_QUERIES * DOT_KEYS], S* sums) {
  for (int i = 0; i < DOT_QUERIES * DOT_KEYS; ++i) sums[i] = sum_lanes<S>(vectors[i]);
}

#if MIXFAST_AVX512
inline void sum_each(const Vector<float> (&vectors)[16], float* sums) {
  __m512 quads[4];  // of four vectors: each part of 128 bits holds its sum of each
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const __m512 a = vectors[4 * i], b = vectors[4 * i + 1], c = vectors[4 * i + 2], d = vectors[4 * i + 3];
    const __m512d ab = _mm512_castps_pd(_mm512_unpacklo_ps(a, b) + _mm512_unpackhi_ps(a, b));
    const __m512d cd = _mm512_castps_pd(_mm512_unpacklo_ps(c, d) + _mm512_unpackhi_ps(c, d));
    quads[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd)) + _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd));
  }
  const auto even_and_odd_parts = [](__m512 a, __m512 b) {
    return _mm512_shuffle_f32x4(a, b, 0x88) + _mm512_shuffle_f32x4(a, b, 0xdd);
  };
  store(sums, Vector<float>(even_and_odd_parts(even_and_odd_parts(quads[0], quads[1]), even_and_odd_parts(quads[2], quads[3]))));
}
#elif MIXFAST_AVX2
inline void sum_each(const Vector<float> (&vectors)[8], float* sums) {
  __m256 quads[2];
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    const __m256 ab = _mm256_hadd_ps(vectors[4 * i], vectors[4 * i + 1]);
    const __m256 cd = _mm256_hadd_ps(vectors[4 * i + 2], vectors[4 * i + 3]);
    quads[i] = _mm256_hadd_ps(ab, cd);
  }
  const __m256 low = _mm256_permute2f128_ps(quads[0], quads[1], 0x20), high = _mm256_permute2f128_ps(quads[0], quads[1], 0x31);
  store(sums, Vector<float>(low + high));
}
#endif

// Q queries by DOT_KEYS keys: products[q * step + k].
template <class S, int Q>
__attribute__((noinline)) void dot_tile(const S* queries, const S* keys, int64_t stride, S* products, int64_t step) {
  Vector<S> sums[DOT_QUERIES * DOT_KEYS] = {};
  for (int64_t c = 0; c < stride; c += LANES<S>) {
    Vector<S> key[DOT_KEYS];
#pragma GCC unroll 4
    for (int k = 0; k < DOT_KEYS; ++k) key[k] = load(keys + k * stride + c);
#pragma GCC unroll 4
    for (int q = 0; q < Q; ++q) {
      const Vector<S> query = load(queries + q * stride + c);
#pragma GCC unroll 4
      for (int k = 0; k < DOT_KEYS; ++k) sums[q * DOT_KEYS + k] += query * key[k];
    }
  }
  S all[DOT_QUERIES * DOT_KEYS];
  sum_each(sums, all);
  for (int q = 0; q < Q; ++q) std::memcpy(products + q * step, all + q * DOT_KEYS, DOT_KEYS * sizeof(S));
}

// products[q * step + k] = query q . key k, for `keys` filled up to a multiple of DOT_KEYS: as many rows must be there.
template <class S>
void multiply_rows(const S* queries, int64_t query_count, const S* keys, int64_t key_count, int64_t stride, S* products,
                   int64_t step) {
  for (int64_t q = 0; q < query_count; q += DOT_QUERIES) {
    const int64_t left = query_count - q;
    for (int64_t k = 0; k < key_count; k += DOT_KEYS) {
      const auto run = [&](auto tile) { tile(queries + q * stride, keys + k * stride, stride, products + q * step + k, step); };
      if (left >= DOT_QUERIES) {
        run(dot_tile<S, DOT_QUERIES>);
      } else if (left == 3) {
        run(dot_tile<S, DOT_QUERIES == 4 ? 3 : 1>);
      } else if (left == 2) {
        run(dot_tile<S, DOT_QUERIES == 4 ? 2 : 1>);
      } else {
        run(dot_tile<S, 1>);
      }
    }
  }
}

// --- sums of rows ---

// out[i] = scales[i] * base[i] + sum over t < terms of weights[i * weight_step + t * term_step] * rows[t], for rows i < outs.
template <class S>
struct RowSums {
  S* out;
  int64_t outs;
  const S* base;  // one row for all (base_step 0), or stride apart; may be out itself, or null: nothing
  int64_t base_step;
  const S* scales;  // null: 1
  const S* weights;
  int64_t weight_step, term_step;
  const S* rows;
  int64_t terms;
  int64_t stride;
};

constexpr int MOST_OUTS = MIXFAST_AVX512 ? 8 : 4, SUM_VECTORS = MIXFAST_AVX512 ? 3 : 2;

// OUTS rows by V vectors of columns: all sums stay in registers.
template <class S, int OUTS, int V>
__attribute__((noinline)) void row_sums_tile(const RowSums<S>& a, int64_t first, int64_t column) {
  Vector<S> sums[OUTS][V] = {};
  const S* weights[OUTS];
#pragma GCC unroll 8
  for (int i = 0; i < OUTS; ++i) weights[i] = a.weights + (first + i) * a.weight_step;
  const S* row = a.rows + column;
  const int64_t term_step = a.term_step, stride = a.stride, end = a.terms * term_step;
  for (int64_t t = 0; t < end; t += term_step, row += stride) {
    Vector<S> values[V];
#pragma GCC unroll 3
    for (int v = 0; v < V; ++v) values[v] = load(row + v * LANES<S>);
#pragma GCC unroll 8
    for (int i = 0; i < OUTS; ++i) {
#pragma GCC unroll 3
      for (int v = 0; v < V; ++v) sums[i][v] += values[v] * weights[i][t];
    }
  }
  // The base last: a sum that grows from call to call then rounds once a call, not once a term.
#pragma GCC unroll 8
  for (int i = 0; i < OUTS; ++i) {
    const S* base = a.base + (first + i) * a.base_step + column;
    const S scale = a.scales ? a.scales[first + i] : S(1);
#pragma GCC unroll 3
    for (int v = 0; v < V; ++v) {
      if (a.base) sums[i][v] += load(base + v * LANES<S>) * scale;
      store(a.out + (first + i) * stride + column + v * LANES<S>, sums[i][v]);
    }
  }
}

template <class S, int V>
inline void row_sums_of(const RowSums<S>& a, int64_t first, int64_t outs, int64_t column) {
  static_assert(MOST_OUTS == 4 || MOST_OUTS == 8);
  switch (outs) {
    case 1:
      return row_sums_tile<S, 1, V>(a, first, column);
    case 2:
      return row_sums_tile<S, 2, V>(a, first, column);
    case 3:
      return row_sums_tile<S, 3, V>(a, first, column);
    case 4:
      return row_sums_tile<S, 4, V>(a, first, column);
#if MIXFAST_AVX512
    case 5:
      return row_sums_tile<S, 5, V>(a, first, column);
    case 6:
      return row_sums_tile<S, 6, V>(a, first, column);
    case 7:
      return row_sums_tile<S, 7, V>(a, first, column);
    case 8:
      return row_sums_tile<S, 8, V>(a, first, column);
#endif
  }
}

template <class S>
void sum_rows(const RowSums<S>& a) {
  for (int64_t column = 0; column < a.stride; column += SUM_VECTORS * LANES<S>) {
    const int64_t vectors = (a.stride - column) / LANES<S>;
    // Tiles of about equal size: one with few rows would wait for its own sums.
    int64_t first = 0;
    for (int64_t tiles = (a.outs + MOST_OUTS - 1) / MOST_OUTS; tiles > 0; --tiles) {
      const int64_t outs = (a.outs - first + tiles - 1) / tiles;
      if (vectors >= SUM_VECTORS) {
        row_sums_of<S, SUM_VECTORS>(a, first, outs, column);
      } else if (vectors == 2) {
        row_sums_of<S, 2>(a, first, outs, column);
      } else {
        row_sums_of<S, 1>(a, first, outs, column);
      }
      first += outs;
    }
  }
}
