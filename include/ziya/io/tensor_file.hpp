// SPDX-License-Identifier: Apache-2.0
// One file of tensors, whatever its format: recognised by its first bytes, its contents checked.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/error.hpp"
#include "ziya/io/file.hpp"
#include "ziya/io/gguf.hpp"
#include "ziya/io/gguf_names.hpp"
#include "ziya/io/safetensors.hpp"
#include "ziya/io/tensor_entry.hpp"
#if ZIYA_DEFINITIONS
#include "ziya/io/pytorch.hpp"
#endif

ZIYA_NAMESPACE_BEGIN

enum class CheckpointFormat { safetensors, pytorch, gguf };

constexpr std::string_view name(CheckpointFormat format) {
  return format == CheckpointFormat::safetensors ? "safetensors"
         : format == CheckpointFormat::pytorch   ? "pytorch"
                                                 : "gguf";
}

/// Immutable and thread-safe; mapped when somebody first asks for it.
class TensorFile {
 public:
  /// @throws FormatError, IoError
  explicit TensorFile(const std::filesystem::path& path);

  [[nodiscard]] CheckpointFormat format() const { return format_; }
  [[nodiscard]] const InputFile& file() const { return file_; }
  /// With Hugging Face's names, whatever the format calls them; rows are in the format's order.
  [[nodiscard]] const std::vector<TensorEntry>& tensors() const { return tensors_; }
  /// `__metadata__` of safetensors; of GGUF the short texts that describe the model.
  [[nodiscard]] const safetensors::Metadata& metadata() const { return metadata_; }
  /// All metadata of a GGUF file; nullptr for other formats.
  [[nodiscard]] const gguf::Metadata* gguf_metadata() const {
    return format_ == CheckpointFormat::gguf ? &gguf_ : nullptr;
  }

  /// The whole file in memory, mapped once and kept as long as anybody holds it.
  [[nodiscard]] std::shared_ptr<const MappedFile> mapped() const {
    const std::lock_guard lock(mutex_);
    if (mapped_ == nullptr) mapped_ = std::make_shared<const MappedFile>(file_);
    return mapped_;
  }
  /// Fills `out` with the bytes at `from` if they lie in the mapping: read from the file, so that
  /// no page has to be mapped, and what the disk cannot read is an exception. Returns whether they
  /// do. @throws IoError
  bool read_mapped(const std::byte* from, std::span<std::byte> out) const {
    const auto begin = [&] {
      const std::lock_guard lock(mutex_);
      return mapped_ == nullptr ? nullptr : mapped_->bytes().data();
    }();
    const std::less_equal<const std::byte*> before;
    if (begin == nullptr || !before(begin, from) ||
        !before(from + out.size(), begin + file_.size())) {
      return false;
    }
    file_.read(from - begin, out);
    return true;
  }

 private:
  void read_gguf();

  InputFile file_;
  CheckpointFormat format_ = CheckpointFormat::safetensors;
  std::vector<TensorEntry> tensors_;
  safetensors::Metadata metadata_;
  gguf::Metadata gguf_;  // empty for other formats
  mutable std::mutex mutex_;
  mutable std::shared_ptr<const MappedFile> mapped_;
};

#if ZIYA_DEFINITIONS
ZIYA_INLINE TensorFile::TensorFile(const std::filesystem::path& path) : file_(path) {
  std::array<char, 64> head{};
  const auto got = std::min<std::int64_t>(file_.size(), static_cast<std::int64_t>(head.size()));
  file_.read(0, std::as_writable_bytes(std::span(head).first(static_cast<std::size_t>(got))));
  const std::string_view start(head.data(), static_cast<std::size_t>(got));
  refuse_lfs_pointer(start, file_.name());
  if (pytorch::recognises(start)) {
    format_ = CheckpointFormat::pytorch;
    tensors_ = pytorch::read_contents(file_);
  } else if (start.starts_with(gguf::magic)) {
    format_ = CheckpointFormat::gguf;
    read_gguf();
  } else if (path.extension() == ".safetensors" || safetensors::header_bytes(file_)) {
    auto contents = safetensors::read_contents(file_);
    tensors_ = std::move(contents.tensors);
    metadata_ = std::move(contents.metadata);
  } else {
    throw FormatError("ZIYA-237", file_.name() +
                                      ": is no file of tensors that is known here "
                                      "(safetensors, PyTorch or GGUF)");
  }
}

ZIYA_INLINE void TensorFile::read_gguf() {
  gguf::Contents contents = gguf::read_contents(file_);
  std::set<std::string> names;
  for (TensorEntry& entry : contents.tensors) {
    entry.name = gguf::hf_name(entry.name);
    if (!names.insert(entry.name).second) {
      throw FormatError("ZIYA-253", file_.name() + ": tensor " + entry.name +
                                        " is there under both of its names");
    }
  }
  tensors_ = std::move(contents.tensors);
  constexpr std::size_t short_text = 256;
  for (const auto& [key, value] : contents.metadata.entries()) {
    const bool describes =
        key.starts_with("general.") || (key.starts_with("ziya.") && !key.ends_with(".json"));
    if (describes && value.type == gguf::ValueType::text && value.bytes.size() <= short_text) {
      metadata_[key] = value.bytes;
    }
  }
  gguf_ = std::move(contents.metadata);
}
#endif

ZIYA_NAMESPACE_END
