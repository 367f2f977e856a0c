// SPDX-License-Identifier: Apache-2.0
// Matrix products by cuBLASLt, with the algorithms that were fastest here.
#pragma once

#include "ziya/config.hpp"
#if ZIYA_WITH_CUDA

#include <cublasLt.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include "ziya/backend/cuda/runtime.hpp"
#include "ziya/core/dtype.hpp"
#include "ziya/core/error.hpp"
#include "ziya/core/tensor.hpp"

ZIYA_NAMESPACE_BEGIN
namespace cuda {

inline void check(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw BackendError("ZIYA-150", "cuda: " + std::string(what) + ": cuBLASLt status " +
                                     std::to_string(static_cast<int>(status)));
}

/// y[t, o] = Σ_i x[t, i] w[o, i] (+ y[t, o]): rows `*_stride` elements apart, sums in 32 bits; in
/// f8_e4m3 the sum is multiplied by the scales of its rows of x and w.
struct Product {
  DType dtype = DType::f32;    ///< of x and w
  DType y_dtype = DType::f32;  ///< the same, or f32; of f8_e4m3 any other
  bool add = false;
  std::int64_t tokens = 0, in = 0, out = 0;
  std::int64_t x_stride = 0, w_stride = 0, y_stride = 0;
  /// Bytes to which the addresses are aligned, 16 at most.
  std::int64_t x_alignment = 16, w_alignment = 16, y_alignment = 16;

  friend auto operator<=>(const Product&, const Product&) = default;
};

/// Factors of the rows of x and of w, on the GPU.
struct RowScales {
  const float *x = nullptr, *w = nullptr;
};

/// The greatest power of two up to 16 that divides an address.
inline std::int64_t alignment_of(const void* address) {
  const auto value = reinterpret_cast<std::uintptr_t>(address) | 16u;
  return static_cast<std::int64_t>(value & (~value + 1));
}

/// Belongs to a context. The first product of a shape tries several algorithms on its operands and
/// keeps the fastest, also for other numbers of tokens up to the same power of two: trying for
/// every length of a prompt would cost more than it gives. TF32 is never used.
class Products {
 public:
  /// @param tried algorithms that are timed for a new shape; 1 takes the library's own choice
  explicit Products(int tried, std::size_t workspace_bytes)
      : tried_(std::clamp(tried, 1, most_tried)),
        workspace_(Shape{static_cast<std::int64_t>(workspace_bytes)}) {
    check(cublasLtCreate(&handle_), "cublasLtCreate");
  }
  Products(const Products&) = delete;
  Products& operator=(const Products&) = delete;
  ~Products() { (void)cublasLtDestroy(handle_); }

  /// @param scales of f8_e4m3
  /// @returns false where the library has no algorithm for this shape and alignment
  bool run(cudaStream_t stream, const Product& product, void* y, const void* x, const void* w,
           const RowScales& scales = {}) {
    auto found = plans_.find(product);
    if (found == plans_.end()) {
      found = plans_.emplace(product, make(stream, product, y, x, w, scales)).first;
    }
    const Plan& plan = found->second;
    if (!plan.algorithm) return false;
    if (product.dtype == DType::f8_e4m3) set_scales(plan.operation.get(), scales);
    check(launch(stream, plan, *plan.algorithm, y, x, w, product.add), "cublasLtMatmul");
    return true;
  }

 private:
  static constexpr int most_tried = 16, passes = 6;

  template <class Handle, cublasStatus_t (*Destroy)(Handle)>
  struct Destroyer {
    void operator()(Handle handle) const noexcept { (void)Destroy(handle); }
  };
  using Layout = std::unique_ptr<cublasLtMatrixLayoutOpaque_t,
                                 Destroyer<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy>>;
  using Operation = std::unique_ptr<cublasLtMatmulDescOpaque_t,
                                    Destroyer<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy>>;
  using Preference =
      std::unique_ptr<cublasLtMatmulPreferenceOpaque_t,
                      Destroyer<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy>>;
  struct Plan {
    Operation operation;
    Layout w, x, y;
    std::optional<cublasLtMatmulAlgo_t> algorithm;
  };

