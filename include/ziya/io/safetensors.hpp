// SPDX-License-Identifier: Apache-2.0
// Reads the header of a safetensors file: 8 bytes of length, JSON, then the data of all tensors.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/dtype.hpp"
#include "ziya/core/error.hpp"
#include "ziya/io/file.hpp"
#include "ziya/io/json.hpp"
#include "ziya/io/tensor_entry.hpp"

ZIYA_NAMESPACE_BEGIN

namespace safetensors {

/// The format's own limit on the JSON.
inline constexpr std::int64_t max_header_bytes = 100'000'000;

using Metadata = std::map<std::string, std::string>;

struct Contents {
  std::vector<TensorEntry> tensors;  ///< in the order of the data
  Metadata metadata;                 ///< `__metadata__`
};

struct DTypeName {
  std::string_view name;
  DType dtype;
};
inline constexpr std::array<DTypeName, 10> dtype_names{{{"F32", DType::f32},
                                                        {"F16", DType::f16},
                                                        {"BF16", DType::bf16},
                                                        {"F64", DType::f64},
                                                        {"I64", DType::i64},
                                                        {"I32", DType::i32},
                                                        {"I16", DType::i16},
                                                        {"I8", DType::i8},
                                                        {"U8", DType::u8},
                                                        {"BOOL", DType::boolean}}};

/// The format's name of a type: "BF16".   @throws ArgumentError ZIYA-215 where it has none
inline std::string_view dtype_name(DType dtype) {
  for (const DTypeName& each : dtype_names) {
    if (each.dtype == dtype) return each.name;
  }
  throw ArgumentError("ZIYA-215",
                      "safetensors: there is no type " + std::string(name(dtype)) + " in it");
}

/// Length of the JSON, or nothing when the file does not begin as a safetensors file does.
std::optional<std::int64_t> header_bytes(const InputFile& file);

/// Checks the whole header; reads no data.
/// Source: the format's description in the README of the safetensors library.
/// @throws FormatError ZIYA-210 … 214, ZIYA-230, IoError
Contents read_contents(const InputFile& file);

#if ZIYA_DEFINITIONS
namespace detail {

inline TensorEntry parse_entry(const std::string& file, const std::string& name,
                               const nlohmann::json& value, std::int64_t data_begin,
                               std::int64_t data_bytes) {
  const std::string source = file + ": tensor " + name;
  const auto integers = [&](const char* key) {
    std::vector<std::int64_t> result;
    const nlohmann::json* list = json_find(value, key);
    if (list == nullptr || !list->is_array()) {
      throw FormatError("ZIYA-211", source + ": has no list \"" + key + "\"");
    }
    for (const auto& item : *list) {
      if (!json_is<std::int64_t>(item) || item.get<std::int64_t>() < 0) {
        throw FormatError("ZIYA-211", source + ": \"" + key + "\" holds something else than sizes");
      }
      result.push_back(item.get<std::int64_t>());
    }
    return result;
  };
  TensorEntry entry;
  entry.name = name;
  const auto dtype = json_get<std::string>(value, "dtype", source);
  std::size_t known = 0;
  while (known < dtype_names.size() && dtype_names[known].name != dtype) ++known;
  if (known == dtype_names.size()) {
    throw FormatError("ZIYA-212", source + ": dtype \"" + dtype.substr(0, 40) +
                                      "\" is not supported (F32, F16, BF16, F64, I64, I32, "
                                      "I16, I8, U8, BOOL are)");
  }
  entry.dtype = dtype_names[known].dtype;
  try {
    entry.shape = Shape(integers("shape"));
  } catch (const ShapeError&) {
    throw FormatError("ZIYA-211", source + ": shape has a negative extent, more than " +
                                      std::to_string(Shape::max_rank) +
                                      " dimensions or more elements than can be addressed");
  }
  const auto offsets = integers("data_offsets");
  if (offsets.size() != 2 || offsets[0] > offsets[1] || offsets[1] > data_bytes) {
    throw FormatError("ZIYA-213", source + ": data_offsets do not lie within the " +
                                      std::to_string(data_bytes) +
                                      " bytes of data (truncated or still being written?)");
  }
  if (offsets[1] - offsets[0] != entry.bytes()) {
    throw FormatError("ZIYA-213", source + ": has " + std::to_string(offsets[1] - offsets[0]) +
                                      " bytes, expected " + std::to_string(entry.bytes()) +
                                      " for " + std::string(ziya::name(entry.dtype)) + " " +
                                      entry.shape.to_string());
  }
  entry.offset = data_begin + offsets[0];
  return entry;
}

inline Metadata parse_metadata(const std::string& file, const nlohmann::json& value) {
  Metadata result;
  if (!value.is_object()) {
    throw FormatError("ZIYA-211", file + ": __metadata__ is not an object");
  }
  for (const auto& [key, text] : json_members(value)) {
    if (!text.is_string()) {
      throw FormatError("ZIYA-211", file + ": __metadata__ \"" + key + "\" is not a string");
    }
    result[key] = text.get<std::string>();
  }
  return result;
}

/// The data must be covered exactly: no overlap, no hole, nothing behind.
inline void check_cover(const std::string& file, const std::vector<TensorEntry>& tensors,
                        std::int64_t data_begin, std::int64_t file_size) {
  std::int64_t covered = data_begin;
  for (const TensorEntry& entry : tensors) {
    if (entry.offset != covered) {
      throw FormatError("ZIYA-213", file + ": tensor " + entry.name +
                                        (entry.offset < covered ? " overlaps the one before it"
                                                                : " has unused bytes before it"));
    }
    covered += entry.bytes();
  }
  if (covered != file_size) {
    throw FormatError("ZIYA-213", file + ": has " + std::to_string(file_size) +
                                      " bytes, but its tensors end at " + std::to_string(covered));
  }
}

}  // namespace detail

ZIYA_INLINE std::optional<std::int64_t> header_bytes(const InputFile& file) {
  std::array<std::byte, 9> head{};
  if (file.size() < 10) return std::nullopt;
  file.read(0, head);
  std::uint64_t length = 0;
  for (int i = 0; i < 8; ++i) {
    length |= std::to_integer<std::uint64_t>(head[static_cast<std::size_t>(i)]) << (8 * i);
  }
  if (head[8] != std::byte{'{'} || length > static_cast<std::uint64_t>(max_header_bytes)) {
    return std::nullopt;
  }
  return static_cast<std::int64_t>(length);
}

ZIYA_INLINE Contents read_contents(const InputFile& file) {
  const std::string name = file.name();
  const auto length = header_bytes(file);
  if (!length || *length < 2) {
    throw FormatError("ZIYA-210", name +
                                      ": is not a safetensors file: expected 8 bytes of "
                                      "length (at most 100 MB) and a JSON object");
  }
  const std::int64_t data_begin = 8 + *length;
  if (data_begin > file.size()) {
    throw FormatError("ZIYA-213", name + ": has " + std::to_string(file.size()) +
                                      " bytes, but its header alone needs " +
                                      std::to_string(data_begin) + " (truncated?)");
  }
  // Keys are tensor names here, so the repeated key that parse_json refuses is a repeated tensor.
  const auto header = parse_json(file.read_text(8, *length), name, {.bytes = max_header_bytes});
  Contents contents;
  for (const auto& [key, value] : json_members(header)) {
    if (key == "__metadata__") {
      contents.metadata = detail::parse_metadata(name, value);
    } else {
      contents.tensors.push_back(
          detail::parse_entry(name, key, value, data_begin, file.size() - data_begin));
    }
  }
  std::sort(contents.tensors.begin(), contents.tensors.end(), lies_before);
  detail::check_cover(name, contents.tensors, data_begin, file.size());
  return contents;
}
#endif

}  // namespace safetensors

ZIYA_NAMESPACE_END
