// The loops of unmix_pool over one sample; included once for each instruction set (common/each_isa.h).

#include "common/zone_rows.h"

// relu(scale * values + shift), the same for all lanes or lane by lane; NaN stays NaN, as in torch.
template <class V>
inline V affine_relu(V values, V scale, V shift) {
  const V moved = values * scale + shift;
  return moved < V{} ? V{} : moved;
}

// --- sums over positions
// -----------------------------------------------------------------------------------------------------------

// Channels-last: rows of channels.
template <class T>
inline void zone_sums_of_rows(const PoolArguments<T>& a, const T* features, const Shares<sum_t<T>>& shares, sum_t<T>* sums) {
  using S = sum_t<T>;
  const auto add = [&](auto activate) {
    sum_zones_of_rows(features, a.positions, a.channels, shares.covered, shares.uncovered, sums, sums + a.channels,
                      sums + 2 * a.channels, activate);
  };
  if (!a.scale) return add(AsIs{});
  add([&](Vector<S> values, int64_t c, auto extent) {
    return affine_relu(values, load_at(a.scale + c, extent), load_at(a.shift + c, extent));
  });
}

// The sum of each of LANES vectors, in one vector: neighbours are added until one is left, in a fixed order.
template <class S>
inline Vector<S> sums_of(Vector<S>* vectors) {
  Mask<S> even;
  for (int64_t i = 0; i < LANES<S>; ++i) even[i] = 2 * i;
  for (int64_t count = LANES<S>; count > 1; count /= 2) {
    for (int64_t i = 0; i < count / 2; ++i) {
      const Vector<S> a = vectors[2 * i], b = vectors[2 * i + 1];
      vectors[i] = __builtin_shuffle(a, b, even) + __builtin_shuffle(a, b, even + 1);
    }
  }
  return vectors[0];
}

// `count` elements, fewer than a vector; the other lanes are 0. Reads a whole vector wherever that ends before `end`.
template <class T>
inline Vector<sum_t<T>> load_rest(const T* from, int64_t count, const T* end) {
  using S = sum_t<T>;
  if (end - from < LANES<S>) return load_first(from, count);
  Vector<S> lane;
  for (int64_t i = 0; i < LANES<S>; ++i) lane[i] = S(i);
  return lane < S(count) ? load(from) : Vector<S>{};
}

// Calls f(p, values) for the vectors of one channel's positions, the last one filled up with zeros, and end_block() after every
// few: sums are taken in blocks, which keeps their rounding small.
template <class T, class F, class EndBlock>
inline void for_each_position(const T* row, int64_t positions, const T* end, F&& f, EndBlock&& end_block) {
  using S = sum_t<T>;
  constexpr int64_t BLOCK = 64 * LANES<S>;
  for (int64_t start = 0; start < positions; start += BLOCK) {
    const int64_t stop = start + BLOCK < positions ? start + BLOCK : positions;
    int64_t p = start;
    for (; p + LANES<S> <= stop; p += LANES<S>) {
      prefetch(row + p + AHEAD);
      f(p, load(row + p));
    }
    if (p < stop) f(p, load_rest(row + p, stop - p, end));
    end_block();
  }
}

// Two sums that for_each_position builds, of one channel.
template <class S>
struct TwoSums {
  Vector<S> first = {}, second = {}, first_of_block = {}, second_of_block = {};

  void add(Vector<S> to_first, Vector<S> to_second) {
    first_of_block += to_first;
    second_of_block += to_second;
  }
  void end_block() {
    first += first_of_block;
    second += second_of_block;
    first_of_block = second_of_block = Vector<S>{};
  }
};

