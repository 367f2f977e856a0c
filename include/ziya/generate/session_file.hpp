// SPDX-License-Identifier: Apache-2.0
// A conversation in a file, and what tells the model that it belongs to.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include "ziya/config.hpp"
#include "ziya/core/error.hpp"
#include "ziya/core/tensor.hpp"
#include "ziya/generate/conversation.hpp"
#include "ziya/io/json.hpp"
#include "ziya/io/writer.hpp"
#include "ziya/model/llama_shape.hpp"
#include "ziya/model/llama_weights.hpp"

ZIYA_NAMESPACE_BEGIN

/// 16 hexadecimal digits that differ for models of another shape and, for all practical purposes,
/// for other weights: FNV-1a over sizes and 32 stretches of 64 bytes of every stored matrix. Cheap
/// enough for every start; it guards against mistakes, not against somebody who wants a collision.
template <class Device>
std::string sampled_fingerprint(const LlamaShape& shape, const LlamaWeights<Device>& weights) {
  std::uint64_t hash = 0xcbf29ce484222325u;
  const auto add = [&](const void* data, std::size_t bytes) {
    for (std::size_t i = 0; i < bytes; ++i) {
      hash = (hash ^ static_cast<const unsigned char*>(data)[i]) * 0x100000001b3u;
    }
  };
  const auto add_matrix = [&](const Weight<Device>& weight) {
    const std::array<std::int64_t, 3> sizes{weight.rows, weight.columns,
                                            static_cast<std::int64_t>(weight.dtype)};
    add(sizes.data(), sizeof sizes);
    constexpr std::int64_t stretches = 32, length = 64;
    std::array<std::byte, length> bytes;
    const std::int64_t step = std::max(weight.bytes() / stretches, length);
    for (std::int64_t at = 0; at + length <= weight.bytes(); at += step) {
      copy(Cpu{}, bytes.data(), Device{}, weight.data + at, bytes.size());
      add(bytes.data(), bytes.size());
    }
  };
  const std::array<std::int64_t, 7> sizes{shape.hidden,      shape.layers,   shape.query_heads,
                                          shape.kv_heads,    shape.head_dim, shape.vocabulary,
                                          shape.intermediate};
  add(sizes.data(), sizeof sizes);
  add_matrix(weights.embedding);
  for (const auto& layer : weights.layers) {
    add_matrix(layer.attention.q.weight);
    add_matrix(layer.attention.o.weight);
    add_matrix(layer.mlp.down.weight);
  }
  add_matrix(weights.head.weight);
  std::string text;
  for (int shift = 60; shift >= 0; shift -= 4) text += "0123456789abcdef"[(hash >> shift) & 15];
  return text;
}

/// A saved conversation. The cache is not in it: it is computed again, with the same bits.
struct SessionFile {
  static constexpr std::string_view format = "ziya-session";
  static constexpr std::int64_t version = 1;
  static constexpr JsonLimits limits{.bytes = std::int64_t{64} << 20, .depth = 8};

  std::string model;       ///< sampled_fingerprint
  std::uint64_t seed = 0;  ///< of the next answer
  nlohmann::json conversation;

  [[nodiscard]] std::string text() const {
    nlohmann::json json;
    json["format"] = std::string(format);
    json["version"] = version;
    json["model"] = model;
    json["seed"] = seed;
    json["conversation"] = conversation;
    return json.dump() + "\n";
  }
  /// @throws FormatError ZIYA-230, 231; ZIYA-582 when it is no session, or of a later version
  static SessionFile parse(std::string_view text, const std::string& source) {
    const nlohmann::json json = parse_json(text, source, limits);
    if (json_get<std::string>(json, "format", source) != format) {
      throw FormatError("ZIYA-582", source + ": is no saved session");
    }
    const auto found = json_get<std::int64_t>(json, "version", source);
    if (found != version) {
      throw FormatError("ZIYA-582", source + ": is of version " + std::to_string(found) +
                                        ", expected " + std::to_string(version));
    }
    const nlohmann::json* conversation = json_find(json, "conversation");
    if (conversation == nullptr || !conversation->is_object()) {
      throw FormatError("ZIYA-582", source + ": holds no conversation");
    }
    return {json_get<std::string>(json, "model", source),
            json_get<std::uint64_t>(json, "seed", source), *conversation};
  }

  /// The file appears when it is complete. @throws IoError
  void write(const std::filesystem::path& path) const { write_text_file(path, text()); }
  /// @throws IoError, FormatError
  static SessionFile read(const std::filesystem::path& path) {
    return parse(read_text_file(path, limits.bytes), utf8_from_path(path));
  }
};

ZIYA_NAMESPACE_END
