// 128 bits of elements at a time, and conversions between element types and the types that sums are taken in.
#pragma once

#include "cuda/launch.h"

namespace mixfast {

template <class T>
struct alignas(16) Vector {
  static constexpr int SIZE = 16 / sizeof(T);
  T values[SIZE];

  MIXFAST_DEVICE T& operator[](int i) { return values[i]; }
  MIXFAST_DEVICE const T& operator[](int i) const { return values[i]; }
};

template <class T>
constexpr int VECTOR = Vector<T>::SIZE;

#ifdef __CUDACC__

// Through the GPU's own type of 128 bits: the compiler might split an array of small elements.
template <class T>
MIXFAST_DEVICE Vector<T> load_vector(const T* from) {
  const uint4 bits = *reinterpret_cast<const uint4*>(from);
  Vector<T> vector;
  memcpy(&vector, &bits, 16);
  return vector;
}

// To global memory, by an instruction named here: a plain assignment was cut into four where a vector's elements came from
// different branches.
template <class T>
MIXFAST_DEVICE void store_vector(T* to, const Vector<T>& vector) {
  uint4 bits;
  memcpy(&bits, &vector, 16);
  asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(to)), "r"(bits.x), "r"(bits.y),
               "r"(bits.z), "r"(bits.w)
               : "memory");
}

#else

template <class T>
Vector<T> load_vector(const T* from) {
  Vector<T> vector;
  std::memcpy(static_cast<void*>(&vector), __builtin_assume_aligned(from, 16), 16);
  return vector;
}

template <class T>
void store_vector(T* to, const Vector<T>& vector) {
  std::memcpy(static_cast<void*>(__builtin_assume_aligned(to, 16)), &vector, 16);
}

#endif

// The first `count` elements at `from` (at most a vector); zeros follow. `whole`: a whole vector lies there, aligned.
template <class T>
MIXFAST_DEVICE Vector<T> load_some(const T* from, int count, bool whole) {
  if (whole) return load_vector(from);
  Vector<T> vector;
  MIXFAST_UNROLL
  for (int i = 0; i < VECTOR<T>; ++i) vector[i] = i < count ? from[i] : T(0);
  return vector;
}

template <class T>
MIXFAST_DEVICE void store_some(T* to, const Vector<T>& vector, int count, bool whole) {
  if (whole) return store_vector(to, vector);
  MIXFAST_UNROLL
  for (int i = 0; i < VECTOR<T>; ++i) {
    if (i < count) to[i] = vector[i];
  }
}

// A sum as an element: rounded to the nearest, bytes clamped to 0..255 (NaN is 0).
template <class T, class S>
MIXFAST_DEVICE T narrowed(S value) {
  return T(value);
}

template <>
MIXFAST_DEVICE uint8_t narrowed<uint8_t, float>(float value) {
  const float rounded = rintf(value);
  return rounded > 0.0f ? uint8_t(rounded < 255.0f ? rounded : 255.0f) : uint8_t(0);
}

}  // namespace mixfast
