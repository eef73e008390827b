// Vectors of floats or doubles, as wide as the instruction set at hand, and their loads and stores for every element
// type.
//
// Included by each_isa.h inside a namespace, once for each instruction set: hence no include guard. The compiler's
// vector extension gives arithmetic (a * b + c becomes one fused instruction), comparisons and `mask ? a : b`.

template <class S>
struct VectorOf;
template <>
struct VectorOf<float> {
  typedef float type __attribute__((vector_size(MIXFAST_VECTOR_BYTES)));
  typedef int32_t mask __attribute__((vector_size(MIXFAST_VECTOR_BYTES)));
};
template <>
struct VectorOf<double> {
  typedef double type __attribute__((vector_size(MIXFAST_VECTOR_BYTES)));
  typedef int64_t mask __attribute__((vector_size(MIXFAST_VECTOR_BYTES)));
};
template <class S>
using Vector = typename VectorOf<S>::type;
template <class S>
using Mask = typename VectorOf<S>::mask;

// Lanes of a vector of S.
template <class S>
constexpr int64_t LANES = MIXFAST_VECTOR_BYTES / sizeof(S);

typedef uint32_t Words __attribute__((vector_size(MIXFAST_VECTOR_BYTES)));
typedef uint16_t Halves __attribute__((vector_size(MIXFAST_VECTOR_BYTES / 2)));

template <class To, class From>
inline To bits_as(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}

template <class V>
inline V load_raw(const void* from) {
  V vector;
  std::memcpy(&vector, from, sizeof(vector));
  return vector;
}

template <class S>
inline Vector<S> broadcast(S value) {
  return value - Vector<S>{};  // every lane: value - 0, which keeps even the sign of zero
}

// --- the larger and the smaller of two values in each lane; `values` where one is NaN ---

#if MIXFAST_AVX512
inline Vector<float> at_least(Vector<float> values, Vector<float> low) { return _mm512_max_ps(low, values); }
inline Vector<double> at_least(Vector<double> values, Vector<double> low) { return _mm512_max_pd(low, values); }
inline Vector<float> at_most(Vector<float> values, Vector<float> high) { return _mm512_min_ps(high, values); }
inline Vector<double> at_most(Vector<double> values, Vector<double> high) { return _mm512_min_pd(high, values); }
#elif MIXFAST_AVX2
inline Vector<float> at_least(Vector<float> values, Vector<float> low) { return _mm256_max_ps(low, values); }
inline Vector<double> at_least(Vector<double> values, Vector<double> low) { return _mm256_max_pd(low, values); }
inline Vector<float> at_most(Vector<float> values, Vector<float> high) { return _mm256_min_ps(high, values); }
inline Vector<double> at_most(Vector<double> values, Vector<double> high) { return _mm256_min_pd(high, values); }
#else
template <class V>
inline V at_least(V values, V low) {
  return low > values ? low : values;
}
template <class V>
inline V at_most(V values, V high) {
  return high < values ? high : values;
}
#endif

// --- integers: each lane to another width ---
//
// (GCC 12 takes __builtin_convertvector apart into single lanes here.)

#if MIXFAST_AVX512
inline Words widen_halves(Halves halves) { return Words(_mm512_cvtepu16_epi32(__m256i(halves))); }
inline Halves low_halves(Words words) { return Halves(_mm512_cvtepi32_epi16(__m512i(words))); }
inline Vector<float> float_bytes(const uint8_t* from, float) {
  return Vector<float>(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(load_raw<__m128i>(from))));
}
inline Vector<double> float_bytes(const uint8_t* from, double) {
  return Vector<double>(_mm512_cvtepi32_pd(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128(load_raw<int64_t>(from)))));
}
inline void store_low_bytes(uint8_t* to, Mask<float> words) {
  const __m128i bytes = _mm512_cvtepi32_epi8(__m512i(words));
  std::memcpy(to, &bytes, sizeof(bytes));
}
#elif MIXFAST_AVX2
inline Words widen_halves(Halves halves) { return Words(_mm256_cvtepu16_epi32(__m128i(halves))); }
inline Halves low_halves(Words words) {
  const __m256i low = __m256i(words & 0xffff);
  return Halves(_mm_packus_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1)));
}
inline Vector<float> float_bytes(const uint8_t* from, float) {
  return Vector<float>(_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128(load_raw<int64_t>(from)))));
}
inline Vector<double> float_bytes(const uint8_t* from, double) {
  return Vector<double>(_mm256_cvtepi32_pd(_mm_cvtepu8_epi32(_mm_cvtsi32_si128(load_raw<int32_t>(from)))));
}
inline void store_low_bytes(uint8_t* to, Mask<float> words) {
  const __m256i wide = __m256i(words & 0xff);
  const __m128i halves = _mm_packs_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
  const int64_t bytes = _mm_cvtsi128_si64(_mm_packus_epi16(halves, halves));
  std::memcpy(to, &bytes, sizeof(bytes));
}
#else
inline Words widen_halves(Halves halves) { return __builtin_convertvector(halves, Words); }
inline Halves low_halves(Words words) { return __builtin_convertvector(words, Halves); }
template <class S>
inline Vector<S> float_bytes(const uint8_t* from, S) {
  Vector<S> values;
  for (int64_t i = 0; i < LANES<S>; ++i) values[i] = from[i];
  return values;
}
inline void store_low_bytes(uint8_t* to, Mask<float> words) {
  for (int64_t i = 0; i < LANES<float>; ++i) to[i] = static_cast<uint8_t>(words[i]);
}
#endif

