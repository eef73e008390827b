// Gradients of one band of rows, for each instruction set.
#include "common/encode_pack_kernel.h"
#include "common/encode_product_kernel.h"

// --- gradients of the output ------------------------------------------------------------------------------------------------

// Rows [count, channels] of an output's gradient, with every row filled up with zeros to `step` elements.
template <class S, class T>
void widen_rows(const T* from, int64_t count, int64_t channels, int64_t step, S* to) {
  for (int64_t row = 0; row < count; ++row, from += channels, to += step) {
    pack_dense<S>(from, channels, static_cast<const S*>(nullptr), static_cast<const S*>(nullptr), to);
    fill_zero(to + channels, step - channels);
  }
}

template <class S>
inline void add_to(S* sums, const S* values, S factor, int64_t count) {
  for (int64_t i = 0; i < count; ++i) sums[i] += factor * values[i];
}

// Sum of the gradient over the positions of spans, for each channel.
template <class S>
void sum_positions(const S* grad, int64_t step, const Span* spans, int64_t count, S* sums) {
  for (int64_t column = 0; column < step; column += LANES<S>) {
    Vector<S> sum{};
    for (int64_t s = 0; s < count; ++s) {
      const S* at = grad + spans[s].first * step + column;
      for (int64_t p = 0; p < spans[s].count; ++p, at += step) sum += load(at);
    }
    store(sums + column, sum);
  }
}

// --- gradient of the weight -------------------------------------------------------------------------------------------------

// total[tap, :] += factor * sum over the positions of spans of window[tap] * grad[:].
template <class S>
struct TapSums {
  WindowLayout windows;
  const S* pixels;
  const S* grad;  // [positions, step]
  int64_t step;
  const Span* spans;
  int64_t count;
  S factor;
};

// R rows of T taps by N vectors of channels, from (row, tap, column) on: all sums stay in registers over all positions.
template <class S, int R, int T, int N>
__attribute__((noinline)) void tap_sums_tile(const TapSums<S>& sums_of, int64_t row, int64_t tap, int64_t column, S* total,
                                             int64_t width) {
  // Positions ahead: with many channels a tile reads every few lines only, which processors do not foresee.
  constexpr int64_t AHEAD = 24;
  const WindowLayout windows = sums_of.windows;
  Vector<S> sums[R][T][N];
#pragma GCC unroll 3
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 12
    for (int t = 0; t < T; ++t) {
#pragma GCC unroll 2
      for (int n = 0; n < N; ++n) sums[r][t][n] = Vector<S>{};
    }
  }
  for (int64_t s = 0; s < sums_of.count; ++s) {
    const Span& span = sums_of.spans[s];
    const S* grad = sums_of.grad + span.first * sums_of.step + column;
    const S* window[R];
#pragma GCC unroll 3
    for (int r = 0; r < R; ++r) window[r] = sums_of.pixels + span.pixels + (row + r) * windows.row_stride + tap;
    for (int64_t p = 0; p < span.count; ++p, grad += sums_of.step) {
      Vector<S> grads[N];
#pragma GCC unroll 2
      for (int n = 0; n < N; ++n) {
        __builtin_prefetch(grad + AHEAD * sums_of.step + n * LANES<S>);
        grads[n] = load(grad + n * LANES<S>);
      }
#pragma GCC unroll 3
      for (int r = 0; r < R; ++r) {
        MIXFAST_OPAQUE(window[r]);
#pragma GCC unroll 12
        for (int t = 0; t < T; ++t) {
#pragma GCC unroll 2
          for (int n = 0; n < N; ++n) sums[r][t][n] += grads[n] * window[r][t];
        }
        window[r] += windows.step;
      }
    }
  }
#pragma GCC unroll 3
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 12
    for (int t = 0; t < T; ++t) {
      S* to = total + ((row + r) * windows.taps + tap + t) * width;
#pragma GCC unroll 2
      for (int n = 0; n < N; ++n) store(to + n * LANES<S>, load(to + n * LANES<S>) + sums_of.factor * sums[r][t][n]);
    }
  }
}

