// mask-mix-encode on the GPU: the 3x3 stem (stride 1 and 2), and the patch matrix of a patch projection; the mathematics and
// the choice between them are in kernels/mixfast_kernels/{mask_mix_encode,_cuda/mask_mix_encode}.py.
//
// Floor: the visible pixels read once, the result (or the patch matrix) written once. 512 samples at 32 x 32, 3 to 16 channels,
// bfloat16: 1.6 MB of bytes in, 17 MB out, 0.45 GFLOP for a binary mask. A patch matrix of 128 x 3 x 224 x 224: 19 MB in, 39 out.
//
// Stem: a block holds the windows of a tile of positions and one encoder's weights in shared memory; a thread sums 8 channels
// of one position. Inputs with weight 0 at a position are neither read nor multiplied there. One encoder for all inputs: their
// pixels are mixed before the one product. Patches: a thread makes 16 bytes of the matrix.

#include "cuda/encode_window.h"

namespace mixfast {
namespace {

constexpr int STEM_KERNEL = 3, CHANNELS_OF_THREAD = 8;

template <class T>
struct Stem {
  using S = sum_t<T>;
  static constexpr int THREADS = 256;
  EncodeView<S> view;
  const T* weight;    // [encoders, C, c, 3, 3]
  const S* bias;      // [encoders, C], or null
  const S* position;  // [C, H', W'], or null
  T* result;          // [B, H', W', C]
  int groups;         // of 8 channels in a block: 1, 2 or 4
  int tile;           // positions in a block; groups * tile <= THREADS
  int blocks_of_channels, blocks_of_positions;
  bool aligned;  // rows of the result are whole vectors

  int block_channels() const { return groups * CHANNELS_OF_THREAD; }
  // Windows, and later the results, which are staged so that whole rows are written.
  MIXFAST_DEVICE int64_t window_elements(int64_t taps, int channels) const {
    return larger(taps * tile, int64_t(tile) * (channels + 1));
  }
  int64_t shared_bytes() const {
    const int64_t taps = int64_t(STEM_KERNEL) * STEM_KERNEL * view.image_channels;
    const int64_t windows = std::max(taps * tile, int64_t(tile) * (block_channels() + 1));
    return shared_size<S>(int64_t(view.zone.inputs) * tile) + shared_size<S>(windows) +
           shared_size<S>((taps + 1) * block_channels());
  }

  struct Sums {
    S of[CHANNELS_OF_THREAD]{};
  };

  // What a block works on.
  struct Place {
    int64_t b;
    int first, count, channel, channels;  // positions; channels, `channels` of them
  };

  MIXFAST_DEVICE void operator()(Block& block) const {
    const int64_t b = block.index / (blocks_of_channels * blocks_of_positions);
    const int rest = int(block.index % (blocks_of_channels * blocks_of_positions));
    const int channels = groups * CHANNELS_OF_THREAD, taps = view.taps(), first = rest / blocks_of_channels * tile;
    const Place place{b, first, int(smaller(tile, view.positions() - first)), rest % blocks_of_channels * channels, channels};
    S* shares = block.take<S>(int64_t(view.zone.inputs) * tile);
    S* windows = block.take<S>(window_elements(taps, channels));
    S* weights = block.take<S>(int64_t(taps + 1) * channels);
    PerThread<Sums, THREADS> sums;
    block.phase([&](int thread) {
      for (int i = thread; i < view.zone.inputs * tile; i += THREADS) {
        shares[i] = i % tile < place.count ? view.weight(b, i / tile, first + i % tile) : S(0);
      }
    });
    for (int encoder = 0; encoder < view.encoders; ++encoder) {
      block.phase([&](int thread) {
        load_weights(thread, encoder, place, weights);
        gather(thread, encoder, place, shares, windows);
      });
      block.phase([&](int thread) { multiply(thread, encoder, channels, shares, windows, weights, sums[thread]); });
    }
    block.phase([&](int thread) { stage(thread, place, sums[thread], windows); });
    block.phase([&](int thread) { store(thread, place, windows); });
  }

  // To [taps + 1, channels]; the last row is the bias.
  MIXFAST_DEVICE void load_weights(int thread, int encoder, const Place& place, S* weights) const {
    const int taps = view.taps();
    for (int i = thread; i < (taps + 1) * place.channels; i += THREADS) {
      const int channel = i / (taps + 1), tap = i % (taps + 1);
      const int64_t row = int64_t(encoder) * view.channels + place.channel + channel;
      S value = 0;
      if (place.channel + channel < view.channels) {
        if (tap < taps) value = S(weight[row * taps + tap]);
        if (tap == taps && bias) value = bias[row];
      }
      weights[tap * place.channels + channel] = value;
    }
  }

