// Encoding: a token is multiplied by the matrices of the sources that it shows. Included after the loops (each_isa.h).
#pragma once

#include <numeric>

#include "common/buffer.h"
#include "common/coverage.h"
#include "common/parallel.h"
#include "common/streaming.h"
#include "cpu/source_attribution_arguments.h"
#include "cpu/source_attribution_groups.h"
#include "cpu/source_attribution_products.h"

namespace mixfast {
namespace {

// Tokens of a chunk: its rows and products take about a quarter of a MiB each, and stay in a core's own cache.
int64_t chunk_rows(int64_t width) { return std::clamp<int64_t>((1 << 16) / std::max<int64_t>(width, 1), 64, 1024) / 16 * 16; }

// Calls f(k, workers) for every worker, at most one a thread and none with less than a chunk to do.
template <class F>
void for_each_worker(int64_t workers, const F& f) {
  if (workers == 1) return f(int64_t(0), workers);
  torch::stable::parallel_for(0, workers, 1, [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) f(k, workers);
  });
}

int64_t workers_for(int64_t products, int64_t rows) {
  return std::clamp<int64_t>(products / rows, 1, torch::stable::get_num_threads());
}

// A worker's memory: the rows of one chunk, and what becomes of them.
template <class S>
struct Workspace {
  int64_t width;
  Buffer<S> tokens, grad, scaled, products, weights;

  Workspace(int64_t rows, int64_t width, int64_t sources)
      : width(width),
        tokens(make_buffer<S>(rows * width)),
        grad(make_buffer<S>(rows * width)),
        scaled(make_buffer<S>(rows * width)),
        products(make_buffer<S>(rows * width)),
        weights(make_buffer<S>(rows * sources)) {}

  // The chunk's rows times their weights: the rows themselves where all weights are 1.
  Tensor weighted(const S* values, const S* row_weights, bool all_one, int64_t count) const {
    if (all_one) return matrix_view(values, count, width);
    MIXFAST_CALL(scale_rows<S>, values, row_weights, count, width, scaled.get());
    return matrix_view(scaled.get(), count, width);
  }
};

// The matrix of each source, as they lie or transposed.
template <class S>
std::vector<Tensor> matrices_of(const Tensor& weight_MDD, bool transpose) {
  const int64_t width = weight_MDD.size(1);
  std::vector<Tensor> matrices;
  for (int64_t i = 0; i < weight_MDD.size(0); ++i) {
    const Tensor matrix = matrix_view(data<S>(weight_MDD) + i * width * width, width, width);
    matrices.push_back(transpose ? transposed(matrix) : matrix);
  }
  return matrices;
}

template <class T, class S = sum_t<T>>
Tensor encoded(const Tensor& tokens, const Zone<S>& zone, const Tensor& bias, const Tensor& weight) {
  const int64_t width = tokens.size(2), rows = chunk_rows(width);
  const Tensor out = empty(sizes_of(tokens), tokens.scalar_type()), matrices_MDD = in_sums_dtype<S>(weight);
  if (tokens.numel() == 0) return out;
  const TokenGroups<S> groups(zone);
  const std::vector<S> biases = floats_of<S>(bias);
  const TokenRows<const T*> from = rows_of(tokens, data<T>(tokens));
  const TokenRows<T*> to = rows_of(out, mutable_data<T>(out));
  const bool stream = tokens.numel() * int64_t(sizeof(T)) >= STREAM_FROM_BYTES;
  for_each_worker(workers_for(groups.products(), rows), [&](int64_t k, int64_t workers) {
    const Workspace<S> space(rows, width, zone.inputs);
    const Buffer<T> tile = make_buffer<T>(tile_capacity(width));
    const std::vector<Tensor> matrices = matrices_of<S>(matrices_MDD, true);
    groups.for_each_chunk(k, workers, rows, [&](const TokenChunk& chunk) {
      const int64_t count = chunk.end - chunk.begin, first = chunk.first_source;
      const int64_t* chunk_tokens = groups.tokens.data() + chunk.begin;
      MIXFAST_CALL(gather<T>, from, chunk_tokens, count, space.tokens.get());
      const Tensor products = matrix_view(space.products.get(), count, width);
      for (int64_t i = first; i < chunk.end_source; ++i) {
        S* weights = space.weights.get() + (i - first) * count;
        const bool all_one = groups.weights(chunk, i, weights);
        multiply(products, space.weighted(space.tokens.get(), weights, all_one, count), matrices[i], i > first);
      }
      const ChunkResult<S> result{chunk_tokens,
                                  count,
                                  space.tokens.get(),
                                  space.products.get(),
                                  biases.data() + first * width,
                                  space.weights.get(),
                                  chunk.end_source - first};
      MIXFAST_CALL(scatter<T>, to, result, tile.get(), stream);
    });
  });
  return out;
}

// A worker's share of the gradients of weight and bias.
template <class S>
struct ParameterSums {
  std::vector<std::vector<S>> weight;  // [M] of [d, d]; empty where the worker met no token of that source
  std::vector<S> bias;                 // [M, d]

  ParameterSums(int64_t sources, int64_t width) : weight(sources), bias(sources * width) {}

