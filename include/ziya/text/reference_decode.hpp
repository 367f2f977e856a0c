// SPDX-License-Identifier: Apache-2.0
// Decoding as the reference prints it, with its spaces around added and special tokens.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/text/added_tokens.hpp"
#include "ziya/text/sentencepiece_encoder.hpp"

ZIYA_NAMESPACE_BEGIN

/// `tokenizer.decode(ids, skip_special_tokens=…)` of the slow LlamaTokenizer: ids between added
/// tokens form runs; within a run, the text before a special piece is decoded by SentencePiece,
/// with one more space in front unless the run or a special piece comes right before; runs and
/// added tokens are joined by spaces.
/// Source: transformers 4.29.2, tokenization_utils.py `_decode`, tokenization_llama.py
/// `convert_tokens_to_string`; 4.33.3 also loses a second space in front of a run
inline std::string reference_decode(const SentencePieceEncoder& encoder, const AddedTokens& added,
                                    std::span<const std::int32_t> ids, bool skip_special) {
  const auto special = [&](std::int32_t id) {
    const AddedToken* token = added.find(id);
    return token != nullptr && token->special;
  };
  std::string text;
  bool first = true;
  const auto join = [&](const std::string& part) {
    if (!std::exchange(first, false)) text += ' ';
    text += part;
  };
  std::vector<std::int32_t> run;
  const auto end_run = [&] {
    if (run.empty()) return;
    std::string part;
    std::size_t begin = 0;  // of the ids that SentencePiece decodes next
    for (std::size_t i = 0; i < run.size(); ++i) {
      if (!special(run[i])) continue;
      const bool after_special = i > 0 && special(run[i - 1]);
      if (!after_special && i != 0) part += ' ';
      part += encoder.decode(std::span(run).subspan(begin, i - begin)) + encoder.piece(run[i]);
      begin = i + 1;
    }
    join(part + encoder.decode(std::span(run).subspan(begin)));
    run.clear();
  };
  for (const std::int32_t id : ids) {
    if (skip_special && special(id)) continue;
    if (id < encoder.size()) {
      run.push_back(id);
    } else {
      end_run();
      join(added.find(id)->content);
    }
  }
  end_run();
  return text;
}

/// The reference's `clean_up_tokenization`, where tokenizer_config.json asks for it.
inline std::string clean_up_spaces(std::string text) {
  struct Rule {
    std::string_view from, to;
  };
  constexpr Rule rules[] = {{" .", "."},     {" ?", "?"},     {" !", "!"},   {" ,", ","},
                            {" ' ", "'"},    {" n't", "n't"}, {" 'm", "'m"}, {" 's", "'s"},
                            {" 've", "'ve"}, {" 're", "'re"}};
  for (const auto& [from, to] : rules) {
    std::string result;
    std::string_view rest = text;
    for (std::size_t found; (found = rest.find(from)) != std::string_view::npos;) {
      result += rest.substr(0, found);
      result += to;
      rest.remove_prefix(found + from.size());
    }
    text = result += rest;
  }
  return text;
}

ZIYA_NAMESPACE_END