  // Windows of the inputs that an encoder sees, mixed: [taps, tile].
  MIXFAST_DEVICE void gather(int thread, int encoder, const Place& place, const S* shares, S* windows) const {
    constexpr int AREA = STEM_KERNEL * STEM_KERNEL;
    for (int i = thread; i < view.taps() * tile; i += THREADS) {
      const int p = i % tile, tap = i / tile;
      S sum = 0;
      for (int input = view.first_input(encoder); input < view.end_input(encoder); ++input) {
        const S share = shares[input * tile + p];
        if (share == S(0)) continue;
        sum += share *
               view.pixel(view.image_of(place.b, input), place.first + p, tap / AREA, tap % AREA / STEM_KERNEL, tap % STEM_KERNEL);
      }
      windows[i] = sum;
    }
  }

  MIXFAST_DEVICE void multiply(int thread, int encoder, int channels, const S* shares, const S* windows, const S* weights,
                               Sums& sums) const {
    const int p = thread % tile, group = thread / tile, taps = view.taps();
    if (group >= groups) return;
    S total = 0;
    bool seen = false;
    for (int input = view.first_input(encoder); input < view.end_input(encoder); ++input) {
      total += shares[input * tile + p];
      seen |= shares[input * tile + p] != S(0);
    }
    if (!seen) return;
    for (int tap = 0; tap <= taps; ++tap) {
      const S value = tap < taps ? windows[tap * tile + p] : total;
      const S* row = weights + tap * channels + group * CHANNELS_OF_THREAD;
      MIXFAST_UNROLL
      for (int i = 0; i < CHANNELS_OF_THREAD; i += VECTOR<S>) {
        const Vector<S> of_channels = load_vector(row + i);
        MIXFAST_UNROLL
        for (int j = 0; j < VECTOR<S>; ++j) sums.of[i + j] += value * of_channels[j];
      }
    }
  }

  MIXFAST_DEVICE void stage(int thread, const Place& place, const Sums& sums, S* staged) const {
    const int p = thread % tile, group = thread / tile;
    if (group >= groups || p >= place.count) return;
    MIXFAST_UNROLL
    for (int i = 0; i < CHANNELS_OF_THREAD; ++i) {
      const int channel = group * CHANNELS_OF_THREAD + i;
      S value = sums.of[i];
      if (position && place.channel + channel < view.channels) {
        value += position[int64_t(place.channel + channel) * view.positions() + place.first + p];
      }
      staged[p * (place.channels + 1) + channel] = value;
    }
  }

  MIXFAST_DEVICE void store(int thread, const Place& place, const S* staged) const {
    const int vectors = (place.channels + VECTOR<T> - 1) / VECTOR<T>;
    for (int i = thread; i < place.count * vectors; i += THREADS) {
      const int p = i / vectors, channel = i % vectors * VECTOR<T>;
      const int present = int(smaller(VECTOR<T>, view.channels - place.channel - channel));
      if (present <= 0) continue;
      Vector<T> values{};
      MIXFAST_UNROLL
      for (int j = 0; j < VECTOR<T>; ++j) {
        if (j < present) values[j] = T(staged[p * (place.channels + 1) + channel + j]);
      }
      store_some(result + ((place.b * view.positions() + place.first + p) * view.channels + place.channel + channel), values,
                 present, aligned);
    }
  }
};

// The patch matrix: a row for each position, in which an encoder's taps hold the weighted pixels of the inputs it sees (zeros
// where it sees none), then one column an encoder with the weight itself (which meets the bias), then zeros up to whole vectors.
template <class T>
struct Patches {
  using S = sum_t<T>;
  static constexpr int THREADS = 256;
  EncodeView<S> view;
  T* rows;  // [B * H' * W', columns]
  int vectors_per_row, blocks_per_sample;

  MIXFAST_DEVICE void operator()(Block& block) const {
    const int64_t b = block.index / blocks_per_sample;
    const int first = int(block.index % blocks_per_sample) * THREADS;
    block.phase([&](int thread) {
      const int vector = first + thread;
      if (vector < view.positions() * vectors_per_row) make_vector(b, vector / vectors_per_row, vector % vectors_per_row);
    });
  }

