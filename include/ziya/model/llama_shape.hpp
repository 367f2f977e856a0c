// SPDX-License-Identifier: Apache-2.0
// The sizes of a LLaMA model, as its config.json or GGUF metadata give them.
#pragma once

#include <cstdint>

#include "ziya/config.hpp"
#include "ziya/core/dtype.hpp"
#include "ziya/core/rope_table.hpp"
#include "ziya/model/rope_scaling.hpp"
#include "ziya/nn/kv_cache.hpp"

ZIYA_NAMESPACE_BEGIN

/// Sizes are run-time data; types are template parameters of the model.
struct LlamaShape {
  std::int64_t hidden = 0;
  std::int64_t intermediate = 0;
  std::int64_t layers = 0;
  std::int64_t query_heads = 0;
  std::int64_t kv_heads = 0;
  std::int64_t head_dim = 0;
  std::int64_t vocabulary = 0;  ///< rows of the embedding, padding rows included
  std::int64_t max_positions = 2048;
  double rms_eps = 1e-6;
  double rope_base = 10000.0;
  RopeScaling rope_scaling;
  bool tied_head = false;
  bool attention_bias = false;
  bool mlp_bias = false;
  RopePairing rope_pairing = RopePairing::halves;  ///< how the rows of q and k are stored

  friend bool operator==(const LlamaShape&, const LlamaShape&) = default;

  [[nodiscard]] CacheShape cache_shape() const { return {layers, kv_heads, head_dim}; }
  /// Parameters of all layers and norms, embedding and head (a tied head counts once).
  [[nodiscard]] std::int64_t parameters() const {
    const std::int64_t queries = query_heads * head_dim, keys = kv_heads * head_dim;
    std::int64_t layer = hidden * (2 * queries + 2 * keys) + 3 * hidden * intermediate + 2 * hidden;
    if (attention_bias) layer += queries + 2 * keys + hidden;
    if (mlp_bias) layer += 2 * intermediate + hidden;
    return layers * layer + hidden + (tied_head ? 1 : 2) * vocabulary * hidden;
  }
  /// Parameters that one generated token reads: all but the embedding table, of which it needs a
  /// row.
  [[nodiscard]] std::int64_t parameters_read_per_token() const {
    return parameters() - (tied_head ? 0 : vocabulary * hidden);
  }
  /// Bytes of keys and values that one token leaves in the cache.
  [[nodiscard]] std::int64_t cache_bytes_per_token(DType dtype = DType::f32) const {
    return layers * 2 * kv_heads * bytes_of(dtype, head_dim);
  }
};

ZIYA_NAMESPACE_END
