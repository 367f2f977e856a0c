// SPDX-License-Identifier: Apache-2.0
// Writes one safetensors file, tensor by tensor.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
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
#include "ziya/io/json.hpp"
#include "ziya/io/safetensors.hpp"
#include "ziya/io/tensor_spec.hpp"
#include "ziya/io/writer.hpp"

ZIYA_NAMESPACE_BEGIN

namespace safetensors {

/// The widest types first, otherwise unchanged: written so, every tensor is aligned for its type.
inline std::vector<TensorSpec> aligned_order(std::vector<TensorSpec> tensors) {
  std::stable_sort(tensors.begin(), tensors.end(), [](const TensorSpec& a, const TensorSpec& b) {
    return info(a.dtype).block_bytes > info(b.dtype).block_bytes;
  });
  return tensors;
}

/// @throws ArgumentError ZIYA-215 for a name that occurs twice or means something else
inline void check_names(const std::vector<TensorSpec>& tensors) {
  std::set<std::string_view> names{"__metadata__"};
  for (const TensorSpec& tensor : tensors) {
    if (!names.insert(tensor.name).second) {
      throw ArgumentError("ZIYA-215", "safetensors: there can be only one tensor " + tensor.name);
    }
  }
}

/// The JSON of a header with its eight bytes of length, padded so that the data is aligned to 8.
/// @throws ArgumentError ZIYA-215, ZIYA-239 for a name that is not UTF-8
inline std::string make_header(const std::vector<TensorSpec>& tensors, const Metadata& metadata) {
  std::string json = "{\"__metadata__\":{";
  const char* separator = "";
  for (const auto& [key, value] : metadata) {
    json += separator + json_quote(key) + ":" + json_quote(value);
    separator = ",";
  }
  json += "}";
  safetensors::check_names(tensors);
  std::int64_t offset = 0;
  for (const TensorSpec& tensor : tensors) {
    std::string extents;
    for (const std::int64_t extent : tensor.shape.extents()) {
      extents += (extents.empty() ? "" : ",") + std::to_string(extent);
    }
    json += "," + json_quote(tensor.name) + ":{\"dtype\":\"" +
            std::string(dtype_name(tensor.dtype)) + "\",\"shape\":[" + extents +
            "],\"data_offsets\":[" + std::to_string(offset) + "," +
            std::to_string(offset + tensor.bytes()) + "]}";
    offset += tensor.bytes();
  }
  json += "}";
  json.resize((json.size() + 7) / 8 * 8, ' ');
  std::string header;
  for (int i = 0; i < 8; ++i) header += static_cast<char>(json.size() >> (8 * i) & 0xff);
  return header + json;
}

}  // namespace safetensors

/// One safetensors file. Tensors are written in the order of tensors(), each in as many pieces as
/// the caller likes.
class SafetensorsWriter {
 public:
  /// @param metadata texts for `__metadata__`; "format" is set to "pt", which loaders demand
  /// @throws IoError, ArgumentError ZIYA-215
  SafetensorsWriter(const std::filesystem::path& path, std::vector<TensorSpec> tensors,
                    safetensors::Metadata metadata = {}, WriteHooks hooks = {})
      : tensors_(safetensors::aligned_order(std::move(tensors))), file_(path, std::move(hooks)) {
    metadata.emplace("format", "pt");
    file_.write(safetensors::make_header(tensors_, metadata));
    skip_empty();
  }

  /// In the order of the data (safetensors::aligned_order), which is the order of writing.
  [[nodiscard]] const std::vector<TensorSpec>& tensors() const { return tensors_; }
  [[nodiscard]] bool complete() const { return next_ == tensors_.size(); }

  /// The next bytes of tensor `name`, row-major.
  /// @throws ArgumentError ZIYA-215 when it is not its turn or not so long; IoError
  void write(std::string_view name, std::span<const std::byte> data) {
    if (data.empty()) return;
    if (complete() || tensors_[next_].name != name ||
        static_cast<std::int64_t>(data.size()) > tensors_[next_].bytes() - written_) {
      throw ArgumentError("ZIYA-215", utf8_from_path(file_.path()) + ": " +
                                          std::to_string(data.size()) + " bytes of tensor " +
                                          std::string(name) + " are not what comes next");
    }
    file_.write(data);
    written_ += static_cast<std::int64_t>(data.size());
    skip_empty();
  }

  /// Every tensor is written and on the disk; the file does not bear its name yet.
  /// @throws ArgumentError ZIYA-215 when tensors are missing, IoError
  void finish() {
    if (!complete()) {
      throw ArgumentError("ZIYA-215", utf8_from_path(file_.path()) + ": tensor " +
                                          tensors_[next_].name + " was not written");
    }
    file_.finish();
  }
  /// Finishes, and gives the file its name.
  void commit() {
    finish();
    file_.commit();
  }
  [[nodiscard]] const std::filesystem::path& path() const { return file_.path(); }

 private:
  /// Moves to the next tensor that has bytes left.
  void skip_empty() {
    while (!complete() && written_ == tensors_[next_].bytes()) {
      ++next_;
      written_ = 0;
    }
  }

  std::vector<TensorSpec> tensors_;
  OutputFile file_;
  std::size_t next_ = 0;
  std::int64_t written_ = 0;  // bytes of tensors_[next_]
};

ZIYA_NAMESPACE_END
