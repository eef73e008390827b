// The loops over rows of logits; included once for each instruction set (common/each_isa.h).

#include "common/simd_exp.h"

// Applies f(vector) to a row of logits; the last, partial vector is filled up with `padding`.
template <class T, class F>
inline void for_each_vector(const T* row, int64_t classes, sum_t<T> padding, F&& f) {
  using S = sum_t<T>;
  int64_t k = 0;
  for (; k + LANES<S> <= classes; k += LANES<S>) f(load(row + k), k);
  if (k == classes) return;
  f(first_lanes<S>(classes - k) ? load_first(row + k, classes - k) : broadcast(padding), k);
}

// A row's largest value and sum, in one reading.
template <class T>
inline void largest_and_sum(const T* row, int64_t classes, sum_t<T>* largest, sum_t<T>* sum) {
  using S = sum_t<T>;
  Vector<S> most = broadcast(-std::numeric_limits<S>::infinity()), sums = {};
  int64_t k = 0;
  for (; k + LANES<S> <= classes; k += LANES<S>) {
    const Vector<S> x = load(row + k);
    most = at_least(most, x);
    sums += x;
  }
  if (k < classes) {
    const Vector<S> x = load_first(row + k, classes - k);
    most = first_lanes<S>(classes - k) ? at_least(most, x) : most;
    sums += x;
  }
  *largest = max_lanes<S>(most);
  *sum = sum_lanes<S>(sums);
}

// log(sum(exp(row))), from the row's largest value. Exponentials leave memory idle: `next`, the row to come, is fetched
// beside them.
template <class T>
inline sum_t<T> log_normaliser(const T* row, const T* next, int64_t classes, sum_t<T> largest) {
  using S = sum_t<T>;
  // Nothing is subtracted from infinite logits: inf - inf would make NaN of what has a limit.
  const S shift = std::isfinite(largest) ? largest : S(0);
  Vector<S> sums = {};
  for_each_vector(row, classes, -std::numeric_limits<S>::infinity(), [&](Vector<S> x, int64_t k) {
    __builtin_prefetch(next + k);
    sums += exp_lanes<S>(x - shift);
  });
  return std::log(sum_lanes<S>(sums)) + shift;
}

// The cross-entropy of row r, from its log-normaliser and the sum of its logits.
template <class T>
inline sum_t<T> head_loss(const LossArguments<T>& a, int64_t r, const T* row, sum_t<T> normaliser, sum_t<T> sum) {
  using S = sum_t<T>;
  S loss = normaliser - load_one(row + a.target[r]);
  if (a.other) loss = a.share[r] * loss + (1 - a.share[r]) * (normaliser - load_one(row + a.other[r]));
  if (a.smoothing > 0) loss = (1 - a.smoothing) * loss + a.smoothing * (normaliser - sum / S(a.classes));
  return loss;
}

template <class T>
void forward(const LossArguments<T>& a, sum_t<T>* normalisers, sum_t<T>* losses, int64_t begin, int64_t end) {
  const T* next = a.row(begin);
  for (int64_t r = begin; r < end; ++r) {
    const T* row = next;
    if (r + 1 < end) next = a.row(r + 1);
    sum_t<T> largest, sum;
    largest_and_sum(row, a.classes, &largest, &sum);
    normalisers[r] = log_normaliser(row, next, a.classes, largest);
    losses[r] = head_loss(a, r, row, normalisers[r], sum);
  }
}

// Writes scale * (softmax - spread), the gradient of a row but for its labels; returns the sum of the row.
template <class T>
inline sum_t<T> softmax_gradient(const T* row, T* grad, int64_t classes, sum_t<T> normaliser, sum_t<T> scale, sum_t<T> spread) {
  using S = sum_t<T>;
  Vector<S> sums = {};
  for_each_vector(row, classes, S(0), [&](Vector<S> x, int64_t k) {
    sums += x;
    const Vector<S> values = (exp_lanes<S>(x - normaliser) - spread) * scale;
    if (k + LANES<S> <= classes) {
      store(grad + k, values);
    } else {
      store_first(grad + k, values, classes - k);
    }
  });
  return sum_lanes<S>(sums);
}

template <class T>
void backward(const LossArguments<T>& a, const LossGradients<T>& out, int64_t begin, int64_t end) {
  using S = sum_t<T>;
  for (int64_t r = begin; r < end; ++r) {
    const T* row = a.row(r);
    T* grad = out.logits + r * a.classes;
    const S normaliser = out.normaliser[r], scale = out.scale[r], spread = a.smoothing / S(a.classes);
    const S sum = softmax_gradient(row, grad, a.classes, normaliser, scale, spread);

    // The labelled logits once more, whole: adding to what is already rounded would round twice.
    const auto set = [&](int64_t label, S mass) {
      const S probability = exp_lanes<S>(broadcast(load_one(row + label) - normaliser))[0];
      store_one(grad + label, scale * (probability - spread - mass));
    };
    const int64_t target = a.target[r], other = a.other ? a.other[r] : target;
    const S kept = 1 - a.smoothing, first = a.share ? kept * a.share[r] : kept;
    set(target, other == target ? kept : first);
    if (other != target) set(other, kept - first);

    out.loss[r] = head_loss(a, r, row, normaliser, sum);
    if (out.gap) out.gap[r] = load_one(row + other) - load_one(row + target);
  }
}
