// SPDX-License-Identifier: Apache-2.0
// Which layers go where: what a model needs, against what devices have.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/error.hpp"
#include "ziya/nn/split_cache.hpp"

ZIYA_NAMESPACE_BEGIN

/// Bytes that parts of a model take on a far device.
struct SplitNeed {
  std::vector<std::int64_t> layers;  ///< weights of each
  std::int64_t head = 0;             ///< what stands behind the last layer
  std::int64_t cache_per_layer = 0;  ///< keys and values of the longest sequence
  std::int64_t scratch = 0;          ///< of each device: workspace, library, tables
  std::int64_t embedding = 0;        ///< on the host, unless the whole model is on one device
};

/// The last layers and the head lie on far devices, what is before them on the host.
struct SplitPlan {
  std::int64_t near_layers = 0;
  std::vector<SplitPart> parts;       ///< in the order in which a token passes them
  std::vector<std::int64_t> weights;  ///< bytes of each part, the head's with the last
  std::vector<std::int64_t> caches;   ///< bytes of each part

  [[nodiscard]] std::int64_t far_layers() const {
    std::int64_t sum = 0;
    for (const SplitPart& part : parts) sum += part.layers;
    return sum;
  }
};

/// Fills the devices in turn, from the last layer on: the first device gets the head and the last
/// layers, the next one those before them. One that not even a layer fits into stays empty.
/// @param room bytes that each device may use
/// @param layers how many are wanted; none: as many as fit
/// @throws BackendError ZIYA-156 when they do not fit, saying how many would
inline SplitPlan plan_split(const SplitNeed& need, std::span<const std::int64_t> room,
                            std::optional<std::int64_t> layers = std::nullopt) {
  const auto count = static_cast<std::int64_t>(need.layers.size());
  const std::int64_t wanted = std::clamp<std::int64_t>(layers.value_or(count), 0, count);
  SplitPlan plan;
  plan.near_layers = count;
  for (std::size_t i = 0; i < room.size() && plan.near_layers > count - wanted; ++i) {
    SplitPart part{static_cast<int>(i), 0};
    std::int64_t weights = plan.parts.empty() ? need.head : 0;
    std::int64_t left = room[i] - need.scratch - weights;
    while (plan.near_layers > count - wanted) {
      const std::int64_t layer = need.layers[static_cast<std::size_t>(plan.near_layers - 1)];
      if (layer + need.cache_per_layer > left) break;
      left -= layer + need.cache_per_layer;
      weights += layer;
      ++part.layers;
      --plan.near_layers;
    }
    if (part.layers == 0) continue;
    plan.parts.push_back(part);
    plan.weights.push_back(weights);
    plan.caches.push_back(part.layers * need.cache_per_layer);
  }
  // Found from the last layer on, they are told from the first on.
  for (std::size_t i = 0; i < plan.parts.size() / 2; ++i) {
    const std::size_t other = plan.parts.size() - 1 - i;
    std::swap(plan.parts[i], plan.parts[other]);
    std::swap(plan.weights[i], plan.weights[other]);
    std::swap(plan.caches[i], plan.caches[other]);
  }
  if (layers && plan.near_layers > count - wanted) {
    const auto mebibytes = [](std::int64_t bytes) {
      return std::to_string((bytes + (std::int64_t{1} << 20) - 1) >> 20) + " MiB";
    };
    std::int64_t bytes = need.head + wanted * need.cache_per_layer;
    for (std::int64_t i = count - wanted; i < count; ++i) {
      bytes += need.layers[static_cast<std::size_t>(i)];
    }
    std::string free;
    for (const std::int64_t each : room) free += (free.empty() ? "" : " + ") + mebibytes(each);
    const std::int64_t fit = plan.far_layers();
    throw BackendError(
        "ZIYA-156", "cuda: out of memory: " + std::to_string(wanted) + " of " +
                        std::to_string(count) + " layers need " + mebibytes(bytes) + " (" +
                        mebibytes(wanted * need.cache_per_layer) +
                        " of it keys and values) and each GPU " + mebibytes(need.scratch) +
                        " of scratch, free for it are " + (free.empty() ? "0 MiB" : free) + "; " +
                        (fit > 0 ? std::to_string(fit) + " layers would fit"
                                 : std::string("not one layer would fit")) +
                        "; a shorter context, a 16-bit cache or weights of a smaller type need "
                        "less");
  }
  return plan;
}

ZIYA_NAMESPACE_END
