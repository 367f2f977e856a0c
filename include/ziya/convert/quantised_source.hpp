// SPDX-License-Identifier: Apache-2.0
// The tensors of a source, quantised on their way.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/convert/quantisation_plan.hpp"
#include "ziya/convert/tensor_memory.hpp"
#include "ziya/core/error.hpp"
#include "ziya/core/importance.hpp"
#include "ziya/io/tensor_source.hpp"
#include "ziya/ops/quantize.hpp"

ZIYA_NAMESPACE_BEGIN

/// What became of one tensor.
struct QuantisedTensor {
  std::string name;
  DType from = DType::f32, to = DType::f32;
  std::int64_t elements = 0, bytes = 0;
  std::string reason;       ///< why `to` is not the type asked for; empty when it is
  double square_error = 0;  ///< Σ (x − w)² over the elements read so far
  double square_sum = 0;    ///< Σ x²

  [[nodiscard]] double rmse() const {
    return elements > 0 ? std::sqrt(square_error / static_cast<double>(elements)) : 0;
  }
  /// rmse over the root of the mean square of x.
  [[nodiscard]] double relative_rmse() const {
    return square_sum > 0 ? std::sqrt(square_error / square_sum) : 0;
  }
};

/// Reads, dequantises and quantises in pieces of a few hundred kilobytes; read() may be called from
/// as many threads as there are cores, and the bytes do not depend on how a tensor is cut.
class QuantisedSource final : public TensorSource {
 public:
  /// @param plan made for source->tensors()
  /// @param importance may lack matrices: all their elements count the same
  /// @throws ShapeError ZIYA-132 when importance is not as long as a matrix's rows
  QuantisedSource(std::shared_ptr<const TensorSource> source, const QuantisationPlan& plan,
                  Importance importance = {})
      : source_(std::move(source)),
        importance_(std::move(importance)),
        tensors_(source_->tensors()) {
    for (std::size_t i = 0; i < tensors_.size(); ++i) {
      TensorSpec& tensor = tensors_[i];
      const PlannedTensor& planned = plan.tensors().at(i);
      report_.push_back({tensor.name, tensor.dtype, planned.type, tensor.shape.elements(),
                         bytes_of(planned.type, tensor.shape.elements()), planned.reason});
      tensor.dtype = planned.type;
      const auto weights = importance_.find(tensor.name);
      if (weights != importance_.end() &&
          (tensor.shape.rank() != 2 ||
           static_cast<std::int64_t>(weights->second.size()) != tensor.shape[1])) {
        throw ShapeError("ZIYA-132", "quantize: importance of " + tensor.name + " has " +
                                         std::to_string(weights->second.size()) +
                                         " columns, the tensor is " + tensor.shape.to_string());
      }
    }
  }

  [[nodiscard]] const std::vector<TensorSpec>& tensors() const override { return tensors_; }

  /// @throws FormatError ZIYA-130 for NaN and infinite elements; what the source throws
  void read(std::size_t index, std::int64_t first, std::span<std::byte> out) const override {
    const DType from = source_->tensors().at(index).dtype, to = tensors_.at(index).dtype;
    if (from == to) return source_->read(index, first, out);
    const DTypeInfo target = info(to);
    const std::int64_t count =
        static_cast<std::int64_t>(out.size()) / target.block_bytes * target.block_elements;
    std::vector<std::byte> stored;
    const auto room = static_cast<std::size_t>(std::min(piece, count));
    std::vector<float> values(room), back(room), weights(room);
    double error = 0, sum = 0;
    for (std::int64_t done = 0; done < count; done += piece) {
      const std::int64_t n = std::min(piece, count - done);
      stored.resize(static_cast<std::size_t>(bytes_of(from, n)));
      source_->read(index, first + done, stored);
      to_floats(from, stored.data(), values.data(), n);
      check_finite(index, first + done, values.data(), n);
      std::byte* bytes = out.data() + bytes_of(to, done);
      const bool weighted = spread_importance(index, first + done, weights.data(), n);
      quantize::quantise_row(to, values.data(), bytes, n, weighted ? weights.data() : nullptr);
      quantize::dequantise_row(to, bytes, back.data(), n);
      for (std::size_t i = 0; i < static_cast<std::size_t>(n); ++i) {
        const double x = static_cast<double>(values[i]), r = x - static_cast<double>(back[i]);
        error += r * r;
        sum += x * x;
      }
    }
    const std::lock_guard lock(mutex_);
    report_[index].square_error += error;
    report_[index].square_sum += sum;
  }

  /// What an earlier process has found.
  void set_errors(std::size_t index, double square_error, double square_sum) const {
    const std::lock_guard lock(mutex_);
    report_[index].square_error = square_error;
    report_[index].square_sum = square_sum;
  }
  /// In the order of the tensors; errors are those of what was read. Call it when nothing reads.
  [[nodiscard]] const std::vector<QuantisedTensor>& report() const { return report_; }

 private:
  static constexpr std::int64_t piece = 1 << 16;  // elements, whole blocks of every type

  static void to_floats(DType from, const std::byte* bytes, float* values, std::int64_t count) {
    if (from != DType::f64) return quantize::dequantise_row(from, bytes, values, count);
    for (std::int64_t i = 0; i < count; ++i) {
      double value;
      std::memcpy(&value, bytes + i * 8, 8);
      values[i] = static_cast<float>(value);
    }
  }
  void check_finite(std::size_t index, std::int64_t first, const float* values,
                    std::int64_t count) const {
    for (std::int64_t i = 0; i < count; ++i) {
      if (std::isfinite(values[i])) continue;
      throw FormatError("ZIYA-130", "quantize: element " + std::to_string(first + i) +
                                        " of tensor " + tensors_[index].name +
                                        " is not a finite number");
    }
  }
  /// weights[i] = importance of the column of element first + i; false when there is none.
  bool spread_importance(std::size_t index, std::int64_t first, float* weights,
                         std::int64_t count) const {
    const auto found = importance_.find(tensors_[index].name);
    if (found == importance_.end()) return false;
    const std::vector<float>& columns = found->second;
    std::size_t column = static_cast<std::size_t>(first) % columns.size();
    for (std::int64_t i = 0; i < count; ++i) {
      weights[i] = columns[column];
      if (++column == columns.size()) column = 0;
    }
    return true;
  }

  std::shared_ptr<const TensorSource> source_;
  Importance importance_;
  std::vector<TensorSpec> tensors_;
  mutable std::mutex mutex_;
  mutable std::vector<QuantisedTensor> report_;
};

/// The errors of what was read.
inline TensorMemory memory_of(const std::shared_ptr<const QuantisedSource>& source) {
  return {[source](const std::string& name) {
            nlohmann::json saved;
            const std::size_t i = find_tensor(*source, name);
            if (i == source->tensors().size()) return saved;
            saved.push_back(source->report()[i].square_error);
            saved.push_back(source->report()[i].square_sum);
            return saved;
          },
          [source](const std::string& name, const nlohmann::json& saved) {
            const std::size_t i = find_tensor(*source, name);
            if (i == source->tensors().size()) return;
            source->set_errors(i, saved.at(0).get<double>(), saved.at(1).get<double>());
          }};
}

ZIYA_NAMESPACE_END
