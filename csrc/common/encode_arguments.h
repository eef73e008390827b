// The arguments of mask_mix_encode, checked and put into the form that kernels read.
#pragma once

#include "common/encode.h"
#include "common/parallel.h"

namespace mixfast {

using OptionalFloats = std::optional<std::vector<double>>;

struct EncodeInputs {
  const Tensor &images, &weight, &inside, &outside;
  const OptionalTensor &box, &bitmap, &index, &bias, &position;
  const std::vector<int64_t>& grid;
  int64_t stride, padding;
  double scale;
  const OptionalFloats &mean, &std;
};

inline void check_shape(const Tensor& tensor, const char* name, std::initializer_list<int64_t> expected) {
  const auto sizes = tensor.sizes();
  STD_TORCH_CHECK(
      sizes.size() == expected.size() && std::equal(expected.begin(), expected.end(), sizes.begin()),
      "mask_mix_encode: ", name, " has another shape than the other arguments ask for");
}

// The sizes of one call, which its tensors all have. The public function has already refused bad arguments with better words; here memory is kept safe.
inline EncodeShape checked_shape(const EncodeInputs& in) {
  STD_TORCH_CHECK(in.images.dim() == 4 && in.weight.dim() == 5, "mask_mix_encode: images must have 4 and weight 5 dimensions");
  call_for_float_or_uint8(in.images.scalar_type(), [](auto) {});
  STD_TORCH_CHECK(in.inside.dim() == 2 && in.grid.size() == 2, "mask_mix_encode: inside must be [B, M] and grid (H', W')");
  const int64_t kernel = in.weight.size(3);
  EncodeShape shape{
      in.inside.size(0), in.inside.size(1), in.weight.size(0), in.images.size(0), in.images.size(1), in.images.size(2),
      in.images.size(3), in.weight.size(1), kernel,            in.stride,         in.padding,        in.grid[0],
      in.grid[1]};
  STD_TORCH_CHECK(
      kernel >= 1 && in.stride >= 1 && in.padding >= 0,
      "mask_mix_encode: kernel and stride must be at least 1, padding at least 0; got ", kernel, ", ", in.stride, ", ", in.padding);
  const int64_t spare_y = shape.image_height + 2 * in.padding - kernel, spare_x = shape.image_width + 2 * in.padding - kernel;
  STD_TORCH_CHECK(
      spare_y >= 0 && spare_x >= 0 && shape.height == spare_y / in.stride + 1 && shape.width == spare_x / in.stride + 1,
      "mask_mix_encode: grid (", shape.height, ", ", shape.width, ") is not the size of the convolution's result");
  STD_TORCH_CHECK(shape.encoders == 1 || shape.encoders == shape.inputs, "mask_mix_encode: weight must hold 1 or M encoders");
  check_shape(in.weight, "weight", {shape.encoders, shape.channels, shape.image_channels, kernel, kernel});
  check_shape(in.outside, "outside", {shape.batch, shape.inputs});
  if (in.box) check_shape(*in.box, "box", {shape.batch, 4});
  if (in.bitmap) {
    check_shape(*in.bitmap, "bitmap", {shape.batch, shape.height, shape.width});
    const ScalarType dtype = in.bitmap->scalar_type();
    STD_TORCH_CHECK(
        dtype == ScalarType::Bool || dtype == ScalarType::Float || dtype == ScalarType::Double,
        "mask_mix_encode: bitmap must be bool, float32 or float64");
  }
  if (in.index) {
    check_shape(*in.index, "index", {shape.batch, shape.inputs});
  } else {
    STD_TORCH_CHECK(shape.unique == shape.batch, "mask_mix_encode: without index there must be one image a sample");
  }
  if (in.bias) check_shape(*in.bias, "bias", {shape.encoders, shape.channels});
  if (in.position) check_shape(*in.position, "position", {shape.channels, shape.height, shape.width});
  for (const OptionalFloats* numbers : {&in.mean, &in.std}) {
    STD_TORCH_CHECK(
        !*numbers || int64_t((*numbers)->size()) == shape.image_channels,
        "mask_mix_encode: mean and std must hold one number a channel");
  }
  return shape;
}

template <class S>
class EncodeArguments {
 public:
  const EncodeShape shape;
  const Zone<S> zone;

