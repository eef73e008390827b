// The backward pass of class_attention over one sample; included by its kernel file.
//
// With p the attention, s the scores and g the gradient of one head's result, a key x^ of the scale r gets
//   sum over heads of p g + ds q,  ds = p (g . x^ - sum over keys of p (g . x^)),
// and its token r times that without its mean and its part along x^. The mean leaves by taking q and g without theirs, and the part
// along x^ is known beforehand: sum over heads of p (g . x^) + ds s. So a token's gradient is one sum of 2 h + 1 rows.

// The products of some queries and of their gradients with some keys, [queries, step] each, and what becomes of them.
template <class S>
struct KeyProducts {
  S* of_queries;
  S* of_grads;
  int64_t step;
  const S* scales;  // of the keys
  int64_t count;
  S* along;  // [count]: grows by what the keys' part along themselves weighs in their tokens' gradients
};

// The sum over keys of attention * product, with whole keys.
template <class S>
inline S sum_products(const KeyProducts<S>& keys, int64_t query, const S* attention) {
  const S* products = keys.of_grads + query * keys.step;
  Vector<S> sums = {};
  for_each_vector<S>(keys.count, [&](int64_t n, auto extent) {
    sums += load_at(products + n, extent) * load_at(keys.scales + n, extent) * load_at(attention + n, extent);
  });
  return sum_lanes<S>(sums);
}

// Turns one query's products into what the keys' rows (those without mean) weigh in its gradient, ds r, and what its result's gradient
// weighs in the tokens', p r; delta: the sum over all keys of attention * product.
template <class S>
inline void weigh(const KeyProducts<S>& keys, int64_t query, const S* attention, const S* scores, S delta, S width) {
  S *of_query = keys.of_queries + query * keys.step, *of_grad = keys.of_grads + query * keys.step;
  for_each_vector<S>(keys.count, [&](int64_t n, auto extent) {
    const Vector<S> scale = load_at(keys.scales + n, extent), p = load_at(attention + n, extent);
    const Vector<S> product = load_at(of_grad + n, extent) * scale, grad_score = p * (product - delta);
    const Vector<S> along = p * product + grad_score * load_at(scores + n, extent);
    store_at(keys.along + n, load_at(keys.along + n, extent) - along * scale * scale * (1 / width), extent);
    store_at(of_query + n, grad_score * scale, extent);
    store_at(of_grad + n, p * scale, extent);
  });
}

// The class token's gradient, and where the gradients of its set's queries begin.
template <class S>
void class_backward(const KeyProducts<S>& products, const S* key, const S* queries, const S* grads, int64_t heads, int64_t width,
                    int64_t stride, S* grad_query, S* row, S* grad_class) {
  for (int64_t h = 0; h < heads; ++h) {
    const S weight = products.of_queries[h * products.step];
    for (int64_t c = 0; c < stride; c += LANES<S>) store(grad_query + h * stride + c, load(key + c) * weight);
  }
  sum_rows<S>({row, 1, key, 0, products.along, products.of_queries, 0, products.step, queries, heads, stride});
  sum_rows<S>({row, 1, row, 0, nullptr, products.of_grads, 0, products.step, grads, heads, stride});
  copy_rows(row, stride, 1, width, grad_class, width);
}

// Products of the queries of one group of sets, and of their gradients, with all tokens and class tokens, made into weights of rows.
template <class T>
void weigh_group(const AttentionSizes& sizes, int64_t group, const AttentionSpace<sum_t<T>>& space, const AttentionGradients<T>& out) {
  using S = sum_t<T>;
  const int64_t width = sizes.width, stride = sizes.stride(), heads = sizes.heads, together = sizes.group_queries(),
                step = whole_blocks(sizes.count);
  const S* queries = space.queries.get() + 2 * group * together * stride;
  S *products = space.products.get(), *along = space.along.get();
  for (int64_t n = 0; n < step; ++n) along[n] = 0;
  for (int64_t i = 0; i < sizes.group_sets(); ++i) {
    const int64_t set = group * sizes.group_sets() + i, first = i * heads;
    const S *key = space.class_keys.get() + set * stride, *of_set = queries + first * stride, *grads = of_set + together * stride;
    S class_along = 0, *class_products = space.class_products.get(), *scores = space.scores.get();
    const S* class_scale = space.class_scales.get() + set;
    const KeyProducts<S> class_token{class_products, class_products + heads * DOT_KEYS, DOT_KEYS, class_scale, 1, &class_along};
    const KeyProducts<S> tokens{products + first * step, products + (together + first) * step, step, space.key_scales.get(),
                                sizes.count, along};
    multiply_rows(of_set, heads, key, 1, stride, class_token.of_queries, DOT_KEYS);
    multiply_rows(grads, heads, key, 1, stride, class_token.of_grads, DOT_KEYS);
    for (int64_t h = 0; h < heads; ++h) {
      const S class_score = class_products[h * DOT_KEYS] * *class_scale;
      S* attention = tokens.of_queries + h * step;
      const S class_attention = attend(attention, tokens.scales, sizes.count, class_score, scores);
      const S delta = sum_products(tokens, h, attention) + sum_products(class_token, h, &class_attention);
      weigh(tokens, h, attention, scores, delta, S(width));
      weigh(class_token, h, &class_attention, &class_score, delta, S(width));
    }
    class_backward(class_token, key, of_set, grads, heads, width, stride, space.query_sums.get() + set * heads * stride,
                   space.grads.get(), out.class_tokens + set * width);
  }
}

