// The loops of gated_positional_attention; included once for each instruction set (common/each_isa.h).
//
// One head of one sample at a time: its tokens are packed, and blocks of columns of its N x N matrices live in cache only. The matrices
// are transposed, a row a key and a column a query, so that a vector holds 16 queries' numbers for one key: a softmax then
// needs no sum across lanes, and the last query no treatment of its own. (What padded queries give is not read.)

#include "common/attention_layout.h"
#include "common/attention_products.h"
#include "common/simd_exp.h"
#include "common/simd_log.h"

// Asks for one token's channels: those of a head are far apart in memory, which the processor does not foresee.
template <class T>
inline void prefetch_token(const HeadRows<const T*>& rows, int64_t sample, int64_t head, int64_t token, int64_t width) {
  const char* bytes = reinterpret_cast<const char*>(rows.of(sample, head) + token * rows.row_step);
  for (int64_t i = 0; i < width * int64_t(sizeof(T)); i += 64) __builtin_prefetch(bytes + i, 0, 2);
}

// --- forward ---

// A vector of queries' scores, a row of `step` elements a key, become their columns of the combined matrix. Gives the logsumexp.
template <class S>
inline Vector<S> combine(S* columns, int64_t step, int64_t count, S gate, const S* positional, int64_t positional_step) {
  Vector<S> largest = load(columns);
  for (int64_t key = 1; key < count; ++key) largest = at_least(load(columns + key * step), largest);
  Vector<S> sum = {};
  for (int64_t key = 0; key < count; ++key) {
    const Vector<S> power = exp_lanes<S>(load(columns + key * step) - largest);
    sum += power;
    store(columns + key * step, power);
  }
  const Vector<S> share = (1 - gate) / sum;
  for (int64_t key = 0; key < count; ++key) {
    const Vector<S> place = load(positional + key * positional_step) * gate;
    store(columns + key * step, load(columns + key * step) * share + place);
  }
  return largest + log_lanes<S>(sum);
}

// Samples and heads number begin..end of all, sample by sample.
template <class T>
void forward(const Inputs<T>& in, const Result<T>& out, int64_t begin, int64_t end) {
  using S = sum_t<T>;
  const Sizes& sizes = in.sizes;
  const int64_t N = sizes.count, e = sizes.width, heads = sizes.heads, row_step = sizes.row_step(),
                column_step = sizes.column_step();
  Scratch<S> scratch(4 * sizes.tokens() + sizes.block_columns() + column_step);
  S *queries_T = scratch.take(sizes.tokens()), *keys = scratch.take(sizes.tokens()), *values = scratch.take(sizes.tokens()),
    *result = scratch.take(sizes.tokens()), *matrix = scratch.take(sizes.block_columns()), *logsumexp = scratch.take(column_step);
  for (int64_t item = begin; item < end; ++item) {
    const int64_t sample = item / heads, head = item % heads;
    pack_columns<T>(in.qkv.queries.of(sample, head), in.qkv.queries.row_step, N, e, queries_T, column_step);
    pack_rows<T>(in.qkv.keys.of(sample, head), in.qkv.keys.row_step, N, e, in.scale, keys, row_step);
    pack_rows<T>(in.qkv.values.of(sample, head), in.qkv.values.row_step, N, e, S(1), values, row_step);
    const S* positional = in.positional + head * N * column_step;
    for (int64_t first = 0; first < N; first += sizes.block) {
      const int64_t columns = std::min(sizes.block, N - first);
      multiply_tile<Left::by_rows, Into::replace>(keys, row_step, queries_T + first, column_step, matrix, sizes.block, N, e, columns);
      for (int64_t c = 0; c < columns; c += LANES<S>) {
        store(logsumexp + first + c,
              combine(matrix + c, sizes.block, N, in.gate[head], positional + first + c, column_step));
      }
      for (int64_t token = first; item + 1 < end && token < first + columns; ++token) {
        prefetch_token(in.qkv.queries, (item + 1) / heads, (item + 1) % heads, token, e);
        prefetch_token(in.qkv.keys, (item + 1) / heads, (item + 1) % heads, token, e);
        prefetch_token(in.qkv.values, (item + 1) / heads, (item + 1) % heads, token, e);
      }
      multiply_tile<Left::by_columns, Into::replace>(matrix, sizes.block, values, row_step, result + first * row_step, row_step,
                                                     columns, N, e);
    }
    unpack_rows<T>(result, row_step, N, e, S(1), out.rows.of(sample, head), out.rows.row_step);
    std::memcpy(out.logsumexp + item * N, logsumexp, N * sizeof(S));
  }
}

