// SPDX-License-Identifier: Apache-2.0
// A base and a delta that were opened, told apart and found to fit: everything a merge starts from.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/convert/delta_plan.hpp"
#include "ziya/convert/merged_source.hpp"
#include "ziya/convert/model_files.hpp"
#include "ziya/convert/model_source.hpp"
#include "ziya/convert/open_source.hpp"
#include "ziya/core/error.hpp"
#include "ziya/io/file.hpp"
#include "ziya/io/json.hpp"
#include "ziya/model/llama_config.hpp"
#include "ziya/model/model_kind.hpp"

ZIYA_NAMESPACE_BEGIN

/// What a merge's rule is called in the metadata of what it makes.
inline std::string merge_rule(DType type, MergeSign sign) {
  const bool add = sign == MergeSign::add;
  return std::string(name(type)) +
         (add ? "(base + delta); from the delta" : "(model - base); from the model") +
         ": embed_tokens, lm_head.weight, self_attn.rotary_emb.inv_freq";
}

struct MergePair {
  OpenedSource base, delta;  ///< for making a delta, the model stands in the delta's place
  DType type = DType::f16;
  MergeSign sign = MergeSign::add;
  std::vector<TensorSpec> tensors;  ///< of the target, in the order of the layers
  std::vector<std::string> notes;   ///< what a person should know

  /// Opens both and refuses the three mix-ups that otherwise give a model that prints garbage.
  /// @throws FormatError ZIYA-603 … 605, and what opening says
  static MergePair open(const std::filesystem::path& base, const std::filesystem::path& delta,
                        DType type = DType::f16, MergeSign sign = MergeSign::add,
                        const KindLimits& limits = {}) {
    MergePair pair{open_source(base), open_source(delta), type, sign, {}, {}};
    pair.refuse_mixed_up(limits);
    DeltaPlan plan = plan_delta(*pair.base.source, *pair.delta.source, type);
    pair.tensors = std::move(plan.tensors);
    for (const auto* notes : {&pair.base.notes, &pair.delta.notes, &plan.notes}) {
      pair.notes.insert(pair.notes.end(), notes->begin(), notes->end());
    }
    return pair;
  }

  [[nodiscard]] std::shared_ptr<const TensorSource> merged() const {
    return std::make_shared<const MergedSource>(base.source, delta.source, tensors, sign);
  }
  /// Folder of the delta's config and tokenizer, which are the target's.
  [[nodiscard]] std::filesystem::path folder() const {
    std::error_code ignored;
    return std::filesystem::is_directory(delta.path, ignored) ? delta.path
                                                              : delta.path.parent_path();
  }
  /// The merged model for any writer. @throws FormatError ZIYA-602, IoError
  [[nodiscard]] ModelSource model() const {
    ModelSource model{merged(), {}, model_name(delta.path)};
    for (const auto& file : model_files(folder())) {
      model.files.emplace(utf8_from_path(file.filename()), read_text_file(file));
    }
    return model;
  }
  /// Query heads; 0 when the delta's config does not say.
  [[nodiscard]] std::int64_t heads() const {
    try {
      return read_llama_shape(folder()).query_heads;
    } catch (const Error&) {
      return 0;
    }
  }
  /// One line that changes when the inputs, the rule or the form of the target change.
  [[nodiscard]] std::string identity(const std::string& form) const {
    nlohmann::json json;
    json["ziya"] = ZIYA_VERSION;
    json["rule"] = merge_rule(type, sign);
    json["form"] = form;
    json["base"] = files_identity(base.files);
    json["delta"] = files_identity(delta.files);
    return identity_text(json);
  }

 private:
  void refuse_mixed_up(const KindLimits& limits) const {
    const std::string base_name = utf8_from_path(base.path),
                      delta_name = utf8_from_path(delta.path);
    const auto refuse = [](const char* id, const std::string& message) {
      throw FormatError(id, "merge: " + message);
    };
    if (sign == MergeSign::add && base.metadata.contains("ziya.merge")) {
      refuse("ZIYA-605",
             "the base " + base_name + " is itself a merged model; expected the original base");
    }
    const auto expect = [&](const std::string& role, const std::string& name, ModelKind kind) {
      if (kind != ModelKind::adapter && kind != ModelKind::fengshen) return;
      refuse("ZIYA-604", "the " + role + " " + name + " is " +
                             (kind == ModelKind::adapter
                                  ? "a LoRA adapter: merge it with `ziya merge-lora`"
                                  : "in Fengshen's layout: convert it with `ziya convert`"));
    };
    const ModelKind base_kind = base.kind(limits), delta_kind = delta.kind(limits);
    expect("base", base_name, base_kind);
    expect("delta", delta_name, delta_kind);
    if (base_kind == ModelKind::delta) {
      refuse("ZIYA-604", "the base " + base_name +
                             " is a delta (its norm weights are near 0); expected the full weights "
                             "of the base model");
    }
    if (sign == MergeSign::subtract) {
      if (delta_kind != ModelKind::delta) return;
      refuse("ZIYA-604",
             "the model " + delta_name + " is a delta already (its norm weights are near 0)");
    }
    if (delta_kind != ModelKind::delta) {
      refuse("ZIYA-604", "the delta " + delta_name +
                             " holds full weights (its norm weights are not near 0): it is a model "
                             "already, there is nothing to merge");
    }
  }
};

ZIYA_NAMESPACE_END
