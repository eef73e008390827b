// The gradients of mask_mix_encode on the CPU, in one pass over the output's gradient:
//
//     weight_e   += scale * sum_{b, p} w_i(b, p) * grad(b, p) x window_i(b, p)      over the inputs i that encoder e encodes
//     bias_e     += scale * sum_{b, p} w_i(b, p) * grad(b, p)
//     position(p) = sum_b grad(b, p)
//     image_u    += scale * sum over the slots (b, i) that show u, of the transposed convolution of w_i * grad
//
// Floor, for the trainer's case (B = 64, M = 2, 32 x 32 x 3 float32, 16 channels, 3x3, binary mask): 4.2 MB of gradient and
// 0.8 MB of visible pixels read, 57 MFLOP; as in the forward pass the arithmetic (0.9 Mcycle) decides. The sums of a tile of
// taps stay in registers over all positions of a zone; for that stem all 27 taps are one tile, and each gradient is loaded once.
//
// The batch is cut into chunks, in a way that depends on shapes alone. Each is summed in order, and chunks are added in order:
// the same bits on any number of threads. An image's gradient is summed in the order of the slots that show it.
#include "common/encode_arguments.h"

namespace mixfast {
namespace {

// Memory for one band of one sample. Sums are those of the chunk; panels as Panels has them.
template <class S>
struct GradientBuffers {
  const S* grad;        // [rows * W', grad_step]
  int64_t grad_step;    // C padded
  S* weight;            // [encoders], each panels of [taps, C]
  S* bias;              // [encoders, C padded], or null
  S* position;          // of the band's rows, [rows * W', C padded], or null
  S *inside, *outside;  // [M] of the sample, or null: not wanted
  S* packed;
  Span* spans;
  S* tap_sums;       // panels of [taps, C]
  S* position_sums;  // [C padded]
};

}  // namespace
}  // namespace mixfast

#define MIXFAST_KERNEL "cpu/mask_mix_encode_backward_kernel.h"
#include "common/each_isa.h"

namespace mixfast {
namespace {

// Where the sums of a chunk lie in one piece of memory: those of the weight, then of bias and position where there are any.
struct ChunkLayout {
  int64_t bias, position, size;
  bool has_bias, has_position;

  template <class S>
  static ChunkLayout of(const EncodeShape& shape, bool has_bias, bool has_position) {
    const int64_t padded = Panels<S>::padded(shape.channels);
    const int64_t bias = shape.encoders * Panels<S>::size(shape.taps(), shape.channels);
    const int64_t position = bias + (has_bias ? shape.encoders * padded : 0);
    return {bias, position, position + (has_position ? shape.positions() * padded : 0), has_bias, has_position};
  }
};

// Enough chunks for the threads of a large machine, but each with enough positions for its sums to be worth adding up: those of
// a large weight leave the cache. Depends on shapes alone.
int64_t chunks_of(const EncodeShape& shape, int64_t chunk_bytes) {
  constexpr int64_t FEWEST = 4, MOST = 64, FEWEST_POSITIONS = 256, BYTES_PER_POSITION = 1024;
  const int64_t positions = std::max(FEWEST_POSITIONS, chunk_bytes / BYTES_PER_POSITION);
  const int64_t chunks = std::clamp(shape.batch * shape.positions() / positions, FEWEST, MOST);
  return std::max<int64_t>(1, std::min(chunks, shape.batch));
}

// The output's gradient, in the type of the weights.
template <class T>
class OutputGradient {
 public:
  using S = sum_t<T>;
  OutputGradient(const Tensor& grad, const EncodeShape& shape)
      : shape_(shape), step_(Panels<S>::padded(shape.channels)), grad_(as_channels_last(grad)) {}

  int64_t step() const { return step_; }
  bool is_read_in_place() const { return std::is_same_v<S, T> && step_ == shape_.channels; }
  int64_t scratch_size(int64_t rows) const { return is_read_in_place() ? 0 : rows * shape_.width * step_; }

  // [rows * W', step], in place or in `scratch`.
  const S* rows(int64_t b, int64_t first_row, int64_t end_row, S* scratch) const {
    const T* from = data<T>(grad_) + (b * shape_.height + first_row) * shape_.width * shape_.channels;
    if constexpr (std::is_same_v<S, T>) {
      if (is_read_in_place()) return from;
    }
    const int64_t positions = (end_row - first_row) * shape_.width;
    MIXFAST_CALL(template widen_rows<S>, from, positions, shape_.channels, step_, scratch);
    return scratch;
  }