// --- float16 and bfloat16 ---

inline Vector<float> widen(Halves bits, bfloat16) { return bits_as<Vector<float>>(widen_halves(bits) << 16); }

// Round to nearest, ties to even; NaN stays NaN (adding the rounding to one could carry into infinity).
inline Halves narrow(Vector<float> values, bfloat16) {
  const Words bits = bits_as<Words>(values);
  const Words rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const Words quiet = (bits >> 16) | 0x40;
  const Words is_nan = bits_as<Words>((bits & 0x7fffffff) > 0x7f800000);
  return low_halves((is_nan & quiet) | (~is_nan & rounded));
}

#if MIXFAST_AVX512
inline Vector<float> widen(Halves bits, float16) { return Vector<float>(_mm512_cvtph_ps(__m256i(bits))); }
inline Halves narrow(Vector<float> values, float16) { return Halves(_mm512_cvtps_ph(__m512(values), _MM_FROUND_TO_NEAREST_INT)); }
#elif MIXFAST_AVX2
inline Vector<float> widen(Halves bits, float16) { return Vector<float>(_mm256_cvtph_ps(__m128i(bits))); }
inline Halves narrow(Vector<float> values, float16) { return Halves(_mm256_cvtps_ph(__m256(values), _MM_FROUND_TO_NEAREST_INT)); }
#else
// The exponent's bias is moved by a multiplication with a power of two, which also gives subnormal numbers right.
inline Vector<float> widen(Halves bits, float16) {
  const Words wide = widen_halves(bits);
  const Words magnitude = (wide & 0x7fff) << 13;
  // Infinity and NaN: the largest exponent of both formats.
  const Words is_special = bits_as<Words>((wide & 0x7c00) == 0x7c00);
  const Words scaled = bits_as<Words>(bits_as<Vector<float>>(magnitude) * broadcast(0x1p112f));
  const Words chosen = (is_special & (magnitude | 0x7f800000)) | (~is_special & scaled);
  return bits_as<Vector<float>>(chosen | ((wide & 0x8000) << 16));
}

// Normal numbers round on their bits; for those below 2^-14 the addition of 0.5 rounds at the last place of a subnormal
// number.
inline Halves narrow(Vector<float> values, float16) {
  const Words bits = bits_as<Words>(values);
  const Words magnitude = bits & 0x7fffffff;
  const Words normal = (magnitude - (112u << 23) + 0xfff + ((magnitude >> 13) & 1)) >> 13;
  const Words tiny = bits_as<Words>(bits_as<Vector<float>>(magnitude) + broadcast(0.5f)) - 0x3f000000u;
  const Words is_tiny = bits_as<Words>(magnitude < 0x38800000u);
  const Words is_huge = bits_as<Words>(magnitude >= 0x477ff000u);  // rounds to 65520 or more
  const Words is_nan = bits_as<Words>(magnitude > 0x7f800000u);
  Words result = (is_tiny & tiny) | (~is_tiny & normal);
  result = (is_huge & 0x7c00) | (~is_huge & result);
  result = (is_nan & 0x7e00) | (~is_nan & result);
  return low_halves(result | ((bits >> 16) & 0x8000));
}
#endif

// --- loads and stores ---
//
// LANES<sum_t<T>> elements of T are a vector of the type that sums are taken in.

inline Vector<float> load(const float* from) { return load_raw<Vector<float>>(from); }
inline Vector<double> load(const double* from) { return load_raw<Vector<double>>(from); }
inline Vector<float> load(const bfloat16* from) { return widen(load_raw<Halves>(from), bfloat16{}); }
inline Vector<float> load(const float16* from) { return widen(load_raw<Halves>(from), float16{}); }
template <class S>
inline Vector<S> load_bytes(const uint8_t* from) {
  return float_bytes(from, S());
}
inline Vector<float> load(const uint8_t* from) { return load_bytes<float>(from); }

inline void store(float* to, Vector<float> values) { std::memcpy(to, &values, sizeof(values)); }
inline void store(double* to, Vector<double> values) { std::memcpy(to, &values, sizeof(values)); }
template <class T>
inline void store(T* to, Vector<float> values) {
  const Halves bits = narrow(values, T{});
  std::memcpy(to, &bits, sizeof(bits));
}

