// SPDX-License-Identifier: Apache-2.0
// The tokens of a vocabulary by the bytes they stand for, sharing beginnings.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "ziya/config.hpp"

ZIYA_NAMESPACE_BEGIN

/// Immutable. Node 0 is the root; tokens without bytes are not in it.
class TokenTrie {
 public:
  struct Edge {
    std::uint8_t byte = 0;
    std::uint32_t node = 0;
  };

  TokenTrie() = default;
  /// @param bytes index = id
  explicit TokenTrie(const std::vector<std::string>& bytes) {
    for (std::size_t id = 0; id < bytes.size(); ++id) {
      if (!bytes[id].empty()) tokens_.push_back(static_cast<std::int32_t>(id));
    }
    const auto text = [&](std::uint32_t i) -> const std::string& {
      return bytes[static_cast<std::size_t>(tokens_[i])];
    };
    std::sort(tokens_.begin(), tokens_.end(), [&](std::int32_t a, std::int32_t b) {
      const int order =
          bytes[static_cast<std::size_t>(a)].compare(bytes[static_cast<std::size_t>(b)]);
      return order != 0 ? order < 0 : a < b;
    });
    // Until its turn comes, a node holds all tokens that share its first bytes.
    nodes_.push_back({0, 0, 0, static_cast<std::uint32_t>(tokens_.size())});
    std::vector<std::uint32_t> depths{0}, waiting{0};  // depths: of every node
    while (!waiting.empty()) {
      const std::uint32_t at = waiting.back(), depth = depths[at], below = depth + 1;
      waiting.pop_back();
      Node node = nodes_[at];
      const std::uint32_t last = node.first_token + node.tokens;
      std::uint32_t begin = node.first_token;
      while (begin < last && text(begin).size() == depth) ++begin;
      node.tokens = begin - node.first_token;
      node.first_edge = static_cast<std::uint32_t>(edges_.size());
      while (begin < last) {
        const char byte = text(begin)[depth];
        std::uint32_t end = begin;
        while (end < last && text(end)[depth] == byte) ++end;
        const auto child = static_cast<std::uint32_t>(nodes_.size());
        edges_.push_back({static_cast<std::uint8_t>(byte), child});
        ++node.edges;
        nodes_.push_back({0, 0, begin, end - begin});
        depths.push_back(below);
        waiting.push_back(child);
        begin = end;
      }
      nodes_[at] = node;
    }
  }

  /// By ascending byte.
  [[nodiscard]] std::span<const Edge> edges(std::uint32_t node) const {
    return {edges_.data() + nodes_[node].first_edge, nodes_[node].edges};
  }
  /// Tokens that end here.
  [[nodiscard]] std::span<const std::int32_t> tokens(std::uint32_t node) const {
    return {tokens_.data() + nodes_[node].first_token, nodes_[node].tokens};
  }

 private:
  struct Node {
    std::uint32_t first_edge = 0, edges = 0, first_token = 0, tokens = 0;
  };

  std::vector<Node> nodes_;
  std::vector<Edge> edges_;
  std::vector<std::int32_t> tokens_;
};

ZIYA_NAMESPACE_END
