// Embedding: a vector a source is added to its tokens. Included after the loops (each_isa.h).
#pragma once

#include <numeric>

#include "common/buffer.h"
#include "common/coverage.h"
#include "common/streaming.h"
#include "cpu/source_attribution_arguments.h"

namespace mixfast {
namespace {

template <class T, class S = sum_t<T>>
Tensor embedded(const Tensor& tokens, const Zone<S>& zone, const Tensor& bias) {
  const int64_t positions = tokens.size(1), width = tokens.size(2), bytes = positions * width * int64_t(sizeof(T));
  const std::vector<S> biases = floats_of<S>(bias);
  const Tensor out = empty(sizes_of(tokens), tokens.scalar_type());
  const TokenRows<const T*> from = rows_of(tokens, data<T>(tokens));
  const TokenRows<T*> to = rows_of(out, mutable_data<T>(out));
  const bool stream = zone.batch * bytes >= STREAM_FROM_BYTES;
  Coverage<S>(zone, zone.height, zone.width).for_each_sample(bytes, [&] {
    return [&, rows = make_buffer<S>(2 * width), tile = make_buffer<T>(tile_capacity(width))](int64_t b, const S* covered,
                                                                                              const S* uncovered) {
      const BiasMix<S> mix{biases.data(), zone.inputs, zone.inside_of(b), zone.outside_of(b), covered, uncovered};
      MIXFAST_CALL(embed<T>, from.row(b * positions), positions, width, mix, rows.get(), tile.get(), stream, to.row(b * positions));
    };
  });
  return out;
}

// All from the gradient's two sums of each sample.
template <class T, class S = sum_t<T>>
Gradients embedded_backward(const Tensor& grad, const Zone<S>& zone, const Tensor& inside, const Tensor& bias, bool zones) {
  const int64_t positions = grad.size(1), width = grad.size(2), sources = zone.inputs;
  const TokenRows<const T*> from = rows_of(grad, data<T>(grad));
  std::vector<S> sums(zone.batch * 2 * width);  // [B, 2, d]
  Coverage<S>(zone, zone.height, zone.width).for_each_sample(positions * width * int64_t(sizeof(T)), [&] {
    return [&, scratch = make_buffer<S>(4 * width)](int64_t b, const S* covered, const S* uncovered) {
      MIXFAST_CALL(embed_backward<T>, from.row(b * positions), positions, width, covered, uncovered, scratch.get());
      std::copy_n(scratch.get(), 2 * width, sums.data() + b * 2 * width);
    };
  });

  const Gradients result = empty_gradients<S>(grad, inside, bias, std::nullopt, zones);
  S* grad_bias = mutable_data<S>(result.bias);
  std::fill_n(grad_bias, sources * width, S(0));
  const std::vector<S> biases = floats_of<S>(bias);
  for (int64_t b = 0; b < zone.batch; ++b) {
    const S* in = sums.data() + b * 2 * width;
    const S* out = in + width;
    for (int64_t i = 0; i < sources; ++i) {
      const S inside_weight = zone.inside_of(b)[i], outside_weight = zone.outside_of(b)[i];
      for (int64_t c = 0; c < width; ++c) grad_bias[i * width + c] += inside_weight * in[c] + outside_weight * out[c];
      if (!zones) continue;
      const S* bias_of_source = biases.data() + i * width;
      mutable_data<S>(result.inside)[b * sources + i] = std::inner_product(in, in + width, bias_of_source, S(0));
      mutable_data<S>(result.outside)[b * sources + i] = std::inner_product(out, out + width, bias_of_source, S(0));
    }
  }
  return result;
}

}  // namespace
}  // namespace mixfast
