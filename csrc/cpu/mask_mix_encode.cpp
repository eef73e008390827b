// mask_mix_encode on the CPU: out(b, p) = scale * sum_i w_i(b, p) * (weight_i * window_i(p) + bias_i) + position(p).
//
// Floor, for the trainer's case (B = 64, M = 2, 32 x 32 x 3 float32, 16 channels, 3x3, binary mask): 0.8 MB of visible pixels
// read, 4.2 MB written, 57 MFLOP (one convolution, not M). At 16 fused multiply-adds a vector and two a cycle the arithmetic
// is 0.9 Mcycle, more than the memory takes: so the product's inner loop decides. It keeps up to 16 positions' sums in
// registers and reads one pixel a position and one weight vector for them.
//
// A sample's rows are cut into runs in which the weights are constant. Inputs whose weight is 0 in a run are skipped there: with
// a binary mask each position costs one convolution and reads one input's pixels. Each result is summed in one fixed order
// of taps and then of inputs: the same bits on any number of threads.
#include "common/encode_arguments.h"

namespace mixfast {
namespace {

// Memory for one band: results and their addend [rows * W', C], the rest scratch.
template <class S>
struct EncodeBuffers {
  const S* position;  // null: nothing is added
  S* result;
  S* packed;       // EncodeShape::packed_size
  Span* spans;     // one a run
  int32_t* where;  // one a position
};

}  // namespace
}  // namespace mixfast

#define MIXFAST_KERNEL "cpu/mask_mix_encode_kernel.h"
#include "common/each_isa.h"

namespace mixfast {
namespace {

// Every thread needs work, even for a few images: then bands are cut smaller.
int64_t rows_of_task(const EncodeShape& shape, int64_t element_size) {
  constexpr int64_t TASKS_PER_THREAD = 4;
  const int64_t threads = torch::stable::get_num_threads();
  int64_t rows = rows_of_band(shape, element_size);
  while (threads > 1 && rows > 1 && shape.batch * ((shape.height + rows - 1) / rows) < TASKS_PER_THREAD * threads) {
    rows = (rows + 1) / 2;
  }
  return rows;
}

// [C, H', W'] to [H' * W', C].
template <class S>
std::vector<S> channels_last_position(const OptionalTensor& position_CHW, const EncodeShape& shape) {
  if (!position_CHW) return {};
  const std::vector<S> values = floats_of<S>(*position_CHW);
  std::vector<S> moved(values.size());
  const int64_t positions = shape.positions();
  for (int64_t p = 0; p < positions; ++p) {
    for (int64_t channel = 0; channel < shape.channels; ++channel) {
      moved[p * shape.channels + channel] = values[channel * positions + p];
    }
  }
  return moved;
}

template <class T>
Tensor encode(const EncodeInputs& in) {
  using S = sum_t<T>;
  const EncodeArguments<S> arguments(in);
  const EncodePlan<S> plan = arguments.plan();
  const EncodeShape& shape = arguments.shape;
  const std::vector<S> position = channels_last_position<S>(in.position, shape);
  const Tensor out = empty_channels_last({shape.batch, shape.channels, shape.height, shape.width}, in.weight.scalar_type());
  if (out.numel() == 0) return out;
  T* const out_data = mutable_data<T>(out);

  const int64_t rows = rows_of_task(shape, sizeof(S)), bands = (shape.height + rows - 1) / rows;
  const int64_t row_elements = shape.width * shape.channels;
  parallel_for(shape.batch * bands, arguments.bytes_worth(rows), [&](int64_t begin, int64_t end) {
    BandCutter<S> cutter(arguments.zone);
    const Buffer<S> packed = make_buffer<S>(shape.packed_size(rows));
    const Buffer<Span> spans = make_buffer<Span>(rows * shape.width);
    const Buffer<int32_t> where = make_buffer<int32_t>(rows * shape.width);
    Buffer<S> unrounded;
    if constexpr (!std::is_same_v<S, T>) unrounded = make_buffer<S>(rows * row_elements);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t b = task / bands, first_row = task % bands * rows, end_row = std::min(first_row + rows, shape.height);
      const Band<S> band = cutter.cut(b, first_row, end_row);
      T* const to = out_data + (b * shape.height + first_row) * row_elements;
      EncodeBuffers<S> memory{nullptr, nullptr, packed.get(), spans.get(), where.get()};
      if (!position.empty()) memory.position = position.data() + first_row * row_elements;
      if constexpr (std::is_same_v<S, T>) {
        memory.result = to;
        MIXFAST_CALL(template encode_band<S>, plan, band, memory);
      } else {
        memory.result = unrounded.get();
        MIXFAST_CALL(template encode_band<S>, plan, band, memory);
        MIXFAST_CALL(template round_results<T>, memory.result, (end_row - first_row) * row_elements, to);
      }
    }
  });
  return out;
}

Tensor mask_mix_encode(Tensor images, Tensor weight, Tensor inside, Tensor outside, OptionalTensor box, OptionalTensor bitmap,
                       OptionalTensor index, OptionalTensor bias, OptionalTensor position, std::vector<int64_t> grid,
                       int64_t stride, int64_t padding, double scale, OptionalFloats mean, OptionalFloats std) {
  const EncodeInputs in{images,   weight, inside, outside, box,   bitmap, index, bias,
                        position, grid,   stride, padding, scale, mean,   std};
  return call_for_float(weight.scalar_type(), [&](auto tag) { return encode<typename decltype(tag)::type>(in); });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mixfast, CPU, m) { m.impl("mask_mix_encode", TORCH_BOX(&mask_mix_encode)); }

}  // namespace mixfast
