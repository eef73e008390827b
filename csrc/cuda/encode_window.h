// The pixels under one output position of mask-mix-encode: arguments, checks, gather, selection and normalisation.
//
// A window is the k x k x c pixels under one output position; its elements are taps, in the order of a convolution's weight:
// (channel, row, column).
#pragma once

#include "common/encode_inputs.h"
#include "cuda/device_zone.h"
#include "cuda/vectors.h"

namespace mixfast {

// Statistics travel with the launch, so many channels at most. The Python launcher gives other calls to the reference.
constexpr int IMAGE_CHANNELS = 8;

// One call as its kernels see it. S: the type sums are taken in. Images are read where they are, in any layout and dtype.
template <class S>
struct EncodeView {
  const void* images;  // [U, c, H, W], strides in elements
  ScalarType dtype;
  int64_t stride_u, stride_c, stride_y, stride_x, unique;
  int image_channels, image_height, image_width;
  const int64_t* index;  // [B, M], or null: each sample's own image
  DeviceZone<S> zone;    // on the output grid
  int encoders, channels, kernel, stride, padding;
  S scale;
  S factor[IMAGE_CHANNELS], shift[IMAGE_CHANNELS];  // a pixel is read as factor * value + shift

  MIXFAST_DEVICE int taps() const { return kernel * kernel * image_channels; }
  MIXFAST_DEVICE int positions() const { return zone.height * zone.width; }
  // The inputs that an encoder encodes: [first_input, end_input).
  MIXFAST_DEVICE int first_input(int encoder) const { return encoders == 1 ? 0 : encoder; }
  MIXFAST_DEVICE int end_input(int encoder) const { return encoders == 1 ? zone.inputs : encoder + 1; }

  MIXFAST_DEVICE S weight(int64_t b, int input, int position) const {
    return scale * zone.weight(b, input, zone.coverage(b, position / zone.width, position % zone.width));
  }

  // The image in a slot. Values of index are not checked on the device: one out of range is moved to the nearest in range.
  MIXFAST_DEVICE int64_t image_of(int64_t b, int input) const {
    return index ? larger(0, smaller(index[b * zone.inputs + input], unique - 1)) : b;
  }

  // A pixel of the window at a position; 0 beyond the image's border, as convolutions pad.
  MIXFAST_DEVICE S pixel(int64_t image, int position, int channel, int row, int column) const {
    const int64_t y = int64_t(position / zone.width) * stride - padding + row;
    const int64_t x = int64_t(position % zone.width) * stride - padding + column;
    if (y < 0 || y >= image_height || x < 0 || x >= image_width) return S(0);
    const S value = stored(image * stride_u + channel * stride_c + y * stride_y + x * stride_x);
    return factor[channel] * value + shift[channel];
  }

  MIXFAST_DEVICE S stored(int64_t place) const {
    switch (dtype) {
      case ScalarType::Byte:
        return S(static_cast<const uint8_t*>(images)[place]);
      case ScalarType::Float:
        return S(static_cast<const float*>(images)[place]);
      case ScalarType::Double:
        return S(static_cast<const double*>(images)[place]);
      case ScalarType::BFloat16:
        return S(static_cast<const torch::headeronly::BFloat16*>(images)[place]);
      default:
        return S(static_cast<const torch::headeronly::Half*>(images)[place]);
    }
  }
};

// Beside what any implementation refuses: what these kernels have no room for, read without a conversion, or cannot reach.
inline void check_encode(const EncodeInputs& in) {
  check_encode_inputs(in);
  const int64_t image_channels = in.images.size(1);
  STD_TORCH_CHECK(image_channels <= IMAGE_CHANNELS, "images may have ", IMAGE_CHANNELS, " channels here, got ", image_channels);
  STD_TORCH_CHECK(!in.index || in.index->scalar_type() == ScalarType::Long, "index must be int64 [B, M]");
  STD_TORCH_CHECK(in.inside.size(0) == 0 || in.images.size(0) > 0, "there is no image to take");
  STD_TORCH_CHECK(in.mean.has_value() == in.std.has_value(), "mean and std must be given together");
  check_same_device(in.images, {&in.weight, &in.inside, &in.outside});
  check_same_device(in.images, {&in.box, &in.bitmap, &in.index, &in.bias, &in.position});
}

// Holds the memory that an EncodeView points to.
template <class S>
class EncodeArguments {
 public:
  EncodeView<S> view{};
  int64_t batch;

  explicit EncodeArguments(const EncodeInputs& in)
      : batch(in.inside.size(0)), zone_(in.inside, in.outside, in.box, in.bitmap, in.grid[0], in.grid[1]) {
    if (in.index) index_ = as_contiguous(*in.index);
    view.images = in.images.const_data_ptr();
    view.dtype = in.images.scalar_type();
    view.stride_u = in.images.stride(0);
    view.stride_c = in.images.stride(1);
    view.stride_y = in.images.stride(2);
    view.stride_x = in.images.stride(3);
    view.unique = in.images.size(0);
    view.image_channels = int(in.images.size(1));
    view.image_height = checked_int(in.images.size(2), "the height of the images");
    view.image_width = checked_int(in.images.size(3), "the width of the images");
    view.index = index_ ? data<int64_t>(*index_) : nullptr;
    view.zone = zone_.view();
    view.encoders = checked_int(in.weight.size(0), "the number of encoders");
    view.channels = checked_int(in.weight.size(1), "the number of channels");
    view.kernel = checked_int(in.weight.size(3), "the kernel's side");
    view.stride = checked_int(in.stride, "stride");
    view.padding = checked_int(in.padding, "padding");
    view.scale = S(in.scale);
    checked_int(in.grid[0] * in.grid[1], "the number of positions");
    checked_int(in.weight.size(3) * in.weight.size(3) * in.images.size(1) * in.weight.size(0), "the number of taps");
    const double one = view.dtype == ScalarType::Byte ? 1.0 / 255 : 1.0;
    for (int c = 0; c < view.image_channels; ++c) {
      view.factor[c] = S(in.std ? one / (*in.std)[c] : one);
      view.shift[c] = S(in.std ? -(*in.mean)[c] / (*in.std)[c] : 0);
    }
  }

 private:
  ZoneArguments<S> zone_;
  OptionalTensor index_;
};

}  // namespace mixfast
