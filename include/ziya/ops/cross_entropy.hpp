// SPDX-License-Identifier: Apache-2.0
// Negative log-likelihood of labels.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "ziya/backend/cpu/cross_entropy.hpp"
#include "ziya/backend/cuda/cross_entropy.hpp"
#include "ziya/config.hpp"
#include "ziya/core/error.hpp"
#include "ziya/core/label.hpp"
#include "ziya/core/view.hpp"
#include "ziya/ops/check.hpp"

ZIYA_NAMESPACE_BEGIN
namespace ops {

template <class Device, class T>
void check_labels(const char* op, const View<const T, Device>& logits,
                  std::span<const std::int32_t> labels) {
  check_extent(op, "number of labels", static_cast<std::int64_t>(labels.size()), logits.rows());
  for (const std::int32_t label : labels) {
    if (label != ignored_label && (label < 0 || label >= logits.columns())) {
      throw ArgumentError("ZIYA-115", std::string(op) + ": label " + std::to_string(label) +
                                          " is outside " + std::to_string(logits.columns()) +
                                          " classes");
    }
  }
}

/// loss[i] = log Σ_k e^logits[i, k] − logits[i, labels[i]]; 0 where the label is −100.
/// @param loss (rows)   @param logits (rows, classes)   @throws ShapeError, ArgumentError
template <class Device, class T>
void cross_entropy(Context<Device>& ctx, View<T, Device> loss, In<T, Device> logits,
                   std::span<const std::int32_t> labels) {
  check_extent("cross_entropy", "elements of loss", loss.elements(), logits.rows());
  check_labels("cross_entropy", logits, labels);
  backend::cross_entropy(ctx, loss, logits, labels);
}

/// dlogits[i, k] = scale · (softmax(logits[i, :])[k] − [k = labels[i]]); 0 where the label is −100.
/// @param dlogits, logits (rows, classes)   @param scale usually 1 / number of labels
/// @throws ShapeError, ArgumentError
template <class Device, class T>
void cross_entropy_backward(Context<Device>& ctx, View<T, Device> dlogits, In<T, Device> logits,
                            std::span<const std::int32_t> labels, float scale) {
  check_extent("cross_entropy_backward", "width of dlogits", dlogits.columns(), logits.columns());
  check_extent("cross_entropy_backward", "rows of dlogits", dlogits.rows(), logits.rows());
  check_labels("cross_entropy_backward", logits, labels);
  backend::cross_entropy_backward(ctx, dlogits, logits, labels, scale);
}

}  // namespace ops
ZIYA_NAMESPACE_END
