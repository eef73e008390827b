// The loops over a sample's tiles of rows, all heads at once; included once for each instruction set (common/each_isa.h).
//
// In a tile's matrices head follows head: [h, TILE_ROWS, columns]. Their last columns, past N, hold nothing that counts: logits
// and gradients are 0 there because the padded keys and values are, and probabilities are set to 0.

#include "common/attention_layout.h"
#include "common/attention_products.h"
#include "common/simd_exp.h"
#include "cpu/talking_heads_attention_mixing.h"

// Parts of a buffer, one after the other.
template <class S>
struct Scratch {
  S* next;

  S* take(int64_t count) {
    S* const taken = next;
    next += count;
    return taken;
  }
};

// Every head's `rows` rows from `first` on, times factor: [h, of_head / head_columns, head_columns].
template <class T, class S = sum_t<T>>
inline void pack_heads(const HeadRows<const T*>& from, const Sizes& sizes, int64_t sample, int64_t first, int64_t rows, S factor,
                       S* to, int64_t of_head) {
  for (int64_t h = 0; h < sizes.heads; ++h) {
    pack_rows(from.at(sample, first, h), from.row_step, rows, sizes.width, factor, to + h * of_head, sizes.head_columns());
  }
}

// Every head's rows as columns: [h, e, columns].
template <class T, class S = sum_t<T>>
inline void pack_heads_as_columns(const HeadRows<const T*>& from, const Sizes& sizes, int64_t sample, S* to) {
  const int64_t of_head = sizes.head_columns() * sizes.columns();
  for (int64_t h = 0; h < sizes.heads; ++h) {
    pack_columns(from.at(sample, 0, h), from.row_step, sizes.count, sizes.width, to + h * of_head, sizes.columns());
  }
}

template <class T, class S = sum_t<T>>
inline void unpack_heads(const S* from, int64_t of_head, const Sizes& sizes, int64_t rows, S factor, const HeadRows<T*>& to,
                         int64_t sample, int64_t first) {
  for (int64_t h = 0; h < sizes.heads; ++h) {
    unpack_rows(from + h * of_head, sizes.head_columns(), rows, sizes.width, factor, to.at(sample, first, h), to.row_step);
  }
}

// Asks for rows of every head ahead of their use, to be read or, with FOR_WRITING, overwritten: they are pieces far apart, which the
// processor does not foresee.
template <int FOR_WRITING, class Pointer>
inline void fetch_heads(const HeadRows<Pointer>& of, const Sizes& sizes, int64_t sample, int64_t first, int64_t rows) {
  constexpr int64_t LINE = 64 / sizeof(*of.values);
  if (sample >= sizes.batch) return;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t h = 0; h < sizes.heads; ++h) {
      const Pointer row = of.at(sample, first + r, h);
      for (int64_t c = 0; c < sizes.width; c += LINE) __builtin_prefetch(row + c, FOR_WRITING, 2);
    }
  }
}

// products[h] = rows[h] columns[h]: [rows, N] from a tile's rows and all keys or values as columns.
template <class S>
inline void multiply_rows_by_columns(const S* rows, const S* columns, const Sizes& sizes, int64_t count, S* products) {
  const int64_t inner = sizes.head_columns(), outer = sizes.columns();
  for (int64_t h = 0; h < sizes.heads; ++h) {
    multiply_tile<Left::by_rows, Into::replace>(rows + h * TILE_ROWS * inner, inner, columns + h * inner * outer, outer,
                                                products + h * TILE_ROWS * outer, outer, count, sizes.width, outer);
  }
}

// result[h] = tile[h] rows[h]: weighted sums of keys or values.
template <class S>
inline void multiply_tile_by_rows(const S* tile, const S* rows, const Sizes& sizes, int64_t count, S* result) {
  const int64_t inner = sizes.head_columns(), outer = sizes.columns();
  for (int64_t h = 0; h < sizes.heads; ++h) {
    multiply_tile<Left::by_rows, Into::replace>(tile + h * TILE_ROWS * outer, outer, rows + h * outer * inner, inner,
                                                result + h * TILE_ROWS * inner, inner, count, sizes.count, inner);
  }
}

// sums[h] += tile[h]^T rows[h]: what a tile of rows adds to all keys' or values' gradients.
template <class S>
inline void add_transposed_products(const S* tile, const S* rows, const Sizes& sizes, int64_t count, S* sums) {
  const int64_t inner = sizes.head_columns(), outer = sizes.columns();
  for (int64_t h = 0; h < sizes.heads; ++h) {
    multiply_tile<Left::by_columns, Into::add>(tile + h * TILE_ROWS * outer, outer, rows + h * TILE_ROWS * inner, inner,
                                               sums + h * outer * inner, inner, sizes.count, count, inner);
  }
}

// Zeros in the lanes past the last of `count` columns, in a vector that starts at `at`.
template <class S>
inline Vector<S> within(int64_t at, int64_t count, const Vector<S>& values) {
  return at + LANES<S> <= count ? values : first_lanes<S>(count - at) ? values : Vector<S>{};
}

