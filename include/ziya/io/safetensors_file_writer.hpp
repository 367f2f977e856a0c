// SPDX-License-Identifier: Apache-2.0
// Writes one safetensors file, tensor by tensor.
#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/dtype.hpp"
#include "ziya/io/json.hpp"
#include "ziya/io/safetensors.hpp"
#include "ziya/io/tensor_file_writer.hpp"
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
  check_names(tensors, "ZIYA-215", {"__metadata__"});
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

/// One safetensors file; see TensorFileWriter.
class SafetensorsWriter : public TensorFileWriter {
 public:
  /// @param metadata texts for `__metadata__`; "format" is set to "pt", which loaders demand
  /// @throws IoError, ArgumentError ZIYA-215
  SafetensorsWriter(const std::filesystem::path& path, std::vector<TensorSpec> tensors,
                    safetensors::Metadata metadata = {}, WriteHooks hooks = {})
      : TensorFileWriter(OutputFile(path, std::move(hooks)),
                         safetensors::aligned_order(std::move(tensors))) {
    metadata.emplace("format", "pt");
    file().write(safetensors::make_header(this->tensors(), metadata));
  }
};

ZIYA_NAMESPACE_END