 private:
  const EncodeShape& shape_;
  int64_t step_;
  Tensor grad_;
};

template <class S>
struct ZoneGradients {
  std::vector<S> inside, outside;  // [B, M]; empty: not wanted
};

// Adds samples to the sums of a chunk. One a thread: it holds scratch memory.
template <class T>
class SampleAdder {
 public:
  using S = sum_t<T>;
  SampleAdder(const EncodeArguments<S>& arguments, const OutputGradient<T>& grad, const ChunkLayout& layout,
              ZoneGradients<S>& zones)
      : plan_(arguments.plan()),
        grad_(grad),
        layout_(layout),
        zones_(zones),
        cutter_(arguments.zone),
        rows_(rows_of_band(plan_.shape, sizeof(S))),
        packed_(make_buffer<S>(plan_.shape.packed_size(rows_))),
        widened_(make_buffer<S>(grad.scratch_size(rows_))),
        tap_sums_(make_buffer<S>(zones.inside.empty() ? 0 : Panels<S>::size(plan_.shape.taps(), plan_.shape.channels))),
        position_sums_(make_buffer<S>(grad.step())),
        spans_(make_buffer<Span>(rows_ * plan_.shape.width)) {}

  void add(int64_t b, S* sums) {
    const EncodeShape& shape = plan_.shape;
    GradientBuffers<S> memory{};
    memory.grad_step = grad_.step();
    memory.weight = sums;
    if (layout_.has_bias) memory.bias = sums + layout_.bias;
    if (!zones_.inside.empty()) {
      memory.inside = zones_.inside.data() + b * shape.inputs;
      memory.outside = zones_.outside.data() + b * shape.inputs;
    }
    memory.packed = packed_.get();
    memory.spans = spans_.get();
    memory.tap_sums = tap_sums_.get();
    memory.position_sums = position_sums_.get();
    for (int64_t first_row = 0; first_row < shape.height; first_row += rows_) {
      const Band<S> band = cutter_.cut(b, first_row, std::min(first_row + rows_, shape.height));
      memory.grad = grad_.rows(b, first_row, band.end_row, widened_.get());
      if (layout_.has_position) memory.position = sums + layout_.position + first_row * shape.width * grad_.step();
      MIXFAST_CALL(template accumulate_band<S>, plan_, band, memory);
    }
  }

 private:
  const EncodePlan<S> plan_;
  const OutputGradient<T>& grad_;
  const ChunkLayout& layout_;
  ZoneGradients<S>& zones_;
  BandCutter<S> cutter_;
  int64_t rows_;
  Buffer<S> packed_, widened_, tap_sums_, position_sums_;
  Buffer<Span> spans_;
};

// The sums of all chunks, added up, in ChunkLayout. The zone weights' gradients, a sample's own, are added to `zones`.
template <class T, class S = sum_t<T>>
Buffer<S> sum_batch(const EncodeArguments<S>& arguments, const OutputGradient<T>& grad, const ChunkLayout& layout,
                    ZoneGradients<S>& zones) {
  const EncodeShape& shape = arguments.shape;
  const int64_t chunks = chunks_of(shape, layout.size * sizeof(S));
  Buffer<S> sums = make_buffer<S>(chunks * layout.size);
  parallel_for(chunks, shape.batch * arguments.bytes_worth(shape.height) / chunks, [&](int64_t begin, int64_t end) {
    SampleAdder<T> adder(arguments, grad, layout, zones);
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      S* const to = sums.get() + chunk * layout.size;
      std::fill_n(to, layout.size, S(0));
      const int64_t first = chunk * shape.batch / chunks, last = (chunk + 1) * shape.batch / chunks;
      for (int64_t b = first; b < last; ++b) adder.add(b, to);
    }
  });
  parallel_for(layout.size, chunks * sizeof(S), [&](int64_t begin, int64_t end) {
    for (int64_t chunk = 1; chunk < chunks; ++chunk) {
      const S* from = sums.get() + chunk * layout.size;
      for (int64_t i = begin; i < end; ++i) sums[i] += from[i];
    }
  });
  return sums;
}

template <class S>
Tensor new_sums(const std::vector<int64_t>& sizes) {
  return empty(sizes, sizeof(S) == 8 ? ScalarType::Double : ScalarType::Float);
}

Tensor in_dtype(const Tensor& tensor, ScalarType dtype) {
  return tensor.scalar_type() == dtype ? tensor : torch::stable::to(tensor, dtype);
}

// A new tensor in `dtype` from rows [rows, step], of which `columns` elements are used.
template <class S>
Tensor tensor_of_rows(const std::vector<int64_t>& sizes, ScalarType dtype, const S* from, int64_t rows, int64_t columns,
                      int64_t step) {
  const Tensor result = new_sums<S>(sizes);
  S* const to = mutable_data<S>(result);
  for (int64_t row = 0; row < rows; ++row) std::copy_n(from + row * step, columns, to + row * columns);
  return in_dtype(result, dtype);
}

// From [H' * W', C padded] to [C, H', W'].
template <class S>
Tensor position_gradient(const EncodeShape& shape, const S* sums, ScalarType dtype) {
  const Tensor result = new_sums<S>({shape.channels, shape.height, shape.width});
  S* const to = mutable_data<S>(result);
  const int64_t padded = Panels<S>::padded(shape.channels), positions = shape.positions();
  for (int64_t channel = 0; channel < shape.channels; ++channel) {
    for (int64_t p = 0; p < positions; ++p) to[channel * positions + p] = sums[p * padded + channel];
  }
  return in_dtype(result, dtype);
}

// From panels of [k * k * c, C], one encoder after the other, to [encoders, C, c, k, k].
template <class S>
Tensor weight_gradient(const EncodeShape& shape, const S* sums, ScalarType dtype) {
  const Tensor result = new_sums<S>({shape.encoders, shape.channels, shape.image_channels, shape.kernel, shape.kernel});
  S* const values = mutable_data<S>(result);
  const int64_t taps = shape.taps(), area = shape.kernel * shape.kernel, columns = shape.channels;
  parallel_for(shape.encoders * columns, taps * sizeof(S), [&](int64_t begin, int64_t end) {
    for (int64_t each = begin; each < end; ++each) {
      const int64_t first = each % columns / Panels<S>::WIDTH * Panels<S>::WIDTH, width = Panels<S>::width(columns, first);
      const S* from = sums + each / columns * Panels<S>::size(taps, columns) + first * taps + each % columns - first;
      S* const to = values + each * taps;
      for (int64_t c = 0; c < shape.image_channels; ++c) {
        for (int64_t at = 0; at < area; ++at) to[c * area + at] = from[(at * shape.image_channels + c) * width];
      }
    }
  });
  return in_dtype(result, dtype);
}

// The slots (b * M + i) that show each image: those of image u are slots[first[u]] to slots[first[u + 1]], in order.
struct SlotsOfImages {
  std::vector<int64_t> first, slots;

