// SPDX-License-Identifier: Apache-2.0
// The JSON files beside a tokenizer.model: added_tokens.json, tokenizer_config.json and
// special_tokens_map.json, and a text to split, one after the other between lines of "%%".
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "fuzz/memory_file.hpp"
#include "ziya/text/tokenizer_config.hpp"

namespace {

/// 300 pieces: LLaMA's first 259 and 41 letters.
ziya::PieceIndex pieces() {
  ziya::PieceIndex index;
  index.count = 300;
  index.bos = "<s>";
  index.eos = "</s>";
  index.unk = "<unk>";
  index.find = [](std::string_view piece) -> std::optional<std::int32_t> {
    if (piece == "<unk>") return 0;
    if (piece == "<s>") return 1;
    if (piece == "</s>") return 2;
    if (piece.size() == 1 && piece[0] >= 'A' && piece[0] < 'A' + 41) return 259 + piece[0] - 'A';
    return std::nullopt;
  };
  return index;
}

void require(bool holds) {
  if (!holds) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::string_view rest(reinterpret_cast<const char*>(data), size);
  std::array<std::string_view, 4> parts;
  for (std::string_view& part : parts) {
    constexpr std::string_view border = "\n%%\n";
    const std::size_t end = rest.find(border);
    part = rest.substr(0, end);
    rest = end == std::string_view::npos ? "" : rest.substr(end + border.size());
  }
  try {
    constexpr std::array names{"added_tokens.json", "tokenizer_config.json",
                               "special_tokens_map.json"};
    std::map<std::string, std::string> files;
    for (std::size_t i = 0; i < names.size(); ++i) {
      if (!parts[i].empty()) files[names[i]] = parts[i];
    }
    const auto documents = ziya::TokenizerDocuments::parse(files, "fuzz");
    const fuzz::MemoryFile file(reinterpret_cast<const std::uint8_t*>(parts[0].data()),
                                parts[0].size());
    if (!parts[0].empty()) static_cast<void>(ziya::TokenizerDocument::read(file.path()));
    static_cast<void>(ziya::TokenizerDocuments::read("/proc/self/fd"));  // where none of them is
    const ziya::PieceIndex index = pieces();
    const ziya::TokenizerConfig config(documents, index);
    std::int32_t next = index.count;
    for (const ziya::AddedToken& token : config.tokens()) {
      require(!token.content.empty());
      require(index.find(token.content).value_or(next) == token.id);
      if (token.id == next) ++next;
    }
    const auto pad = config.special_id("pad_token");
    require(!pad || (*pad >= 0 && *pad < next));
    const ziya::AddedTokens tokens(config.tokens());
    for (const ziya::SplitRule rule : {ziya::SplitRule::legacy, ziya::SplitRule::newer}) {
      std::size_t bytes = 0;
      for (const auto& segment : tokens.split(parts[3], rule)) {
        require(!segment.text.empty());
        bytes += segment.text.size();
      }
      require(bytes <= parts[3].size());
    }
  } catch (const ziya::Error&) {
  }
  return 0;
}
