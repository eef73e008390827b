// The loops of gated_positional_attention; included once for each instruction set (common/each_isa.h). One head of one sample at a time:
// its queries, keys and values are packed into tiles, and blocks of rows of its N x N matrices live in cache only.

#include "common/simd_exp.h"
#include "common/simd_log.h"
#include "common/each_vector.h"
#include "common/attention_products.h"
#include "common/attention_rows.h"

// --- forward ---

// A row of scores becomes the row of the combined matrix. Gives the largest score and the sum of exp(score - largest).
template <class S>
inline void combine_row(S* row, int64_t count, S gate, const S* positional, S& largest, S& sum) {
  constexpr S NOTHING = -std::numeric_limits<S>::infinity();
  Vector<S> top = broadcast(NOTHING), total = {};
  for_each_vector<S>(count, [&](int64_t c, auto extent) { top = at_least(with_end<S>(load(row + c), NOTHING, extent), top); });
  largest = max_lanes<S>(top);
  for_each_vector<S>(count, [&](int64_t c, auto extent) {
    const Vector<S> power = exp_lanes<S>(with_end<S>(load(row + c) - largest, NOTHING, extent));
    total += power;
    store(row + c, power);
  });
  sum = sum_lanes<S>(total);
  const S share = (1 - gate) / sum;
  for_each_vector<S>(count, [&](int64_t c, auto extent) {
    store(row + c, load(row + c) * share + load_at(positional + c, extent) * gate);
  });
}

// Samples and heads number begin..end of all, sample by sample.
template <class T>
void forward(const AttentionInputs<T>& in, const AttentionResult<T>& out, int64_t block_rows, int64_t begin, int64_t end) {
  using S = sum_t<T>;
  const AttentionSizes& sizes = in.sizes;
  const int64_t N = sizes.count, e = sizes.width, row_step = sizes.padded_count(), e_step = tile_padded(e);
  Scratch<S> scratch(5 * sizes.tile() + (block_rows + 2) * row_step);
  S *queries = scratch.take(sizes.tile()), *keys = scratch.take(sizes.tile()), *values = scratch.take(sizes.tile()),
    *keys_T = scratch.take(sizes.tile()), *result = scratch.take(sizes.tile()), *matrix = scratch.take(block_rows * row_step),
    *largest = scratch.take(row_step), *sums = scratch.take(row_step);
  std::fill_n(sums, row_step, S(1));
  std::fill_n(largest, row_step, S(0));
  for (int64_t item = begin; item < end; ++item) {
    const int64_t sample = item / sizes.heads, head = item % sizes.heads;
    pack_rows(in.qkv.queries.of(sample, head), in.qkv.queries.token_stride, N, e, in.scale, queries);
    pack_rows(in.qkv.keys.of(sample, head), in.qkv.keys.token_stride, N, e, S(1), keys);
    pack_rows(in.qkv.values.of(sample, head), in.qkv.values.token_stride, N, e, S(1), values);
    transpose_tile(keys, N, e, keys_T);
    for (int64_t first = 0; first < N; first += block_rows) {
      const int64_t rows = std::min(block_rows, N - first);
      multiply_tile<Left::by_rows, Into::replace>(queries + first * e_step, e_step, keys_T, row_step, matrix, row_step, rows, e, N);
      for (int64_t r = 0; r < rows; ++r) {
        combine_row(matrix + r * row_step, N, in.gate[head], in.positional_row(head, first + r), largest[first + r],
                    sums[first + r]);
      }
      multiply_tile<Left::by_rows, Into::replace>(matrix, row_step, values, e_step, result + first * e_step, e_step, rows, N, e);
    }
    unpack_rows(result, N, e, S(1), out.result.of(sample, head), out.result.token_stride);
    for_each_vector<S>(N, [&](int64_t c, auto extent) {
      store_at(out.logsumexp + item * N + c, load(largest + c) + log_lanes<S>(load(sums + c)), extent);
    });
  }
}

// --- backward ---

// Of a row of scores and one of grad v^T: the row of the combined matrix in place of the first, the gradient of the scores in
// place of the second, which is added to `summed` before. Gives sum over j of A[j] * (grad v^T)[j].
template <class S>
inline S differentiate_row(S* row, S* grad_row, int64_t count, S logsumexp, S gate, const S* positional, S* summed) {
  constexpr S NOTHING = -std::numeric_limits<S>::infinity();
  Vector<S> total = {};
  for_each_vector<S>(count, [&](int64_t c, auto extent) {
    const Vector<S> content = exp_lanes<S>(with_end<S>(load(row + c) - logsumexp, NOTHING, extent)), grad = load(grad_row + c);
    total += content * grad;
    store(row + c, content);
    store(summed + c, load(summed + c) + grad);
  });
  const S seen = sum_lanes<S>(total);
  for_each_vector<S>(count, [&](int64_t c, auto extent) {
    const Vector<S> share = load(row + c) * (1 - gate);
    store(grad_row + c, share * (load(grad_row + c) - seen));
    store(row + c, share + load_at(positional + c, extent) * gate);
  });
  return seen;
}