template <class T>
inline void write_tokens(T* to, const sum_t<T>* rows, int64_t count, int64_t width, int64_t stride, bool stream) {
  for (int64_t r = 0; r < count; ++r) {
    if constexpr (sizeof(T) == sizeof(sum_t<T>)) {
      put(to + r * width, rows + r * stride, width, stream);
    } else {
      for_each_vector<sum_t<T>>(width, [&](int64_t c, auto extent) {
        store_at(to + r * width + c, load_at(rows + r * stride + c, extent), extent);
      });
    }
  }
}

// Adds a block's gradients to those of what was added to its tokens.
template <class S>
inline void add_to_source(const SampleSource<S>& source, int64_t group, int64_t first, const S* rows, int64_t count, int64_t stride,
                          S* sums) {
  S ones[BLOCK];
  for (S& one : ones) one = 1;
  const auto add = [&](S* sum, const S* weights) {
    sum_rows<S>({sum, 1, sum, 0, nullptr, weights, 0, 1, rows, count, stride});
  };
  if (!source.inside) return add(sums + group * stride, ones);
  add(sums, source.covered + first);
  add(sums + stride, source.uncovered + first);
}

template <class T>
void backward_sample(const AttentionSizes& sizes, const AttentionSample<T>& sample, sum_t<T> eps, const AttentionSpace<sum_t<T>>& space,
                     const AttentionGradients<T>& out) {
  using S = sum_t<T>;
  const int64_t count = sizes.count, width = sizes.width, stride = sizes.stride(), together = sizes.group_queries(),
                step = whole_blocks(count);
  S *keys = space.keys.get(), *products = space.products.get(), *along = space.along.get();
  mix_source(sample.source, stride, space.mixed.get());
  centre(sample.class_tokens, sample.class_step, sizes.sets, width, eps, space.class_keys.get(), stride, space.class_scales.get());
  for (int64_t group = 0; group < sizes.groups; ++group) {
    const int64_t query = group * together, set = group * sizes.group_sets();
    S *queries = space.queries.get() + 2 * query * stride, *grad_queries = space.query_sums.get() + query * stride;
    centre_rows(sample.query.from_set(set), sizes.group_sets(), sizes.heads, width, queries, stride);
    centre_rows(sample.grad.from_set(set), sizes.group_sets(), sizes.heads, width, queries + together * stride, stride);
    multiply_by_tokens(sizes, sample, space, group, queries, 2 * together, eps);
    weigh_group(sizes, group, space, out);
    for (int64_t n = 0; n < count; n += BLOCK) {
      const int64_t block = count - n < BLOCK ? count - n : BLOCK;
      // Gradients of one group's tokens, and where there are more groups those of all.
      S *rows = space.grads.get(), *total = sizes.groups == 1 ? rows : rows + (BLOCK + n) * stride, *key = keys + n * stride;
      sum_rows<S>({rows, block, key, stride, along + n, products + n, 1, step, queries, 2 * together, stride});
      sum_rows<S>({grad_queries, together, grad_queries, stride, nullptr, products + n, step, 1, key, block, stride});
      if (out.source) add_to_source(sample.source, group, n, rows, block, stride, out.source);
      for (int64_t c = 0; sizes.groups > 1 && c < block * stride; c += LANES<S>) {
        store(total + c, group == 0 ? load(rows + c) : load(total + c) + load(rows + c));
      }
      if (group + 1 == sizes.groups) write_tokens(out.tokens + n * width, total, block, width, stride, out.stream);
    }
  }
  if (out.stream) finish_streaming();
  copy_rows(space.query_sums.get(), stride, sizes.queries(), width, out.query, width);
}
