// The kernels of unmix_pool: what both directions and both memory layouts share, then a body for each.
//
// Channels-last: neighbouring threads ("lanes") hold 16 bytes of neighbouring channels, and each slice of threads walks over
// every so-manieth position. Contiguous: a tile of 32 channels by 64 positions goes through shared memory, so that reading
// is coalesced along positions and summing is not shared between threads.
#pragma once

#include "cuda/device_zone.h"
#include "cuda/vectors.h"

namespace mixfast {
namespace {

// One call. T: the features' type; S: the type that sums are taken in.
template <class T>
struct PoolView {
  using S = sum_t<T>;
  const T* features;  // [B, C, h, w], contiguous or channels-last
  int channels, height, width, inputs, unmixed;
  bool aligned;            // rows of memory are whole vectors
  const S *scale, *shift;  // [C] both, or null
  DeviceZone<S> zone;
  const S* resampled;  // [B, h * w] coverage, where a bitmap lives on another grid; or null

  MIXFAST_DEVICE int positions() const { return height * width; }
  MIXFAST_DEVICE S coverage(int64_t b, int p) const {
    if (resampled) return resampled[b * positions() + p];
    const int y = p / width, x = p % width;
    return zone.kind == ZoneKind::BOX ? zone.box_coverage(b, y, x, height, width) : zone.coverage(b, y, x);
  }
  // What is pooled of one feature. NaN stays NaN.
  MIXFAST_DEVICE S activated(S value, int c) const {
    if (!scale) return value;
    const S affine = value * scale[c] + shift[c];
    return affine < S(0) ? S(0) : affine;
  }
};

// Which threads of a block have which channels and positions, in channels-last memory.
template <class T>
struct Lanes {
  static constexpr int THREADS = 256, POSITIONS = 512;
  int lanes;  // of 16 bytes of channels; a power of two

  static Lanes of(int64_t channels) {
    int lanes = 4;
    while (lanes < 32 && lanes * VECTOR<T> < channels) lanes *= 2;
    return {lanes};
  }
  MIXFAST_DEVICE int slices() const { return THREADS / lanes; }
  MIXFAST_DEVICE int lane(int thread) const { return thread % lanes; }
  MIXFAST_DEVICE int slice(int thread) const { return thread / lanes; }
  MIXFAST_DEVICE int channels() const { return lanes * VECTOR<T>; }
  int64_t blocks(int64_t count) const { return divided_up(count, lanes * VECTOR<T>); }
};

// A tile of contiguous memory: ROWS channels by POSITIONS positions; a thread sums every eighth position of one channel.
struct Tile {
  static constexpr int THREADS = 256, ROWS = 32, POSITIONS = 64, SLICES = THREADS / ROWS;
  // One more than a row, so that a column's elements lie in different banks.
  static constexpr int STRIDE = POSITIONS + 1;

  // Calls f(row, position, count) for each vector of a tile with so many rows and positions.
  template <class T, class F>
  MIXFAST_DEVICE static void for_each_vector(int thread, int rows, int positions, const F& f) {
    const int vectors = (positions + VECTOR<T> - 1) / VECTOR<T>;
    for (int i = thread; i < rows * vectors; i += THREADS) {
      const int position = i % vectors * VECTOR<T>;
      f(i / vectors, position, int(smaller(VECTOR<T>, positions - position)));
    }
  }
};

// Sums over the slices of a block, in their order: parts[slice][channel] to f(channel, sum).
template <class S, class F>
MIXFAST_DEVICE void for_each_sum(int thread, int threads, const S* parts, int slices, int channels, const F& f) {
  for (int c = thread; c < channels; c += threads) {
    S sum = 0;
    for (int slice = 0; slice < slices; ++slice) sum += parts[slice * channels + c];
    f(c, sum);
  }
}

// The end of a forward pass: from a channel's sums over covered and uncovered positions to its M pooled values.
template <class T, class S>
MIXFAST_DEVICE void write_pooled(int thread, int threads, const PoolView<T>& pool, int64_t b, int first, int channels,
                                 const S* covered, const S* uncovered, T* pooled_BMC) {
  for (int i = thread; i < pool.inputs * channels; i += threads) {
    const int input = i / channels, c = i % channels;
    if (first + c >= pool.channels) continue;
    const int64_t place = b * pool.inputs + input;
    const S in = pool.zone.inside[place], out = pool.zone.outside[place];
    const S sum = first + c < pool.unmixed ? in * covered[c] + out * uncovered[c] : covered[c] + uncovered[c];
    pooled_BMC[place * pool.channels + first + c] = T(sum / S(pool.positions()));
  }
}

template <class T>
struct PoolChannelsLast {
  using S = sum_t<T>;
  static constexpr int THREADS = Lanes<T>::THREADS, POSITIONS = Lanes<T>::POSITIONS;
  PoolView<T> pool;
  T* pooled;  // [B, M, C]
  Lanes<T> lanes;
  int blocks_per_sample;