  void add(int64_t source, const Tensor& grad_RD, const Tensor& tokens_RD) {
    const int64_t count = grad_RD.size(0), width = grad_RD.size(1);
    const bool started = !weight[source].empty();
    weight[source].resize(width * width);
    multiply(matrix_view(weight[source].data(), width, width), transposed(grad_RD), tokens_RD, started);
    MIXFAST_CALL(add_columns<S>, data<S>(grad_RD), count, width, bias.data() + source * width);
  }
};

// Adds up what the workers have, in their order.
template <class S>
void total(const std::vector<ParameterSums<S>>& parts, int64_t sources, int64_t width, S* grad_weight_MDD, S* grad_bias_MD) {
  std::fill_n(grad_bias_MD, sources * width, S(0));
  for (const ParameterSums<S>& part : parts) {
    for (int64_t i = 0; i < sources * width; ++i) grad_bias_MD[i] += part.bias[i];
  }
  parallel_for(sources * width, width * 2 * int64_t(sizeof(S)), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      S* to = grad_weight_MDD + row * width;
      std::fill_n(to, width, S(0));
      for (const ParameterSums<S>& part : parts) {
        const std::vector<S>& from = part.weight[row / width];
        if (from.empty()) continue;
        for (int64_t c = 0; c < width; ++c) to[c] += from[row % width * width + c];
      }
    }
  });
}

// From the gradients of each token's weights, [M, B * N], to those of the zones' weights.
template <class S>
void total_zones(const Zone<S>& zone, const std::vector<S>& grad_weights, S* grad_inside, S* grad_outside) {
  const int64_t positions = zone.height * zone.width, sources = zone.inputs;
  Coverage<S>(zone, zone.height, zone.width).for_each_sample(positions * sources * int64_t(sizeof(S)), [&] {
    return [&](int64_t b, const S* covered, const S* uncovered) {
      for (int64_t i = 0; i < sources; ++i) {
        const S* grads = grad_weights.data() + (i * zone.batch + b) * positions;
        grad_inside[b * sources + i] = std::inner_product(covered, covered + positions, grads, S(0));
        grad_outside[b * sources + i] = std::inner_product(uncovered, uncovered + positions, grads, S(0));
      }
    };
  });
}

template <class T, class S = sum_t<T>>
Gradients encoded_backward(const Tensor& grad, const Tensor& tokens, const Zone<S>& zone, const Tensor& inside, const Tensor& bias,
                           const Tensor& weight, bool zones) {
  const int64_t width = tokens.size(2), rows = chunk_rows(width), sources = zone.inputs,
                count_of_tokens = zone.batch * tokens.size(1);
  const Gradients result = empty_gradients<S>(grad, inside, bias, weight, zones);
  const Tensor matrices_MDD = in_sums_dtype<S>(weight);
  const std::vector<S> biases = floats_of<S>(bias);
  const TokenGroups<S> groups(zone);
  const TokenRows<const T*> grad_rows = rows_of(grad, data<T>(grad)), token_rows = rows_of(tokens, data<T>(tokens));
  const TokenRows<T*> to = rows_of(result.tokens, mutable_data<T>(result.tokens));
  const bool stream = tokens.numel() * int64_t(sizeof(T)) >= STREAM_FROM_BYTES;
  const int64_t workers = workers_for(groups.products(), rows);
  std::vector<ParameterSums<S>> parts(workers, ParameterSums<S>(sources, width));
  std::vector<S> grad_weights(zones ? sources * count_of_tokens : 0);

  for_each_worker(workers, [&](int64_t k, int64_t workers) {
    const Workspace<S> space(rows, width, sources);
    const Buffer<T> tile = make_buffer<T>(tile_capacity(width));
    const std::vector<Tensor> matrices = matrices_of<S>(matrices_MDD, false);
    groups.for_each_chunk(k, workers, rows, [&](const TokenChunk& chunk) {
      const int64_t count = chunk.end - chunk.begin;
      const int64_t* chunk_tokens = groups.tokens.data() + chunk.begin;
      MIXFAST_CALL(gather<T>, grad_rows, chunk_tokens, count, space.grad.get());
      MIXFAST_CALL(gather<T>, token_rows, chunk_tokens, count, space.tokens.get());
      const Tensor products = matrix_view(space.products.get(), count, width);
      const Tensor token_matrix = matrix_view(space.tokens.get(), count, width);
      for (int64_t i = chunk.first_source; i < chunk.end_source; ++i) {
        const bool all_one = groups.weights(chunk, i, space.weights.get());
        const Tensor weighted = space.weighted(space.grad.get(), space.weights.get(), all_one, count);
        multiply(products, weighted, matrices[i], i > chunk.first_source);
        parts[k].add(i, weighted, token_matrix);
      }
      const ChunkResult<S> sum{chunk_tokens, count, space.grad.get(), space.products.get(), nullptr, nullptr, 0};
      MIXFAST_CALL(scatter<T>, to, sum, tile.get(), stream);
      for (int64_t i = 0; zones && i < sources; ++i) {
        multiply(products, matrix_view(space.grad.get(), count, width), matrices[i], false);
        MIXFAST_CALL(weight_gradients<S>, space.grad.get(), space.products.get(), space.tokens.get(), biases.data() + i * width,
                     count, width, space.weights.get());
        for (int64_t r = 0; r < count; ++r) grad_weights[i * count_of_tokens + chunk_tokens[r]] = space.weights[r];
      }
    });
  });
  total(parts, sources, width, mutable_data<S>(result.weight), mutable_data<S>(result.bias));
  if (zones) total_zones(zone, grad_weights, mutable_data<S>(result.inside), mutable_data<S>(result.outside));
  return result;
}

}  // namespace
}  // namespace mixfast