  explicit EncodeArguments(const EncodeInputs& in)
      : shape(checked_shape(in)),
        zone(in.inside, in.outside, in.box, in.bitmap, shape.height, shape.width),
        scale_(S(in.scale)),
        images_(in.images) {
    if (in.index) {
      index_ = integers_of(*in.index);
    } else {
      for (int64_t slot = 0; slot < shape.batch * shape.inputs; ++slot) index_.push_back(slot / shape.inputs);
    }
    check_indices(index_, shape.unique, "mask_mix_encode: index");
    // Images are read in place unless they would have to be computed with in another type than the weights.
    const ScalarType dtype = images_.scalar_type(), wanted = sizeof(S) == 8 ? ScalarType::Double : ScalarType::Float;
    is_bytes_ = dtype == ScalarType::Byte;
    if (is_bytes_ ? sizeof(S) == 8 : sum_dtype(dtype) != wanted) images_ = torch::stable::to(images_, wanted);
    set_statistics(in.mean, in.std);
    pack_weight(in.weight);
    pack_bias(in.bias);
  }

  EncodePlan<S> plan() const {
    const S* factor = factor_.empty() ? nullptr : factor_.data();
    const Pixels<S> pixels{
        images_.const_data_ptr(), images_.scalar_type(), images_.stride(0), images_.stride(1),
        images_.stride(2),        images_.stride(3),     factor,            shift_.data()};
    return {shape, WindowLayout::of(shape), pixels, index_.data(), weight_.get(), bias_.data(), scale_};
  }

  // What the arithmetic of `rows` output rows is worth, in bytes that could be moved meanwhile: one for 4 taps of an output.
  int64_t bytes_worth(int64_t rows) const { return rows * shape.width * shape.channels * (1 + shape.taps() / 4); }

  const std::vector<int64_t>& index() const { return index_; }
  // The derivative of a pixel as it is read by a pixel as it is stored, for one channel.
  S pixel_factor(int64_t channel) const { return factor_.empty() ? S(1) : factor_[channel]; }

 private:
  S scale_;
  Tensor images_;
  bool is_bytes_;
  std::vector<int64_t> index_;
  std::vector<S> factor_, shift_, bias_;
  Buffer<S> weight_;

  void set_statistics(const OptionalFloats& mean, const OptionalFloats& std) {
    const bool normalise = mean && std;
    if (!normalise && !is_bytes_) return;
    const double one = is_bytes_ ? 1.0 / 255 : 1.0;
    for (int64_t element = 0; element < shape.image_width * shape.image_channels; ++element) {
      const int64_t channel = element % shape.image_channels;
      factor_.push_back(S(normalise ? one / (*std)[channel] : one));
      shift_.push_back(S(normalise ? -(*mean)[channel] / (*std)[channel] : 0));
    }
  }

  // From [C, c, k, k] to panels of [k * k * c, C], one encoder after the other.
  void pack_weight(const Tensor& weight) {
    const std::vector<S> values = floats_of<S>(weight);
    const int64_t taps = shape.taps(), area = shape.kernel * shape.kernel, c = shape.image_channels;
    const int64_t columns = shape.channels, size = Panels<S>::size(taps, columns), width = Panels<S>::WIDTH;
    weight_ = make_buffer<S>(shape.encoders * size);
    const int64_t panels = (columns + width - 1) / width;
    parallel_for(shape.encoders * panels, taps * width * sizeof(S), [&](int64_t begin, int64_t end) {
      for (int64_t each = begin; each < end; ++each) {
        const int64_t encoder = each / panels, first = each % panels * width;
        const int64_t padded = Panels<S>::width(columns, first), used = std::min(padded, columns - first);
        const S* from = values.data() + (encoder * columns + first) * taps;
        S* panel = weight_.get() + encoder * size + first * taps;
        for (int64_t tap = 0; tap < taps; ++tap) {
          S* to = panel + (tap % area * c + tap / area) * padded;
          for (int64_t lane = 0; lane < used; ++lane) to[lane] = from[lane * taps + tap];
          std::fill(to + used, to + padded, S(0));
        }
      }
    });
  }

  void pack_bias(const OptionalTensor& bias) {
    const int64_t padded = Panels<S>::padded(shape.channels);
    bias_.assign(shape.encoders * padded, S(0));
    if (!bias) return;
    const std::vector<S> values = floats_of<S>(*bias);
    for (int64_t encoder = 0; encoder < shape.encoders; ++encoder) {
      std::copy_n(values.data() + encoder * shape.channels, shape.channels, bias_.data() + encoder * padded);
    }
  }
};

}  // namespace mixfast
