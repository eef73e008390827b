// Loops over rows of channels under a two-zone mix; a row is one position (channels-last) or one token.
//
// Included by a kernel file, so once for each instruction set. covered[p] is the share of position p that lies inside, uncovered[p]
// the share that does not. The arithmetic of M inputs needs only these two zones: M weighted sums over positions are
// combinations of two, and M gradients of one position are a mixture of two rows.

#include "common/stream_rows.h"

// A whole vector, or the first elements of one, so that a loop body is written once for both.
struct Whole {};
struct First {
  int64_t count;
};
template <class T>
inline Vector<sum_t<T>> load_at(const T* from, Whole) {
  return load(from);
}
template <class T>
inline Vector<sum_t<T>> load_at(const T* from, First first) {
  return load_first(from, first.count);
}
template <class T>
inline void store_at(T* to, Vector<sum_t<T>> values, Whole) {
  store(to, values);
}
template <class T>
inline void store_at(T* to, Vector<sum_t<T>> values, First first) {
  store_first(to, values, first.count);
}

// Calls f(c, Whole or First) for every vector of `count` elements.
template <class S, class F>
inline void for_each_vector(int64_t count, F&& f) {
  int64_t c = 0;
  for (; c + LANES<S> <= count; c += LANES<S>) f(c, Whole{});
  if (c < count) f(c, First{count - c});
}

// Asks for what will be read a few KiB later. One core's own prefetching leaves a third of the memory's bandwidth unused.
constexpr int64_t AHEAD = 1024;
template <class T>
inline void prefetch(const T* from) {
  __builtin_prefetch(from, 0, 2);
}

// The values as they are: what sums over positions of a plain tensor take.
struct AsIs {
  template <class V, class Extent>
  V operator()(V values, int64_t, Extent) const {
    return values;
  }
};

// Adds ROWS positions to both sums. Several at once, so that the sums are loaded and stored less often and memory is read in
// several streams.
template <int ROWS, class T, class Activate>
inline void add_rows(const T* rows, int64_t channels, const sum_t<T>* covered, const sum_t<T>* uncovered, sum_t<T>* inside,
                     sum_t<T>* outside, const Activate& activate) {
  using S = sum_t<T>;
  for_each_vector<S>(channels, [&](int64_t c, auto extent) {
    Vector<S> in = load_at(inside + c, extent), out = load_at(outside + c, extent);
    for (int r = 0; r < ROWS; ++r) {
      prefetch(rows + (r + ROWS) * channels + c);
      const Vector<S> values = activate(load_at(rows + r * channels + c, extent), c, extent);
      in += covered[r] * values;
      out += uncovered[r] * values;
    }
    store_at(inside + c, in, extent);
    store_at(outside + c, out, extent);
  });
}

// inside[c] = sum over p of covered[p] * rows[p, c], outside[c] likewise. Long sums are taken in blocks, which keeps their rounding
// small. scratch: 2 * channels.
template <class T, class Activate>
inline void sum_zones_of_rows(const T* rows, int64_t positions, int64_t channels, const sum_t<T>* covered,
                              const sum_t<T>* uncovered, sum_t<T>* inside, sum_t<T>* outside, sum_t<T>* scratch,
                              const Activate& activate) {
  using S = sum_t<T>;
  constexpr int64_t BLOCK = 64;
  const auto zero = [&](S* sums) { std::memset(sums, 0, channels * sizeof(S)); };
  zero(inside);
  zero(outside);
  for (int64_t start = 0; start < positions; start += BLOCK) {
    const bool is_first = start == 0;
    S* in = is_first ? inside : scratch;
    S* out = is_first ? outside : scratch + channels;
    if (!is_first) {
      zero(in);
      zero(out);
    }
    const int64_t end = start + BLOCK < positions ? start + BLOCK : positions;
    int64_t p = start;
    for (; p + 4 <= end; p += 4) add_rows<4>(rows + p * channels, channels, covered + p, uncovered + p, in, out, activate);
    for (; p < end; ++p) add_rows<1>(rows + p * channels, channels, covered + p, uncovered + p, in, out, activate);
    for (int64_t c = 0; !is_first && c < channels; ++c) {
      inside[c] += in[c];
      outside[c] += out[c];
    }
  }
}