// --- backward ---

// Of a vector of queries' scores and their products with grad: their columns of the combined matrix in place of the first, the scores'
// gradients in place of the second, which are added to `summed` before. Gives sum over the keys of A * grad v^T.
template <class S>
inline Vector<S> differentiate(S* columns, S* grads, int64_t step, int64_t count, const Vector<S>& logsumexp, S gate,
                               const S* positional, S* summed, int64_t padded_step) {
  Vector<S> seen = {};
  for (int64_t key = 0; key < count; ++key) {
    const Vector<S> content = exp_lanes<S>(load(columns + key * step) - logsumexp), grad = load(grads + key * step);
    seen += content * grad;
    store(columns + key * step, content);
    store(summed + key * padded_step, load(summed + key * padded_step) + grad);
  }
  for (int64_t key = 0; key < count; ++key) {
    const Vector<S> share = load(columns + key * step) * (1 - gate);
    store(grads + key * step, share * (load(grads + key * step) - seen));
    store(columns + key * step, share + load(positional + key * padded_step) * gate);
  }
  return seen;
}

// Groups and heads number begin..end of all: the samples of a group one after another, whatever the number of threads.
template <class T>
void backward(const Inputs<T>& in, const Gradients<T>& out, int64_t begin, int64_t end) {
  using S = sum_t<T>;
  const Sizes& sizes = in.sizes;
  const int64_t N = sizes.count, e = sizes.width, heads = sizes.heads, row_step = sizes.row_step(),
                column_step = sizes.column_step(), block = sizes.block;
  Scratch<S> scratch(9 * sizes.tokens() + 2 * sizes.block_columns());
  const auto tokens = [&] { return scratch.take(sizes.tokens()); };
  S *queries = tokens(), *queries_T = tokens(), *keys = tokens(), *values = tokens(), *grad = tokens(), *grad_T = tokens(),
    *grad_queries = tokens(), *grad_keys = tokens(), *grad_values = tokens();
  S *matrix = scratch.take(sizes.block_columns()), *grad_matrix = scratch.take(sizes.block_columns());
  for (int64_t item = begin; item < end; ++item) {
    const int64_t head = item % heads, last = out.first_sample(item / heads + 1, sizes.batch);
    const S* positional = in.positional + head * N * column_step;
    S* const summed = out.combined + item * N * column_step;
    std::fill_n(summed, N * column_step, S(0));
    double seen = 0;
    for (int64_t sample = out.first_sample(item / heads, sizes.batch); sample < last; ++sample) {
      const T *query = in.qkv.queries.of(sample, head), *result_grad = out.grad.of(sample, head);
      pack_rows<T>(query, in.qkv.queries.row_step, N, e, S(1), queries, row_step);
      pack_columns<S>(queries, row_step, N, e, queries_T, column_step);
      pack_rows<T>(in.qkv.keys.of(sample, head), in.qkv.keys.row_step, N, e, in.scale, keys, row_step);
      pack_rows<T>(in.qkv.values.of(sample, head), in.qkv.values.row_step, N, e, S(1), values, row_step);
      pack_rows<T>(result_grad, out.grad.row_step, N, e, S(1), grad, row_step);
      pack_columns<S>(grad, row_step, N, e, grad_T, column_step);
      std::fill_n(grad_keys, sizes.tokens(), S(0));
      std::fill_n(grad_values, sizes.tokens(), S(0));
      const S* logsumexp = out.logsumexp + (sample * heads + head) * N;
      Vector<S> seen_here = {};
      for (int64_t first = 0; first < N; first += block) {
        const int64_t columns = std::min(block, N - first);
        const S *query_rows = queries + first * row_step, *grad_rows = grad + first * row_step;
        multiply_tile<Left::by_rows, Into::replace>(keys, row_step, queries_T + first, column_step, matrix, block, N, e, columns);
        multiply_tile<Left::by_rows, Into::replace>(values, row_step, grad_T + first, column_step, grad_matrix, block, N, e, columns);
        for (int64_t c = 0; c < columns; c += LANES<S>) {
          const int64_t at = first + c;
          // Beyond the last query grad is 0, and so is all that comes of it.
          seen_here += differentiate(matrix + c, grad_matrix + c, block, N, load_up_to(logsumexp + at, N - at), in.gate[head],
                                     positional + at, summed + at, column_step);
        }
        for (int64_t token = first; sample + 1 < last && token < first + columns; ++token) {
          prefetch_token(in.qkv.queries, sample + 1, head, token, e);
          prefetch_token(in.qkv.keys, sample + 1, head, token, e);
          prefetch_token(in.qkv.values, sample + 1, head, token, e);
          prefetch_token(out.grad, sample + 1, head, token, e);
        }
        multiply_tile<Left::by_rows, Into::add>(matrix, block, grad_rows, row_step, grad_values, row_step, N, columns, e);
        multiply_tile<Left::by_rows, Into::add>(grad_matrix, block, query_rows, row_step, grad_keys, row_step, N, columns, e);
        multiply_tile<Left::by_columns, Into::replace>(grad_matrix, block, keys, row_step, grad_queries + first * row_step, row_step,
                                                       columns, N, e);
      }
      seen += sum_lanes<S>(seen_here);
      // The keys were packed with the scale in them.
      unpack_rows<T>(grad_queries, row_step, N, e, S(1), out.qkv.queries.of(sample, head), out.qkv.queries.row_step);
      unpack_rows<T>(grad_keys, row_step, N, e, in.scale, out.qkv.keys.of(sample, head), out.qkv.keys.row_step);
      unpack_rows<T>(grad_values, row_step, N, e, S(1), out.qkv.values.of(sample, head), out.qkv.values.row_step);
    }
    out.seen[item] = seen;
  }
}