template <class S>
using TapSumsTile = void (*)(const TapSums<S>&, int64_t, int64_t, int64_t, S*, int64_t);

template <class S, int R, int N, class Taps>
struct TapSumsTiles;
template <class S, int R, int N, int... T>
struct TapSumsTiles<S, R, N, std::integer_sequence<int, T...>> {
  static constexpr int MOST = sizeof...(T);
  static constexpr TapSumsTile<S> OF[] = {tap_sums_tile<S, R, T + 1, N>...};
};

// All taps, for N vectors of channels; `total` is their column of the first tap in a panel.
template <class S, int R, int N>
__attribute__((noinline)) void sum_taps_of_columns(const TapSums<S>& sums_of, int64_t column, S* total, int64_t width) {
  constexpr int MOST = R > 1 ? 9 : MIXFAST_AVX512 ? 12 : 6;
  using Tiles = TapSumsTiles<S, R, N, std::make_integer_sequence<int, MOST>>;
  const int64_t taps = sums_of.windows.taps;
  for (int64_t row = 0; row < sums_of.windows.rows; row += R) {
    int64_t tap = 0;
    for (int64_t tiles = (taps + MOST - 1) / MOST; tiles > 0; --tiles) {
      const int64_t size = (taps - tap + tiles - 1) / tiles;
      Tiles::OF[size - 1](sums_of, row, tap, column, total, width);
      tap += size;
    }
  }
}

// `total` is panels of [windows.rows * windows.taps, channels].
template <class S>
void sum_taps(const TapSums<S>& sums_of, int64_t channels, S* total) {
  const WindowLayout& windows = sums_of.windows;
  const int64_t depth = windows.rows * windows.taps;
  for (int64_t first = 0; first < channels; first += Panels<S>::WIDTH) {
    S* panel = total + first * depth;
    const int64_t width = Panels<S>::width(channels, first);
    if (MIXFAST_AVX512 && windows.rows == 3 && windows.taps <= 9) {
      // 3x3 stems: the sums of all taps fit into 32 registers, and each gradient is read once.
      for (int64_t lane = 0; lane < width; lane += LANES<S>) {
        sum_taps_of_columns<S, MIXFAST_AVX512 ? 3 : 1, MIXFAST_AVX512 ? 1 : 2>(sums_of, first + lane, panel + lane, width);
      }
      continue;
    }
    for (int64_t lane = 0; lane < width; lane += 2 * LANES<S>) {
      const int64_t column = first + lane;
      if (!MIXFAST_AVX512 || lane + 2 * LANES<S> <= width) {
        sum_taps_of_columns<S, 1, 2>(sums_of, column, panel + lane, width);
      } else {
        sum_taps_of_columns<S, 1, MIXFAST_AVX512 ? 1 : 2>(sums_of, column, panel + lane, width);
      }
    }
  }
}

// --- one band ---------------------------------------------------------------------------------------------------------------

template <class S>
S dot(const S* left, const S* right, int64_t count) {
  Vector<S> sum{};
  for (int64_t i = 0; i < count; i += LANES<S>) sum += load(left + i) * load(right + i);
  return sum_lanes<S>(sum);
}

// A weight's gradient is the gradient's product with the input's own encoding. Summed over a zone that is the product of the
// encoder with the sums that its gradient needs anyway, so no encoding is computed again.
template <class S>
void add_zone_gradient(const EncodePlan<S>& plan, int64_t input, S coverage, const GradientBuffers<S>& memory) {
  const EncodeShape& shape = plan.shape;
  const S product = dot(memory.tap_sums, plan.weight_of(input), Panels<S>::size(shape.taps(), shape.channels)) +
                    dot(memory.position_sums, plan.bias_of(input), Panels<S>::padded(shape.channels));
  memory.inside[input] += plan.scale * coverage * product;
  memory.outside[input] += plan.scale * (1 - coverage) * product;
}

