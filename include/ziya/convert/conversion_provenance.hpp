// SPDX-License-Identifier: Apache-2.0
// What a conversion records of itself: its rule, and the fingerprints of what it read and wrote.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "ziya/config.hpp"
#include "ziya/convert/audited_source.hpp"
#include "ziya/convert/fingerprint.hpp"
#include "ziya/convert/model_source.hpp"
#include "ziya/core/dtype.hpp"
#include "ziya/io/safetensors.hpp"

ZIYA_NAMESPACE_BEGIN

inline constexpr const char* target_fingerprint_key = "ziya.fingerprint";

/// Pieces that come too early for a hash and are kept; what does not fit is read again.
inline constexpr std::int64_t provenance_memory = std::int64_t{64} << 20;

/// What a fingerprint that is not known yet is in the metadata.
inline std::string unknown_fingerprint() { return std::string(64, '0'); }

/// The rule of a conversion that changes no number but its type. It does not name the layouts:
/// names, order of rows and fingerprints are Hugging Face's everywhere.
inline std::string conversion_rule(std::optional<DType> type) {
  return type ? "weights rounded to " + std::string(name(*type)) : "weights as stored";
}

/// The model with `rule` and, once it is written, the fingerprint of its tensors in its provenance.
/// As it is where it seals itself already, as merges do, which record their own inputs.
inline ModelSource with_source(ModelSource model, const std::string& rule) {
  if (model.seal) return model;
  const auto source =
      std::make_shared<const AuditedSource>(model.tensors, false, provenance_memory);
  model.tensors = source;
  model.memories.push_back(memory_of(source));
  model.provenance["ziya.convert"] = rule;
  model.provenance["ziya.source.fingerprint"] = unknown_fingerprint();
  model.seal = [source](const std::filesystem::path&) {
    source->read_rest();
    return safetensors::Metadata{{"ziya.source.fingerprint", source->fingerprint().model()}};
  };
  return model;
}

ZIYA_NAMESPACE_END