// Contiguous: rows of positions, LANES channels at a time. The shares are 0 past the last position.
template <class T, bool AFFINE>
inline void zone_sums_of_channels(const PoolArguments<T>& a, const T* features, const Shares<sum_t<T>>& shares, sum_t<T>* sums) {
  using S = sum_t<T>;
  for (int64_t first = 0; first < a.channels; first += LANES<S>) {
    const int64_t count = a.channels - first < LANES<S> ? a.channels - first : LANES<S>;
    Vector<S> inside[LANES<S>], outside[LANES<S>];
    for (int64_t i = count; i < LANES<S>; ++i) inside[i] = outside[i] = Vector<S>{};
    for (int64_t i = 0; i < count; ++i) {
      const int64_t c = first + i;
      TwoSums<S> zones;
      for_each_position(
          features + c * a.positions, a.positions, a.end,
          [&](int64_t p, Vector<S> values) {
            if (AFFINE) values = affine_relu(values, broadcast(a.scale[c]), broadcast(a.shift[c]));
            zones.add(load(shares.covered + p) * values, load(shares.uncovered + p) * values);
          },
          [&] { zones.end_block(); });
      inside[i] = zones.first;
      outside[i] = zones.second;
    }
    const auto put = [&](auto extent) {
      store_at(sums + first, sums_of<S>(inside), extent);
      store_at(sums + a.channels + first, sums_of<S>(outside), extent);
    };
    if (count == LANES<S>) {
      put(Whole{});
    } else {
      put(First{count});
    }
  }
}

// sums: 4 * channels; inside in the first quarter, outside in the second.
template <class T>
inline void zone_sums(const PoolArguments<T>& a, int64_t b, const Shares<sum_t<T>>& shares, sum_t<T>* sums) {
  const T* features = a.features + b * a.channels * a.positions;
  if (a.channels_last) return zone_sums_of_rows(a, features, shares, sums);
  if (a.scale) return zone_sums_of_channels<T, true>(a, features, shares, sums);
  zone_sums_of_channels<T, false>(a, features, shares, sums);
}

// --- forward
// -------------------------------------------------------------------------------------------------------------------------

template <class T>
void pool(const PoolArguments<T>& a, int64_t b, const Shares<sum_t<T>>& shares, sum_t<T>* sums, T* pooled_MC) {
  using S = sum_t<T>;
  zone_sums(a, b, shares, sums);
  const S mean = S(1) / S(a.positions);
  for (int64_t m = 0; m < a.inputs; ++m) {
    const auto combine = [&](int64_t from, int64_t to, S inside, S outside) {
      for_each_vector<S>(to - from, [&](int64_t i, auto extent) {
        const S* in = sums + from + i;
        const Vector<S> sum = load_at(in, extent) * inside + load_at(in + a.channels, extent) * outside;
        store_at(pooled_MC + m * a.channels + from + i, sum, extent);
      });
    };
    combine(0, a.unmixed, shares.inside[m] * mean, shares.outside[m] * mean);
    combine(a.unmixed, a.channels, mean, mean);
  }
}

// --- backward
// ------------------------------------------------------------------------------------------------------------------------

// The gradient of a position wholly inside and of one wholly outside, before the affine: [channels] each.
template <class T>
inline void zone_rows_of_gradient(const PoolArguments<T>& a, const T* grad_MC, const Shares<sum_t<T>>& shares, sum_t<T>* rows) {
  using S = sum_t<T>;
  const S mean = S(1) / S(a.positions);
  const auto mix = [&](int64_t from, int64_t to, bool unmixed) {
    for_each_vector<S>(to - from, [&](int64_t i, auto extent) {
      Vector<S> in = {}, out = {};
      for (int64_t m = 0; m < a.inputs; ++m) {
        const Vector<S> grad = load_at(grad_MC + m * a.channels + from + i, extent) * mean;
        in += grad * (unmixed ? shares.inside[m] : S(1));
        out += grad * (unmixed ? shares.outside[m] : S(1));
      }
      store_at(rows + from + i, in, extent);
      store_at(rows + a.channels + from + i, out, extent);
    });
  };
  mix(0, a.unmixed, true);
  mix(a.unmixed, a.channels, false);
}