  static int64_t shared_bytes() { return shared_size<S>(POSITIONS) + 2 * shared_size<S>(THREADS * VECTOR<T>); }

  struct Sums {
    S covered[VECTOR<T>]{}, uncovered[VECTOR<T>]{};
  };

  MIXFAST_DEVICE void operator()(Block& block) const {
    const int64_t b = block.index / blocks_per_sample;
    const int first = int(block.index % blocks_per_sample) * lanes.channels(), channels = lanes.channels();
    S* share = block.take<S>(POSITIONS);
    S* covered = block.take<S>(THREADS * VECTOR<T>);
    S* uncovered = block.take<S>(THREADS * VECTOR<T>);
    PerThread<Sums, THREADS> sums;
    for (int start = 0; start < pool.positions(); start += POSITIONS) {
      const int count = int(smaller(POSITIONS, pool.positions() - start));
      block.phase([&](int thread) {
        for (int p = thread; p < count; p += THREADS) share[p] = pool.coverage(b, start + p);
      });
      block.phase([&](int thread) {
        add(b, start, count, first + lanes.lane(thread) * VECTOR<T>, lanes.slice(thread), share, sums[thread]);
      });
    }
    block.phase([&](int thread) {
      const int place = lanes.slice(thread) * channels + lanes.lane(thread) * VECTOR<T>;
      MIXFAST_UNROLL
      for (int i = 0; i < VECTOR<T>; ++i) {
        covered[place + i] = sums[thread].covered[i];
        uncovered[place + i] = sums[thread].uncovered[i];
      }
    });
    // The first slice's place takes the sum: nobody else reads that channel.
    block.phase([&](int thread) {
      for_each_sum(thread, THREADS, covered, lanes.slices(), channels, [&](int c, S sum) { covered[c] = sum; });
      for_each_sum(thread, THREADS, uncovered, lanes.slices(), channels, [&](int c, S sum) { uncovered[c] = sum; });
    });
    block.phase([&](int thread) { write_pooled(thread, THREADS, pool, b, first, channels, covered, uncovered, pooled); });
  }

  MIXFAST_DEVICE void add(int64_t b, int start, int count, int c, int slice, const S* share, Sums& sums) const {
    const int present = int(smaller(VECTOR<T>, pool.channels - c));
    if (present <= 0) return;
    const T* row = pool.features + (b * pool.positions() + start) * pool.channels + c;
    for (int p = slice; p < count; p += lanes.slices()) {
      const Vector<T> values = load_some(row + int64_t(p) * pool.channels, present, pool.aligned);
      MIXFAST_UNROLL
      for (int i = 0; i < VECTOR<T>; ++i) {
        if (i >= present) continue;
        const S value = pool.activated(S(values[i]), c + i);
        sums.covered[i] += share[p] * value;
        sums.uncovered[i] += (1 - share[p]) * value;
      }
    }
  }
};

template <class T>
struct PoolContiguous {
  using S = sum_t<T>;
  static constexpr int THREADS = Tile::THREADS;
  PoolView<T> pool;
  T* pooled;  // [B, M, C]
  int blocks_per_sample;

