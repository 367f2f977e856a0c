// SPDX-License-Identifier: Apache-2.0
// Meta's original checkpoints with Hugging Face's names, shapes and order of rows.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/convert/checked_source.hpp"
#include "ziya/convert/gathered_source.hpp"
#include "ziya/convert/meta_config.hpp"
#include "ziya/convert/meta_folder.hpp"
#include "ziya/convert/model_files.hpp"
#include "ziya/convert/model_source.hpp"
#include "ziya/core/dtype.hpp"
#include "ziya/core/error.hpp"
#include "ziya/io/checkpoint.hpp"
#include "ziya/io/tensor_source.hpp"
#include "ziya/model/llama_names.hpp"
#include "ziya/model/llama_shape.hpp"

ZIYA_NAMESPACE_BEGIN

struct MetaOptions {
  std::string model_size{};                     ///< "13B": a subfolder, as the reference is called
  std::optional<std::int64_t> max_positions{};  ///< none: meta_context()
  bool needs_tokenizer = true;                  ///< refuse a folder without tokenizer.model
};

/// Model-parallel shards are joined: on dimension 1 the embedding (dimension 0 where the shards'
/// shapes say so), wo and w2; on dimension 0 the others; norms are shard 0's. Rows of wq and wk are
/// brought from pairs (2i, 2i + 1) to halves (i, i + d/2) of every head. Elements keep their type.
/// Source: Transformers, convert_llama_weights_to_hf.py
class MetaReader {
 public:
  /// @throws IoError ZIYA-612, FormatError ZIYA-613, ConfigError ZIYA-614, and what opening says
  explicit MetaReader(MetaFolder folder)
      : folder_(std::move(folder)),
        params_name_(utf8_from_path(folder_.params)),
        params_(parse_meta_params(read_text_file(folder_.params, 1 << 20), params_name_)) {
    for (const auto& shard : folder_.shards) {
      shards_.push_back(std::make_shared<const CheckpointSource>(Checkpoint::open(shard)));
    }
    compare_shards();
    add("tok_embeddings.weight", std::string(llama_names::embedding), Join::embedding);
    for (std::int64_t layer = 0; layer < params_.n_layers; ++layer) add_layer(layer);
    add("norm.weight", std::string(llama_names::final_norm), Join::none);
    tied_ = first().find("output.weight") == nullptr;
    if (!tied_) add("output.weight", std::string(llama_names::head), Join::rows);
    refuse_unknown();
    check_sizes();
  }

  [[nodiscard]] const MetaFolder& folder() const { return folder_; }
  [[nodiscard]] const MetaParams& params() const { return params_; }
  /// Of the matrices.
  [[nodiscard]] DType stored() const { return tensors_.front().spec.dtype; }
  [[nodiscard]] LlamaShape shape(std::optional<std::int64_t> max_positions = {}) const {
    LlamaShape shape;
    shape.hidden = params_.dim;
    shape.intermediate = params_.intermediate();
    shape.layers = params_.n_layers;
    shape.query_heads = params_.n_heads;
    shape.kv_heads = params_.n_kv_heads;
    shape.head_dim = params_.dim / params_.n_heads;
    shape.vocabulary = tensors_.front().spec.shape[0];
    shape.max_positions = max_positions.value_or(meta_context(params_, stored()));
    shape.rms_eps = params_.norm_eps;
    shape.rope_base = params_.rope_theta;
    shape.tied_head = tied_;
    return shape;
  }
  [[nodiscard]] std::shared_ptr<const TensorSource> source() const {
    return std::make_shared<const GatheredSource>(checked(shards_), tensors_);
  }

 private:
  enum class Join { none, rows, columns, embedding };

  [[nodiscard]] const Checkpoint& first() const { return shards_.front()->checkpoint(); }

  [[noreturn]] void refuse_shard(std::size_t shard, const std::string& why) const {
    throw FormatError("ZIYA-613", utf8_from_path(folder_.shards[shard]) + ": " + why);
  }

