// The loops over rows; included once for each instruction set (common/each_isa.h).

#include "common/simd_exp.h"
#include "common/zone_rows.h"

// Of a normal variable: the probability to lie below z, and exp(-z^2 / 2), its density but for a factor.
template <class S>
struct Normal {
  Vector<S> below, bell;
};

// The probability to lie beyond a >= 0. Float: the bell times a polynomial in t = 1 / (1 + 0.34 a), fitted for the smallest
// largest relative error (3.4e-8) where a float's bell is not zero. Double, which serves comparisons: from the library's own.
inline Vector<float> tail(Vector<float> a, Vector<float> bell) {
  const Vector<float> t = 1.f / (a * 0.34f + 1.f);
  Vector<float> p = t * -0x1.a7f5dep-6f + 0x1.1b5b14p-3f;
  p = p * t - 0x1.155f58p-2f;
  p = p * t + 0x1.9905ccp-3f;
  p = p * t - 0x1.61211p-5f;
  p = p * t + 0x1.d5de0cp-4f;
  p = p * t + 0x1.d87bp-4f;
  p = p * t + 0x1.16b786p-3f;
  p = p * t + 0x1.15c0c4p-3f;
  return p * t * bell;
}

inline Vector<double> tail(Vector<double> a, Vector<double>) {
  for (int64_t lane = 0; lane < LANES<double>; ++lane) a[lane] = 0.5 * std::erfc(a[lane] * 0.70710678118654752440);
  return a;
}

template <class S>
inline Normal<S> normal(Vector<S> z) {
  const Vector<S> bell = exp_lanes<S>(z * z * S(-0.5));
  const Vector<S> beyond = tail(at_least(z, -z), bell);
  return {z < 0 ? beyond : 1 - beyond, bell};
}

template <class T>
void forward(const GeluArguments<T>& a, int64_t begin, int64_t end, T* tile, T* out) {
  using S = sum_t<T>;
  write_rows(out + begin * a.width, end - begin, a.width, tile, a.stream, [&](int64_t r, T* to) {
    const T* row = a.row(begin + r);
    for_each_vector<S>(a.width, [&](int64_t c, auto extent) {
      prefetch(row + c + AHEAD);
      const Vector<S> z = load_at(row + c, extent) + load_at(a.bias + c, extent);
      store_at(to + c, z * normal<S>(z).below, extent);
    });
  });
}

// Adds the rows' gradients to sums [width].
template <class T>
void backward(const GeluArguments<T>& a, const T* grad, int64_t begin, int64_t end, T* tile, T* out, sum_t<T>* sums) {
  using S = sum_t<T>;
  constexpr S DENSITY = S(0.39894228040143267794);  // 1 / sqrt(2 pi)
  write_rows(out + begin * a.width, end - begin, a.width, tile, a.stream, [&](int64_t r, T* to) {
    const T *row = a.row(begin + r), *grads = grad + (begin + r) * a.width;
    for_each_vector<S>(a.width, [&](int64_t c, auto extent) {
      prefetch(row + c + AHEAD);
      prefetch(grads + c + AHEAD);
      const Vector<S> z = load_at(row + c, extent) + load_at(a.bias + c, extent);
      const Normal<S> n = normal<S>(z);
      const Vector<S> values = load_at(grads + c, extent) * (n.below + z * n.bell * DENSITY);
      store_at(to + c, values, extent);
      store_at(sums + c, load_at(sums + c, extent) + values, extent);
    });
  });
}
