// SPDX-License-Identifier: Apache-2.0
// Which layers go to which GPU, said before anything is loaded.
#pragma once

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "conversion.hpp"
#include "session.hpp"
#include "terminal.hpp"
#include "ziya/ziya.hpp"

namespace cli {

/// --gpu-layers: none for "auto".   @param layers of the model, what "all" means
/// @throws UsageError for what is neither a word nor a number
inline std::optional<std::int64_t> wanted_layers(const std::string& text, std::int64_t layers) {
  if (text == "auto") return std::nullopt;
  if (text == "all") return layers;
  std::int64_t number = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc{} || end != text.data() + text.size() || number < 0) {
    throw UsageError("ZIYA-701", "--gpu-layers " + text + ": expected a number, auto or all");
  }
  return std::min(number, layers);
}

/// --max-memory: "20GB" for every GPU, "20GB,10GB" one after the other; empty: no limit.
inline std::vector<std::int64_t> memory_limits(const std::string& text) {
  std::vector<std::int64_t> limits;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find(',', begin), text.size());
    limits.push_back(size_from_text(text.substr(begin, end - begin), "--max-memory"));
    begin = end + 1;
  }
  return limits;
}

#if ZIYA_WITH_CUDA
/// What the tensors of a checkpoint take on a GPU.
/// @param compute type of activations and cache, unless `cache` says another for that
/// @param tokens in the cache   @param chunk of tokens that run at once
inline ziya::SplitNeed gpu_need(const ziya::Checkpoint& checkpoint, const ziya::LlamaShape& shape,
                                std::optional<ziya::DType> dtype, ziya::DType compute,
                                ziya::DType cache, std::int64_t tokens, std::int64_t chunk = 512) {
  ziya::SplitNeed need;
  need.layers.assign(static_cast<std::size_t>(shape.layers), 0);
  std::int64_t widest = 0;  // the largest matrix as plain numbers: what a product may convert
  const auto prefix = ziya::llama_names::layers;
  for (const ziya::TensorInfo& tensor : checkpoint.tensors()) {
    if (ziya::llama_names::is_rotary_cache(tensor.name) || tensor.shape.rank() == 0) continue;
    const bool matrix = tensor.shape.rank() == 2;
    const bool stays =
        dtype == ziya::DType::f8_e4m3 && !ziya::llama_names::is_layer_matrix(tensor.name);
    const ziya::DType type = !matrix ? ziya::DType::f32
                             : stays ? tensor.dtype
                                     : dtype.value_or(tensor.dtype);
    const std::int64_t rows = matrix ? tensor.shape[0] : 1;
    const std::int64_t columns = tensor.shape[tensor.shape.rank() - 1];
    const std::int64_t bytes = ziya::cuda::bytes_on_gpu(type, rows, columns);
    if (matrix && (is_quantised(type) || type != compute)) {
      widest = std::max(widest, rows * columns * info(compute).block_bytes);
    }
    if (tensor.name.starts_with(prefix)) {
      std::size_t layer = need.layers.size();
      std::from_chars(tensor.name.data() + prefix.size(), tensor.name.data() + tensor.name.size(),
                      layer);
      if (layer < need.layers.size()) need.layers[layer] += bytes;
    } else if (tensor.name != ziya::llama_names::embedding) {
      need.head += bytes;
    } else if (shape.tied_head) {
      need.head += bytes;  // and no second one where the whole model is
    } else {
      need.embedding += bytes;
    }
  }
  need.cache_per_layer = tokens * shape.cache_bytes_per_token(cache) / shape.layers;
  constexpr std::int64_t library = std::int64_t{128} << 20;
  need.scratch =
      library + widest + (is_quantised(cache) ? ziya::cuda::most_widened : 0) +
      chunk * 4 * (8 * shape.hidden + 3 * shape.intermediate + 2 * shape.vocabulary / 64);
  return need;
}

/// Adds a second model that lies whole on each device.
inline void add_whole(ziya::SplitNeed& need, const ziya::SplitNeed& other) {
  for (const std::int64_t layer : other.layers) need.scratch += layer + other.cache_per_layer;
  need.scratch += other.head + other.embedding;
}

/// Free memory of a GPU, and no more than `limit`; none of one without kernels in this program.
inline std::int64_t gpu_room(int device, std::optional<std::int64_t> limit) {
  if (!ziya::cuda::can_use(device)) return 0;
  set_current(ziya::Cuda{}, device);
  const auto free = static_cast<std::int64_t>(ziya::Memory<ziya::Cuda>::room().free);
  return limit ? std::min(*limit, free) : free;
}

/// Takes GPUs in turn, as many as it takes.
/// @throws BackendError ZIYA-156 when layers that were asked for do not fit
inline ziya::SplitPlan gpu_plan(const ziya::SplitNeed& need, std::optional<std::int64_t> wanted,
                                const std::vector<std::int64_t>& limits) {
  std::vector<std::int64_t> room;
  const auto count = static_cast<std::int64_t>(need.layers.size());
  ziya::SplitPlan plan;
  for (int device = 0; device < ziya::cuda::device_count(); ++device) {
    const std::size_t at = static_cast<std::size_t>(device);
    room.push_back(gpu_room(device, limits.empty()
                                        ? std::nullopt
                                        : std::optional(limits[std::min(at, limits.size() - 1)])));
    plan = plan_split(need, room);
    if (plan.far_layers() >= wanted.value_or(count)) break;
  }
  set_current(ziya::Cuda{}, 0);
  return wanted ? plan_split(need, room, *wanted) : plan;
}

/// "plan: GPU 0: layers 20-39 and the head, weights 13.0 GB, keys and values 1.6 GB, scratch 0.3
/// GB, of 84 GB free"
inline void say_plan(const ziya::SplitPlan& plan, const ziya::SplitNeed& need) {
  const auto range = [](std::int64_t begin, std::int64_t count) {
    return count == 1 ? "layer " + std::to_string(begin)
                      : "layers " + std::to_string(begin) + "-" + std::to_string(begin + count - 1);
  };
  std::int64_t near = 0, begin = plan.near_layers;
  for (std::int64_t i = 0; i < plan.near_layers; ++i)
    near += need.layers[static_cast<std::size_t>(i)];
  if (plan.near_layers > 0) {
    note("plan: CPU: " + range(0, plan.near_layers) + ", weights about " + bytes_text(near) +
         ", keys and values " + bytes_text(plan.near_layers * need.cache_per_layer));
  }
  for (std::size_t i = 0; i < plan.parts.size(); ++i) {
    const auto& [device, layers] = plan.parts[i];
    note("plan: GPU " + std::to_string(device) + ": " + range(begin, layers) +
         (i + 1 == plan.parts.size() ? " and the head" : "") + ", weights " +
         bytes_text(plan.weights[i]) + ", keys and values " + bytes_text(plan.caches[i]) +
         ", scratch " + bytes_text(need.scratch) + ", of " +
         bytes_text(gpu_room(device, std::nullopt)) + " free");
    begin += layers;
  }
  set_current(ziya::Cuda{}, 0);
}
#endif

}  // namespace cli
