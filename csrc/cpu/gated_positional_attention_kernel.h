// The loops of gated_positional_attention; included once for each instruction set (common/each_isa.h).
//
// One head of one sample at a time: its tokens are packed, and blocks of columns of its N x N matrices live in cache only. The matrices
// are transposed, a row a key and a column a query, so that a vector holds 16 queries' numbers for one key: a softmax then
// needs no sum across lanes, and the last query no treatment of its own. (What padded queries give is not read.)

#include "common/attention_layout.h"
#include "common/attention_products.h"
#include "common/simd_exp.h"
#include "common/simd_log.h"
#include "common/stream_rows.h"

// Asks for one token's channels: those of a head are far apart in memory, which the processor does not foresee.
template <class T>
inline void prefetch_token(const HeadRows<const T*>& rows, int64_t sample, int64_t head, int64_t token, int64_t width) {
  const char* bytes = reinterpret_cast<const char*>(rows.of(sample, head) + token * rows.row_step);
  for (int64_t i = 0; i < width * int64_t(sizeof(T)); i += 64) __builtin_prefetch(bytes + i, 0, 2);
}

// A tile's rows times `factor` to where they belong. row: scratch for one of them. stream: past the caches (streaming.h).
template <class T, class S = sum_t<T>>
inline void put_rows(const S* tile, const Sizes& sizes, S factor, T* row, bool stream, T* to, int64_t to_step) {
  if (!stream) return unpack_rows<T>(tile, sizes.row_step(), sizes.count, sizes.width, factor, to, to_step);
  for (int64_t r = 0; r < sizes.count; ++r) {
    unpack_rows<T>(tile + r * sizes.row_step(), 0, 1, sizes.width, factor, row, 0);
    stream_copy(to + r * to_step, row, sizes.width);
  }
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
  Scratch<S> scratch(4 * sizes.tokens() + sizes.block_columns() + column_step + row_step);
  S *queries_T = scratch.take(sizes.tokens()), *keys = scratch.take(sizes.tokens()), *values = scratch.take(sizes.tokens()),
    *result = scratch.take(sizes.tokens()), *matrix = scratch.take(sizes.block_columns()), *logsumexp = scratch.take(column_step);
  T* const row = reinterpret_cast<T*>(scratch.take(row_step));
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
    put_rows<T>(result, sizes, S(1), row, out.stream, out.rows.of(sample, head), out.rows.row_step);
    std::memcpy(out.logsumexp + item * N, logsumexp, N * sizeof(S));
  }
  if (out.stream) finish_streaming();
}

// --- backward ---

// Of a vector of queries' scores and their products with grad: their columns of the combined matrix in place of the first, the scores'
// gradients in place of the second, which are added to `summed` before. Gives what they add to the gate's gradient.
template <class S>
inline Vector<S> differentiate(S* columns, S* grads, int64_t step, int64_t count, const Vector<S>& logsumexp, S gate,
                               const S* positional, S* summed, int64_t padded_step) {
  Vector<S> seen = {}, grad_gate = {};
  for (int64_t key = 0; key < count; ++key) {
    const Vector<S> content = exp_lanes<S>(load(columns + key * step) - logsumexp), grad = load(grads + key * step);
    seen += content * grad;
    store(columns + key * step, content);
    store(summed + key * padded_step, load(summed + key * padded_step) + grad);
  }
  for (int64_t key = 0; key < count; ++key) {
    const Vector<S> content = load(columns + key * step), grad = load(grads + key * step),
                    place = load(positional + key * padded_step);
    // The difference first: the two sums apart would be large, and mostly cancel.
    grad_gate += (place - content) * grad;
    const Vector<S> share = content * (1 - gate);
    store(grads + key * step, share * (grad - seen));
    store(columns + key * step, share + place * gate);
  }
  return grad_gate;
}

// A piece of backward's work: some heads of a group of samples, sample by sample, so that what lies side by side is used together.
struct Piece {
  int64_t group, first_head, last_head, sample, last_sample, head;

  Piece(const Sizes& sizes, int64_t groups, int64_t number)
      : group(number / sizes.head_blocks()),
        first_head(number % sizes.head_blocks() * HEADS_AT_ONCE),
        last_head(std::min(first_head + HEADS_AT_ONCE, sizes.heads)),
        sample(group * sizes.batch / groups),
        last_sample((group + 1) * sizes.batch / groups),
        head(first_head) {}

  bool is_done() const { return sample == last_sample; }
  void advance() {
    if (++head < last_head) return;
    head = first_head;
    ++sample;
  }
};

