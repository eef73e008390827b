// Matrix products by the library that torch itself uses.
#pragma once

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>

#include "common/tensors.h"

namespace mixfast {

// A matrix in memory that somebody else owns.
template <class S>
Tensor matrix_view(const S* values, int64_t rows, int64_t columns) {
  const ScalarType dtype = sizeof(S) == 8 ? ScalarType::Double : ScalarType::Float;
  const torch::stable::Device cpu(torch::headeronly::DeviceType::CPU);
  return torch::stable::from_blob(const_cast<S*>(values), {rows, columns}, {columns, int64_t(1)}, cpu, dtype);
}

inline Tensor transposed(const Tensor& matrix) { return torch::stable::transpose(matrix, 0, 1); }

// out = a @ b, or out += a @ b. Called in parallel by several threads each product stays on its thread.
inline void multiply(const Tensor& out, const Tensor& a, const Tensor& b, bool add) {
  TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_addmm_out(out.get(), out.get(), a.get(), b.get(), add ? 1.0 : 0.0, 1.0));
}

}  // namespace mixfast
