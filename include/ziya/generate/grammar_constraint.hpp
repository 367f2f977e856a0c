// SPDX-License-Identifier: Apache-2.0
// Only tokens with which a text of a grammar goes on.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/error.hpp"
#include "ziya/generate/constraint_vocabulary.hpp"
#include "ziya/generate/grammar.hpp"
#include "ziya/generate/processors.hpp"
#include "ziya/generate/sampler_state.hpp"

ZIYA_NAMESPACE_BEGIN

/// What an answer has to be: a text of `grammar`, in the tokens of `vocabulary`. Both are shared.
struct Constraint {
  std::shared_ptr<const Grammar> grammar;
  std::shared_ptr<const ConstraintVocabulary> vocabulary;

  [[nodiscard]] explicit operator bool() const { return grammar != nullptr; }
};

/// Removes every token after whose bytes no text of the grammar goes on, and the end ids where no
/// text of it ends. Bytes are read as UTF-8: a character may come as several tokens.
class GrammarConstraint {
 public:
  /// @param continues the answer continues the prompt's text (GenerationConfig::continues)
  explicit GrammarConstraint(Constraint constraint = {}, std::vector<std::int32_t> eos_ids = {},
                             bool continues = false)
      : constraint_(std::move(constraint)), eos_ids_(std::move(eos_ids)), continues_(continues) {}

  /// @throws BackendError ZIYA-545 for a grammar that is too ambiguous, ZIYA-546 when the answer
  /// does not begin a text of the grammar, or no token of the vocabulary goes on
  void apply(SamplerState& state) const {
    if (!constraint_) return;
    GrammarProgress& progress = state.grammar;
    if (!progress.read(constraint_.grammar, *constraint_.vocabulary, state.answer(), continues_)) {
      throw BackendError("ZIYA-546", "grammar: the answer so far is no beginning of its texts");
    }
    const TokenSet& allowed = progress.allowed();
    const bool may_end = progress.may_end() && !eos_ids_.empty();
    if (allowed.empty() && !may_end) {
      throw BackendError("ZIYA-546",
                         "grammar: no token of the vocabulary goes on, and the answer may not end");
    }
    state.candidates.keep_if([&](std::int32_t id) {
      if (std::find(eos_ids_.begin(), eos_ids_.end(), id) != eos_ids_.end()) return may_end;
      return allowed.contains(id);
    });
  }

 private:
  Constraint constraint_;
  std::vector<std::int32_t> eos_ids_;
  bool continues_;
};

static_assert(LogitsProcessor<GrammarConstraint>);

ZIYA_NAMESPACE_END
