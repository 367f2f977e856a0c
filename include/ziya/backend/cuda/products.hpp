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
#include <string>
#include <vector>

#include "ziya/backend/cuda/fingerprint.hpp"
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
/// keeps the fastest of those that give the bits of the library's first choice, also for other
/// numbers of tokens up to the same power of two: trying for every length of a prompt would cost
/// more than it gives. So results do not depend on times, nor on what was computed before. TF32 is
/// never used.
class Products {
 public:
  /// @param tried algorithms that are timed for a new shape; 1 takes the library's first choice
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
    check(launch(stream, plan, *plan.algorithm, y, x, w, product.add ? 1.0f : 0.0f, y),
          "cublasLtMatmul");
    return true;
  }

 private:
  static constexpr int most_tried = 16, passes = 5;
  /// Up to so many results in 16 bits may be equal though sums differ.
  static constexpr std::int64_t few_results = std::int64_t{1} << 20;

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
  struct Choice {  // nvcc 13.0 takes no vector of the library's type, which has no name
    cublasLtMatmulAlgo_t algorithm;
  };
  /// The library's algorithms for a shape with its tokens rounded up, its first choice first.
  struct Choices {
    std::vector<Choice> all;
    std::optional<std::size_t> fastest;
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

  /// y = x wᵀ + beta c
  cublasStatus_t launch(cudaStream_t stream, const Plan& plan,
                        const cublasLtMatmulAlgo_t& algorithm, void* y, const void* x,
                        const void* w, float beta, const void* c) {
    const float one = 1;
    return cublasLtMatmul(handle_, plan.operation.get(), &one, w, plan.w.get(), x, plan.x.get(),
                          &beta, c, plan.y.get(), y, plan.y.get(), &algorithm, workspace_.data(),
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
    auto entry = choices_.find(of_class);
    if (entry == choices_.end()) {
      entry = choices_.emplace(of_class, Choices{choices_for(plan, of_class, made), {}}).first;
    }
    Choices& choices = entry->second;
    std::size_t first = 0;
    while (first < choices.all.size() && !takes(plan, choices.all[first].algorithm)) ++first;
    if (first == choices.all.size()) return plan;
    plan.algorithm = choices.all[first].algorithm;
    if (choices.all.size() == 1 || choices.fastest == first || capturing(stream)) return plan;
    Trials trials(*this, stream, plan, product, y, x, w);
    if (!choices.fastest) choices.fastest = fastest(trials, choices.all, first);
    const cublasLtMatmulAlgo_t& chosen = choices.all[*choices.fastest].algorithm;
    if (trials.same_bits(chosen)) plan.algorithm = chosen;
    return plan;
  }

  std::vector<Choice> choices_for(const Plan& plan, const Product& product,
                                  cublasLtMatmulPreference_t preference) {
    const Layout x = layout(product.dtype, product.in, product.tokens, product.x_stride);
    const Layout y = layout(product.y_dtype, product.out, product.tokens, product.y_stride);
    std::array<cublasLtMatmulHeuristicResult_t, most_tried> results{};
    int count = 0;
    const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
        handle_, plan.operation.get(), plan.w.get(), x.get(), y.get(), y.get(), preference, tried_,
        results.data(), &count);
    if (status != CUBLAS_STATUS_NOT_SUPPORTED) check(status, "cublasLtMatmulAlgoGetHeuristic");
    std::vector<Choice> all;
    for (int i = 0; i < count; ++i) all.push_back({results[static_cast<std::size_t>(i)].algo});
    return all;
  }

  /// Whether an algorithm takes the shape of a plan.
  bool takes(const Plan& plan, const cublasLtMatmulAlgo_t& algorithm) {
    cublasLtMatmulHeuristicResult_t result{};
    return cublasLtMatmulAlgoCheck(handle_, plan.operation.get(), plan.w.get(), plan.x.get(),
                                   plan.y.get(), plan.y.get(), &algorithm,
                                   &result) == CUBLAS_STATUS_SUCCESS &&
           result.workspaceSize <= static_cast<std::size_t>(workspace_.elements());
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

  /// Runs of a product, with other algorithms than that of its plan.
  class Trials {
   public:
    Trials(Products& products, cudaStream_t stream, const Plan& plan, const Product& product,
           void* y, const void* x, const void* w)
        : products_(products),
          stream_(stream),
          plan_(plan),
          product_(product),
          y_(y),
          x_(x),
          w_(w) {
      const std::int64_t elements = (product.tokens - 1) * product.y_stride + product.out;
      const Shape bytes{bytes_of(product.y_dtype, elements)};
      few_ = product.y_dtype != DType::f32 && elements <= few_results;
      if (product.add || few_) {  // y is not added to again
        result_ = Tensor<std::byte, Cuda>(bytes);
        y_ = result_.data();
      }
      if (few_) {
        first_ = Tensor<std::byte, Cuda>(bytes);
        check(products_.launch(stream_, plan_, *plan_.algorithm, first_.data(), x_, w_, 0,
                               first_.data()),
              "cublasLtMatmul");
      }
      bits_ = bits(*plan_.algorithm);
    }

    /// Whether the algorithm takes the product and gives the bits of the plan's.
    bool same_bits(const cublasLtMatmulAlgo_t& algorithm) {
      return bits_ && products_.takes(plan_, algorithm) && bits(algorithm) == bits_;
    }
    bool run(const cublasLtMatmulAlgo_t& algorithm) {
      return products_.launch(stream_, plan_, algorithm, y_, x_, w_, product_.add ? 1.0f : 0.0f,
                              y_) == CUBLAS_STATUS_SUCCESS;
    }
    [[nodiscard]] cudaStream_t stream() const { return stream_; }

   private:
    /// Of the result, or, where that is few numbers in 16 bits, of what is left of the sums in 32
    /// bits when the first choice's result is taken away.
    std::optional<std::uint64_t> bits(const cublasLtMatmulAlgo_t& algorithm) {
      const void* c = few_ ? first_.data() : y_;
      if (products_.launch(stream_, plan_, algorithm, y_, x_, w_, few_ ? -1.0f : 0.0f, c) !=
          CUBLAS_STATUS_SUCCESS) {
        return std::nullopt;
      }
      // The library's workspace is free between two of its products.
      auto* sum = reinterpret_cast<std::uint64_t*>(products_.workspace_.data());
      const auto of = [&](auto* y) {
        return fingerprint(stream_, sum, y, product_.tokens, product_.out, product_.y_stride);
      };
      return product_.y_dtype == DType::f32 ? of(static_cast<const std::uint32_t*>(y_))
                                            : of(static_cast<const std::uint16_t*>(y_));
    }

    Products& products_;
    cudaStream_t stream_;
    const Plan& plan_;
    const Product& product_;
    void* y_;
    const void *x_, *w_;
    Tensor<std::byte, Cuda> first_, result_;
    bool few_ = false;
    std::optional<std::uint64_t> bits_;
  };

  /// @returns the place of the fastest of those that give the bits of the first choice
  static std::size_t fastest(Trials& trials, const std::vector<Choice>& all, std::size_t first) {
    const Event begin, end;
    std::vector<std::size_t> alike;
    for (std::size_t i = 0; i < all.size(); ++i) {
      if (i == first || trials.same_bits(all[i].algorithm)) alike.push_back(i);
    }
    std::array<float, most_tried> shortest;
    shortest.fill(1e30f);
    // In turns, so that a clock that falls while they run falls for all of them; after a turn only
    // what is close to the best.
    for (int pass = 0; pass < passes && alike.size() > 1; ++pass) {
      const float best = *std::min_element(shortest.begin(), shortest.end());
      for (const std::size_t i : alike) {
        if (pass > 0 && shortest[i] > 1.25f * best) continue;
        check(cudaEventRecord(begin.event, trials.stream()), "cudaEventRecord");
        if (!trials.run(all[i].algorithm)) continue;
        check(cudaEventRecord(end.event, trials.stream()), "cudaEventRecord");
        check(cudaEventSynchronize(end.event), "product");
        float time = 0;
        check(cudaEventElapsedTime(&time, begin.event, end.event), "cudaEventElapsedTime");
        shortest[i] = std::min(shortest[i], time);
      }
    }
    if (alike.size() == 1) return first;
    return static_cast<std::size_t>(std::min_element(shortest.begin(), shortest.end()) -
                                    shortest.begin());
  }

  int tried_;
  Tensor<std::byte, Cuda> workspace_;
  cublasLtHandle_t handle_ = nullptr;
  std::map<Product, Plan> plans_;
  std::map<Product, Choices> choices_;  ///< by shape, tokens rounded up
};

}  // namespace cuda
ZIYA_NAMESPACE_END

#endif