// Pieces number begin..end of all.
template <class T>
void backward(const Inputs<T>& in, const Gradients<T>& out, int64_t begin, int64_t end) {
  using S = sum_t<T>;
  const Sizes& sizes = in.sizes;
  const int64_t N = sizes.count, e = sizes.width, row_step = sizes.row_step(), column_step = sizes.column_step(), block = sizes.block;
  Scratch<S> scratch(9 * sizes.tokens() + 2 * sizes.block_columns() + row_step);
  const auto tokens = [&] { return scratch.take(sizes.tokens()); };
  S *queries = tokens(), *queries_T = tokens(), *keys = tokens(), *values = tokens(), *grad = tokens(), *grad_T = tokens(),
    *grad_queries = tokens(), *grad_keys = tokens(), *grad_values = tokens();
  S *matrix = scratch.take(sizes.block_columns()), *grad_matrix = scratch.take(sizes.block_columns());
  T* const row = reinterpret_cast<T*>(scratch.take(row_step));
  for (int64_t number = begin; number < end; ++number) {
    Piece piece(sizes, out.groups, number);
    const int64_t first_sum = piece.group * sizes.heads + piece.first_head;
    std::fill_n(out.combined + first_sum * N * column_step, (piece.last_head - piece.first_head) * N * column_step, S(0));
    std::fill_n(out.gate + first_sum, piece.last_head - piece.first_head, 0.0);
    while (!piece.is_done()) {
      const int64_t sample = piece.sample, head = piece.head;
      piece.advance();
      const S* positional = in.positional + head * N * column_step;
      S* const summed = out.combined + (piece.group * sizes.heads + head) * N * column_step;
      pack_rows<T>(in.qkv.queries.of(sample, head), in.qkv.queries.row_step, N, e, S(1), queries, row_step);
      pack_columns<S>(queries, row_step, N, e, queries_T, column_step);
      pack_rows<T>(in.qkv.keys.of(sample, head), in.qkv.keys.row_step, N, e, in.scale, keys, row_step);
      pack_rows<T>(in.qkv.values.of(sample, head), in.qkv.values.row_step, N, e, S(1), values, row_step);
      pack_rows<T>(out.grad.of(sample, head), out.grad.row_step, N, e, S(1), grad, row_step);
      pack_columns<S>(grad, row_step, N, e, grad_T, column_step);
      std::fill_n(grad_keys, sizes.tokens(), S(0));
      std::fill_n(grad_values, sizes.tokens(), S(0));
      const S* logsumexp = out.logsumexp + (sample * sizes.heads + head) * N;
      Vector<S> grad_gate = {};
      for (int64_t first = 0; first < N; first += block) {
        const int64_t columns = std::min(block, N - first);
        const S *query_rows = queries + first * row_step, *grad_rows = grad + first * row_step;
        multiply_tile<Left::by_rows, Into::replace>(keys, row_step, queries_T + first, column_step, matrix, block, N, e, columns);
        multiply_tile<Left::by_rows, Into::replace>(values, row_step, grad_T + first, column_step, grad_matrix, block, N, e, columns);
        for (int64_t c = 0; c < columns; c += LANES<S>) {
          const int64_t at = first + c;
          // Beyond the last query grad is 0, and so is all that comes of it.
          grad_gate += differentiate(matrix + c, grad_matrix + c, block, N, load_up_to(logsumexp + at, N - at), in.gate[head],
                                positional + at, summed + at, column_step);
        }
        for (int64_t token = first; !piece.is_done() && token < first + columns; ++token) {
          prefetch_token(in.qkv.queries, piece.sample, piece.head, token, e);
          prefetch_token(in.qkv.keys, piece.sample, piece.head, token, e);
          prefetch_token(in.qkv.values, piece.sample, piece.head, token, e);
          prefetch_token(out.grad, piece.sample, piece.head, token, e);
        }
        multiply_tile<Left::by_rows, Into::add>(matrix, block, grad_rows, row_step, grad_values, row_step, N, columns, e);
        multiply_tile<Left::by_rows, Into::add>(grad_matrix, block, query_rows, row_step, grad_keys, row_step, N, columns, e);
        multiply_tile<Left::by_columns, Into::replace>(grad_matrix, block, keys, row_step, grad_queries + first * row_step, row_step,
                                                       columns, N, e);
      }
      out.gate[piece.group * sizes.heads + head] += sum_lanes<S>(grad_gate);
      // The keys were packed with the scale in them.
      const PackedRows<T*>& to = out.qkv;
      put_rows<T>(grad_queries, sizes, S(1), row, out.stream, to.queries.of(sample, head), to.queries.row_step);
      put_rows<T>(grad_keys, sizes, in.scale, row, out.stream, to.keys.of(sample, head), to.keys.row_step);
      put_rows<T>(grad_values, sizes, S(1), row, out.stream, to.values.of(sample, head), to.values.row_step);
    }
  }
  if (out.stream) finish_streaming();
}

// --- all heads' N x N matrices, between [h, N, N] and the transposed form with padded rows ---

template <class S>
void transpose_positional(const S* positional, const Sizes& sizes, S* transposed) {
  const int64_t N = sizes.count, step = sizes.column_step();
  for (int64_t head = 0; head < sizes.heads; ++head) {
    pack_columns<S>(positional + head * N * N, N, N, N, transposed + head * N * step, step);
  }
}

// Heads begin..end: the groups' sums added up in order, times the gate.
template <class S>
void sum_groups(const S* combined, const S* gate, const Sizes& sizes, int64_t groups, S* grad_positional, int64_t begin, int64_t end) {
  const int64_t N = sizes.count, step = sizes.column_step();
  Scratch<S> scratch(2 * N * step);
  S *sums = scratch.take(N * step), *turned = scratch.take(N * step);
  for (int64_t head = begin; head < end; ++head) {
    for (int64_t at = 0; at < N * step; at += LANES<S>) {
      Vector<S> sum = {};
      for (int64_t group = 0; group < groups; ++group) sum += load(combined + (group * sizes.heads + head) * N * step + at);
      store(sums + at, sum);
    }
    pack_columns<S>(sums, step, N, N, turned, step);
    unpack_rows<S>(turned, step, N, N, gate[head], grad_positional + head * N * N, N);
  }
}