  static cudaDataType_t type_of(DType dtype) {
    if (dtype == DType::f8_e4m3) return CUDA_R_8F_E4M3;
    return dtype == DType::f32 ? CUDA_R_32F : dtype == DType::f16 ? CUDA_R_16F : CUDA_R_16BF;
  }
  static Layout layout(DType dtype, std::int64_t rows, std::int64_t columns, std::int64_t stride) {
    cublasLtMatrixLayout_t result = nullptr;
    check(cublasLtMatrixLayoutCreate(&result, type_of(dtype), static_cast<std::uint64_t>(rows),
                                     static_cast<std::uint64_t>(columns), stride),
          "cublasLtMatrixLayoutCreate");
    return Layout(result);
  }

  template <class Value>
  static void set_attribute(cublasLtMatmulDesc_t operation,
                            cublasLtMatmulDescAttributes_t attribute, Value value) {
    check(cublasLtMatmulDescSetAttribute(operation, attribute, &value, sizeof value),
          "cublasLtMatmulDescSetAttribute");
  }
  static void set_scales(cublasLtMatmulDesc_t operation, const RowScales& scales) {
    set_attribute(operation, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, scales.w);
    set_attribute(operation, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, scales.x);
  }

  cublasStatus_t launch(cudaStream_t stream, const Plan& plan,
                        const cublasLtMatmulAlgo_t& algorithm, void* y, const void* x,
                        const void* w, bool add) {
    const float one = 1, beta = add ? 1.0f : 0.0f;
    return cublasLtMatmul(handle_, plan.operation.get(), &one, w, plan.w.get(), x, plan.x.get(),
                          &beta, y, plan.y.get(), y, plan.y.get(), &algorithm, workspace_.data(),
                          static_cast<std::size_t>(workspace_.elements()), stream);
  }