  MIXFAST_DEVICE void make_vector(int64_t b, int position, int vector) const {
    const int taps = view.taps(), first = vector * VECTOR<T>;
    S sums[VECTOR<T>]{};
    for (int input = 0; input < view.zone.inputs; ++input) {
      const S share = view.weight(b, input, position);
      if (share == S(0)) continue;
      const int encoder = view.encoders == 1 ? 0 : input, place_of_weight = view.encoders * taps + encoder;
      const int64_t image = view.image_of(b, input);
      int tap = first - encoder * taps;
      int channel = tap / (view.kernel * view.kernel), row = tap / view.kernel % view.kernel, column = tap % view.kernel;
      MIXFAST_UNROLL
      for (int i = 0; i < VECTOR<T>; ++i, ++tap) {
        if (tap == 0) channel = row = column = 0;
        if (tap >= 0 && tap < taps) {
          sums[i] += share * view.pixel(image, position, channel, row, column);
          if (++column == view.kernel) column = 0, ++row;
          if (row == view.kernel) row = 0, ++channel;
        }
        if (first + i == place_of_weight) sums[i] += share;
      }
    }
    Vector<T> values;
    MIXFAST_UNROLL
    for (int i = 0; i < VECTOR<T>; ++i) values[i] = T(sums[i]);
    store_vector(rows + ((b * view.positions() + position) * vectors_per_row + vector) * VECTOR<T>, values);
  }
};

Tensor encode_stem(Tensor images, Tensor weight, Tensor inside, Tensor outside, OptionalTensor box, OptionalTensor bitmap,
                   OptionalTensor index, OptionalTensor bias, OptionalTensor position, std::vector<int64_t> grid, int64_t stride,
                   int64_t padding, double scale, OptionalFloats mean, OptionalFloats std) {
  const EncodeInputs in{images,   weight, inside, outside, box,   bitmap, index, bias,
                        position, grid,   stride, padding, scale, mean,   std};
  check_encode(in);
  STD_TORCH_CHECK(weight.size(3) == STEM_KERNEL, "the stem's kernel must be 3 x 3");
  const OnDeviceOf device(images);
  return call_for_device_float(weight.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    using Body = Stem<T>;
    using S = typename Body::S;
    const EncodeArguments<S> arguments(in);
    const int64_t channels = weight.size(1), positions = grid[0] * grid[1];
    const Tensor result = device_empty(images, {arguments.batch, channels, grid[0], grid[1]}, weight.scalar_type(), {0, 2, 3, 1});
    if (result.numel() == 0) return result;
    const Tensor weight_kept = as_contiguous(weight);
    OptionalTensor bias_kept, position_kept;
    Body body{};
    body.view = arguments.view;
    body.weight = data<T>(weight_kept);
    body.bias = optional_data<S>(bias, bias_kept);
    body.position = optional_data<S>(position, position_kept);
    body.result = mutable_data<T>(result);
    body.groups = channels <= CHANNELS_OF_THREAD ? 1 : channels <= 2 * CHANNELS_OF_THREAD ? 2 : 4;
    body.tile = Body::THREADS / body.groups;
    while (body.shared_bytes() > SHARED_BYTES && body.tile > 32) body.tile /= 2;
    body.blocks_of_channels = int(divided_up(channels, body.block_channels()));
    body.blocks_of_positions = int(divided_up(positions, body.tile));
    checked_int(int64_t(body.blocks_of_channels) * body.blocks_of_positions, "the size of a sample");
    body.aligned = is_aligned(body.result) && channels % VECTOR<T> == 0;
    launch(images, arguments.batch * body.blocks_of_channels * body.blocks_of_positions, body.shared_bytes(), body);
    return result;
  });
}

Tensor encode_patches(Tensor images, Tensor weight, Tensor inside, Tensor outside, OptionalTensor box, OptionalTensor bitmap,
                      OptionalTensor index, OptionalTensor bias, OptionalTensor position, std::vector<int64_t> grid, int64_t stride,
                      int64_t padding, double scale, OptionalFloats mean, OptionalFloats std) {
  const EncodeInputs in{images,   weight, inside, outside, box,   bitmap, index, bias,
                        position, grid,   stride, padding, scale, mean,   std};
  check_encode(in);
  const OnDeviceOf device(images);
  return call_for_device_float(weight.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    using Body = Patches<T>;
    const EncodeArguments<typename Body::S> arguments(in);
    const int64_t encoders = weight.size(0), taps = weight.size(2) * weight.size(3) * weight.size(4), positions = grid[0] * grid[1];
    // A multiple of 8 elements: whole vectors for every dtype, and the alignment that tensor cores ask for.
    const int64_t columns = divided_up(encoders * (taps + 1), 8) * 8;
    const Tensor rows = device_empty(images, {arguments.batch * positions, columns}, weight.scalar_type());
    if (rows.numel() == 0) return rows;
    Body body{};
    body.view = arguments.view;
    body.rows = mutable_data<T>(rows);
    STD_TORCH_CHECK(is_aligned(body.rows), "new memory must be aligned to 16 bytes");
    body.vectors_per_row = int(columns / VECTOR<T>);
    body.blocks_per_sample = int(divided_up(checked_int(positions * body.vectors_per_row, "the size of a sample"), Body::THREADS));
    launch(images, arguments.batch * body.blocks_per_sample, 0, body);
    return rows;
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mixfast_cuda, MIXFAST_KEY, m) {
  m.impl("encode_stem", TORCH_BOX(&encode_stem));
  m.impl("encode_patches", TORCH_BOX(&encode_patches));
}

}  // namespace mixfast