// Clamps to 0..255 and rounds to the nearest integer, ties to even.
inline void store(uint8_t* to, Vector<float> values) {
  values = at_most(at_least(values, Vector<float>{}), broadcast(255.f));
  const float rounder = 0x1.8p23f;  // adding it leaves no bits for a fraction
  store_low_bytes(to, __builtin_convertvector((values + rounder) - rounder, Mask<float>));
}

// The first `count` elements, fewer than a vector holds; the other lanes are 0. Nothing past them is touched.
template <class T>
inline Vector<sum_t<T>> load_first(const T* from, int64_t count) {
  T lanes[LANES<sum_t<T>>] = {};
  std::memcpy(lanes, from, count * sizeof(T));
  return load(lanes);
}

template <class T>
inline void store_first(T* to, Vector<sum_t<T>> values, int64_t count) {
  T lanes[LANES<sum_t<T>>];
  store(lanes, values);
  std::memcpy(to, lanes, count * sizeof(T));
}

#if MIXFAST_AVX512
// With masks, which leave no detour through memory.
inline uint32_t first_bits(int64_t count) { return (1u << count) - 1; }

inline Vector<float> load_first(const float* from, int64_t count) {
  return Vector<float>(_mm512_maskz_loadu_ps(first_bits(count), from));
}
inline Vector<double> load_first(const double* from, int64_t count) {
  return Vector<double>(_mm512_maskz_loadu_pd(first_bits(count), from));
}
inline Vector<float> load_first(const bfloat16* from, int64_t count) {
  return widen(Halves(_mm256_maskz_loadu_epi16(first_bits(count), from)), bfloat16{});
}
inline Vector<float> load_first(const float16* from, int64_t count) {
  return widen(Halves(_mm256_maskz_loadu_epi16(first_bits(count), from)), float16{});
}
inline void store_first(float* to, Vector<float> values, int64_t count) {
  _mm512_mask_storeu_ps(to, first_bits(count), __m512(values));
}
inline void store_first(double* to, Vector<double> values, int64_t count) {
  _mm512_mask_storeu_pd(to, first_bits(count), __m512d(values));
}
inline void store_first(bfloat16* to, Vector<float> values, int64_t count) {
  _mm256_mask_storeu_epi16(to, first_bits(count), __m256i(narrow(values, bfloat16{})));
}
inline void store_first(float16* to, Vector<float> values, int64_t count) {
  _mm256_mask_storeu_epi16(to, first_bits(count), __m256i(narrow(values, float16{})));
}
#endif

// Lane i is set where i < count.
template <class S>
inline Mask<S> first_lanes(int64_t count) {
  Mask<S> lane, limit;
  for (int64_t i = 0; i < LANES<S>; ++i) {
    lane[i] = i;
    limit[i] = count;
  }
  return lane < limit;
}

// --- single elements ---

template <class T>
inline sum_t<T> load_one(const T* from) {
  if constexpr (sizeof(T) >= 4) {
    return *from;
  } else if constexpr (sizeof(T) == 1) {
    return float(*from);
  } else {
    return load_first(from, 1)[0];
  }
}

template <class T>
inline void store_one(T* to, sum_t<T> value) {
  if constexpr (sizeof(T) >= 4) {
    *to = value;
  } else {
    store_first(to, broadcast(value), 1);
  }
}

// --- reductions, always in the same order: the same bits every time ---

template <class S>
struct Quarter {
  typedef S type __attribute__((vector_size(16)));
};

// Combines all lanes with f, which must take vectors as well as single values: 16-byte parts first, then what is in
// one.
template <class S, class F>
inline S reduce_lanes(const Vector<S>& values, F&& f) {
  constexpr int PARTS = MIXFAST_VECTOR_BYTES / 16;
  typename Quarter<S>::type parts[PARTS];
  std::memcpy(parts, &values, sizeof(values));
  if constexpr (PARTS == 4) {
    parts[0] = f(parts[0], parts[2]);
    parts[1] = f(parts[1], parts[3]);
  }
  if constexpr (PARTS >= 2) parts[0] = f(parts[0], parts[1]);
  const auto part = parts[0];
  if constexpr (sizeof(S) == 8) {
    return f(part[0], part[1]);
  } else {
    return f(f(part[0], part[2]), f(part[1], part[3]));
  }
}

template <class S>
inline S sum_lanes(const Vector<S>& values) {
  return reduce_lanes<S>(values, [](auto a, auto b) { return a + b; });
}

template <class S>
inline S max_lanes(const Vector<S>& values) {
  return reduce_lanes<S>(values, [](auto a, auto b) { return a > b ? a : b; });
}
