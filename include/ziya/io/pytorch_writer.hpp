// SPDX-License-Identifier: Apache-2.0
// Writes PyTorch's files of tensors, single and sharded, tensor by tensor.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/dtype.hpp"
#include "ziya/core/error.hpp"
#include "ziya/io/file.hpp"
#include "ziya/io/pickle_value.hpp"
#include "ziya/io/sharded_writer.hpp"
#include "ziya/io/tensor_entry.hpp"
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

/// One file as torch.save writes it since 1.6. Tensors are written in the order of tensors(), each
/// in as many pieces as the caller likes; their data is aligned to 64 bytes, so torch.load can map
/// it.
class PytorchWriter {
 public:
  static constexpr std::string_view stem = "pytorch_model", extension = ".bin";

  /// @throws IoError, ArgumentError ZIYA-215 for a name that occurs twice, ZIYA-611
  explicit PytorchWriter(const std::filesystem::path& path, std::vector<TensorSpec> tensors,
                         WriteHooks hooks = {})
      : tensors_(std::move(tensors)), zip_(OutputFile(path, std::move(hooks))) {
    check_names(tensors_);
    zip_.add("archive/data.pkl", pytorch::make_pickle(tensors_));
    zip_.add("archive/byteorder", "little");
    begin_next();
  }

  [[nodiscard]] const std::vector<TensorSpec>& tensors() const { return tensors_; }
  [[nodiscard]] bool complete() const { return next_ == tensors_.size(); }

  /// The next bytes of tensor `name`, row-major.
  /// @throws ArgumentError ZIYA-215 when it is not its turn or not so long; IoError
  void write(std::string_view name, std::span<const std::byte> data) {
    if (data.empty()) return;
    if (complete() || tensors_[next_].name != name ||
        static_cast<std::int64_t>(data.size()) > tensors_[next_].bytes() - written_) {
      throw ArgumentError("ZIYA-215", utf8_from_path(path()) + ": " + std::to_string(data.size()) +
                                          " bytes of tensor " + std::string(name) +
                                          " are not what comes next");
    }
    zip_.write(data);
    written_ += static_cast<std::int64_t>(data.size());
    if (written_ < tensors_[next_].bytes()) return;
    zip_.end();
    ++next_;
    begin_next();
  }

  /// Every tensor is written and on the disk; the file does not bear its name yet.
  /// @throws ArgumentError ZIYA-215 when tensors are missing, IoError
  void finish() {
    if (!complete()) {
      throw ArgumentError("ZIYA-215", utf8_from_path(path()) + ": tensor " + tensors_[next_].name +
                                          " was not written");
    }
    if (!finished_) zip_.add("archive/version", "3\n");
    finished_ = true;
    zip_.finish();
  }
  /// Finishes, and gives the file its name.
  void commit() {
    finish();
    zip_.commit();
  }
  [[nodiscard]] const std::filesystem::path& path() const { return zip_.path(); }

 private:
  /// Opens the next entry; those of empty tensors are over at once.
  void begin_next() {
    written_ = 0;
    for (; !complete(); ++next_) {
      zip_.begin("archive/data/" + std::to_string(next_), tensors_[next_].bytes());
      if (tensors_[next_].bytes() != 0) return;
      zip_.end();
    }
  }

  std::vector<TensorSpec> tensors_;
  zip::ZipWriter zip_;
  std::size_t next_ = 0;
  std::int64_t written_ = 0;  // bytes of tensors_[next_]
  bool finished_ = false;
};

/// `pytorch_model.bin`, or shards with `pytorch_model.bin.index.json`.
using ShardedPytorchWriter = ShardedWriter<PytorchWriter>;

ZIYA_NAMESPACE_END
