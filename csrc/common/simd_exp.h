// exp of every lane, to about 1 unit in the last place. Results below the smallest normal number may be 0, those above
// half the largest number infinity. For kernel files, like simd.h: no include guard, no namespace.

template <class S>
struct ExpConstants;
template <>
struct ExpConstants<float> {
  static constexpr int DEGREE = 7;  // of the Taylor polynomial on |r| <= ln(2) / 2
  static constexpr int MANTISSA_BITS = 23, EXPONENT_BIAS = 127;
  // Adding it leaves an integer plus the bias in the lowest bits: 2^n but for a shift.
  static constexpr float ROUNDER = 0x1.8p23f + EXPONENT_BIAS;
  // ln 2 in two parts; the first has few bits, so a whole number times it is exact.
  static constexpr float LN2_HIGH = 0x1.62ep-1f, LN2_LOW = 0x1.0bfbe8p-15f;
  // Where 2^n becomes 0 and infinity.
  static constexpr float LOWEST = -88.f, HIGHEST = 88.6f;
};
template <>
struct ExpConstants<double> {
  static constexpr int DEGREE = 13;
  static constexpr int MANTISSA_BITS = 52, EXPONENT_BIAS = 1023;
  static constexpr double ROUNDER = 0x1.8p52 + EXPONENT_BIAS;
  static constexpr double LN2_HIGH = 0x1.62e42fee00000p-1, LN2_LOW = 0x1.a39ef35793c76p-33;
  static constexpr double LOWEST = -709., HIGHEST = 709.7;
};

// 1 / k!
template <class S>
constexpr S inverse_factorial(int k) {
  double product = 1;
  for (int i = 2; i <= k; ++i) product *= i;
  return S(1 / product);
}

// Horner's scheme, written as a recursion so that the coefficients are constants.
template <class S, int K>
[[gnu::always_inline]] inline Vector<S> exp_polynomial(const Vector<S>& r) {
  if constexpr (K == ExpConstants<S>::DEGREE) {
    return broadcast(inverse_factorial<S>(K));
  } else {
    return exp_polynomial<S, K + 1>(r) * r + inverse_factorial<S>(K);
  }
}

// exp(x) = 2^n exp(r), n = round(x / ln 2). NaN gives NaN. Beyond LOWEST, 2^n is 0 rather than a subnormal number: one
// of those in a vector makes the processor take a hundred times as long.
template <class S>
[[gnu::always_inline]] inline Vector<S> exp_lanes(const Vector<S>& x) {
  using C = ExpConstants<S>;
  const Vector<S> clamped = at_most(at_least(x, broadcast(C::LOWEST)), broadcast(C::HIGHEST));
  const Vector<S> shifted = clamped * S(1.4426950408889634074) + C::ROUNDER;
  const Vector<S> n = shifted - C::ROUNDER;
  const Vector<S> r = clamped - n * C::LN2_HIGH - n * C::LN2_LOW;
  const Vector<S> power_of_two = bits_as<Vector<S>>(bits_as<Mask<S>>(shifted) << C::MANTISSA_BITS);
  return exp_polynomial<S, 0>(r) * power_of_two;
}