  /// Column-major, as the library thinks, a row-major matrix is its transpose: yᵀ = w xᵀ.
  Plan make(cudaStream_t stream, const Product& product, void* y, const void* x, const void* w,
            const RowScales& scales) {
    Plan plan;
    cublasLtMatmulDesc_t operation = nullptr;
    check(cublasLtMatmulDescCreate(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F),
          "cublasLtMatmulDescCreate");
    plan.operation.reset(operation);
    set_attribute(operation, CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
    if (product.dtype == DType::f8_e4m3) {
#if CUBLAS_VERSION >= 120900
      const auto by_row = static_cast<std::int32_t>(CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F);
      set_attribute(operation, CUBLASLT_MATMUL_DESC_A_SCALE_MODE, by_row);
      set_attribute(operation, CUBLASLT_MATMUL_DESC_B_SCALE_MODE, by_row);
      set_attribute(operation, CUBLASLT_MATMUL_DESC_FAST_ACCUM, std::int8_t{1});
      set_scales(operation, scales);
#else
      return plan;  // the library knows no scales of rows
#endif
    }
    plan.w = layout(product.dtype, product.in, product.out, product.w_stride);
    plan.x = layout(product.dtype, product.in, product.tokens, product.x_stride);
    plan.y = layout(product.y_dtype, product.out, product.tokens, product.y_stride);

    cublasLtMatmulPreference_t made = nullptr;
    check(cublasLtMatmulPreferenceCreate(&made), "cublasLtMatmulPreferenceCreate");
    const Preference preference(made);
    const auto set = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
      check(cublasLtMatmulPreferenceSetAttribute(made, attribute, &value, sizeof value),
            "cublasLtMatmulPreferenceSetAttribute");
    };
    set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
        static_cast<std::uint64_t>(workspace_.elements()));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
        static_cast<std::uint32_t>(product.w_alignment));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        static_cast<std::uint32_t>(product.x_alignment));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
        static_cast<std::uint32_t>(product.y_alignment));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
        static_cast<std::uint32_t>(product.y_alignment));

    Product of_class = product;
    of_class.tokens =
        static_cast<std::int64_t>(std::bit_ceil(static_cast<std::uint64_t>(product.tokens)));
    if (const auto chosen = chosen_.find(of_class); chosen != chosen_.end()) {
      cublasLtMatmulHeuristicResult_t result{};
      if (cublasLtMatmulAlgoCheck(handle_, operation, plan.w.get(), plan.x.get(), plan.y.get(),
                                  plan.y.get(), &chosen->second,
                                  &result) == CUBLAS_STATUS_SUCCESS &&
          result.workspaceSize <= static_cast<std::size_t>(workspace_.elements())) {
        plan.algorithm = chosen->second;
        return plan;
      }
    }
    std::array<cublasLtMatmulHeuristicResult_t, most_tried> results{};
    int count = 0;
    const cublasStatus_t status =
        cublasLtMatmulAlgoGetHeuristic(handle_, operation, plan.w.get(), plan.x.get(), plan.y.get(),
                                       plan.y.get(), made, tried_, results.data(), &count);
    if (status == CUBLAS_STATUS_NOT_SUPPORTED || count == 0) return plan;
    check(status, "cublasLtMatmulAlgoGetHeuristic");
    plan.algorithm = results[0].algo;
    if (count > 1 && !capturing(stream)) {
      // A result that is added to would be added to again by every trial: they have another one.
      Tensor<std::byte, Cuda> other;
      if (product.add) {
        const std::int64_t elements = (product.tokens - 1) * product.y_stride + product.out;
        other = Tensor<std::byte, Cuda>(Shape{bytes_of(product.y_dtype, elements)});
        y = other.data();
        check(cudaMemsetAsync(y, 0, static_cast<std::size_t>(other.elements()), stream), "product");
      }
      plan.algorithm =
          fastest(stream, plan, std::span(results).first(static_cast<std::size_t>(count)),
                  product.add, y, x, w);
      chosen_.insert_or_assign(of_class, *plan.algorithm);
    }
    return plan;
  }

  static bool capturing(cudaStream_t stream) {
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    check(cudaStreamIsCapturing(stream, &status), "cudaStreamIsCapturing");
    return status != cudaStreamCaptureStatusNone;
  }

  struct Event {
    cudaEvent_t event = nullptr;
    Event() { check(cudaEventCreate(&event), "cudaEventCreate"); }
    Event(const Event&) = delete;
    ~Event() { (void)cudaEventDestroy(event); }
  };

  cublasLtMatmulAlgo_t fastest(cudaStream_t stream, const Plan& plan,
                               std::span<const cublasLtMatmulHeuristicResult_t> results, bool add,
                               void* y, const void* x, const void* w) {
    const Event begin, end;
    std::array<float, most_tried> shortest;
    shortest.fill(1e30f);
    // In turns, so that a clock that falls while they run falls for all of them; after two turns
    // only what is close to the best.
    for (int pass = 0; pass < passes; ++pass) {
      const float best = *std::min_element(shortest.begin(), shortest.end());
      for (std::size_t i = 0; i < results.size(); ++i) {
        if (pass > 1 && shortest[i] > 1.25f * best) continue;
        check(cudaEventRecord(begin.event, stream), "cudaEventRecord");
        if (launch(stream, plan, results[i].algo, y, x, w, add) != CUBLAS_STATUS_SUCCESS) continue;
        check(cudaEventRecord(end.event, stream), "cudaEventRecord");
        check(cudaEventSynchronize(end.event), "product");
        float time = 0;
        check(cudaEventElapsedTime(&time, begin.event, end.event), "cudaEventElapsedTime");
        if (pass > 0) shortest[i] = std::min(shortest[i], time);  // the first loads the kernel
      }
    }
    const auto best = std::min_element(shortest.begin(), shortest.end()) - shortest.begin();
    return results[static_cast<std::size_t>(best)].algo;
  }

  int tried_;
  Tensor<std::byte, Cuda> workspace_;
  cublasLtHandle_t handle_ = nullptr;
  std::map<Product, Plan> plans_;
  std::map<Product, cublasLtMatmulAlgo_t> chosen_;  ///< by shape, tokens rounded up
};

}  // namespace cuda
ZIYA_NAMESPACE_END

#endif