// --- all heads' N x N matrices, between [h, N, N] and the transposed form with padded rows ---

template <class S>
void transpose_positional(const S* positional, const Sizes& sizes, S* transposed) {
  const int64_t N = sizes.count, step = sizes.column_step();
  for (int64_t head = 0; head < sizes.heads; ++head) {
    pack_columns<S>(positional + head * N * N, N, N, N, transposed + head * N * step, step);
  }
}

// Heads begin..end: the groups' sums added up in order, times the gate, and their products with `positional`.
template <class S>
void sum_groups(const S* combined, const S* positional, const S* gate, const Sizes& sizes, int64_t groups, S* grad_positional,
                double* dots, int64_t begin, int64_t end) {
  const int64_t N = sizes.count, step = sizes.column_step();
  Scratch<S> scratch(2 * step * step);
  S *sums = scratch.take(N * step), *turned = scratch.take(N * step);
  for (int64_t head = begin; head < end; ++head) {
    double dot = 0;
    for (int64_t key = 0; key < N; ++key) {
      Vector<S> total = {};
      for (int64_t c = 0; c < N; c += LANES<S>) {
        const int64_t at = (head * N + key) * step + c;
        Vector<S> sum = {};
        for (int64_t group = 0; group < groups; ++group) sum += load(combined + group * sizes.heads * N * step + at);
        total += sum * load(positional + at);
        store(sums + key * step + c, sum);
      }
      dot += sum_lanes<S>(total);
    }
    dots[head] = dot;
    pack_columns<S>(sums, step, N, N, turned, step);
    unpack_rows<S>(turned, step, N, N, gate[head], grad_positional + head * N * N, N);
  }
}
