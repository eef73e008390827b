// The gradients of a 3x3 stem's weight and bias on the GPU; the rest of mask-mix-encode's backward pass is in
// kernels/mixfast_kernels/_cuda/mask_mix_encode.py.
//
// Floor: the output's gradient and the visible pixels read once, and the arithmetic of one convolution for a binary mask. 512
// samples at 32 x 32, 3 to 16 channels, bfloat16: 17 MB + 1.6 MB, 0.45 GFLOP.
//
// A block sums for one encoder over every so-manieth group of 32 positions: windows and gradients go through shared memory, a
// thread keeps 4 channels x 4 taps in registers, and slices of threads take different positions. Positions that the encoder
// does not see are neither read nor multiplied. Deterministic: a block's sums go to memory of their own, and a second, small
// kernel adds the blocks up in order.

#include "cuda/encode_window.h"
#include "cuda/sum_rows.h"

namespace mixfast {
namespace {

constexpr int STEM_KERNEL = 3, AREA = STEM_KERNEL * STEM_KERNEL;

int64_t rounded_up(int64_t count, int64_t to) { return divided_up(count, to) * to; }

template <class T>
struct StemBackward {
  using S = sum_t<T>;
  static constexpr int THREADS = 256, POSITIONS = 32, CHANNELS = 32, SIDE = 4, SLICES = 8;
  EncodeView<S> view;
  const T* grad;  // [B, H', W', C]
  S* parts;       // [blocks, encoders, C, columns]
  bool aligned;
  int64_t items;                             // groups of positions in the batch
  int64_t blocks;                            // that share them
  int items_per_sample, columns;             // columns: taps, then the bias, then nothing up to a multiple of SIDE
  int blocks_of_channels, channels, slices;  // channels: of a block, a multiple of SIDE

  int64_t shared_bytes() const {
    return shared_size<S>(int64_t(view.zone.inputs) * POSITIONS) + shared_size<S>(POSITIONS) + shared_size<int>(POSITIONS) +
           shared_size<S>(std::max<int64_t>(POSITIONS * (columns + channels), reduction_elements()));
  }
  MIXFAST_DEVICE int tiles() const { return channels / SIDE * (columns / SIDE); }
  MIXFAST_BOTH int64_t reduction_elements() const { return int64_t(slices) * channels * columns; }

  struct Sums {
    S of[SIDE][SIDE]{};
  };
  // Shared memory of a block.
  struct Shared {
    S* shares;   // [M, POSITIONS]
    S* totals;   // [POSITIONS]
    int* seen;   // [POSITIONS]
    S* windows;  // [POSITIONS, columns]
    S* grads;    // [POSITIONS, channels]
  };

  MIXFAST_DEVICE void operator()(Block& block) const {
    const int64_t first_item = block.index / (view.encoders * blocks_of_channels);
    const int encoder = int(block.index / blocks_of_channels % view.encoders);
    const int first_channel = int(block.index % blocks_of_channels) * channels;
    Shared shared;
    shared.shares = block.take<S>(int64_t(view.zone.inputs) * POSITIONS);
    shared.totals = block.take<S>(POSITIONS);
    shared.seen = block.take<int>(POSITIONS);
    shared.windows = block.take<S>(larger(POSITIONS * (columns + channels), reduction_elements()));
    shared.grads = shared.windows + POSITIONS * columns;
    PerThread<Sums, THREADS> sums;
    for (int64_t item = first_item; item < items; item += blocks) {
      const int64_t b = item / items_per_sample;
      const int first = int(item % items_per_sample) * POSITIONS, count = int(smaller(POSITIONS, view.positions() - first));
      block.phase([&](int thread) {
        if (thread < POSITIONS) share(thread, b, encoder, first, count, shared);
      });
      block.phase([&](int thread) {
        gather(thread, b, encoder, first, shared);
        load_grads(thread, b, first, first_channel, shared);
      });
      block.phase([&](int thread) { multiply(thread, shared, sums[thread]); });
    }
    S* reduction = shared.windows;
    block.phase([&](int thread) { spread(thread, sums[thread], reduction); });
    block.phase([&](int thread) {
      for (int i = thread; i < channels * columns; i += THREADS) {
        const int channel = first_channel + i / columns;
        if (channel >= view.channels) continue;
        S sum = 0;
        for (int slice = 0; slice < slices; ++slice) sum += reduction[slice * channels * columns + i];
        parts[((first_item * view.encoders + encoder) * view.channels + channel) * columns + i % columns] = sum;
      }
    });
  }

  // What the encoder's inputs weigh at a position.
  MIXFAST_DEVICE void share(int p, int64_t b, int encoder, int first, int count, const Shared& shared) const {
    S total = 0;
    bool seen = false;
    for (int input = view.first_input(encoder); input < view.end_input(encoder); ++input) {
      const S weight = p < count ? view.weight(b, input, first + p) : S(0);
      shared.shares[input * POSITIONS + p] = weight;
      total += weight;
      seen |= weight != S(0);
    }
    shared.totals[p] = total;
    shared.seen[p] = seen;
  }

  MIXFAST_DEVICE void gather(int thread, int64_t b, int encoder, int first, const Shared& shared) const {
    const int taps = view.taps();
    for (int i = thread; i < POSITIONS * columns; i += THREADS) {
      const int p = i / columns, tap = i % columns;
      if (!shared.seen[p]) continue;
      S sum = tap == taps ? shared.totals[p] : S(0);
      for (int input = view.first_input(encoder); tap < taps && input < view.end_input(encoder); ++input) {
        const S weight = shared.shares[input * POSITIONS + p];
        if (weight == S(0)) continue;
        sum += weight * view.pixel(view.image_of(b, input), first + p, tap / AREA, tap % AREA / STEM_KERNEL, tap % STEM_KERNEL);
      }
      shared.windows[i] = sum;
    }
  }

