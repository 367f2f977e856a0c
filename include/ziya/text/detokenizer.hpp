// SPDX-License-Identifier: Apache-2.0
// Decodes ids one by one, as they are generated, into pieces of whole UTF-8.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include "ziya/config.hpp"
#include "ziya/core/error.hpp"
#include "ziya/text/tokenizer.hpp"
#include "ziya/text/utf8_stream.hpp"

ZIYA_NAMESPACE_BEGIN

/// All that `push` and `finish` return, joined, is `tokenizer.decode` of the ids pushed, byte for
/// byte. A character whose bytes come as several ids is returned when its last one came.
class Detokenizer {
 public:
  /// @throws ArgumentError ZIYA-314 for `spaces_around_added`, which needs the ids that follow
  explicit Detokenizer(Tokenizer tokenizer, const DecodeOptions& options = {})
      : tokenizer_(std::move(tokenizer)),
        skip_special_(options.skip_special),
        state_{!options.continues} {
    if (options.spaces_around_added) {
      throw ArgumentError("ZIYA-314",
                          "detokenizer: spaces_around_added cannot be streamed; decode all ids");
    }
  }

  /// @returns the text that is whole by now; often empty   @throws ArgumentError ZIYA-310
  std::string push(std::int32_t id) {
    std::string bytes;
    tokenizer_.decode_one(bytes, state_, id, skip_special_);
    return stream_.push(bytes);
  }

  /// @returns what was held back: the beginning of a character whose end never came
  std::string finish() { return stream_.flush(); }

 private:
  Tokenizer tokenizer_;
  bool skip_special_;
  Tokenizer::DecodeState state_;
  Utf8Stream stream_;
};

ZIYA_NAMESPACE_END
