// The arguments of mask_mix_encode, put into the form that the C++ kernels read.
#pragma once

#include "common/encode.h"
#include "common/encode_inputs.h"
#include "common/parallel.h"

namespace mixfast {

// The sizes of one call, which its tensors all have.
inline EncodeShape checked_shape(const EncodeInputs& in) {
  check_encode_inputs(in);
  return {in.inside.size(0), in.inside.size(1), in.weight.size(0), in.images.size(0), in.images.size(1),
          in.images.size(2), in.images.size(3), in.weight.size(1), in.weight.size(3), in.stride,
          in.padding,        in.grid[0],        in.grid[1]};
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
    const Pixels<S> pixels{images_.const_data_ptr(),
                           images_.scalar_type(),
                           images_.stride(0),
                           images_.stride(1),
                           images_.stride(2),
                           images_.stride(3),
                           factor,
                           shift_.data()};
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