// Turns a head's row of logits into exponentials less their largest, whose sum and logarithm it gives.
template <class S>
inline void exponentials(S* row, int64_t count, int64_t columns, S* sum, S* logsumexp) {
  Vector<S> most = broadcast(-std::numeric_limits<S>::infinity());
  for (int64_t m = 0; m < count; m += LANES<S>) {
    const Vector<S> x = load(row + m);
    most = m + LANES<S> <= count || first_lanes<S>(count - m) ? at_least(x, most) : most;
  }
  const S largest = max_lanes<S>(most);
  Vector<S> sums = {};
  for (int64_t m = 0; m < columns; m += LANES<S>) {
    const Vector<S> powers = within<S>(m, count, exp_lanes<S>(load(row + m) - largest));
    store(row + m, powers);
    sums += powers;
  }
  *sum = sum_lanes<S>(sums);
  *logsumexp = largest + std::log(*sum);
}

template <class T>
void forward(const ForwardArguments<T>& a, const Task& task, sum_t<T>* memory) {
  using S = sum_t<T>;
  const Sizes& sizes = a.sizes;
  const int64_t heads = sizes.heads, columns = sizes.columns(), step = TILE_ROWS * columns;
  Scratch<S> scratch{memory};
  S* const keys = scratch.take(sizes.by_columns());
  S* const values = scratch.take(sizes.by_rows());
  S* const queries = scratch.take(sizes.tile_rows());
  S* const result = scratch.take(sizes.tile_rows());
  S* const logits = scratch.take(sizes.tile());
  S* const mixed = scratch.take(sizes.tile());
  S* const weights = scratch.take(heads * heads);
  pack_heads_as_columns<T>(a.key, sizes, task.sample, keys);
  pack_heads<T>(a.value, sizes, task.sample, 0, sizes.count, S(1), values, columns * sizes.head_columns());

  const HeadWeights<S> before{a.mixing.pre_weight, heads, 1, nullptr}, after{weights, heads, 1, a.mixing.post_bias};
  for (int64_t first = task.begin; first < task.end; first += TILE_ROWS) {
    const int64_t rows = task.end - first < TILE_ROWS ? task.end - first : TILE_ROWS;
    for (const auto& part : {a.query, a.key, a.value}) fetch_heads<0>(part, sizes, task.sample + 1, first, rows);
    pack_heads<T>(a.query, sizes, task.sample, first, rows, a.scale, queries, TILE_ROWS * sizes.head_columns());
    multiply_rows_by_columns(queries, keys, sizes, rows, logits);
    for (int64_t r = 0; r < rows; ++r) {
      S* const row = mixed + r * columns;
      mix_heads(logits + r * columns, step, heads, before, columns,
                [&](int64_t g, int64_t m, const Vector<S>& values) { store(row + g * step + m, values); });
      for (int64_t g = 0; g < heads; ++g) {
        S sum;
        exponentials(row + g * step, sizes.count, columns, &sum,
                     a.logsumexp + (task.sample * heads + g) * sizes.count + first + r);
        // The softmax's division, put into the weights.
        for (int64_t to = 0; to < heads; ++to) weights[to * heads + g] = a.mixing.post_weight[to * heads + g] / sum;
      }
      mix_heads(row, step, heads, after, columns,
                [&](int64_t g, int64_t m, const Vector<S>& values) { store(logits + r * columns + g * step + m, values); });
    }
    multiply_tile_by_rows(logits, values, sizes, rows, result);
    const HeadRows<T*> out{a.out, sizes.count * heads * sizes.width, heads * sizes.width, sizes.width};
    unpack_heads<T>(result, TILE_ROWS * sizes.head_columns(), sizes, rows, S(1), out, task.sample, first);
  }
}

// The softmax's backward pass on one head's row: gradient = probability * (gradient - <probability, gradient>). The rounding of the
// log-sum-exp leaves probabilities that do not quite sum to 1: dividing by their sum keeps that from adding to all gradients.
template <class S>
inline void softmax_backward(const S* probabilities, S* gradients, int64_t columns) {
  Vector<S> sums = {}, masses = {};
  for (int64_t m = 0; m < columns; m += LANES<S>) {
    const Vector<S> values = load(probabilities + m);
    masses += values;
    sums += values * load(gradients + m);
  }
  const S sum = sum_lanes<S>(sums) / sum_lanes<S>(masses);
  for (int64_t m = 0; m < columns; m += LANES<S>) store(gradients + m, load(probabilities + m) * (load(gradients + m) - sum));
}