  SlotsOfImages(const std::vector<int64_t>& index, int64_t unique) : first(unique + 1, 0), slots(index.size()) {
    for (const int64_t image : index) ++first[image + 1];
    for (int64_t image = 0; image < unique; ++image) first[image + 1] += first[image];
    std::vector<int64_t> next(first.begin(), first.end() - 1);
    for (size_t slot = 0; slot < index.size(); ++slot) slots[next[index[slot]]++] = slot;
  }
};

// For each encoder and row of the kernel, panels of [C, k * c]: the transposed convolution.
template <class S>
Buffer<S> transposed_weight(const EncodePlan<S>& plan) {
  const EncodeShape& shape = plan.shape;
  const int64_t taps = shape.kernel * shape.image_channels, size = Panels<S>::size(shape.channels, taps);
  Buffer<S> matrices = make_buffer<S>(shape.encoders * shape.kernel * size);
  std::fill_n(matrices.get(), shape.encoders * shape.kernel * size, S(0));
  for (int64_t encoder = 0; encoder < shape.encoders; ++encoder) {
    const S* weight = plan.weight_of(encoder);
    for (int64_t k = 0; k < shape.kernel; ++k) {
      S* to = matrices.get() + (encoder * shape.kernel + k) * size;
      for (int64_t tap = 0; tap < taps; ++tap) {
        for (int64_t channel = 0; channel < shape.channels; ++channel) {
          to[Panels<S>::place(shape.channels, taps, channel, tap)] =
              weight[Panels<S>::place(shape.taps(), shape.channels, k * taps + tap, channel)];
        }
      }
    }
  }
  return matrices;
}

template <class T, class S = sum_t<T>>
Tensor image_gradient(const EncodeArguments<S>& arguments, const OutputGradient<T>& grad, const Tensor& images) {
  const EncodePlan<S> plan = arguments.plan();
  const EncodeShape& shape = arguments.shape;
  const Tensor result = torch::stable::empty_like(images);
  const SlotsOfImages slots_of(arguments.index(), shape.unique);
  const Buffer<S> matrices = transposed_weight(plan);
  const int64_t c = shape.image_channels, row_stride = (shape.image_width + 2 * shape.padding) * c;
  const int64_t encoder_size = shape.kernel * Panels<S>::size(shape.channels, shape.kernel * c);
  const int64_t size = (shape.image_height + 2 * shape.padding) * row_stride;
  const std::vector<S> zeros(Panels<S>::padded(shape.kernel * c), S(0));
  std::vector<S> factors;
  for (int64_t channel = 0; channel < c; ++channel) factors.push_back(arguments.pixel_factor(channel));
  parallel_for(shape.unique, shape.inputs * arguments.bytes_worth(shape.height), [&](int64_t begin, int64_t end) {
    BandCutter<S> cutter(arguments.zone);
    const Buffer<S> sums = make_buffer<S>(size), widened = make_buffer<S>(grad.scratch_size(shape.height));
    for (int64_t image = begin; image < end; ++image) {
      std::fill_n(sums.get(), size, S(0));
      for (int64_t s = slots_of.first[image]; s < slots_of.first[image + 1]; ++s) {
        const int64_t b = slots_of.slots[s] / shape.inputs, input = slots_of.slots[s] % shape.inputs;
        const Band<S> band = cutter.cut(b, 0, shape.height);
        const S* rows = grad.rows(b, 0, shape.height, widened.get());
        const S* matrix = matrices.get() + shape.encoder_of(input) * encoder_size;
        MIXFAST_CALL(template add_image_gradient<S>, plan, band, input, rows, grad.step(), matrix, zeros.data(), sums.get(),
                     row_stride);
      }
      call_for_float(images.scalar_type(), [&](auto tag) {
        using I = typename decltype(tag)::type;
        I* const to = mutable_data<I>(result) + image * result.stride(0);
        MIXFAST_CALL(template store_image<S>, shape, sums.get(), row_stride, factors.data(), to, result.stride(1), result.stride(2),
                     result.stride(3));
      });
    }
  });
  return result;
}

using Gradients = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

template <class T>
Gradients gradients(const Tensor& grad_BCHW, const EncodeInputs& in, bool wants_images, bool wants_zones) {
  using S = sum_t<T>;
  const EncodeArguments<S> arguments(in);
  const EncodeShape& shape = arguments.shape;
  const ScalarType dtype = in.weight.scalar_type();
  check_shape(grad_BCHW, "grad", {shape.batch, shape.channels, shape.height, shape.width});
  const OutputGradient<T> grad(grad_BCHW.scalar_type() == dtype ? grad_BCHW : torch::stable::to(grad_BCHW, dtype), shape);
  const ChunkLayout layout = ChunkLayout::of<S>(shape, in.bias.has_value(), in.position.has_value());
  ZoneGradients<S> zones;
  if (wants_zones) zones = {std::vector<S>(shape.batch * shape.inputs), std::vector<S>(shape.batch * shape.inputs)};
  const Buffer<S> sums = sum_batch<T>(arguments, grad, layout, zones);

  const auto none = [](const Tensor& like) { return empty({0}, like.scalar_type()); };
  const auto zone_gradient = [&](const std::vector<S>& values, const Tensor& like) {
    if (!wants_zones) return none(like);
    return tensor_of_rows({shape.batch, shape.inputs}, like.scalar_type(), values.data(), 1, values.size(), 0);
  };
  return {
      wants_images ? image_gradient<T>(arguments, grad, in.images) : none(in.images),
      weight_gradient<S>(shape, sums.get(), dtype),
      zone_gradient(zones.inside, in.inside),
      zone_gradient(zones.outside, in.outside),
      layout.has_bias ? tensor_of_rows({shape.encoders, shape.channels}, in.bias->scalar_type(), sums.get() + layout.bias,
                                       shape.encoders, shape.channels, Panels<S>::padded(shape.channels))
                      : none(in.weight),
      layout.has_position ? position_gradient(shape, sums.get() + layout.position, in.position->scalar_type()) : none(in.weight)};
}

Gradients mask_mix_encode_backward(Tensor grad, Tensor images, Tensor weight, Tensor inside, Tensor outside, OptionalTensor box,
                                   OptionalTensor bitmap, OptionalTensor index, OptionalTensor bias, OptionalTensor position,
                                   std::vector<int64_t> grid, int64_t stride, int64_t padding, double scale, OptionalFloats mean,
                                   OptionalFloats std, std::vector<bool> wanted) {
  STD_TORCH_CHECK(wanted.size() == 2, "mask_mix_encode_backward: wanted must say images and zone weights");
  STD_TORCH_CHECK(!wanted[0] || images.scalar_type() != ScalarType::Byte,
                  "mask_mix_encode_backward: uint8 images have no gradient");
  const EncodeInputs in{images,   weight, inside, outside, box,   bitmap, index, bias,
                        position, grid,   stride, padding, scale, mean,   std};
  return call_for_float(weight.scalar_type(),
                        [&](auto tag) { return gradients<typename decltype(tag)::type>(grad, in, wanted[0], wanted[1]); });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mixfast, CPU, m) { m.impl("mask_mix_encode_backward", TORCH_BOX(&mask_mix_encode_backward)); }

}  // namespace mixfast
