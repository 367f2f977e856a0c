// SPDX-License-Identifier: Apache-2.0
// What a merge will do with each tensor, decided and checked before anything is written.
#pragma once

#include <algorithm>
#include <array>
#include <cctype>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/dtype.hpp"
#include "ziya/core/error.hpp"
#include "ziya/io/checkpoint.hpp"
#include "ziya/io/file.hpp"
#include "ziya/io/safetensors_writer.hpp"
#include "ziya/model/delta_check.hpp"

ZIYA_NAMESPACE_BEGIN

/// Tensors whose name contains one of these come from the delta as they are.
inline constexpr std::array<std::string_view, 3> copied_from_delta{"embed_tokens", "lm_head.weight",
                                                                   "self_attn.rotary_emb.inv_freq"};

inline bool is_copied_from_delta(std::string_view name) {
  return std::ranges::any_of(copied_from_delta, [&](std::string_view part) {
    return name.find(part) != std::string_view::npos;
  });
}

/// "layers.2" before "layers.10": numbers inside names compare as numbers.
inline bool natural_less(std::string_view a, std::string_view b) {
  const auto digit = [](char c) { return c >= '0' && c <= '9'; };
  const auto take_number = [&](std::string_view& text) {
    const auto end = std::ranges::find_if_not(text, digit);
    std::string_view number = text.substr(0, static_cast<std::size_t>(end - text.begin()));
    text.remove_prefix(number.size());
    number.remove_prefix(std::min(number.find_first_not_of('0'), number.size()));
    return number;
  };
  while (!a.empty() && !b.empty()) {
    if (digit(a.front()) && digit(b.front())) {
      const auto x = take_number(a), y = take_number(b);
      if (x.size() != y.size()) return x.size() < y.size();
      if (x != y) return x < y;
    } else if (a.front() != b.front()) {
      return a.front() < b.front();
    } else {
      a.remove_prefix(1), b.remove_prefix(1);
    }
  }
  return a.empty() && !b.empty();
}

struct DeltaPlan {
  std::vector<TensorSpec> tensors;  ///< of the target, in the order of the layers
  std::vector<std::string> notes;   ///< what a person should know
};

namespace detail {

inline void refuse_differing(const std::vector<std::string>& problems) {
  if (problems.empty()) return;
  constexpr std::size_t shown = 4;
  std::string text;
  for (std::size_t i = 0; i < std::min(problems.size(), shown); ++i) text += "; " + problems[i];
  if (problems.size() > shown) text += "; …";
  throw FormatError("ZIYA-603", "merge: base and delta do not fit together in " +
                                    std::to_string(problems.size()) + " tensors" + text);
}

/// The three mix-ups that otherwise give a model that prints garbage.
inline void refuse_mixed_up(const Checkpoint& base, const Checkpoint& delta) {
  const std::string base_name = utf8_from_path(base.path()),
                    delta_name = utf8_from_path(delta.path());
  if (base.metadata().contains("ziya.merge")) {
    throw FormatError("ZIYA-605", "merge: the base " + base_name +
                                      " is itself a merged model; expected the original base");
  }
  if (looks_like_delta(base)) {
    throw FormatError("ZIYA-604", "merge: the base " + base_name +
                                      " is a delta (its norm weights are near 0); expected the "
                                      "full weights of the base model");
  }
  if (!looks_like_delta(delta)) {
    throw FormatError("ZIYA-604", "merge: the delta " + delta_name +
                                      " holds full weights (its norm weights are not near 0): "
                                      "it is a model already, there is nothing to merge");
  }
}

}  // namespace detail

/// Compares base and delta and lists the target's tensors. Sums are fp16; copied floating-point
/// weights are fp16 too, as in the reference, which loads both models so; inv_freq keeps its type.
/// @throws FormatError ZIYA-603 when names, shapes or types do not fit, ZIYA-604 when one of the
/// two is not what it is given as, ZIYA-605 when the base is a merged model
inline DeltaPlan plan_delta(const Checkpoint& base, const Checkpoint& delta) {
  DeltaPlan plan;
  std::vector<std::string> problems;
  bool has_embedding = false;
  for (const TensorInfo& tensor : delta.tensors()) {
    TensorSpec spec{tensor.name, DType::f16, tensor.shape};
    if (is_copied_from_delta(tensor.name)) {
      has_embedding |= tensor.name.find("embed_tokens") != std::string::npos;
      if (tensor.name.ends_with("inv_freq") || !is_float(tensor.dtype)) spec.dtype = tensor.dtype;
    } else if (const TensorInfo* other = base.find(tensor.name); other == nullptr) {
      problems.push_back(tensor.name + " is missing from the base");
    } else if (other->shape != tensor.shape) {
      problems.push_back(tensor.name + " is " + other->shape.to_string() + " in the base and " +
                         tensor.shape.to_string() + " in the delta");
    } else if (!is_float(tensor.dtype) || !is_float(other->dtype)) {
      problems.push_back(tensor.name + " is not of a floating-point type");
    }
    plan.tensors.push_back(std::move(spec));
  }
  for (const TensorInfo& tensor : base.tensors()) {
    if (delta.find(tensor.name) != nullptr) continue;
    if (is_copied_from_delta(tensor.name)) {
      if (!tensor.name.ends_with("inv_freq")) {
        plan.notes.push_back(tensor.name + " is in the base only and was left out");
      }
    } else {
      problems.push_back(tensor.name + " is missing from the delta");
    }
  }
  if (!has_embedding) problems.emplace_back("embed_tokens is missing from the delta");
  detail::refuse_differing(problems);
  detail::refuse_mixed_up(base, delta);
  std::ranges::sort(plan.tensors, natural_less, &TensorSpec::name);
  return plan;
}

ZIYA_NAMESPACE_END
