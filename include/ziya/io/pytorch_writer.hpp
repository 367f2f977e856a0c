// SPDX-License-Identifier: Apache-2.0
// Writes PyTorch's files of tensors, single and sharded, tensor by tensor.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/dtype.hpp"
#include "ziya/core/error.hpp"
#include "ziya/io/pickle_value.hpp"
#include "ziya/io/sharded_writer.hpp"
#include "ziya/io/tensor_entry.hpp"
#include "ziya/io/tensor_file_writer.hpp"
#include "ziya/io/tensor_spec.hpp"
#include "ziya/io/writer.hpp"
#include "ziya/io/zip_writer.hpp"

ZIYA_NAMESPACE_BEGIN

namespace pytorch {

namespace detail {

inline std::string little(std::uint64_t value, int bytes) {
  std::string text;
  for (int i = 0; i < bytes; ++i) text += static_cast<char>(value >> (8 * i) & 0xff);
  return text;
}
inline std::string pickled(std::string_view text) {
  return "X" + little(text.size(), 4) + std::string(text);
}
inline std::string pickled(std::int64_t value) {
  const auto bits = static_cast<std::uint64_t>(value);
  return value <= 0x7fffffff ? "J" + little(bits, 4) : "\x8a\x08" + little(bits, 8);
}
inline std::string pickled(std::span<const std::int64_t> values) {
  std::string text = "(";
  for (const std::int64_t value : values) text += pickled(value);
  return text + "t";
}

/// The global that names the storage of a type, as the opcode GLOBAL spells it: "ctorch\n…\n".
inline std::string storage_global(const TensorSpec& tensor) {
  for (const pickle::Global& global : pickle::globals) {
    if (global.action != pickle::Action::name_storage || global.dtype != tensor.dtype) continue;
    std::string text(global.name);
    std::ranges::replace(text, ' ', '\n');
    return "c" + text + "\n";
  }
  throw ArgumentError("ZIYA-611", "pytorch: tensor " + tensor.name + " is " +
                                      std::string(name(tensor.dtype)) +
                                      ", which PyTorch files do not hold");
}

}  // namespace detail

/// The dict of tensors by name; tensor i is the whole of storage `i`. Protocol 2, with nothing that
/// torch.load(weights_only=True) refuses. @throws ArgumentError ZIYA-611 for a quantised type
inline std::string make_pickle(const std::vector<TensorSpec>& tensors) {
  using detail::pickled;
  std::string text = "\x80\x02}(";
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const TensorSpec& tensor = tensors[i];
    const auto extents = tensor.shape.extents();
    text += pickled(tensor.name) + "ctorch._utils\n_rebuild_tensor_v2\n((" + pickled("storage") +
            detail::storage_global(tensor) + pickled(std::to_string(i)) + pickled("cpu") +
            pickled(tensor.shape.elements()) + "tQ" + pickled(std::int64_t{0}) + pickled(extents) +
            pickled(row_major_strides(extents)) + "\x89" + "ccollections\nOrderedDict\n)RtR";
  }
  return text + "u.";
}

}  // namespace pytorch

/// One file as torch.save writes it since 1.6; see TensorFileWriter. The data is aligned to 64
/// bytes, so torch.load can map it.
class PytorchWriter : public TensorFileWriter {
 public:
  /// @throws IoError, ArgumentError ZIYA-215 for a name that occurs twice, ZIYA-611
  explicit PytorchWriter(const std::filesystem::path& path, std::vector<TensorSpec> tensors,
                         WriteHooks hooks = {})
      : TensorFileWriter(OutputFile(path, std::move(hooks)), std::move(tensors)), zip_(file()) {
    check_names(this->tensors());
    zip_.add("archive/data.pkl", pytorch::make_pickle(this->tensors()));
    zip_.add("archive/byteorder", "little");
  }

 private:
  void begin_tensor(std::size_t i) override {
    zip_.begin("archive/data/" + std::to_string(i), tensors()[i].bytes());
  }
  void put(std::span<const std::byte> data) override { zip_.write(data); }
  void end_tensor(std::size_t) override { zip_.end(); }
  void end_file() override {
    zip_.add("archive/version", "3\n");
    zip_.write_directory();
  }

  zip::ZipWriter zip_;
};

/// `pytorch_model.bin`, or shards with `pytorch_model.bin.index.json`.
class ShardedPytorchWriter : public ShardedWriter {
 public:
  /// @throws as ShardedWriter; ArgumentError ZIYA-611
  ShardedPytorchWriter(std::filesystem::path directory, const std::vector<TensorSpec>& tensors,
                       std::int64_t max_shard_bytes, WriteHooks hooks = {}, ShardEvents events = {})
      : ShardedWriter({"pytorch_model", ".bin",
                       [](const std::filesystem::path& path, const Shard& shard,
                          const WriteHooks& shard_hooks) {
                         return std::make_unique<PytorchWriter>(path, shard, shard_hooks);
                       }},
                      std::move(directory), tensors, max_shard_bytes, std::move(hooks),
                      std::move(events)) {}
};

ZIYA_NAMESPACE_END
