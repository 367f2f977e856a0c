// SPDX-License-Identifier: Apache-2.0
// Writes a checkpoint of safetensors files with their index, tensor by tensor, shard by shard.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/io/safetensors.hpp"
#include "ziya/io/safetensors_file_writer.hpp"
#include "ziya/io/sharded_writer.hpp"
#include "ziya/io/tensor_spec.hpp"
#include "ziya/io/writer.hpp"

ZIYA_NAMESPACE_BEGIN

/// A checkpoint as Transformers writes it: `model.safetensors`, or where it does not fit one file
/// `model-00001-of-0000n.safetensors` … with `model.safetensors.index.json`.
class ShardedSafetensorsWriter : public ShardedWriter {
 public:
  using ShardMetadata = std::function<safetensors::Metadata(const Shard&)>;

  /// @param metadata of every file   @param shard_metadata what a file has beside that
  /// @throws as ShardedWriter
  ShardedSafetensorsWriter(std::filesystem::path directory, const std::vector<TensorSpec>& tensors,
                           std::int64_t max_shard_bytes, const safetensors::Metadata& metadata = {},
                           WriteHooks hooks = {}, ShardEvents events = {},
                           const ShardMetadata& shard_metadata = {})
      : ShardedWriter(
            {"model", ".safetensors",
             [metadata, shard_metadata](const std::filesystem::path& path, const Shard& shard,
                                        const WriteHooks& shard_hooks) {
               safetensors::Metadata all = metadata;
               if (shard_metadata) all.merge(shard_metadata(shard));
               return std::make_unique<SafetensorsWriter>(path, shard, std::move(all), shard_hooks);
             },
             safetensors::aligned_order},
            std::move(directory), tensors, max_shard_bytes, std::move(hooks), std::move(events)) {}
};

ZIYA_NAMESPACE_END
