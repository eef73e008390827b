// The kernels of unmix_pool's backward pass; what they share with the forward pass is in unmix_pool_bodies.h.
#pragma once

#include "cuda/unmix_pool_bodies.h"

namespace mixfast {
namespace {

// What a channel's features sum up to within a sample, for the gradients of the mix and of the affine. A later kernel adds
// samples (or channels) up.
enum Quantity { COVERED, UNCOVERED, SCALE, SHIFT, QUANTITIES };

template <class T>
struct PoolGradients {
  using S = sum_t<T>;
  const T* pooled;      // [B, M, C], given
  T* features;          // as the features lie in memory
  S* sums[QUANTITIES];  // each [B, C], or null where it is not wanted

  MIXFAST_DEVICE bool reads_features() const { return sums[COVERED] || sums[SCALE]; }
};

// The gradient of what is pooled of channel c, at covered and at uncovered positions.
template <class T, class S>
MIXFAST_DEVICE void zone_slopes(const PoolView<T>& pool, const T* grad_BMC, int64_t b, int c, S& covered, S& uncovered) {
  covered = uncovered = 0;
  if (c >= pool.channels) return;
  for (int input = 0; input < pool.inputs; ++input) {
    const int64_t place = b * pool.inputs + input;
    const S grad = S(grad_BMC[place * pool.channels + c]);
    covered += c < pool.unmixed ? pool.zone.inside[place] * grad : grad;
    uncovered += c < pool.unmixed ? pool.zone.outside[place] * grad : grad;
  }
  covered /= S(pool.positions());
  uncovered /= S(pool.positions());
}

// One feature: its gradient, and what it adds to the sums.
template <class T, class S>
MIXFAST_DEVICE S feature_gradient(const PoolView<T>& pool, int c, S feature, S share, S covered_slope, S uncovered_slope, S* sums) {
  const S value = pool.activated(feature, c);
  sums[COVERED] += share * value;
  sums[UNCOVERED] += (1 - share) * value;
  const S slope = share * covered_slope + (1 - share) * uncovered_slope;
  if (!pool.scale) return slope;
  const S passed = value > S(0) ? slope : S(0);
  sums[SCALE] += passed * feature;
  sums[SHIFT] += passed;
  return passed * pool.scale[c];
}

template <class T>
struct PoolBackwardChannelsLast {
  using S = sum_t<T>;
  static constexpr int THREADS = Lanes<T>::THREADS, POSITIONS = Lanes<T>::POSITIONS;
  PoolView<T> pool;
  PoolGradients<T> grads;
  Lanes<T> lanes;
  int blocks_per_sample;

  static int64_t shared_bytes() { return shared_size<S>(POSITIONS) + shared_size<S>(THREADS * VECTOR<T>); }

  struct Registers {
    S covered_slope[VECTOR<T>], uncovered_slope[VECTOR<T>];
    S sums[VECTOR<T>][QUANTITIES]{};
  };

  MIXFAST_DEVICE void operator()(Block& block) const {
    const int64_t b = block.index / blocks_per_sample;
    const int first = int(block.index % blocks_per_sample) * lanes.channels(), channels = lanes.channels();
    S* share = block.take<S>(POSITIONS);
    S* parts = block.take<S>(THREADS * VECTOR<T>);
    PerThread<Registers, THREADS> registers;
    block.phase([&](int thread) {
      Registers& mine = registers[thread];
      MIXFAST_UNROLL
      for (int i = 0; i < VECTOR<T>; ++i) {
        zone_slopes(pool, grads.pooled, b, first + lanes.lane(thread) * VECTOR<T> + i, mine.covered_slope[i],
                    mine.uncovered_slope[i]);
      }
    });
    for (int start = 0; start < pool.positions(); start += POSITIONS) {
      const int count = int(smaller(POSITIONS, pool.positions() - start));
      block.phase([&](int thread) {
        for (int p = thread; p < count; p += THREADS) share[p] = pool.coverage(b, start + p);
      });
      block.phase([&](int thread) {
        walk(b, start, count, first + lanes.lane(thread) * VECTOR<T>, lanes.slice(thread), share, registers[thread]);
      });
    }
    MIXFAST_UNROLL
    for (int quantity = 0; quantity < QUANTITIES; ++quantity) {
      S* sums_BC = grads.sums[quantity];
      if (!sums_BC) continue;
      block.phase([&](int thread) {
        const int place = lanes.slice(thread) * channels + lanes.lane(thread) * VECTOR<T>;
        MIXFAST_UNROLL
        for (int i = 0; i < VECTOR<T>; ++i) parts[place + i] = registers[thread].sums[i][quantity];
      });
      block.phase([&](int thread) {
        for_each_sum(thread, THREADS, parts, lanes.slices(), channels, [&](int c, S sum) {
          if (first + c < pool.channels) sums_BC[b * pool.channels + first + c] = sum;
        });
      });
    }
  }

  MIXFAST_DEVICE void walk(int64_t b, int start, int count, int c, int slice, const S* share, Registers& mine) const {
    const int present = int(smaller(VECTOR<T>, pool.channels - c));
    if (present <= 0) return;
    const int64_t corner = (b * pool.positions() + start) * pool.channels + c;
    for (int p = slice; p < count; p += lanes.slices()) {
      const int64_t place = corner + int64_t(p) * pool.channels;
      Vector<T> values{};
      if (grads.reads_features()) values = load_some(pool.features + place, present, pool.aligned);
      MIXFAST_UNROLL
      for (int i = 0; i < VECTOR<T>; ++i) {
        if (i >= present) continue;
        values[i] =
            T(feature_gradient(pool, c + i, S(values[i]), share[p], mine.covered_slope[i], mine.uncovered_slope[i], mine.sums[i]));
      }
      store_some(grads.features + place, values, present, pool.aligned);
    }
  }
};

template <class T>
struct PoolBackwardContiguous {
  using S = sum_t<T>;
  static constexpr int THREADS = Tile::THREADS;
  PoolView<T> pool;
  PoolGradients<T> grads;
  int blocks_per_sample;

