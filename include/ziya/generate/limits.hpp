// SPDX-License-Identifier: Apache-2.0
// What a model can be asked: lengths and ids.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "ziya/config.hpp"
#include "ziya/core/error.hpp"
#include "ziya/generate/generation_config.hpp"
#include "ziya/model/llama_shape.hpp"
#include "ziya/text/tokenizer.hpp"

ZIYA_NAMESPACE_BEGIN

/// Most tokens that prompt and answer may have together: the positions of the model, which linear
/// and dynamic RoPE scaling extend.
inline std::int64_t context_limit(const LlamaShape& shape) {
  const RopeScaling& scaling = shape.rope_scaling;
  if (scaling.kind != RopeScaling::Kind::linear && scaling.kind != RopeScaling::Kind::dynamic) {
    return shape.max_positions;
  }
  const double extended = scaling.factor * static_cast<double>(scaling.original_max_positions);
  constexpr double most = 1 << 30;
  return std::max(shape.max_positions, static_cast<std::int64_t>(std::min(extended, most)));
}

/// Whether keys depend on the length of the sequence they were computed in, at `tokens` tokens:
/// then they serve no other sequence, and a prompt is computed at once.
inline bool rotation_changes(const LlamaShape& shape, std::size_t tokens) {
  return shape.rope_scaling.kind == RopeScaling::Kind::dynamic &&
         static_cast<std::int64_t>(tokens) > shape.rope_scaling.original_max_positions;
}

/// How many ids two sequences begin with alike: so many rows of a cache serve both.
inline std::int64_t common_beginning(std::span<const std::int32_t> a,
                                     std::span<const std::int32_t> b) {
  std::size_t count = 0;
  while (count < a.size() && count < b.size() && a[count] == b[count]) ++count;
  return static_cast<std::int64_t>(count);
}

/// Tokens of a prompt and the longest answer it may get.
inline std::int64_t tokens_needed(std::size_t prompt, const GenerationConfig& config,
                                  std::int64_t context) {
  const auto size = static_cast<std::int64_t>(prompt);
  return size + std::min(config.max_new_tokens, context - size);
}

/// @throws ConfigError when the tokenizer has more tokens than the model has embeddings
inline void check_vocabulary(const Tokenizer& tokenizer, const LlamaShape& shape) {
  if (tokenizer.vocabulary_size() > shape.vocabulary) {
    throw ConfigError("ZIYA-525", "generator: the tokenizer has " +
                                      std::to_string(tokenizer.vocabulary_size()) +
                                      " tokens, but the model only " +
                                      std::to_string(shape.vocabulary) + " embeddings");
  }
}

/// @throws ArgumentError when there are fewer than one
inline void check_chunk(std::int64_t chunk_tokens) {
  if (chunk_tokens < 1) {
    throw ArgumentError("ZIYA-526", "generator: chunk_tokens is " + std::to_string(chunk_tokens) +
                                        ", expected at least 1");
  }
}

/// @throws ArgumentError for an empty prompt, one longer than the context, ids outside the
/// vocabulary, or settings outside their domain
inline void check_request(std::span<const std::int32_t> prompt, const GenerationConfig& config,
                          const LlamaShape& shape, std::int64_t context) {
  config.check();
  if (prompt.empty()) throw ArgumentError("ZIYA-521", "generate: the prompt is empty");
  const auto size = static_cast<std::int64_t>(prompt.size());
  if (size > context) {
    throw ArgumentError("ZIYA-522", "generate: the prompt has " + std::to_string(size) +
                                        " tokens, the model's context " + std::to_string(context));
  }
  const auto check_id = [&](std::int32_t id, const char* what) {
    if (id < 0 || id >= shape.vocabulary) {
      throw ArgumentError("ZIYA-523", std::string("generate: ") + what + " id " +
                                          std::to_string(id) + " is outside the vocabulary of " +
                                          std::to_string(shape.vocabulary));
    }
  };
  for (const std::int32_t id : prompt) check_id(id, "prompt");
  for (const std::int32_t id : config.eos_ids) check_id(id, "eos");
  if (config.pad_id && *config.pad_id != -1) check_id(*config.pad_id, "pad");  // -1: none
}

ZIYA_NAMESPACE_END
