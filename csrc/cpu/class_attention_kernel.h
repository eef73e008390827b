// The loops of class_attention over one sample; included once for each instruction set (common/each_isa.h).

#include "common/simd_exp.h"
#include "common/zone_rows.h"
#include "cpu/class_attention_products_kernel.h"

// --- the norm ---

// `values` in the lanes that an extent has, `others` behind them.
template <class S>
inline Vector<S> in_extent(Vector<S> values, Vector<S>, Whole) {
  return values;
}
template <class S>
inline Vector<S> in_extent(Vector<S> values, Vector<S> others, First first) {
  return first_lanes<S>(first.count) ? values : others;
}

// R rows, `add(r, c, extent)` added, without their mean; and one over their standard deviation. Several at once: their sums do not
// wait for each other.
template <int R, class T, class Add>
inline void centre_few(const T* from, int64_t step, int64_t width, sum_t<T> eps, const Add& add, sum_t<T>* to, int64_t stride,
                       sum_t<T>* scales) {
  using S = sum_t<T>;
  Vector<S> sums[R] = {}, squares[R] = {};
  for_each_vector<S>(width, [&](int64_t c, auto extent) {
    for (int r = 0; r < R; ++r) {
      const Vector<S> values = load_at(from + r * step + c, extent) + add(r, c, extent);
      store_at(to + r * stride + c, values, extent);
      sums[r] += values;
    }
  });
  S means[R];
  for (int r = 0; r < R; ++r) means[r] = sum_lanes<S>(sums[r]) / S(width);
  for_each_vector<S>(width, [&](int64_t c, auto extent) {
    for (int r = 0; r < R; ++r) {
      const Vector<S> values = in_extent<S>(load_at(to + r * stride + c, extent) - means[r], Vector<S>{}, extent);
      store_at(to + r * stride + c, values, extent);
      squares[r] += values * values;
    }
  });
  for (int r = 0; r < R; ++r) scales[r] = 1 / std::sqrt(sum_lanes<S>(squares[r]) / S(width) + eps);
}

template <class T, class Add>
void centre_with(const T* from, int64_t step, int64_t count, int64_t width, sum_t<T> eps, const Add& add, sum_t<T>* to,
                 int64_t stride, sum_t<T>* scales) {
  int64_t n = 0;
  for (; n + 4 <= count; n += 4) {
    const auto shifted = [&](int r, int64_t c, auto extent) { return add(n + r, c, extent); };
    centre_few<4>(from + n * step, step, width, eps, shifted, to + n * stride, stride, scales + n);
  }
  for (; n < count; ++n) {
    const auto shifted = [&](int r, int64_t c, auto extent) { return add(n + r, c, extent); };
    centre_few<1>(from + n * step, step, width, eps, shifted, to + n * stride, stride, scales + n);
  }
}

template <class T>
inline void centre(const T* from, int64_t step, int64_t count, int64_t width, sum_t<T> eps, sum_t<T>* to, int64_t stride,
                   sum_t<T>* scales) {
  centre_with(from, step, count, width, eps, [](int64_t, int64_t, auto) { return Vector<sum_t<T>>{}; }, to, stride, scales);
}

// The source of one sample inside and outside its zone: [2, stride].
template <class S>
inline void mix_source(const SampleSource<S>& source, int64_t stride, S* mixed) {
  if (!source.inside) return;
  sum_rows<S>({mixed, 1, nullptr, 0, nullptr, source.inside, 0, 1, source.rows, source.inputs, stride});
  sum_rows<S>({mixed + stride, 1, nullptr, 0, nullptr, source.outside, 0, 1, source.rows, source.inputs, stride});
}

// Tokens first, first + 1, ... as one group of sets sees them.
template <class T>
void centre_tokens(const AttentionSizes& sizes, const AttentionSample<T>& sample, const sum_t<T>* mixed, int64_t group, int64_t first,
                   int64_t count, sum_t<T> eps, sum_t<T>* keys, sum_t<T>* scales) {
  using S = sum_t<T>;
  const T* from = sample.tokens + first * sample.token_step;
  const int64_t step = sample.token_step, width = sizes.width, stride = sizes.stride();
  const SampleSource<S>& source = sample.source;
  if (!source.rows) {
    centre(from, step, count, width, eps, keys, stride, scales);
  } else if (!source.inside) {
    const S* row = source.rows + group * stride;
    const auto add = [&](int64_t, int64_t c, auto) { return load(row + c); };
    centre_with(from, step, count, width, eps, add, keys, stride, scales);
  } else {
    const S* covered = source.covered + first;
    const S* uncovered = source.uncovered + first;
    const auto add = [&](int64_t n, int64_t c, auto) {
      return load(mixed + c) * covered[n] + load(mixed + stride + c) * uncovered[n];
    };
    centre_with(from, step, count, width, eps, add, keys, stride, scales);
  }
}

// Queries without their mean. A key has none, so that the products are the same; and the gradients of tokens want them so.
template <class S>
inline void centre_rows(const SetRows<S>& from, int64_t sets, int64_t heads, int64_t width, S* to, int64_t stride) {
  for (int64_t row = 0; row < sets * heads; ++row, to += stride) {
    const S* values = from.first + row / heads * from.set_step + row % heads * from.head_step;
    Vector<S> sum = {};
    for_each_vector<S>(width, [&](int64_t c, auto extent) { sum += load_at(values + c, extent); });
    const S mean = sum_lanes<S>(sum) / S(width);
    for_each_vector<S>(width, [&](int64_t c, auto extent) { store_at(to + c, load_at(values + c, extent) - mean, extent); });
  }
}

