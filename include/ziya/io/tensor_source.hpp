// SPDX-License-Identifier: Apache-2.0
// Named tensors that can be read piece by piece, whatever they are made from.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/device.hpp"
#include "ziya/core/dtype.hpp"
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

  /// The whole tensor as memory: where it lies, if it lies somewhere as it is, otherwise read into
  /// memory of its own. @throws IoError, FormatError
  [[nodiscard]] virtual MappedTensor map(std::size_t index) const {
    const TensorSpec& tensor = tensors().at(index);
    const auto bytes = static_cast<std::size_t>(tensor.bytes());
    const std::shared_ptr<void> copy(Memory<Cpu>::allocate(bytes), Memory<Cpu>::release);
    auto* data = static_cast<std::byte*>(copy.get());
    const DTypeInfo type = info(tensor.dtype);
    const std::int64_t step = (std::int64_t{4} << 20) / type.block_bytes * type.block_elements;
    for (std::int64_t first = 0; first < tensor.shape.elements(); first += step) {
      const std::int64_t count = std::min(step, tensor.shape.elements() - first);
      read(index, first,
           {data + bytes_of(tensor.dtype, first),
            static_cast<std::size_t>(bytes_of(tensor.dtype, count))});
    }
    return {tensor.dtype, tensor.shape, data, copy};
  }

  /// Fills `out` with the bytes at `from`, which lie in tensors that were mapped. May be called
  /// from several threads. @throws IoError
  virtual void read_mapped(const std::byte* from, std::span<std::byte> out) const {
    std::copy_n(from, out.size(), out.data());
  }

  /// Everything will be read once, in the order of tensors(): see InputFile::expect_one_pass.
  virtual void expect_one_pass() const {}

  /// The file that a tensor lies in, for messages; empty where there is none.
  [[nodiscard]] virtual std::string place(std::size_t index) const {
    (void)index;
    return {};
  }
};

/// Index of the tensor of that name among source.tensors(); their number where there is none.
inline std::size_t find_tensor(const TensorSource& source, std::string_view name) {
  const std::vector<TensorSpec>& tensors = source.tensors();
  std::size_t i = 0;
  while (i < tensors.size() && tensors[i].name != name) ++i;
  return i;
}

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
  void read_mapped(const std::byte* from, std::span<std::byte> out) const override {
    for (const auto& file : checkpoint_.files()) {
      if (file->read_mapped(from, out)) return;
    }
    TensorSource::read_mapped(from, out);
  }
  [[nodiscard]] MappedTensor map(std::size_t index) const override {
    return checkpoint_.map(tensors_.at(index).name);
  }
  [[nodiscard]] std::string place(std::size_t index) const override {
    return utf8_from_path(checkpoint_.find(tensors_.at(index).name)->file.filename());
  }
  void expect_one_pass() const override {
    for (const auto& file : checkpoint_.files()) file->file().expect_one_pass();
  }
  [[nodiscard]] const Checkpoint& checkpoint() const { return checkpoint_; }

 private:
  Checkpoint checkpoint_;
  std::vector<TensorSpec> tensors_;
};

ZIYA_NAMESPACE_END
