// Element types of tensors, and calling a template for the one that a tensor has.
//
// bfloat16 and float16 are only storage here: simd.h widens them to float, computes, and narrows the result.
#pragma once

#include <cstdint>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

namespace mixfast {

using torch::headeronly::ScalarType;

struct bfloat16 {
  uint16_t bits;
};
struct float16 {
  uint16_t bits;
};

// The type that sums of T are taken in: float, and double for double.
template <class T>
struct Sum {
  using type = float;
};
template <>
struct Sum<double> {
  using type = double;
};
template <class T>
using sum_t = typename Sum<T>::type;

// Stands for a type where a value is expected:
//   call_for_float(dtype, [&](auto tag) { using T = typename decltype(tag)::type; ... });
template <class T>
struct Tag {
  using type = T;
};

template <class F>
decltype(auto) call_for_float(ScalarType dtype, F&& f) {
  switch (dtype) {
    case ScalarType::Float:
      return f(Tag<float>{});
    case ScalarType::Double:
      return f(Tag<double>{});
    case ScalarType::BFloat16:
      return f(Tag<bfloat16>{});
    case ScalarType::Half:
      return f(Tag<float16>{});
    default:
      STD_TORCH_CHECK(false, "expected float32, float64, bfloat16 or float16, got scalar type ", static_cast<int>(dtype));
  }
}

template <class F>
decltype(auto) call_for_float_or_uint8(ScalarType dtype, F&& f) {
  if (dtype == ScalarType::Byte) return f(Tag<uint8_t>{});
  return call_for_float(dtype, f);
}

// Bytes of an element, for the types above and the small ones that zones and labels have.
inline int64_t element_size(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Double:
    case ScalarType::Long:
      return 8;
    case ScalarType::Float:
    case ScalarType::Int:
      return 4;
    case ScalarType::BFloat16:
    case ScalarType::Half:
      return 2;
    case ScalarType::Byte:
    case ScalarType::Bool:
      return 1;
    default:
      STD_TORCH_CHECK(false, "no operator makes tensors of scalar type ", static_cast<int>(dtype));
  }
}

inline ScalarType sum_dtype(ScalarType dtype) { return dtype == ScalarType::Double ? ScalarType::Double : ScalarType::Float; }

}  // namespace mixfast
