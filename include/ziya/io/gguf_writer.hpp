// SPDX-License-Identifier: Apache-2.0
// Writes a GGUF file, version 3, tensor by tensor.
#pragma once

#include <algorithm>
#include <array>
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
#include "ziya/core/error.hpp"
#include "ziya/io/file.hpp"
#include "ziya/io/gguf.hpp"
#include "ziya/io/gguf_metadata.hpp"
#include "ziya/io/gguf_names.hpp"
#include "ziya/io/gguf_types.hpp"
#include "ziya/io/tensor_spec.hpp"
#include "ziya/io/writer.hpp"

ZIYA_NAMESPACE_BEGIN

namespace gguf {

constexpr std::int64_t padded(std::int64_t bytes) {
  return (bytes + default_alignment - 1) / default_alignment * default_alignment;
}

/// In the order of order_of(). @throws ArgumentError ZIYA-255 for a name that occurs twice
inline std::vector<TensorSpec> file_order(std::vector<TensorSpec> tensors) {
  std::vector<std::pair<std::int64_t, std::size_t>> order;
  std::set<std::string_view> names;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    if (!names.insert(tensors[i].name).second) {
      throw ArgumentError("ZIYA-255", "GGUF: there can be only one tensor " + tensors[i].name);
    }
    order.emplace_back(order_of(tensors[i].name), i);
  }
  std::sort(order.begin(), order.end());
  std::vector<TensorSpec> result;
  for (const auto& [rank, i] : order) result.push_back(tensors[i]);
  return result;
}

/// Everything in front of the data, padded to the alignment.
/// @throws ArgumentError ZIYA-255 for a tensor that the format has no name, type or shape for
inline std::string make_header(const std::vector<TensorSpec>& tensors, const Metadata& metadata) {
  std::string out(magic);
  append_number(out, std::uint32_t{3});
  append_number(out, static_cast<std::uint64_t>(tensors.size()));
  append_number(out, static_cast<std::uint64_t>(metadata.entries().size()));
  for (const auto& [key, value] : metadata.entries()) {
    append_text(out, key);
    append_number(out, static_cast<std::uint32_t>(value.type));
    if (value.type == ValueType::text) {
      append_text(out, value.bytes);
      continue;
    }
    if (value.type == ValueType::array) {
      append_number(out, static_cast<std::uint32_t>(value.element));
      append_number(out, value.count);
    }
    out += value.bytes;
  }
  std::int64_t offset = 0;
  for (const TensorSpec& tensor : tensors) {
    const auto refuse = [&](const std::string& why) {
      throw ArgumentError("ZIYA-255", "GGUF: tensor " + tensor.name + " " + why);
    };
    const auto name = gguf_name(tensor.name);
    const TensorType* type = tensor_type(tensor.dtype);
    const auto rank = static_cast<std::uint32_t>(tensor.shape.rank());
    if (!name) refuse("has no name in the format; it is of no LLaMA model");
    if (type == nullptr)
      refuse("is " + std::string(ziya::name(tensor.dtype)) + ", which the format does not hold");
    if (rank > max_dimensions) refuse("has more than 4 dimensions");
    const std::int64_t row = rank == 0 ? 1 : tensor.shape[tensor.shape.rank() - 1];
    if (row % info(tensor.dtype).block_elements != 0) {
      refuse("has rows of " + std::to_string(row) + " elements, which are no whole blocks of " +
             std::string(type->name));
    }
    append_text(out, *name);
    append_number(out, rank);
    for (int i = tensor.shape.rank(); i-- > 0;) append_number(out, tensor.shape[i]);
    append_number(out, type->number);
    append_number(out, offset);
    offset += padded(tensor.bytes());
  }
  out.resize(static_cast<std::size_t>(padded(static_cast<std::int64_t>(out.size()))), '\0');
  return out;
}

}  // namespace gguf

/// One GGUF file, beside its place until commit(). Tensors have Hugging Face's names, are stored
/// under GGUF's, and are written in the order of tensors(), each in as many pieces as the caller
/// likes. Rows of q and k must be in GGUF's order already (GgufSource).
class GgufWriter {
 public:
  /// @throws IoError, ArgumentError ZIYA-255
  GgufWriter(const std::filesystem::path& path, std::vector<TensorSpec> tensors,
             const gguf::Metadata& metadata, WriteHooks hooks = {})
      : tensors_(gguf::file_order(std::move(tensors))),
        hooks_(std::move(hooks)),
        file_(path, hooks_) {
    file_.write(gguf::make_header(tensors_, metadata));
    header_bytes_ = file_.bytes();
    skip_complete();
  }

  /// In the order of the data, which is the order of writing.
  [[nodiscard]] const std::vector<TensorSpec>& tensors() const { return tensors_; }
  [[nodiscard]] bool complete() const { return next_ == tensors_.size(); }

  /// The next bytes of tensor `name`, row-major.
  /// @throws ArgumentError ZIYA-255 when it is not its turn or not so long; IoError
  void write(std::string_view name, std::span<const std::byte> data) {
    if (data.empty()) return;
    if (complete() || tensors_[next_].name != name ||
        static_cast<std::int64_t>(data.size()) > tensors_[next_].bytes() - written_) {
      throw ArgumentError("ZIYA-255", utf8_from_path(file_.path()) + ": " +
                                          std::to_string(data.size()) + " bytes of tensor " +
                                          std::string(name) + " are not what comes next");
    }
    file_.write(data);
    written_ += static_cast<std::int64_t>(data.size());
    skip_complete();
  }

  /// Every tensor is written and on the disk; the file does not bear its name yet.
  /// @throws ArgumentError ZIYA-255 when tensors are missing, IoError
  void finish() {
    if (!complete()) {
      throw ArgumentError("ZIYA-255", utf8_from_path(file_.path()) + ": tensor " +
                                          tensors_[next_].name + " was not written");
    }
    file_.finish();
  }
  /// After finish(): other values in place of those that were given, of the same lengths.
  /// @throws ArgumentError ZIYA-642 when they need more room or less, IoError
  void patch(const gguf::Metadata& metadata) {
    const std::string header = gguf::make_header(tensors_, metadata);
    if (static_cast<std::int64_t>(header.size()) != header_bytes_) {
      throw ArgumentError("ZIYA-642", utf8_from_path(file_.path()) + ": the metadata takes " +
                                          std::to_string(header.size()) + " bytes, " +
                                          std::to_string(header_bytes_) + " were reserved");
    }
    patch_file(file_.partial(), 0, header, hooks_);
  }
  /// Finishes, and gives the file its name.
  void commit() {
    finish();
    file_.commit();
  }
  /// Where the file is until commit().
  [[nodiscard]] const std::filesystem::path& partial() const { return file_.partial(); }
  [[nodiscard]] const std::filesystem::path& path() const { return file_.path(); }

 private:
  /// Pads each tensor that is complete and moves to the next that is not.
  void skip_complete() {
    constexpr std::array<std::byte, gguf::default_alignment> zeros{};
    while (!complete() && written_ == tensors_[next_].bytes()) {
      file_.write(
          std::span(zeros).first(static_cast<std::size_t>(gguf::padded(written_) - written_)));
      ++next_;
      written_ = 0;
    }
  }

  std::vector<TensorSpec> tensors_;
  WriteHooks hooks_;
  OutputFile file_;
  std::int64_t header_bytes_ = 0;
  std::size_t next_ = 0;
  std::int64_t written_ = 0;  // bytes of tensors_[next_]
};

ZIYA_NAMESPACE_END