  static int64_t shared_bytes() {
    return shared_size<S>(Tile::POSITIONS) + shared_size<S>(Tile::ROWS * Tile::STRIDE) + 2 * shared_size<S>(THREADS);
  }

  struct Sums {
    S covered = 0, uncovered = 0;
  };

  MIXFAST_DEVICE void operator()(Block& block) const {
    const int64_t b = block.index / blocks_per_sample;
    const int first = int(block.index % blocks_per_sample) * Tile::ROWS, rows = int(smaller(Tile::ROWS, pool.channels - first));
    S* share = block.take<S>(Tile::POSITIONS);
    S* tile = block.take<S>(Tile::ROWS * Tile::STRIDE);
    S* covered = block.take<S>(THREADS);
    S* uncovered = block.take<S>(THREADS);
    PerThread<Sums, THREADS> sums;
    for (int start = 0; start < pool.positions(); start += Tile::POSITIONS) {
      const int count = int(smaller(Tile::POSITIONS, pool.positions() - start));
      const T* corner = pool.features + (b * pool.channels + first) * pool.positions() + start;
      block.phase([&](int thread) {
        for (int p = thread; p < count; p += THREADS) share[p] = pool.coverage(b, start + p);
        Tile::for_each_vector<T>(thread, rows, count, [&](int row, int p, int present) {
          const Vector<T> values = load_some(corner + int64_t(row) * pool.positions() + p, present, pool.aligned);
          MIXFAST_UNROLL
          for (int i = 0; i < VECTOR<T>; ++i) {
            if (i < present) tile[row * Tile::STRIDE + p + i] = pool.activated(S(values[i]), first + row);
          }
        });
      });
      block.phase([&](int thread) {
        const int row = thread % Tile::ROWS;
        if (row >= rows) return;
        for (int p = thread / Tile::ROWS; p < count; p += Tile::SLICES) {
          const S value = tile[row * Tile::STRIDE + p];
          sums[thread].covered += share[p] * value;
          sums[thread].uncovered += (1 - share[p]) * value;
        }
      });
    }
    block.phase([&](int thread) {
      covered[thread] = sums[thread].covered;
      uncovered[thread] = sums[thread].uncovered;
    });
    block.phase([&](int thread) {
      for_each_sum(thread, THREADS, covered, Tile::SLICES, Tile::ROWS, [&](int c, S sum) { covered[c] = sum; });
      for_each_sum(thread, THREADS, uncovered, Tile::SLICES, Tile::ROWS, [&](int c, S sum) { uncovered[c] = sum; });
    });
    block.phase([&](int thread) { write_pooled(thread, THREADS, pool, b, first, Tile::ROWS, covered, uncovered, pooled); });
  }
};

// A bitmap's coverage on another grid: the mean over the source cells under each target cell, weighted by shared area.
template <class S>
struct ResampleBitmap {
  static constexpr int THREADS = 256;
  DeviceZone<S> zone;
  S* coverage;  // [B, height, width]
  int64_t count;
  int height, width;

  MIXFAST_DEVICE void operator()(Block& block) const {
    block.phase([&](int thread) {
      const int64_t place = block.index * THREADS + thread;
      if (place >= count) return;
      coverage[place] = mean(place / (int64_t(height) * width), int(place / width % height), int(place % width));
    });
  }

  MIXFAST_DEVICE S mean(int64_t b, int y, int x) const {
    const int first_y = int(int64_t(y) * zone.height / height), end_y = int(((int64_t(y) + 1) * zone.height + height - 1) / height);
    const int first_x = int(int64_t(x) * zone.width / width), end_x = int(((int64_t(x) + 1) * zone.width + width - 1) / width);
    S sum = 0;
    for (int source_y = first_y; source_y < end_y; ++source_y) {
      S row = 0;
      for (int source_x = first_x; source_x < end_x; ++source_x) {
        row += share_of_target<S>(source_x, source_x + 1, x, zone.width, width) * zone.coverage(b, source_y, source_x);
      }
      sum += share_of_target<S>(source_y, source_y + 1, y, zone.height, height) * row;
    }
    return sum;
  }
};

}  // namespace
}  // namespace mixfast
