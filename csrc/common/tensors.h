// Tensors as kernels see them: layouts, allocation, and small arguments read into plain vectors.
#pragma once

#include <algorithm>
#include <cstring>
#include <functional>
#include <numeric>
#include <optional>
#include <stdexcept>
#include <string>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/shim_utils.h>
#include <vector>

#include "common/elements.h"
#include "common/recycled.h"

namespace mixfast {

using torch::headeronly::MemoryFormat;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;
using OptionalFloats = std::optional<std::vector<double>>;

template <class T>
const T* data(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

template <class T>
T* mutable_data(const Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

inline int32_t dtype_code(ScalarType dtype) { return torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype)); }

// Strides of elements that lie densely in the given order of dimensions.
inline std::vector<int64_t> dense_strides(const std::vector<int64_t>& sizes, const std::vector<int>& outermost_first) {
  std::vector<int64_t> strides(sizes.size());
  int64_t stride = 1;
  for (auto dimension = outermost_first.rbegin(); dimension != outermost_first.rend(); ++dimension) {
    strides[*dimension] = stride;
    stride *= std::max<int64_t>(sizes[*dimension], 1);
  }
  return strides;
}

inline std::vector<int> row_major(size_t dimensions) {
  std::vector<int> order(dimensions);
  std::iota(order.begin(), order.end(), 0);
  return order;
}

// A tensor in memory that is used again when the tensor is gone.
inline Tensor empty_recycled(const std::vector<int64_t>& sizes, const std::vector<int64_t>& strides, ScalarType dtype,
                             int64_t bytes) {
  const RecycledMemory::Block block = RecycledMemory::instance().take(bytes);
  const torch::stable::Device cpu(torch::headeronly::DeviceType::CPU);
  return torch::stable::from_blob(block.memory, sizes, strides, cpu, dtype,
                                  [block](void*) { RecycledMemory::instance().give_back(block); });
}

// A new tensor on the CPU whose elements lie densely in the given order of dimensions, outermost first. (Not
// torch::stable::empty: that goes through the dispatcher and takes several times as long.)
inline Tensor empty_in_order(const std::vector<int64_t>& sizes, ScalarType dtype, const std::vector<int>& outermost_first) {
  const std::vector<int64_t> strides = dense_strides(sizes, outermost_first);
  const int64_t bytes = std::accumulate(sizes.begin(), sizes.end(), element_size(dtype), std::multiplies<int64_t>());
  if (bytes >= RECYCLED_FROM_BYTES) return empty_recycled(sizes, strides, dtype, bytes);
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(sizes.size(), sizes.data(), strides.data(), dtype_code(dtype),
                                                  aoti_torch_device_type_cpu(), 0, &handle));
  return Tensor(handle);
}

// A new contiguous tensor on the CPU.
inline Tensor empty(const std::vector<int64_t>& sizes, ScalarType dtype) {
  return empty_in_order(sizes, dtype, row_major(sizes.size()));
}

// A new [B, C, H, W] tensor in channels-last memory on the CPU.
inline Tensor empty_channels_last(const std::vector<int64_t>& sizes, ScalarType dtype) {
  return empty_in_order(sizes, dtype, {0, 2, 3, 1});
}

inline std::vector<int64_t> sizes_of(const Tensor& tensor) {
  const auto sizes = tensor.sizes();
  return std::vector<int64_t>(sizes.begin(), sizes.end());
}

// Whether the elements lie densely in the given order of dimensions, outermost first. Dimensions of size 1 may have any
// stride.
inline bool is_dense(const Tensor& tensor, std::initializer_list<int> outermost_first) {
  int64_t expected = 1;
  for (auto dimension = std::rbegin(outermost_first); dimension != std::rend(outermost_first); ++dimension) {
    const int64_t size = tensor.size(*dimension);
    if (size == 0) return true;
    if (size != 1 && tensor.stride(*dimension) != expected) return false;
    expected *= size;
  }
  return true;
}

inline bool is_channels_last(const Tensor& tensor_BCHW) { return is_dense(tensor_BCHW, {0, 2, 3, 1}); }

// The same values contiguously; the tensor itself where it already is.
inline Tensor as_contiguous(const Tensor& tensor) { return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor); }

inline Tensor as_channels_last(const Tensor& tensor_BCHW) {
  if (is_channels_last(tensor_BCHW)) return tensor_BCHW;
  return torch::stable::contiguous(tensor_BCHW, MemoryFormat::ChannelsLast);
}

// The same values with the last dimension dense, a row's channels side by side; a copy only where they are not.
inline Tensor with_dense_channels(const Tensor& tensor) {
  const int64_t last = tensor.dim() - 1;
  return tensor.size(last) <= 1 || tensor.stride(last) == 1 ? tensor : as_contiguous(tensor);
}

// `tensor` contiguous and in this dtype.
inline Tensor as_contiguous_in(const Tensor& tensor, ScalarType dtype) {
  return as_contiguous(tensor.scalar_type() == dtype ? tensor : torch::stable::to(tensor, dtype));
}

// A small tensor's values in row-major order: for arguments with a few numbers a sample.
template <class T>
std::vector<T> values_of(const Tensor& tensor, ScalarType dtype) {
  const Tensor dense = as_contiguous_in(tensor, dtype);
  std::vector<T> values(dense.numel());
  if (!values.empty()) std::memcpy(values.data(), dense.const_data_ptr(), values.size() * sizeof(T));
  return values;
}

template <class W>
std::vector<W> floats_of(const Tensor& tensor) {
  return values_of<W>(tensor, sizeof(W) == 8 ? ScalarType::Double : ScalarType::Float);
}

inline std::vector<int64_t> integers_of(const Tensor& tensor) { return values_of<int64_t>(tensor, ScalarType::Long); }

// Refuses what would be read out of bounds. Called before any thread starts. std::out_of_range is Python's IndexError.
inline void check_index(int64_t index, int64_t limit, const char* name) {
  if (index >= 0 && index < limit) return;
  throw std::out_of_range(std::string(name) + " must lie between 0 and " + std::to_string(limit - 1) + ", got " +
                          std::to_string(index));
}

inline void check_indices(const std::vector<int64_t>& indices, int64_t limit, const char* name) {
  for (const int64_t index : indices) check_index(index, limit, name);
}

}  // namespace mixfast