  void compare_shards() const {
    for (std::size_t shard = 1; shard < shards_.size(); ++shard) {
      const auto &a = shards_.front()->tensors(), &b = shards_[shard]->tensors();
      for (std::size_t i = 0; i < std::max(a.size(), b.size()); ++i) {
        if (i >= a.size() || i >= b.size() || a[i].name != b[i].name) {
          const auto& odd = i >= a.size() || (i < b.size() && b[i].name < a[i].name) ? b[i] : a[i];
          refuse_shard(shard, "does not hold the same tensors as shard 0: " + odd.name +
                                  " is in one of the two only");
        }
        if (a[i].dtype != b[i].dtype || a[i].shape != b[i].shape) {
          refuse_shard(shard, "tensor " + a[i].name + " is " + std::string(name(b[i].dtype)) + " " +
                                  b[i].shape.to_string() + ", in shard 0 " +
                                  std::string(name(a[i].dtype)) + " " + a[i].shape.to_string());
        }
      }
    }
  }

  void add_layer(std::int64_t layer) {
    const std::string meta = "layers." + std::to_string(layer) + ".";
    const auto hf = [&](std::string_view part) { return llama_names::of_layer(layer, part); };
    add(meta + "attention_norm.weight", hf("input_layernorm.weight"), Join::none);
    add(meta + "attention.wq.weight", hf("self_attn.q_proj.weight"), Join::rows, params_.n_heads);
    add(meta + "attention.wk.weight", hf("self_attn.k_proj.weight"), Join::rows,
        params_.n_kv_heads);
    add(meta + "attention.wv.weight", hf("self_attn.v_proj.weight"), Join::rows);
    add(meta + "attention.wo.weight", hf("self_attn.o_proj.weight"), Join::columns);
    add(meta + "ffn_norm.weight", hf("post_attention_layernorm.weight"), Join::none);
    add(meta + "feed_forward.w1.weight", hf("mlp.gate_proj.weight"), Join::rows);
    add(meta + "feed_forward.w3.weight", hf("mlp.up_proj.weight"), Join::rows);
    add(meta + "feed_forward.w2.weight", hf("mlp.down_proj.weight"), Join::columns);
  }

  /// @param heads whose rows are brought from pairs to halves; 0: rows stay in order
  void add(const std::string& meta, std::string hf, Join join, std::int64_t heads = 0) {
    const TensorInfo* found = first().find(meta);
    if (found == nullptr) refuse_shard(0, "has no tensor " + meta + ", which params.json asks for");
    used_.insert(meta);
    const bool matrix = join != Join::none;
    if (found->shape.rank() != (matrix ? 2 : 1) || found->shape.elements() == 0 ||
        !is_float(found->dtype)) {
      refuse_shard(0, "tensor " + meta + " is " + std::string(name(found->dtype)) + " " +
                          found->shape.to_string() + ", expected floating-point numbers of " +
                          (matrix ? "two dimensions" : "one dimension"));
    }
    const auto tensor = static_cast<std::size_t>(found - first().tensors().data());
    const auto count = static_cast<std::int64_t>(shards_.size());
    if (!matrix) {
      const std::int64_t size = found->shape[0];
      tensors_.push_back(
          {{std::move(hf), found->dtype, found->shape}, [=](std::int64_t, std::int64_t column) {
             return GatheredPiece{0, tensor, 0, column, 1, size - column};
           }});
      return;
    }
    const std::int64_t rows = found->shape[0], columns = found->shape[1];
    if (join == Join::embedding) join = columns == params_.dim ? Join::rows : Join::columns;
    if (join == Join::columns) {
      tensors_.push_back({{std::move(hf), found->dtype, Shape{rows, columns * count}},
                          [=](std::int64_t row, std::int64_t column) {
                            return GatheredPiece{static_cast<std::size_t>(column / columns),
                                                 tensor,
                                                 row,
                                                 column % columns,
                                                 rows - row,
                                                 columns - column % columns};
                          }});
      return;
    }
    const std::int64_t size = heads == 0 ? 0 : rows * count / heads;  // of a head
    if (heads != 0 && (rows * count % heads != 0 || size % 2 != 0)) {
      refuse_params(meta + " has " + std::to_string(rows * count) + " rows, which are not " +
                    std::to_string(heads) + " heads of an even size");
    }
    tensors_.push_back(
        {{std::move(hf), found->dtype, Shape{rows * count, columns}},
         [=](std::int64_t row, std::int64_t column) {
           std::int64_t from = row;
           if (size != 0) {
             const std::int64_t within = row % size, half = size / 2;
             from = row - within + within % half * 2 + within / half;
           }
           return GatheredPiece{
               static_cast<std::size_t>(from / rows), tensor,          from % rows, column,
               size == 0 ? rows - from % rows : 1,    columns - column};
         }});
  }

