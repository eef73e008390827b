// The loops of source_attribution; included once for each instruction set (common/each_isa.h).

#include "common/zone_rows.h"

// --- embedding: two rows a sample
// ---------------------------------------------------------------------------------------------------

// The bias of a token wholly inside, then that of one wholly outside: [2, width].
template <class S>
inline void zone_biases(const BiasMix<S>& mix, int64_t width, S* rows) {
  for_each_vector<S>(width, [&](int64_t c, auto extent) {
    Vector<S> inside = {}, outside = {};
    for (int64_t i = 0; i < mix.sources; ++i) {
      const Vector<S> bias = load_at(mix.bias + i * width + c, extent);
      inside += bias * mix.inside[i];
      outside += bias * mix.outside[i];
    }
    store_at(rows + c, inside, extent);
    store_at(rows + width + c, outside, extent);
  });
}

template <class T>
void embed(const T* tokens, int64_t positions, int64_t width, const BiasMix<sum_t<T>>& mix, sum_t<T>* rows, T* tile, bool stream,
           T* out) {
  using S = sum_t<T>;
  zone_biases(mix, width, rows);
  write_rows(out, positions, width, tile, stream, [&](int64_t p, T* to) {
    const S covered = mix.covered[p], uncovered = mix.uncovered[p];
    for_each_vector<S>(width, [&](int64_t c, auto extent) {
      prefetch(tokens + p * width + c + AHEAD);
      const Vector<S> bias = load_at(rows + c, extent) * covered + load_at(rows + width + c, extent) * uncovered;
      store_at(to + c, load_at(tokens + p * width + c, extent) + bias, extent);
    });
  });
}

// The gradient's sum inside, then outside: [4, width], of which the second half is scratch.
template <class T>
void embed_backward(const T* grad, int64_t positions, int64_t width, const sum_t<T>* covered, const sum_t<T>* uncovered,
                    sum_t<T>* sums) {
  sum_zones_of_rows(grad, positions, width, covered, uncovered, sums, sums + width, sums + 2 * width, AsIs{});
}

// --- encoding: chunks of gathered rows
// ----------------------------------------------------------------------------------------------

template <class T>
void gather(const TokenRows<const T*>& from, const int64_t* tokens, int64_t count, sum_t<T>* to) {
  using S = sum_t<T>;
  for (int64_t r = 0; r < count; ++r) {
    const T* row = from.row(tokens[r]);
    const T* next = from.row(tokens[r + 1 < count ? r + 1 : r]);
    for_each_vector<S>(from.width, [&](int64_t c, auto extent) {
      prefetch(next + c);
      store_at(to + r * from.width + c, load_at(row + c, extent), extent);
    });
  }
}

template <class S>
void scale_rows(const S* from, const S* weights, int64_t count, int64_t width, S* to) {
  for (int64_t r = 0; r < count; ++r) {
    for_each_vector<S>(width, [&](int64_t c, auto extent) {
      store_at(to + r * width + c, load_at(from + r * width + c, extent) * weights[r], extent);
    });
  }
}

// sums[c] += sum over the chunk's rows.
template <class S>
void add_columns(const S* rows, int64_t count, int64_t width, S* sums) {
  for_each_vector<S>(width, [&](int64_t c, auto extent) {
    Vector<S> sum = {};
    for (int64_t r = 0; r < count; ++r) sum += load_at(rows + r * width + c, extent);
    store_at(sums + c, load_at(sums + c, extent) + sum, extent);
  });
}

// out[token] = row + product + sum over the chunk's sources of weight * bias.
template <class T>
void scatter(const TokenRows<T*>& to, const ChunkResult<sum_t<T>>& chunk, T* tile, bool stream) {
  using S = sum_t<T>;
  const int64_t width = to.width;
  for (int64_t r = 0; r < chunk.count; ++r) {
    for_each_vector<S>(width, [&](int64_t c, auto extent) {
      Vector<S> values = load_at(chunk.rows + r * width + c, extent) + load_at(chunk.products + r * width + c, extent);
      for (int64_t i = 0; i < chunk.sources; ++i) {
        values += load_at(chunk.bias + i * width + c, extent) * chunk.weights[i * chunk.count + r];
      }
      store_at(tile + c, values, extent);
    });
    put(to.row(chunk.tokens[r]), tile, width, stream);
  }
  if (stream) finish_streaming();
}

template <class S>
inline S dot(const S* a, const S* b, int64_t count) {
  Vector<S> sum = {};
  for_each_vector<S>(count, [&](int64_t c, auto extent) { sum += load_at(a + c, extent) * load_at(b + c, extent); });
  return sum_lanes<S>(sum);
}

// d loss / d (weight of one source for a token) = grad . (W token + bias) = (W^T grad) . token + grad . bias.
template <class S>
void weight_gradients(const S* grad, const S* products, const S* rows, const S* bias, int64_t count, int64_t width, S* to) {
  for (int64_t r = 0; r < count; ++r) {
    to[r] = dot(products + r * width, rows + r * width, width) + dot(grad + r * width, bias, width);
  }
}