// Groups and heads number begin..end of all: the samples of a group one after another, whatever the number of threads.
template <class T>
void backward(const AttentionInputs<T>& in, const AttentionGradients<T>& out, int64_t groups, int64_t block_rows, int64_t begin,
              int64_t end) {
  using S = sum_t<T>;
  const AttentionSizes& sizes = in.sizes;
  const int64_t N = sizes.count, e = sizes.width, row_step = sizes.padded_count(), e_step = tile_padded(e), tile = sizes.tile();
  Scratch<S> scratch(9 * tile + 2 * block_rows * row_step);
  S *queries = scratch.take(tile), *keys = scratch.take(tile), *values = scratch.take(tile), *grad = scratch.take(tile),
    *keys_T = scratch.take(tile), *values_T = scratch.take(tile), *grad_queries = scratch.take(tile),
    *grad_keys = scratch.take(tile), *grad_values = scratch.take(tile), *matrix = scratch.take(block_rows * row_step),
    *grad_matrix = scratch.take(block_rows * row_step);
  for (int64_t item = begin; item < end; ++item) {
    const int64_t group = item / sizes.heads, head = item % sizes.heads;
    S* const summed = out.combined + item * N * row_step;
    std::fill_n(summed, N * row_step, S(0));
    double seen = 0;
    for (int64_t sample = group * sizes.batch / groups; sample < (group + 1) * sizes.batch / groups; ++sample) {
      pack_rows(in.qkv.queries.of(sample, head), in.qkv.queries.token_stride, N, e, in.scale, queries);
      pack_rows(in.qkv.keys.of(sample, head), in.qkv.keys.token_stride, N, e, S(1), keys);
      pack_rows(in.qkv.values.of(sample, head), in.qkv.values.token_stride, N, e, S(1), values);
      pack_rows(out.grad.of(sample, head), out.grad.token_stride, N, e, S(1), grad);
      transpose_tile(keys, N, e, keys_T);
      transpose_tile(values, N, e, values_T);
      std::fill_n(grad_keys, tile, S(0));
      std::fill_n(grad_values, tile, S(0));
      const S* logsumexp = out.logsumexp + (sample * sizes.heads + head) * N;
      S seen_here = 0;
      for (int64_t first = 0; first < N; first += block_rows) {
        const int64_t rows = std::min(block_rows, N - first);
        const S *query_rows = queries + first * e_step, *grad_rows = grad + first * e_step;
        multiply_tile<Left::by_rows, Into::replace>(query_rows, e_step, keys_T, row_step, matrix, row_step, rows, e, N);
        multiply_tile<Left::by_rows, Into::replace>(grad_rows, e_step, values_T, row_step, grad_matrix, row_step, rows, e, N);
        for (int64_t r = 0; r < rows; ++r) {
          seen_here += differentiate_row(matrix + r * row_step, grad_matrix + r * row_step, N, logsumexp[first + r], in.gate[head],
                                         in.positional_row(head, first + r), summed + (first + r) * row_step);
        }
        multiply_tile<Left::by_columns, Into::add>(matrix, row_step, grad_rows, e_step, grad_values, e_step, N, rows, e);
        multiply_tile<Left::by_columns, Into::add>(grad_matrix, row_step, query_rows, e_step, grad_keys, e_step, N, rows, e);
        multiply_tile<Left::by_rows, Into::replace>(grad_matrix, row_step, keys, e_step, grad_queries + first * e_step, e_step,
                                                    rows, N, e);
      }
      seen += seen_here;
      unpack_rows(grad_queries, N, e, in.scale, out.qkv.queries.of(sample, head), out.qkv.queries.token_stride);
      // The queries were packed with the scale in them.
      unpack_rows(grad_keys, N, e, S(1), out.qkv.keys.of(sample, head), out.qkv.keys.token_stride);
      unpack_rows(grad_values, N, e, S(1), out.qkv.values.of(sample, head), out.qkv.values.token_stride);
    }
    out.seen[item] = seen;
  }
}

// Row number begin..end of all heads' rows: the groups' sums added up in order, and their products with `positional`.
template <class S>
void sum_groups(const S* combined, const AttentionSizes& sizes, int64_t groups, const S* positional, const S* gate,
                S* grad_positional, double* dots, int64_t begin, int64_t end) {
  const int64_t N = sizes.count, row_step = sizes.padded_count(), all = sizes.heads * N * row_step;
  for (int64_t row = begin; row < end; ++row) {
    Vector<S> total = {};
    for_each_vector<S>(N, [&](int64_t c, auto extent) {
      Vector<S> sum = {};
      for (int64_t group = 0; group < groups; ++group) sum += load(combined + group * all + row * row_step + c);
      total += sum * load_at(positional + row * N + c, extent);
      store_at(grad_positional + row * N + c, sum * gate[row / N], extent);
    });
    dots[row] = sum_lanes<S>(total);
  }
}