  /// A tensor that would be silently left out is refused; rotary tables are recomputed. LLaMA-1 7B
  /// has one in each layer, `layers.N.attention.inner_attention.rope.freqs`, later ones one in all.
  void refuse_unknown() const {
    for (const TensorInfo& tensor : first().tensors()) {
      if (!tensor.name.ends_with("rope.freqs") && !used_.contains(tensor.name)) {
        refuse_shard(0, "tensor " + tensor.name + " has no place in a model of " +
                            std::to_string(params_.n_layers) + " layers as params.json describes");
      }
    }
  }

  [[noreturn]] void refuse_params(const std::string& why) const {
    throw ConfigError("ZIYA-614", params_name_ + ": contradicts the weights: " + why);
  }

  /// Every joined tensor against the sizes of params.json.
  void check_sizes() const {
    const LlamaShape sizes = shape();
    const std::int64_t keys = sizes.kv_heads * sizes.head_dim;
    if (params_.vocab_size > 0 && params_.vocab_size != sizes.vocabulary) {
      refuse_params("vocab_size is " + std::to_string(params_.vocab_size) + ", the embedding has " +
                    std::to_string(sizes.vocabulary) + " rows");
    }
    for (const GatheredTensor& tensor : tensors_) {
      const std::string& part = tensor.spec.name;
      Shape expected{sizes.hidden};
      std::string why;
      if (part.ends_with("q_proj.weight") || part.ends_with("o_proj.weight")) {
        expected = Shape{sizes.hidden, sizes.hidden};
      } else if (part.ends_with("k_proj.weight") || part.ends_with("v_proj.weight")) {
        expected = Shape{keys, sizes.hidden};
      } else if (part.ends_with("gate_proj.weight") || part.ends_with("up_proj.weight")) {
        expected = Shape{sizes.intermediate, sizes.hidden};
        why = " by multiple_of and ffn_dim_multiplier";
      } else if (part.ends_with("down_proj.weight")) {
        expected = Shape{sizes.hidden, sizes.intermediate};
        why = " by multiple_of and ffn_dim_multiplier";
      } else if (part == llama_names::embedding || part == llama_names::head) {
        expected = Shape{sizes.vocabulary, sizes.hidden};
      }
      if (tensor.spec.shape != expected) {
        refuse_params("the shards give " + part + " of " + tensor.spec.shape.to_string() +
                      ", expected " + expected.to_string() + why);
      }
    }
  }

  MetaFolder folder_;
  std::string params_name_;
  MetaParams params_;
  std::vector<std::shared_ptr<const CheckpointSource>> shards_;
  std::vector<GatheredTensor> tensors_;
  std::set<std::string> used_;
  bool tied_ = false;
};

/// A Meta folder as a Hugging Face model. Where no context is given and none is known, see
/// meta_context(). The reference writes fp16 whatever is stored; that is the caller's choice here.
/// @throws as MetaReader; IoError ZIYA-616 without tokenizer.model
inline ModelSource open_meta_model(const std::filesystem::path& path,
                                   const MetaOptions& options = {}) {
  const MetaReader reader(find_meta_folder(path, options.model_size));
  ModelSource model;
  model.name = model_name(reader.folder().leaf);
  model.tensors = reader.source();
  model.identity = identity_text(files_identity(reader.folder().shards));
  model.files = hf_side_files();
  model.files["config.json"] = hf_config(reader.shape(options.max_positions), reader.stored());
  if (!reader.folder().tokenizer.empty()) {
    model.files["tokenizer.model"] = read_text_file(reader.folder().tokenizer);
  } else if (options.needs_tokenizer) {
    throw IoError("ZIYA-616", utf8_from_path(reader.folder().leaf) +
                                  ": no tokenizer.model in it nor in the folder above; expected "
                                  "Meta's tokenizer beside the weights");
  }
  return model;
}

ZIYA_NAMESPACE_END
