// Tensors on the device that an operator runs on: allocation, checks, and element types.
#pragma once

#ifdef __CUDACC__
#include <torch/csrc/stable/accelerator.h>
#endif
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include "common/coverage.h"
#include "cuda/launch.h"

namespace mixfast {

// Element types of device code: torch's 16-bit types convert with the GPU's own instructions, and on the host with integers.
template <class T>
struct DeviceElement {
  using type = T;
};
template <>
struct DeviceElement<bfloat16> {
  using type = torch::headeronly::BFloat16;
};
template <>
struct DeviceElement<float16> {
  using type = torch::headeronly::Half;
};

template <class F>
decltype(auto) call_for_device_float(ScalarType dtype, F&& f) {
  return call_for_float(dtype, [&](auto tag) { return f(Tag<typename DeviceElement<typename decltype(tag)::type>::type>{}); });
}

template <class F>
decltype(auto) call_for_device_float_or_uint8(ScalarType dtype, F&& f) {
  if (dtype == ScalarType::Byte) return f(Tag<uint8_t>{});
  return call_for_device_float(dtype, f);
}

// Kernels launched while this lives run on the tensor's device.
class OnDeviceOf {
 public:
#ifdef __CUDACC__
  explicit OnDeviceOf(const Tensor& tensor) : guard_(tensor.get_device_index()) {}

 private:
  torch::stable::accelerator::DeviceGuard guard_;
#else
  explicit OnDeviceOf(const Tensor&) {}
#endif
};

// A new tensor beside `on`, its elements dense in the given order of dimensions, outermost first.
inline Tensor device_empty(const Tensor& on, const std::vector<int64_t>& sizes, ScalarType dtype,
                           const std::vector<int>& outermost_first) {
  const std::vector<int64_t> strides = dense_strides(sizes, outermost_first);
#ifdef __CUDACC__
  const int32_t device_type = aoti_torch_device_type_cuda(), index = on.get_device_index();
#else
  const int32_t device_type = aoti_torch_device_type_cpu(), index = 0;
  (void)on;
#endif
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(
      aoti_torch_empty_strided(sizes.size(), sizes.data(), strides.data(), dtype_code(dtype), device_type, index, &handle));
  return Tensor(handle);
}

inline Tensor device_empty(const Tensor& on, const std::vector<int64_t>& sizes, ScalarType dtype) {
  return device_empty(on, sizes, dtype, row_major(sizes.size()));
}

// Refuses tensors on another device: a kernel would read an address that means nothing where it runs.
inline void check_same_device(const Tensor& first, std::initializer_list<const Tensor*> others) {
  for (const Tensor* other : others) {
    STD_TORCH_CHECK(other->is_cpu() == first.is_cpu() && other->get_device_index() == first.get_device_index(),
                    "all tensors must be on the device of the first one");
  }
}

inline void check_same_device(const Tensor& first, std::initializer_list<const OptionalTensor*> others) {
  for (const OptionalTensor* other : others) {
    if (*other) check_same_device(first, {&**other});
  }
}

template <class S>
ScalarType dtype_of_sums() {
  return sizeof(S) == 8 ? ScalarType::Double : ScalarType::Float;
}

// An optional small argument as kernels read it: contiguous in the type sums are taken in. `kept` holds the memory.
template <class S>
const S* optional_data(const OptionalTensor& tensor, OptionalTensor& kept) {
  if (!tensor) return nullptr;
  kept = as_contiguous_in(*tensor, dtype_of_sums<S>());
  return data<S>(*kept);
}

inline int checked_int(int64_t value, const char* name) {
  STD_TORCH_CHECK(value >= 0 && value < (int64_t(1) << 31), name, " must fit into 31 bits, got ", value);
  return static_cast<int>(value);
}

inline int64_t divided_up(int64_t count, int64_t by) { return (count + by - 1) / by; }

inline bool is_aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

}  // namespace mixfast