  MIXFAST_DEVICE void load_grads(int thread, int64_t b, int first, int first_channel, const Shared& shared) const {
    const int vectors = (channels + VECTOR<T> - 1) / VECTOR<T>;
    for (int i = thread; i < POSITIONS * vectors; i += THREADS) {
      const int p = i / vectors, channel = i % vectors * VECTOR<T>;
      if (!shared.seen[p]) continue;
      const int present = int(larger(0, smaller(VECTOR<T>, view.channels - first_channel - channel)));
      const T* from = grad + ((b * view.positions() + first + p) * view.channels + first_channel + channel);
      const Vector<T> values = load_some(from, present, aligned && present == VECTOR<T>);
      MIXFAST_UNROLL
      for (int j = 0; j < VECTOR<T>; ++j) {
        if (channel + j < channels) shared.grads[p * channels + channel + j] = S(values[j]);
      }
    }
  }

  MIXFAST_DEVICE void multiply(int thread, const Shared& shared, Sums& sums) const {
    const int tile = thread % tiles(), slice = thread / tiles();
    if (slice >= slices) return;
    const int channel = tile / (columns / SIDE) * SIDE, column = tile % (columns / SIDE) * SIDE;
    for (int p = slice; p < POSITIONS; p += slices) {
      if (!shared.seen[p]) continue;
      S of_channels[SIDE], of_columns[SIDE];
      load_side(shared.grads + p * channels + channel, of_channels);
      load_side(shared.windows + p * columns + column, of_columns);
      MIXFAST_UNROLL
      for (int i = 0; i < SIDE; ++i) {
        MIXFAST_UNROLL
        for (int j = 0; j < SIDE; ++j) sums.of[i][j] += of_channels[i] * of_columns[j];
      }
    }
  }

  MIXFAST_DEVICE static void load_side(const S* from, S* to) {
    MIXFAST_UNROLL
    for (int i = 0; i < SIDE; i += VECTOR<S>) {
      const Vector<S> some = load_vector(from + i);
      MIXFAST_UNROLL
      for (int j = 0; j < VECTOR<S>; ++j) to[i + j] = some[j];
    }
  }

  // A thread's sums to [slices, channels, columns].
  MIXFAST_DEVICE void spread(int thread, const Sums& sums, S* reduction) const {
    const int tile = thread % tiles(), slice = thread / tiles();
    if (slice >= slices) return;
    const int channel = tile / (columns / SIDE) * SIDE, column = tile % (columns / SIDE) * SIDE;
    MIXFAST_UNROLL
    for (int i = 0; i < SIDE; ++i) {
      MIXFAST_UNROLL
      for (int j = 0; j < SIDE; ++j) reduction[(slice * channels + channel + i) * columns + column + j] = sums.of[i][j];
    }
  }
};

// [encoders, C, taps + 1 or a little more] in the type sums are taken in: for each channel the gradient of its taps, then that
// of its bias.
Tensor encode_stem_backward(Tensor grad, Tensor images, Tensor weight, Tensor inside, Tensor outside, OptionalTensor box,
                            OptionalTensor bitmap, OptionalTensor index, OptionalTensor bias, OptionalTensor position,
                            std::vector<int64_t> grid, int64_t stride, int64_t padding, double scale, OptionalFloats mean,
                            OptionalFloats std) {
  const EncodeInputs in{images,   weight, inside, outside, box,   bitmap, index, bias,
                        position, grid,   stride, padding, scale, mean,   std};
  check_encode(in);
  STD_TORCH_CHECK(weight.size(3) == STEM_KERNEL, "the stem's kernel must be 3 x 3");
  STD_TORCH_CHECK(sizes_of(grad) == (std::vector<int64_t>{inside.size(0), weight.size(1), grid[0], grid[1]}) &&
                      grad.scalar_type() == weight.scalar_type(),
                  "grad must have the result's shape and dtype");
  check_same_device(images, {&grad});
  const OnDeviceOf device(images);
  return call_for_device_float(weight.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    using Body = StemBackward<T>;
    using S = typename Body::S;
    const EncodeArguments<S> arguments(in);
    const Tensor grad_kept = as_channels_last(grad);
    const int64_t channels = weight.size(1), encoders = weight.size(0);
    Body body{};
    body.view = arguments.view;
    body.grad = data<T>(grad_kept);
    body.aligned = is_aligned(body.grad) && channels % VECTOR<T> == 0;
    body.columns = int(rounded_up(int64_t(AREA) * body.view.image_channels + 1, Body::SIDE));
    body.channels = int(std::min<int64_t>(Body::CHANNELS, rounded_up(std::max<int64_t>(channels, 1), Body::SIDE)));
    body.blocks_of_channels = int(divided_up(channels, body.channels));
    body.slices = std::min(int(Body::SLICES), Body::THREADS / (body.channels / Body::SIDE * (body.columns / Body::SIDE)));
    body.items_per_sample = int(divided_up(grid[0] * grid[1], Body::POSITIONS));
    body.items = arguments.batch * body.items_per_sample;
    // Enough blocks to fill a GPU; more would only write more parts.
    body.blocks = std::clamp<int64_t>(body.items / 16, 1, 128);
    const Tensor parts = device_empty(images, {body.blocks, encoders, channels, body.columns}, dtype_of_sums<S>());
    body.parts = mutable_data<S>(parts);
    launch(images, body.blocks * encoders * body.blocks_of_channels, body.shared_bytes(), body);
    return sum_rows<S>(parts, {encoders, channels, body.columns});
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mixfast_cuda, MIXFAST_KEY, m) { m.impl("encode_stem_backward", TORCH_BOX(&encode_stem_backward)); }

}  // namespace mixfast
