// The arguments of mask_mix_encode as they come, and what both the C++ and the CUDA operator must refuse.
#pragma once

#include "common/tensors.h"

namespace mixfast {

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
  STD_TORCH_CHECK(sizes.size() == expected.size() && std::equal(expected.begin(), expected.end(), sizes.begin()),
                  "mask_mix_encode: ", name, " has another shape than the other arguments ask for");
}

// The public function has already refused bad arguments with better words; here memory is kept safe.
inline void check_encode_inputs(const EncodeInputs& in) {
  STD_TORCH_CHECK(in.images.dim() == 4 && in.weight.dim() == 5, "mask_mix_encode: images must have 4 and weight 5 dimensions");
  call_for_float_or_uint8(in.images.scalar_type(), [](auto) {});
  STD_TORCH_CHECK(in.inside.dim() == 2 && in.grid.size() == 2, "mask_mix_encode: inside must be [B, M] and grid (H', W')");
  const int64_t batch = in.inside.size(0), inputs = in.inside.size(1), encoders = in.weight.size(0), channels = in.weight.size(1);
  const int64_t image_channels = in.images.size(1), kernel = in.weight.size(3);
  STD_TORCH_CHECK(kernel >= 1 && in.stride >= 1 && in.padding >= 0,
                  "mask_mix_encode: kernel and stride must be at least 1, padding at least 0; got ", kernel, ", ", in.stride, ", ",
                  in.padding);
  for (const int axis : {0, 1}) {
    const int64_t spare = in.images.size(2 + axis) + 2 * in.padding - kernel;
    STD_TORCH_CHECK(spare >= 0 && in.grid[axis] == spare / in.stride + 1, "mask_mix_encode: grid (", in.grid[0], ", ", in.grid[1],
                    ") is not the size of the convolution's result");
  }
  STD_TORCH_CHECK(encoders == 1 || encoders == inputs, "mask_mix_encode: weight must hold 1 or M encoders");
  check_shape(in.weight, "weight", {encoders, channels, image_channels, kernel, kernel});
  check_shape(in.outside, "outside", {batch, inputs});
  if (in.box) check_shape(*in.box, "box", {batch, 4});
  if (in.bitmap) {
    check_shape(*in.bitmap, "bitmap", {batch, in.grid[0], in.grid[1]});
    const ScalarType dtype = in.bitmap->scalar_type();
    STD_TORCH_CHECK(dtype == ScalarType::Bool || dtype == ScalarType::Float || dtype == ScalarType::Double,
                    "mask_mix_encode: bitmap must be bool, float32 or float64");
  }
  if (in.index) {
    check_shape(*in.index, "index", {batch, inputs});
  } else {
    STD_TORCH_CHECK(in.images.size(0) == batch, "mask_mix_encode: without index there must be one image a sample");
  }
  if (in.bias) check_shape(*in.bias, "bias", {encoders, channels});
  if (in.position) check_shape(*in.position, "position", {channels, in.grid[0], in.grid[1]});
  for (const OptionalFloats* numbers : {&in.mean, &in.std}) {
    STD_TORCH_CHECK(!*numbers || int64_t((*numbers)->size()) == image_channels,
                    "mask_mix_encode: mean and std must hold one number a channel");
  }
}

}  // namespace mixfast