// sums: gradients of keys and values; parameters: of the mixing.
template <class T>
void backward(const BackwardArguments<T>& a, const Task& task, sum_t<T>* memory, sum_t<T>* sums, double* parameters) {
  using S = sum_t<T>;
  const Sizes& sizes = a.sizes;
  const int64_t heads = sizes.heads, columns = sizes.columns(), step = TILE_ROWS * columns;
  const int64_t tile_rows = TILE_ROWS * sizes.head_columns();
  Scratch<S> scratch{memory};
  S* const keys = scratch.take(sizes.by_columns());
  S* const values = scratch.take(sizes.by_columns());
  S* const key_rows = scratch.take(sizes.by_rows());
  S* const queries = scratch.take(sizes.tile_rows());
  S* const grads = scratch.take(sizes.tile_rows());
  S* const result = scratch.take(sizes.tile_rows());
  S* const logits = scratch.take(sizes.tile());
  S* const probabilities = scratch.take(sizes.tile());
  S* const attention = scratch.take(sizes.tile());
  S* const grad_attention = scratch.take(sizes.tile());
  S* const grad_logits = scratch.take(sizes.tile());
  S* const grad_keys = sums;
  S* const grad_values = sums + sizes.by_rows();
  std::memset(sums, 0, a.sums() * sizeof(S));
  std::memset(parameters, 0, a.parameters() * sizeof(double));
  pack_heads_as_columns<T>(a.key, sizes, task.sample, keys);
  pack_heads_as_columns<T>(a.value, sizes, task.sample, values);
  pack_heads<T>(a.key, sizes, task.sample, 0, sizes.count, S(1), key_rows, columns * sizes.head_columns());

  const HeadWeights<S> before{a.mixing.pre_weight, heads, 1, nullptr}, before_transposed{a.mixing.pre_weight, 1, heads, nullptr};
  const HeadWeights<S> after{a.mixing.post_weight, heads, 1, a.mixing.post_bias};
  const HeadWeights<S> after_transposed{a.mixing.post_weight, 1, heads, nullptr};
  for (int64_t first = task.begin; first < task.end; first += TILE_ROWS) {
    const int64_t rows = task.end - first < TILE_ROWS ? task.end - first : TILE_ROWS;
    for (const auto& part : {a.query, a.key, a.value, a.grad}) fetch_heads<0>(part, sizes, task.sample + 1, first, rows);
    for (const auto& part : {a.grad_query, a.grad_key, a.grad_value}) fetch_heads<1>(part, sizes, task.sample, first, rows);
    pack_heads<T>(a.query, sizes, task.sample, first, rows, a.scale, queries, tile_rows);
    pack_heads<T>(a.grad, sizes, task.sample, first, rows, S(1), grads, tile_rows);
    multiply_rows_by_columns(queries, keys, sizes, rows, logits);
    multiply_rows_by_columns(grads, values, sizes, rows, grad_attention);
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t row = r * columns;
      const S* const logsumexp = a.logsumexp + task.sample * heads * sizes.count + first + r;
      mix_heads(logits + row, step, heads, before, columns, [&](int64_t g, int64_t m, const Vector<S>& values) {
        store(probabilities + row + g * step + m, within<S>(m, sizes.count, exp_lanes<S>(values - logsumexp[g * sizes.count])));
      });
      mix_heads(probabilities + row, step, heads, after, columns,
                [&](int64_t g, int64_t m, const Vector<S>& values) { store(attention + row + g * step + m, values); });
      mix_heads(grad_attention + row, step, heads, after_transposed, columns,
                [&](int64_t g, int64_t m, const Vector<S>& values) { store(grad_logits + row + g * step + m, values); });
      for (int64_t g = 0; g < heads; ++g) {
        softmax_backward(probabilities + row + g * step, grad_logits + row + g * step, columns);
      }
    }
    add_transposed_products(attention, grads, sizes, rows, grad_values);
    const int64_t length = rows * columns;
    add_head_products(grad_logits, logits, step, heads, length, parameters);
    add_head_products(grad_attention, probabilities, step, heads, length, parameters + heads * heads);
    add_head_sums(grad_attention, step, heads, length, parameters + 2 * heads * heads);

    S* const grad_products = grad_attention;
    mix_heads(grad_logits, step, heads, before_transposed, length,
              [&](int64_t g, int64_t i, const Vector<S>& values) { store(grad_products + g * step + i, values); });
    add_transposed_products(grad_products, queries, sizes, rows, grad_keys);
    multiply_tile_by_rows(grad_products, key_rows, sizes, rows, result);
    unpack_heads<T>(result, tile_rows, sizes, rows, a.scale, a.grad_query, task.sample, first);
  }
}

// Writes a sample's gradients of keys and values.
template <class T>
void store_sums(const BackwardArguments<T>& a, int64_t sample, const sum_t<T>* sums) {
  const Sizes& sizes = a.sizes;
  const int64_t of_head = sizes.columns() * sizes.head_columns();
  unpack_heads<T>(sums, of_head, sizes, sizes.count, sum_t<T>(1), a.grad_key, sample, 0);
  unpack_heads<T>(sums + sizes.by_rows(), of_head, sizes, sizes.count, sum_t<T>(1), a.grad_value, sample, 0);
}
