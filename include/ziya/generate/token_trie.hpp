// SPDX-License-Identifier: Apache-2.0
// The tokens of a vocabulary by the bytes they stand for, sharing beginnings.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
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
    struct Part {  // tokens that share their first `depth` bytes
      std::uint32_t node, begin, end, depth;
    };
    std::vector<Part> parts{{0, 0, static_cast<std::uint32_t>(tokens_.size()), 0}};
    nodes_.emplace_back();
    while (!parts.empty()) {
      Part part = parts.back();
      parts.pop_back();
      Node node{static_cast<std::uint32_t>(edges_.size()), 0, part.begin, 0};
      while (part.begin < part.end && text(part.begin).size() == part.depth) {
        ++part.begin;
        ++node.tokens;
      }
      while (part.begin < part.end) {
        const char byte = text(part.begin)[part.depth];
        std::uint32_t end = part.begin;
        while (end < part.end && text(end)[part.depth] == byte) ++end;
        const auto child = static_cast<std::uint32_t>(nodes_.size());
        nodes_.emplace_back();
        edges_.push_back({static_cast<std::uint8_t>(byte), child});
        ++node.edges;
        parts.push_back({child, part.begin, end, part.depth + 1});
        part.begin = end;
      }
      nodes_[part.node] = node;
    }
  }

  /// By ascending byte.
  [[nodiscard]] std::span<const Edge> edges(std::uint32_t node) const {
    return std::span(edges_).subspan(nodes_[node].first_edge, nodes_[node].edges);
  }
  /// Tokens that end here.
  [[nodiscard]] std::span<const std::int32_t> tokens(std::uint32_t node) const {
    return std::span(tokens_).subspan(nodes_[node].first_token, nodes_[node].tokens);
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
