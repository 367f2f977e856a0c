// SPDX-License-Identifier: Apache-2.0
// Writes a GGUF file, version 3, tensor by tensor.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/error.hpp"
#include "ziya/io/file.hpp"
#include "ziya/io/gguf.hpp"
#include "ziya/io/gguf_metadata.hpp"
#include "ziya/io/gguf_names.hpp"
#include "ziya/io/gguf_types.hpp"
#include "ziya/io/tensor_file_writer.hpp"
#include "ziya/io/tensor_spec.hpp"
#include "ziya/io/writer.hpp"

ZIYA_NAMESPACE_BEGIN

namespace gguf {

constexpr std::int64_t padded(std::int64_t bytes) {
  return (bytes + default_alignment - 1) / default_alignment * default_alignment;
}

/// In the order of order_of(). @throws ArgumentError ZIYA-255 for a name that occurs twice
inline std::vector<TensorSpec> file_order(std::vector<TensorSpec> tensors) {
  check_names(tensors, "ZIYA-255");
  std::vector<std::pair<std::int64_t, std::size_t>> order;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
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

/// One GGUF file; see TensorFileWriter. Tensors have Hugging Face's names and are stored under
/// GGUF's. Rows of q and k must be in GGUF's order already (GgufSource).
class GgufWriter : public TensorFileWriter {
 public:
  /// @throws IoError, ArgumentError ZIYA-255
  GgufWriter(const std::filesystem::path& path, std::vector<TensorSpec> tensors,
             const gguf::Metadata& metadata, const WriteHooks& hooks = {})
      : GgufWriter(OutputFile(path, hooks), gguf::file_order(std::move(tensors)), metadata, 0,
                   hooks) {}

  /// Goes on with a file whose first `done` tensors are right.
  /// @param file continued where the padding behind them ends
  /// @param tensors in gguf::file_order
  /// @throws IoError, ArgumentError ZIYA-255
  GgufWriter(OutputFile file, std::vector<TensorSpec> tensors, const gguf::Metadata& metadata,
             std::size_t done, const WriteHooks& hooks = {})
      : TensorFileWriter(std::move(file), std::move(tensors), "ZIYA-255", done), hooks_(hooks) {
    const std::string header = gguf::make_header(this->tensors(), metadata);
    header_bytes_ = static_cast<std::int64_t>(header.size());
    if (this->file().bytes() == 0) {
      this->file().write(header);
    } else {
      patch_file(partial(), 0, header, hooks_);
    }
  }

  /// After finish(): other values in place of those that were given, of the same lengths.
  /// @throws ArgumentError ZIYA-642 when they need more room or less, IoError
  void patch(const gguf::Metadata& metadata) {
    const std::string header = gguf::make_header(tensors(), metadata);
    if (static_cast<std::int64_t>(header.size()) != header_bytes_) {
      throw ArgumentError("ZIYA-642", utf8_from_path(path()) + ": the metadata takes " +
                                          std::to_string(header.size()) + " bytes, " +
                                          std::to_string(header_bytes_) + " were reserved");
    }
    patch_file(partial(), 0, header, hooks_);
  }

 private:
  void end_tensor(std::size_t i) override {
    constexpr std::array<std::byte, gguf::default_alignment> zeros{};
    const std::int64_t bytes = tensors()[i].bytes();
    file().write(std::span(zeros).first(static_cast<std::size_t>(gguf::padded(bytes) - bytes)));
  }

  WriteHooks hooks_;
  std::int64_t header_bytes_ = 0;
};

ZIYA_NAMESPACE_END
