// SPDX-License-Identifier: Apache-2.0
// The bundled miniature, merged for the tests of one program.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "model/fixture.hpp"
#include "ziya/text/tokenizer.hpp"

namespace fixture {

inline std::filesystem::path tiny_folder(const std::string& part) {
  return std::filesystem::path(ZIYA_EXAMPLES) / "ziya-tiny" / part;
}

/// base + delta in fp16 by the reference's rule; nothing of convert/ is used, so that the tests of
/// models and generation do not depend on it.
inline Tensors merged_tiny() {
  Tensors base = read_all(tiny_folder("base")), delta = read_all(tiny_folder("delta"));
  Tensors merged;
  for (auto& [name, tensor] : delta) {
    if (name.find("inv_freq") != std::string::npos) continue;
    const bool copied = name.find("embed_tokens") != std::string::npos || name == "lm_head.weight";
    if (!copied) {
      std::vector<float> sum = widened(base.at(name));
      const std::vector<float> difference = widened(tensor);
      for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += difference[i];
      tensor = stored(tensor.shape, sum, DType::f16);
    }
    merged[name] = std::move(tensor);
  }
  return merged;
}

/// A folder with the tokenizer of the miniature and a config that `change` may have changed; the
/// weights are `tensors`.
inline void write_tiny(const std::filesystem::path& folder, const Tensors& tensors,
                       const nlohmann::json& changes = nlohmann::json::object()) {
  for (const char* file : {"tokenizer.model", "tokenizer_config.json", "added_tokens.json",
                           "special_tokens_map.json", "generation_config.json"}) {
    std::filesystem::copy(tiny_folder("delta") / file, folder / file);
  }
  nlohmann::json config = read_json_file(tiny_folder("delta") / "config.json");
  config.update(changes);
  write_file(folder / "config.json", config.dump());
  write_weights(folder, tensors);
}

class ZiyaTiny {
 public:
  static const ZiyaTiny& instance() {
    static const ZiyaTiny tiny;
    return tiny;
  }
  [[nodiscard]] const std::filesystem::path& folder() const { return folder_.path(); }
  [[nodiscard]] const Tensors& tensors() const { return tensors_; }
  [[nodiscard]] const CpuModel& model() const { return *model_; }
  [[nodiscard]] const Tokenizer& tokenizer() const { return *tokenizer_; }
  /// expected.json: poems, questions, conversations.
  [[nodiscard]] const nlohmann::json& expected() const { return expected_; }

 private:
  ZiyaTiny() : tensors_(merged_tiny()) {
    write_tiny(folder_.path(), tensors_);
    model_.emplace(CpuModel::load(folder_.path()));
    tokenizer_.emplace(Tokenizer::load(folder_.path()));
    expected_ = read_json_file(tiny_folder("expected.json"));
  }

  TemporaryFolder folder_;
  Tensors tensors_;
  std::optional<CpuModel> model_;
  std::optional<Tokenizer> tokenizer_;
  nlohmann::json expected_;
};

}  // namespace fixture