// rows: [4, channels], the second half scratch.
template <class T>
inline void write_gradient_rows(const PoolArguments<T>& a, const PoolGradients<T>& g, int64_t b, const Shares<sum_t<T>>& shares,
                                sum_t<T>* rows, T* tile) {
  using S = sum_t<T>;
  const int64_t channels = a.channels;
  const T* features = a.features + b * a.positions * channels;
  S* affine_sums = rows + 2 * channels;  // of scale, then shift; over a block of positions, which keeps their rounding small
  if (a.scale) std::memset(affine_sums, 0, 2 * channels * sizeof(S));
  write_rows(g.features + b * a.positions * channels, a.positions, channels, tile, g.stream, [&](int64_t p, T* to) {
    const S covered = shares.covered[p], uncovered = shares.uncovered[p];
    const bool ends_block = p % 64 == 63 || p + 1 == a.positions;
    for_each_vector<S>(channels, [&](int64_t c, auto extent) {
      Vector<S> grad = load_at(rows + c, extent) * covered + load_at(rows + channels + c, extent) * uncovered;
      if (a.scale) {
        prefetch(features + p * channels + c + AHEAD);
        const Vector<S> values = load_at(features + p * channels + c, extent), scale = load_at(a.scale + c, extent);
        const Vector<S> moved = values * scale + load_at(a.shift + c, extent);
        grad = moved > Vector<S>{} ? grad : Vector<S>{};
        store_at(affine_sums + c, load_at(affine_sums + c, extent) + grad * values, extent);
        store_at(affine_sums + channels + c, load_at(affine_sums + channels + c, extent) + grad, extent);
        grad *= scale;
      }
      store_at(to + c, grad, extent);
    });
    if (!a.scale || !ends_block) return;
    for (int64_t c = 0; c < channels; ++c) {
      g.scale[b * channels + c] += affine_sums[c];
      g.shift[b * channels + c] += affine_sums[channels + c];
    }
    std::memset(affine_sums, 0, 2 * channels * sizeof(S));
  });
}

template <class T>
inline void write_gradient_channels(const PoolArguments<T>& a, const PoolGradients<T>& g, int64_t b, const Shares<sum_t<T>>& shares,
                                    const sum_t<T>* rows, T* tile) {
  using S = sum_t<T>;
  const T* features = a.features + b * a.positions * a.channels;
  write_rows(g.features + b * a.positions * a.channels, a.channels, a.positions, tile, g.stream, [&](int64_t c, T* to) {
    const S inside = rows[c], outside = rows[a.channels + c];
    const auto spread = [&](int64_t p) { return load(shares.covered + p) * inside + load(shares.uncovered + p) * outside; };
    if (!a.scale) {
      for (int64_t p = 0; p < a.positions; p += LANES<S>) store(to + p, spread(p));
      return;
    }
    const Vector<S> scale = broadcast(a.scale[c]), shift = broadcast(a.shift[c]);
    TwoSums<S> affine;
    for_each_position(
        features + c * a.positions, a.positions, a.end,
        [&](int64_t p, Vector<S> values) {
          const Vector<S> grad = values * scale + shift > Vector<S>{} ? spread(p) : Vector<S>{};
          affine.add(grad * values, grad);
          store(to + p, grad * scale);
        },
        [&] { affine.end_block(); });
    g.scale[b * a.channels + c] = sum_lanes<S>(affine.first);
    g.shift[b * a.channels + c] = sum_lanes<S>(affine.second);
  });
}

// d loss / d weight of input m in a zone: the zone's sums against its pooled gradient.
template <class T>
inline sum_t<T> zone_gradient(const PoolArguments<T>& a, const T* grad_C, const sum_t<T>* sums) {
  using S = sum_t<T>;
  Vector<S> total = {};
  for_each_vector<S>(a.unmixed, [&](int64_t c, auto extent) { total += load_at(grad_C + c, extent) * load_at(sums + c, extent); });
  return sum_lanes<S>(total) / S(a.positions);
}

// rows: 4 * channels.
template <class T>
void pool_backward(const PoolArguments<T>& a, const PoolGradients<T>& g, int64_t b, const Shares<sum_t<T>>& shares, sum_t<T>* rows,
                   T* tile) {
  const T* grad_MC = g.pooled + b * a.inputs * a.channels;
  if (g.inside) {
    zone_sums(a, b, shares, rows);
    for (int64_t m = 0; m < a.inputs; ++m) {
      g.inside[b * a.inputs + m] = zone_gradient(a, grad_MC + m * a.channels, rows);
      g.outside[b * a.inputs + m] = zone_gradient(a, grad_MC + m * a.channels, rows + a.channels);
    }
  }
  zone_rows_of_gradient(a, grad_MC, shares, rows);
  if (a.channels_last) {
    write_gradient_rows(a, g, b, shares, rows, tile);
  } else {
    write_gradient_channels(a, g, b, shares, rows, tile);
  }
}
