// SPDX-License-Identifier: Apache-2.0
// Checkpoints in the Fengshen layout, in one piece or in tensor-parallel parts, as Hugging Face's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <set>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/convert/checked_source.hpp"
#include "ziya/convert/fengshen_names.hpp"
#include "ziya/convert/gathered_source.hpp"
#include "ziya/convert/model_files.hpp"
#include "ziya/convert/model_source.hpp"
#include "ziya/core/error.hpp"
#include "ziya/io/checkpoint.hpp"
#include "ziya/io/model_path.hpp"
#include "ziya/model/llama_config.hpp"
#include "ziya/model/llama_names.hpp"

ZIYA_NAMESPACE_BEGIN

/// Whether a folder holds part_0.
inline bool is_fengshen_folder(const std::filesystem::path& folder) {
  std::error_code ignored;
  return std::filesystem::is_directory(folder / "part_0", ignored);
}

/// Parts are joined: rows of query_key_value, w1, w3 and both embeddings, columns of dense and w2;
/// norms are part 0's; query_key_value becomes q, k and v. Elements keep their type.
/// Source: Fengshenbang-LM, fengshen/utils/llama_convert
class FengshenReader {
 public:
  /// @param path holds part_0 … part_(n−1), or the one part itself
  /// @throws FormatError ZIYA-617 when parts are missing or do not fit one another, IoError
  explicit FengshenReader(const std::filesystem::path& path) : folder_(resolve_model_path(path)) {
    find_parts();
    compare_parts();
    const auto config = config_path();
    config_ = fengshen::config_to_hf(read_text_file(config, 1 << 24), utf8_from_path(config));
    shape_ = parse_llama_shape(config_, utf8_from_path(config));
    if (shape_.kv_heads != shape_.query_heads) {
      refuse("num_key_value_heads differs from num_attention_heads, which this layout cannot hold");
    }
    add(fengshen::outer[0], "", "");
    for (std::int64_t layer = 0; layer < shape_.layers; ++layer) add_layer(layer);
    add(fengshen::outer[1], "", "");
    if (!shape_.tied_head || first().find(fengshen::outer[2].fengshen) != nullptr) {
      add(fengshen::outer[2], "", "");
    }
    refuse_unknown();
  }

  [[nodiscard]] const std::filesystem::path& folder() const { return folder_; }
  [[nodiscard]] std::size_t parts() const { return parts_.size(); }
  /// That hold the tensors, of all parts.
  [[nodiscard]] std::vector<std::filesystem::path> paths() const {
    std::vector<std::filesystem::path> paths;
    for (const auto& part : parts_) {
      for (const auto& file : part->checkpoint().files()) paths.push_back(file->file().path());
    }
    return paths;
  }
  /// For ModelSource::identity.
  [[nodiscard]] nlohmann::json files() const {
    nlohmann::json json;
    for (const auto& part : parts_) json.push_back(files_identity(part->checkpoint()));
    return json;
  }
  /// config.json in Hugging Face's words.
  [[nodiscard]] const std::string& config() const { return config_; }
  /// The folder of part 0, which is folder() where there is one part alone.
  [[nodiscard]] const std::filesystem::path& first_part() const { return paths_.front(); }
  [[nodiscard]] std::shared_ptr<const TensorSource> source() const {
    return std::make_shared<const GatheredSource>(checked(parts_), tensors_);
  }

 private:
  [[noreturn]] void refuse(const std::string& why) const {
    throw FormatError("ZIYA-617", utf8_from_path(folder_) + ": " + why);
  }
  [[nodiscard]] const Checkpoint& first() const { return parts_.front()->checkpoint(); }

  void find_parts() {
    std::size_t named = 0;
    std::error_code error;
    for (std::filesystem::directory_iterator item(folder_, error), end; !error && item != end;
         item.increment(error)) {
      named += utf8_from_path(item->path().filename()).starts_with("part_") ? 1 : 0;
    }
    for (std::size_t part = 0; part < named; ++part) {
      paths_.push_back(folder_ / ("part_" + std::to_string(part)));
      if (!std::filesystem::is_directory(paths_.back(), error)) {
        refuse("part_" + std::to_string(part) + " is missing, though there are " +
               std::to_string(named) + " parts");
      }
    }
    if (named == 0) paths_.push_back(folder_);
    for (const auto& part : paths_) {
      parts_.push_back(std::make_shared<const CheckpointSource>(Checkpoint::open(part)));
    }
  }

  void compare_parts() const {
    for (std::size_t part = 1; part < parts_.size(); ++part) {
      const auto &a = parts_.front()->tensors(), &b = parts_[part]->tensors();
      bool same = a.size() == b.size();
      for (std::size_t i = 0; same && i < a.size(); ++i) {
        same = a[i].name == b[i].name && a[i].dtype == b[i].dtype && a[i].shape == b[i].shape;
        if (!same && a[i].name == b[i].name) {
          refuse("tensor " + a[i].name + " is " + std::string(name(b[i].dtype)) + " " +
                 b[i].shape.to_string() + " in part " + std::to_string(part) + ", " +
                 std::string(name(a[i].dtype)) + " " + a[i].shape.to_string() + " in part 0");
        }
      }
      if (!same) refuse("part " + std::to_string(part) + " does not hold the tensors of part 0");
    }
  }

  [[nodiscard]] std::filesystem::path config_path() const {
    std::error_code ignored;
    const auto own = folder_ / "config.json";
    return std::filesystem::is_regular_file(own, ignored) ? own : paths_.front() / "config.json";
  }

