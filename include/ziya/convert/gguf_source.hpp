// SPDX-License-Identifier: Apache-2.0
// The tensors of a model with the rows of q and k in the other order: Hugging Face's or GGUF's.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/error.hpp"
#include "ziya/io/gguf_names.hpp"
#include "ziya/io/tensor_source.hpp"
#include "ziya/model/gguf_config.hpp"
#include "ziya/model/llama_names.hpp"
#include "ziya/model/llama_shape.hpp"

ZIYA_NAMESPACE_BEGIN

/// Rows of a head of d rows: the pair i is rows i and i + d/2 with `halves` (Hugging Face), 2i and
/// 2i + 1 with `interleaved` (GGUF). Rows are moved while they are read, in any stored type; all
/// other tensors pass. What the other format has no place for is left out: stored rotary caches,
/// GGUF's rotary factors, a head that is the embedding. For GGUF the factors of a llama3 scaling
/// are added as `rope_freqs.weight`.
class GgufSource final : public TensorSource {
 public:
  /// @param shape of the model, whose rope_pairing is how `source` has its rows
  /// @param to how this source is to have them
  GgufSource(std::shared_ptr<const TensorSource> source, const LlamaShape& shape, RopePairing to)
      : source_(std::move(source)), shape_(shape), to_(to) {
    const std::vector<TensorSpec>& all = source_->tensors();
    for (std::size_t i = 0; i < all.size(); ++i) {
      const std::string_view name = all[i].name;
      if (llama_names::is_rotary_cache(name) || name == gguf::rope_factors) continue;
      if (shape.tied_head && name == llama_names::head) continue;
      tensors_.push_back(all[i]);
      places_.push_back({i, heads_of(all[i])});
    }
    if (to == RopePairing::interleaved && shape.rope_scaling.kind == RopeScaling::Kind::llama3) {
      factors_ =
          gguf::ConfigMaker::rope_divisors(shape.head_dim, shape.rope_base, shape.rope_scaling);
      tensors_.push_back(
          {std::string(gguf::rope_factors), DType::f32, Shape{std::ssize(factors_)}});
    }
  }

  [[nodiscard]] const std::vector<TensorSpec>& tensors() const override { return tensors_; }

  void expect_one_pass() const override { source_->expect_one_pass(); }

  void read(std::size_t index, std::int64_t first, std::span<std::byte> out) const override {
    const TensorSpec& tensor = tensors_.at(index);
    if (index >= places_.size()) {
      const auto bytes = std::as_bytes(std::span(factors_));
      std::memcpy(out.data(), bytes.data() + first * 4, out.size());
      return;
    }
    const Place place = places_[index];
    if (passes(place)) return source_->read(place.index, first, out);
    const std::int64_t columns = tensor.shape.rank() > 1 ? tensor.shape[1] : 1;
    const std::int64_t head_rows = tensor.shape[0] / place.heads;
    for (std::int64_t done = 0; !out.empty();) {
      const std::int64_t at = first + done, row = at / columns, column = at % columns;
      const std::int64_t left = static_cast<std::int64_t>(out.size()) /
                                info(tensor.dtype).block_bytes * info(tensor.dtype).block_elements;
      const std::int64_t count = std::min(columns - column, left);
      const auto bytes = static_cast<std::size_t>(bytes_of(tensor.dtype, count));
      const std::int64_t from =
          row / head_rows * head_rows + row_in_head(row % head_rows, head_rows);
      source_->read(place.index, from * columns + column, out.first(bytes));
      out = out.subspan(bytes);
      done += count;
    }
  }

  /// Where it lies, but for q and k whose rows move.
  [[nodiscard]] MappedTensor map(std::size_t index) const override {
    const bool lies = index < places_.size() && passes(places_[index]);
    return lies ? source_->map(places_[index].index) : TensorSource::map(index);
  }
  void read_mapped(const std::byte* from, std::span<std::byte> out) const override {
    source_->read_mapped(from, out);
  }
  [[nodiscard]] std::string place(std::size_t index) const override {
    return index < places_.size() ? source_->place(places_[index].index) : std::string();
  }

 private:
  struct Place {
    std::size_t index;   // among the source's tensors
    std::int64_t heads;  // whose rows move; 0: none move
  };

  [[nodiscard]] bool passes(const Place& place) const {
    return place.heads == 0 || shape_.rope_pairing == to_;
  }

  [[nodiscard]] std::int64_t heads_of(const TensorSpec& tensor) const {
    const auto is = [&](std::string_view part) {
      return tensor.name.find(part) != std::string::npos;
    };
    const std::int64_t heads = is(".self_attn.q_proj.")   ? shape_.query_heads
                               : is(".self_attn.k_proj.") ? shape_.kv_heads
                                                          : 0;
    if (heads == 0 || tensor.shape.rank() == 0) return 0;
    if (tensor.shape[0] != heads * shape_.head_dim || tensor.shape.rank() > 2) {
      const std::string place = source_->place(find_tensor(*source_, tensor.name));
      throw ConfigError("ZIYA-432", (place.empty() ? "convert" : place) + ": tensor " +
                                        tensor.name + " is " + tensor.shape.to_string() +
                                        ", expected " + std::to_string(heads * shape_.head_dim) +
                                        " rows");
    }
    return heads;
  }
  /// The source's row of a head that is row `row` here.
  [[nodiscard]] std::int64_t row_in_head(std::int64_t row, std::int64_t rows) const {
    const std::int64_t half = rows / 2;
    if (to_ == RopePairing::interleaved) return row % 2 * half + row / 2;
    return row < half ? 2 * row : 2 * (row - half) + 1;
  }

  std::shared_ptr<const TensorSource> source_;
  LlamaShape shape_;
  RopePairing to_;
  std::vector<TensorSpec> tensors_;
  std::vector<Place> places_;  // of tensors_, but for the factors
  std::vector<float> factors_;
};

ZIYA_NAMESPACE_END
