// SPDX-License-Identifier: Apache-2.0
// The weights of a model from any source, in the type and with the adapters that are asked for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/dtype.hpp"
#include "ziya/core/error.hpp"
#include "ziya/io/tensor_source.hpp"
#include "ziya/model/llama_config.hpp"
#include "ziya/model/llama_names.hpp"
#include "ziya/model/llama_shape.hpp"
#include "ziya/model/llama_weights.hpp"
#include "ziya/model/lora_adapter.hpp"
#include "ziya/model/lora_attach.hpp"

ZIYA_NAMESPACE_BEGIN

struct LoadOptions {
  /// Another type than the stored one makes a copy of every matrix, on all cores; i8: integers with
  /// one scale per row. f8_e4m3: on a GPU alone, where matrices of the layers are rounded while
  /// they are copied, each row with a scale; embedding and head stay as they are stored.
  /// @throws ShapeError when blocks of a quantised type do not divide its rows; BackendError
  /// ZIYA-157 where there is no f8_e4m3
  std::optional<DType> dtype{};
  /// Folders of LoRA adapters (PEFT's layout) to hold beside the weights; several add up.
  std::vector<std::filesystem::path> adapters{};
  /// (bytes so far, of all) while weights are copied to another device than the CPU.
  std::function<void(std::int64_t, std::int64_t)> progress{};
};

/// The weights of any source on the host, with the adapters of `options` beside them; what lies in
/// files stays there.
/// @param shape whose vocabulary becomes known, if it is not
LlamaWeights<Cpu> load_llama_weights(std::shared_ptr<const TensorSource> source, LlamaShape& shape,
                                     const LoadOptions& options);
#if ZIYA_DEFINITIONS
ZIYA_INLINE LlamaWeights<Cpu> load_llama_weights(std::shared_ptr<const TensorSource> source,
                                                 LlamaShape& shape, const LoadOptions& options) {
  if (shape.vocabulary == unknown_vocabulary) {
    const std::size_t table = find_tensor(*source, llama_names::embedding);
    if (table < source->tensors().size() && source->tensors()[table].shape.rank() == 2) {
      shape.vocabulary = source->tensors()[table].shape[0];
    }
  }
  if (options.dtype == DType::f8_e4m3) {
    throw BackendError("ZIYA-157",
                       "fp8: weights are rounded to it on an NVIDIA GPU that holds all of the "
                       "model; use --device cuda, or int8 on the CPU");
  }
  LlamaWeights<Cpu> weights = LlamaLoader(std::move(source), shape, options.dtype).load();
  for (const auto& adapter : options.adapters) {
    attach_lora(weights, LoraAdapter::open(adapter), "the model");
  }
  return weights;
}
#endif

ZIYA_NAMESPACE_END