  /// Index and shape of a tensor that every part has. @param rank expected
  const TensorInfo& find(const std::string& name, int rank) {
    const TensorInfo* found = first().find(name);
    if (found == nullptr) refuse("has no tensor " + name + ", which config.json asks for");
    if (found->shape.rank() != rank || found->shape.elements() == 0 || !is_float(found->dtype)) {
      refuse("tensor " + name + " is " + std::string(ziya::name(found->dtype)) + " " +
             found->shape.to_string() + ", expected " + std::to_string(rank) + " dimensions");
    }
    used_.insert(name);
    return *found;
  }
  [[nodiscard]] std::size_t index_of(const TensorInfo& tensor) const {
    return static_cast<std::size_t>(&tensor - first().tensors().data());
  }

  void add(const fengshen::Name& names, const std::string& fengshen_prefix,
           const std::string& hf_prefix) {
    const bool vector = names.split == fengshen::Split::none;
    const TensorInfo& found = find(fengshen_prefix + std::string(names.fengshen), vector ? 1 : 2);
    const std::size_t tensor = index_of(found);
    TensorSpec spec{hf_prefix + std::string(names.hf), found.dtype, found.shape};
    const auto count = static_cast<std::int64_t>(parts_.size());
    const std::int64_t rows = found.shape[0], columns = vector ? rows : found.shape[1];
    if (vector) {
      tensors_.push_back({std::move(spec), [=](std::int64_t, std::int64_t column) {
                            return GatheredPiece{0, tensor, 0, column, 1, columns - column};
                          }});
    } else if (names.split == fengshen::Split::columns) {
      spec.shape = Shape{rows, columns * count};
      tensors_.push_back({std::move(spec), [=](std::int64_t row, std::int64_t column) {
                            return GatheredPiece{static_cast<std::size_t>(column / columns),
                                                 tensor,
                                                 row,
                                                 column % columns,
                                                 rows - row,
                                                 columns - column % columns};
                          }});
    } else {
      spec.shape = Shape{rows * count, columns};
      tensors_.push_back({std::move(spec), [=](std::int64_t row, std::int64_t column) {
                            return GatheredPiece{static_cast<std::size_t>(row / rows),
                                                 tensor,
                                                 row % rows,
                                                 column,
                                                 rows - row % rows,
                                                 columns - column};
                          }});
    }
  }

  void add_layer(std::int64_t layer) {
    const std::string prefix = fengshen::of_layer(layer, "");
    const std::string hf = llama_names::of_layer(layer, "");
    const TensorInfo& qkv = find(prefix + std::string(fengshen::qkv), 2);
    const std::size_t tensor = index_of(qkv);
    const std::int64_t rows = qkv.shape[0], columns = qkv.shape[1], size = shape_.head_dim;
    const auto count = static_cast<std::int64_t>(parts_.size());
    if (rows % (3 * size) != 0 || rows * count != 3 * size * shape_.query_heads) {
      refuse("tensor " + qkv.name + " has " + std::to_string(rows) + " rows in each of " +
             std::to_string(count) + " parts, expected q, k and v of " +
             std::to_string(shape_.query_heads) + " heads of " + std::to_string(size));
    }
    for (std::size_t projection = 0; projection < 3; ++projection) {
      TensorSpec spec{hf + std::string(fengshen::projections[projection]), qkv.dtype,
                      Shape{size * shape_.query_heads, columns}};
      const std::int64_t offset = static_cast<std::int64_t>(projection) * size;
      tensors_.push_back({std::move(spec), [=](std::int64_t row, std::int64_t column) {
                            const std::int64_t within = row % size;
                            const std::int64_t from = row / size * 3 * size + offset + within;
                            return GatheredPiece{static_cast<std::size_t>(from / rows),
                                                 tensor,
                                                 from % rows,
                                                 column,
                                                 size - within,
                                                 columns - column};
                          }});
    }
    for (const fengshen::Name& names : fengshen::inner) add(names, prefix, hf);
  }

  void refuse_unknown() const {
    for (const TensorInfo& tensor : first().tensors()) {
      if (!used_.contains(tensor.name) && !llama_names::is_rotary_cache(tensor.name)) {
        refuse("tensor " + tensor.name + " has no place in a model of " +
               std::to_string(shape_.layers) + " layers as config.json describes");
      }
    }
  }

  std::filesystem::path folder_;
  std::vector<std::filesystem::path> paths_;
  std::vector<std::shared_ptr<const CheckpointSource>> parts_;
  std::string config_;
  LlamaShape shape_;
  std::vector<GatheredTensor> tensors_;
  std::set<std::string> used_;
};

/// A folder in the Fengshen layout as a Hugging Face model; texts come from the folder itself and,
/// where they are not there, from part 0. @throws as FengshenReader
inline ModelSource open_fengshen_model(const std::filesystem::path& path) {
  const FengshenReader reader(path);
  ModelSource model;
  model.name = model_name(reader.folder());
  model.identity = identity_text(reader.files());
  model.tensors = reader.source();
  for (const auto& folder : {reader.folder(), reader.first_part()}) {
    std::error_code ignored;
    if (!std::filesystem::is_regular_file(folder / "config.json", ignored)) continue;
    for (const auto& file : model_files(folder)) {
      model.files.emplace(utf8_from_path(file.filename()), read_text_file(file));
    }
  }
  model.provenance = lasting_provenance(recorded_metadata({}, reader.folder()));
  model.files["config.json"] = reader.config();
  return model;
}

ZIYA_NAMESPACE_END