  static int64_t shared_bytes() {
    return shared_size<S>(Tile::POSITIONS) + shared_size<S>(Tile::ROWS * Tile::STRIDE) + shared_size<S>(THREADS);
  }

  struct Registers {
    S covered_slope, uncovered_slope;
    S sums[QUANTITIES]{};
  };

  MIXFAST_DEVICE void operator()(Block& block) const {
    const int64_t b = block.index / blocks_per_sample;
    const int first = int(block.index % blocks_per_sample) * Tile::ROWS, rows = int(smaller(Tile::ROWS, pool.channels - first));
    S* share = block.take<S>(Tile::POSITIONS);
    S* tile = block.take<S>(Tile::ROWS * Tile::STRIDE);
    S* parts = block.take<S>(THREADS);
    PerThread<Registers, THREADS> registers;
    block.phase([&](int thread) {
      Registers& mine = registers[thread];
      zone_slopes(pool, grads.pooled, b, first + thread % Tile::ROWS, mine.covered_slope, mine.uncovered_slope);
    });
    for (int start = 0; start < pool.positions(); start += Tile::POSITIONS) {
      const int count = int(smaller(Tile::POSITIONS, pool.positions() - start));
      const int64_t corner = (b * pool.channels + first) * pool.positions() + start;
      block.phase([&](int thread) {
        for (int p = thread; p < count; p += THREADS) share[p] = pool.coverage(b, start + p);
        if (grads.reads_features()) load_tile(thread, corner, rows, count, tile);
      });
      block.phase([&](int thread) { walk(thread, first, rows, count, share, tile, registers[thread]); });
      block.phase([&](int thread) { store_tile(thread, corner, rows, count, tile); });
    }
    MIXFAST_UNROLL
    for (int quantity = 0; quantity < QUANTITIES; ++quantity) {
      S* sums_BC = grads.sums[quantity];
      if (!sums_BC) continue;
      block.phase([&](int thread) { parts[thread] = registers[thread].sums[quantity]; });
      block.phase([&](int thread) {
        for_each_sum(thread, THREADS, parts, Tile::SLICES, Tile::ROWS, [&](int c, S sum) {
          if (c < rows) sums_BC[b * pool.channels + first + c] = sum;
        });
      });
    }
  }

  MIXFAST_DEVICE void load_tile(int thread, int64_t corner, int rows, int count, S* tile) const {
    Tile::for_each_vector<T>(thread, rows, count, [&](int row, int p, int present) {
      const Vector<T> values = load_some(pool.features + corner + int64_t(row) * pool.positions() + p, present, pool.aligned);
      MIXFAST_UNROLL
      for (int i = 0; i < VECTOR<T>; ++i) {
        if (i < present) tile[row * Tile::STRIDE + p + i] = S(values[i]);
      }
    });
  }

  // Turns features into their gradients, in place.
  MIXFAST_DEVICE void walk(int thread, int first, int rows, int count, const S* share, S* tile, Registers& mine) const {
    const int row = thread % Tile::ROWS;
    if (row >= rows) return;
    for (int p = thread / Tile::ROWS; p < count; p += Tile::SLICES) {
      S& value = tile[row * Tile::STRIDE + p];
      const S feature = grads.reads_features() ? value : S(0);
      value = feature_gradient(pool, first + row, feature, share[p], mine.covered_slope, mine.uncovered_slope, mine.sums);
    }
  }

  MIXFAST_DEVICE void store_tile(int thread, int64_t corner, int rows, int count, const S* tile) const {
    Tile::for_each_vector<T>(thread, rows, count, [&](int row, int p, int present) {
      Vector<T> values{};
      MIXFAST_UNROLL
      for (int i = 0; i < VECTOR<T>; ++i) {
        if (i < present) values[i] = T(tile[row * Tile::STRIDE + p + i]);
      }
      store_some(grads.features + corner + int64_t(row) * pool.positions() + p, values, present, pool.aligned);
    });
  }
};

// The gradients of the mix's weights: each sample and input sums over the channels that are unmixed.
template <class T>
struct ZoneGradients {
  using S = sum_t<T>;
  static constexpr int THREADS = 128;
  const T* pooled;               // [B, M, C], the gradient given
  const S *covered, *uncovered;  // [B, C]
  S *inside, *outside;           // [B, M]
  int inputs, channels, unmixed, positions;

  static int64_t shared_bytes() { return 2 * shared_size<S>(THREADS); }

  // A block for each sample and input.
  MIXFAST_DEVICE void operator()(Block& block) const {
    const int64_t b = block.index / inputs;
    S* within = block.take<S>(THREADS);
    S* without = block.take<S>(THREADS);
    block.phase([&](int thread) {
      S sum_within = 0, sum_without = 0;
      for (int c = thread; c < unmixed; c += THREADS) {
        const S grad = S(pooled[block.index * channels + c]);
        sum_within += grad * covered[b * channels + c];
        sum_without += grad * uncovered[b * channels + c];
      }
      within[thread] = sum_within;
      without[thread] = sum_without;
    });
    block.phase([&](int thread) {
      if (thread > 1) return;
      const S* parts = thread ? without : within;
      S sum = 0;
      for (int i = 0; i < THREADS; ++i) sum += parts[i];
      (thread ? outside : inside)[block.index] = sum / S(positions);
    });
  }
};

}  // namespace
}  // namespace mixfast
