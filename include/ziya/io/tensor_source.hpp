// SPDX-License-Identifier: Apache-2.0
// Named tensors that can be read piece by piece, whatever they are made from.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/io/checkpoint.hpp"
#include "ziya/io/tensor_spec.hpp"

ZIYA_NAMESPACE_BEGIN

/// What every conversion reads from and what a model can be loaded from: a checkpoint as it is, or
/// the tensors that a rule makes of one or two others (a merge, another layout), never all at once.
/// Immutable; read() may be called from several threads.
class TensorSource {
 public:
  virtual ~TensorSource() = default;

  /// Names are Hugging Face's; in the order in which they should be written.
  [[nodiscard]] virtual const std::vector<TensorSpec>& tensors() const = 0;

  /// Elements [first, first + out.size() / element size) of tensors()[index], row-major; of a
  /// quantised type, whole blocks. @throws IoError, FormatError
  virtual void read(std::size_t index, std::int64_t first, std::span<std::byte> out) const = 0;
};

/// The tensors of a checkpoint as they are.
class CheckpointSource final : public TensorSource {
 public:
  explicit CheckpointSource(Checkpoint checkpoint) : checkpoint_(std::move(checkpoint)) {
    for (const TensorInfo& tensor : checkpoint_.tensors()) {
      tensors_.push_back({tensor.name, tensor.dtype, tensor.shape});
    }
  }
  [[nodiscard]] const std::vector<TensorSpec>& tensors() const override { return tensors_; }
  void read(std::size_t index, std::int64_t first, std::span<std::byte> out) const override {
    const TensorSpec& tensor = tensors_.at(index);
    const DTypeInfo stored = info(tensor.dtype);
    const auto count =
        static_cast<std::int64_t>(out.size()) / stored.block_bytes * stored.block_elements;
    checkpoint_.read_elements(tensor.name, first, count, out);
  }
  [[nodiscard]] const Checkpoint& checkpoint() const { return checkpoint_; }

 private:
  Checkpoint checkpoint_;
  std::vector<TensorSpec> tensors_;
};

ZIYA_NAMESPACE_END
