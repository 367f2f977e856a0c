// SPDX-License-Identifier: Apache-2.0
// A linear layer over a weight in any stored format, whole or one rank's part of it.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <type_traits>

#include "ziya/config.hpp"
#include "ziya/core/communicator.hpp"
#include "ziya/core/dtype.hpp"
#include "ziya/core/error.hpp"
#include "ziya/core/tensor.hpp"
#include "ziya/core/view.hpp"
#include "ziya/core/weight.hpp"
#include "ziya/nn/lora.hpp"
#include "ziya/ops/add_bias.hpp"
#include "ziya/ops/matmul.hpp"

ZIYA_NAMESPACE_BEGIN
namespace nn {

/// Which dimension of the weight is split over the ranks of a communicator.
enum class Split {
  none,
  rows,     ///< column-parallel in Megatron's words: every rank has some outputs, nothing to add up
  columns,  ///< row-parallel: every rank has some inputs, and the partial sums are added up
};

/// y = x · weightᵀ + bias (+ low-rank update).
template <class Device>
struct Linear {
  Weight<Device> weight;                       ///< (out, in)
  Tensor<float, Device> bias;                  ///< (out), or empty
  std::shared_ptr<const Lora<Device>> lora{};  ///< or null
  const Communicator* communicator = nullptr;  ///< null: nobody else
  Split split = Split::none;

  [[nodiscard]] std::int64_t in_features() const { return weight.columns; }
  [[nodiscard]] std::int64_t out_features() const { return weight.rows; }

  /// @param y (tokens, out)   @param x (tokens, in)   @throws ShapeError
  template <class T>
  void forward(Context<Device>& ctx, View<T, Device> y, In<T, Device> x) const {
    ops::matmul(ctx, y, x, weight);
    finish(ctx, y, x);
  }

  [[nodiscard]] bool summed_over_ranks() const {
    return split == Split::columns && communicator != nullptr && communicator->size > 1;
  }
  /// Whether the product with the stored weight is all.
  [[nodiscard]] bool plain() const {
    return lora == nullptr && bias.empty() && !summed_over_ranks();
  }
  /// y += this layer's output: the residual stream, of which every rank has all.
  /// @param y (tokens, out)   @param x (tokens, in)   @throws ShapeError
  template <class T>
  void add_to(Context<Device>& ctx, View<T, Device> y, In<T, Device> x) const {
    if (summed_over_ranks() && communicator->rank > 0) {  // what is there counts once in the sum
      ops::matmul(ctx, y, x, weight);
    } else {
      ops::matmul_add(ctx, y, x, weight);
    }
    finish(ctx, y, x);
  }

  /// What follows the product with the stored weight: low-rank update, sum over ranks, bias.
  template <class T>
  void finish(Context<Device>& ctx, View<T, Device> y, In<T, Device> x) const {
    if (lora) lora->add_to(ctx, y, x);
    if (summed_over_ranks()) {
      if constexpr (std::is_same_v<T, float>) {
        for (std::int64_t i = 0; i < y.rows(); ++i) {
          communicator->all_reduce_sum(communicator->self, y.row(i), y.columns());
        }
      } else {
        throw BackendError("ZIYA-155",
                           "linear: partial sums of ranks are added in f32, but activations are " +
                               std::string(name(dtype_of<T>)));
      }
    }
    if (!bias.empty()) ops::add_bias(ctx, y, bias);
  }

  /// f(name, weight) for everything that a trainer could train.
  template <class F>
  void visit(const std::string& name, F&& f) const {
    f(name + ".weight", weight);
    if (!bias.empty()) {
      f(name + ".bias", Weight<Device>{DType::f32, 1, bias.elements(),
                                       reinterpret_cast<const std::byte*>(bias.data()), nullptr});
    }
    if (lora) {
      f(name + ".lora_A.weight", lora->a);
      f(name + ".lora_B.weight", lora->b);
    }
  }
};

}  // namespace nn
ZIYA_NAMESPACE_END