template <class S>
void accumulate_input(const EncodePlan<S>& plan, const Band<S>& band, int64_t input, const GradientBuffers<S>& memory) {
  const EncodeShape& shape = plan.shape;
  const bool wants_zones = memory.inside;
  if (!pack_input(plan, band, input, wants_zones, memory.packed, memory.spans)) return;
  const int64_t size = Panels<S>::size(shape.taps(), shape.channels), padded = Panels<S>::padded(shape.channels);
  S* weight = memory.weight + shape.encoder_of(input) * size;
  S* bias = memory.bias ? memory.bias + shape.encoder_of(input) * padded : nullptr;
  for (int64_t g = 0; g < band.group_count; ++g) {
    if (!is_seen(band, g, input, shape.inputs, wants_zones)) continue;
    const S factor = plan.scale * band.weights[g * shape.inputs + input];
    const RunGroup<S>& group = band.groups[g];
    TapSums<S> sums{plan.windows, memory.packed, memory.grad, memory.grad_step, memory.spans + group.begin, group.end - group.begin,
                    factor};
    if (bias || wants_zones) sum_positions(memory.grad, memory.grad_step, sums.spans, sums.count, memory.position_sums);
    if (bias) add_to(bias, memory.position_sums, factor, padded);
    if (wants_zones) {
      fill_zero(memory.tap_sums, size);
      sums.factor = S(1);
      sum_taps(sums, shape.channels, memory.tap_sums);
      add_zone_gradient(plan, input, group.coverage, memory);
      add_to(weight, memory.tap_sums, factor, size);
    } else {
      sum_taps(sums, shape.channels, weight);
    }
  }
}

// Adds the band's share to all gradients but that of the images.
template <class S>
void accumulate_band(const EncodePlan<S>& plan, const Band<S>& band, const GradientBuffers<S>& memory) {
  const int64_t count = (band.end_row - band.first_row) * plan.shape.width * memory.grad_step;
  if (memory.position) add_to(memory.position, memory.grad, S(1), count);
  for (int64_t input = 0; input < plan.shape.inputs; ++input) accumulate_input(plan, band, input, memory);
}

// --- gradient of the images -------------------------------------------------------------------------------------------------

// Adds one slot's share to the gradient of its image, which has a border and rows of `row_stride` elements. `matrices` holds, for
// each row of the kernel, panels of [C, k * c].
template <class S>
void add_image_gradient(const EncodePlan<S>& plan, const Band<S>& band, int64_t input, const S* grad, int64_t grad_step,
                        const S* matrices, const S* zeros, S* image, int64_t row_stride) {
  const EncodeShape& shape = plan.shape;
  const int64_t taps = shape.kernel * shape.image_channels, size = Panels<S>::size(shape.channels, taps);
  const WindowLayout grads{1, shape.channels, 0, grad_step};
  const int64_t step = shape.stride * shape.image_channels;
  Product<S> product{grads, grad, nullptr, taps, zeros, S(0), nullptr, nullptr, step, nullptr};
  for (int64_t g = 0; g < band.group_count; ++g) {
    if (!is_seen(band, g, input, shape.inputs, false)) continue;
    product.factor = plan.scale * band.weights[g * shape.inputs + input];
    for (int64_t r = band.groups[g].begin; r < band.groups[g].end; ++r) {
      const Run& run = band.runs[r];
      const Span span{(run.y * shape.width + run.from) * grad_step, run.from, run.to - run.from};
      for (int64_t k = 0; k < shape.kernel; ++k) {
        product.matrix = matrices + k * size;
        product.result = image + (run.y * shape.stride + k) * row_stride;
        product.addend = product.result;
        multiply(product, &span, 1);
      }
    }
  }
}

// Writes an image's gradient from its sums, without the border; strides in elements.
template <class S, class T>
void store_image(const EncodeShape& shape, const S* sums, int64_t row_stride, const S* factors, T* to, int64_t stride_c,
                 int64_t stride_y, int64_t stride_x) {
  for (int64_t y = 0; y < shape.image_height; ++y) {
    for (int64_t x = 0; x < shape.image_width; ++x) {
      const int64_t at = (y + shape.padding) * row_stride + (x + shape.padding) * shape.image_channels;
      for (int64_t c = 0; c < shape.image_channels; ++c) {
        store_one(to + y * stride_y + x * stride_x + c * stride_c, sum_t<T>(sums[at + c] * factors[c]));
      }
    }
  }
}
