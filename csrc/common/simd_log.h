// log of every lane, to a few units in the last place, of positive normal numbers; NaN gives NaN. For kernel files, like simd.h, after
// simd_exp.h: no include guard, no namespace.

template <class S>
struct LogConstants;
template <>
struct LogConstants<float> {
  static constexpr int TERMS = 5;                       // of the series of artanh on |s| <= 0.172
  static constexpr int32_t ROOT_HALF_BITS = 0x3f3504f3;  // sqrt(1/2)
};
template <>
struct LogConstants<double> {
  static constexpr int TERMS = 11;
  static constexpr int64_t ROOT_HALF_BITS = 0x3fe6a09e667f3bcd;
};

// artanh(s) / s = 1 + s^2 / 3 + s^4 / 5 + ..., from term K on.
template <class S, int K>
[[gnu::always_inline]] inline Vector<S> artanh_series(const Vector<S>& square) {
  if constexpr (K + 1 == LogConstants<S>::TERMS) {
    return broadcast(S(1.0 / (2 * K + 1)));
  } else {
    return artanh_series<S, K + 1>(square) * square + S(1.0 / (2 * K + 1));
  }
}

// x = 2^n m with m between sqrt(1/2) and sqrt(2); log m = 2 artanh((m - 1) / (m + 1)).
template <class S>
[[gnu::always_inline]] inline Vector<S> log_lanes(const Vector<S>& x) {
  using C = ExpConstants<S>;
  const Mask<S> bits = bits_as<Mask<S>>(x);
  const Mask<S> exponent = (bits - LogConstants<S>::ROOT_HALF_BITS) >> C::MANTISSA_BITS;
  const Vector<S> m = bits_as<Vector<S>>(bits - (exponent << C::MANTISSA_BITS));
  const Vector<S> n = __builtin_convertvector(exponent, Vector<S>);
  const Vector<S> s = (m - 1) / (m + 1);
  return n * C::LN2_HIGH + (n * C::LN2_LOW + 2 * s * artanh_series<S, 0>(s * s)) + (x - x);
}