template <class S>
inline void copy_rows(const S* from, int64_t from_step, int64_t rows, int64_t width, S* to, int64_t to_step) {
  for (int64_t r = 0; r < rows; ++r) std::memcpy(to + r * to_step, from + r * from_step, width * sizeof(S));
}

// --- forward ---

// Makes the keys of one group of sets, and the products of some rows with them: [rows, whole_blocks(count)].
template <class T>
void multiply_by_tokens(const AttentionSizes& sizes, const AttentionSample<T>& sample, const AttentionSpace<sum_t<T>>& space,
                        int64_t group, const sum_t<T>* rows, int64_t row_count, sum_t<T> eps) {
  const int64_t count = sizes.count, stride = sizes.stride();
  for (int64_t n = 0; n < count; n += BLOCK) {
    const int64_t block = count - n < BLOCK ? count - n : BLOCK;
    sum_t<T>* keys = space.keys.get() + n * stride;
    centre_tokens(sizes, sample, space.mixed.get(), group, n, block, eps, keys, space.key_scales.get() + n);
    multiply_rows(rows, row_count, keys, block, stride, space.products.get() + n, whole_blocks(count));
  }
}

// Terms of a sum taken at a time: rounding grows with the longest run of additions.
constexpr int64_t LONG = 64;

// Turns one query's products with the keys into its attention to them; returns that to the class token. A score that is NaN need not
// be the largest: its exponential makes all of them NaN. scores: where the scores themselves are kept; may be `products`.
template <class S>
inline S attend(S* products, const S* scales, int64_t count, S class_score, S* scores) {
  Vector<S> most = broadcast(class_score);
  for_each_vector<S>(count, [&](int64_t n, auto extent) {
    const Vector<S> score = load_at(products + n, extent) * load_at(scales + n, extent);
    store_at(scores + n, score, extent);
    most = in_extent<S>(at_least(score, most), most, extent);
  });
  const S largest = max_lanes<S>(most);
  Vector<S> sums = {};
  for_each_vector<S>(count, [&](int64_t n, auto extent) {
    const Vector<S> mass = in_extent<S>(exp_lanes<S>(load_at(scores + n, extent) - largest), Vector<S>{}, extent);
    store_at(products + n, mass, extent);
    sums += mass;
  });
  const S class_mass = exp_lanes<S>(broadcast(class_score - largest))[0], share = 1 / (sum_lanes<S>(sums) + class_mass);
  for_each_vector<S>(count, [&](int64_t n, auto extent) { store_at(products + n, load_at(products + n, extent) * share, extent); });
  return class_mass * share;
}

template <class S>
inline void scale_by(S* values, const S* scales, int64_t count) {
  for_each_vector<S>(count, [&](int64_t n, auto extent) {
    store_at(values + n, load_at(values + n, extent) * load_at(scales + n, extent), extent);
  });
}

// One group of sets: sizes.groups is 1.
template <class T>
void forward_group(const AttentionSizes& sizes, const AttentionSample<T>& sample, sum_t<T> eps, const AttentionSpace<sum_t<T>>& space,
                   sum_t<T>* result) {
  using S = sum_t<T>;
  const int64_t count = sizes.count, width = sizes.width, stride = sizes.stride(), heads = sizes.heads, step = whole_blocks(count);
  S *keys = space.keys.get(), *scales = space.key_scales.get(), *class_keys = space.class_keys.get(),
    *class_scales = space.class_scales.get(), *queries = space.queries.get(), *results = space.query_sums.get();
  mix_source(sample.source, stride, space.mixed.get());
  centre(sample.class_tokens, sample.class_step, sizes.sets, width, eps, class_keys, stride, class_scales);
  centre_rows(sample.query, sizes.sets, heads, width, queries, stride);
  multiply_by_tokens(sizes, sample, space, 0, queries, sizes.queries(), eps);

  for (int64_t set = 0; set < sizes.sets; ++set) {
    const int64_t query = set * heads;
    S *scores = space.products.get() + query * step, *class_scores = space.class_products.get();
    multiply_rows(queries + query * stride, heads, class_keys + set * stride, 1, stride, class_scores, DOT_KEYS);
    for (int64_t h = 0; h < heads; ++h) {
      const S class_score = class_scores[h * DOT_KEYS] * class_scales[set];
      S* weights = scores + h * step;
      // Over a product that was read already: they lie DOT_KEYS apart.
      class_scores[h] = attend(weights, scales, count, class_score, weights) * class_scales[set];
      scale_by(weights, scales, count);
    }
    S* to = results + query * stride;
    sum_rows<S>({to, heads, class_keys + set * stride, 0, class_scores, scores, step, 1, keys, count < LONG ? count : LONG, stride});
    for (int64_t n = LONG; n < count; n += LONG) {
      const int64_t terms = count - n < LONG ? count - n : LONG;
      sum_rows<S>({to, heads, to, stride, nullptr, scores + n, step, 1, keys + n * stride, terms, stride});
    }
  }
  copy_rows(results, stride, sizes.queries(), width, result, width);
}

#include "cpu/class_attention_backward_kernel.h"
