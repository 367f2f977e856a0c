// SPDX-License-Identifier: Apache-2.0
// What a merge will do with each tensor, decided and checked before anything is written.
#pragma once

#include <algorithm>
#include <array>
#include <cctype>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/dtype.hpp"
#include "ziya/core/error.hpp"
#include "ziya/io/tensor_source.hpp"
#include "ziya/io/tensor_spec.hpp"

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

}  // namespace detail

/// Compares base and delta and lists the target's tensors. Sums have type `type`; copied
/// floating-point weights too, as in the reference, which loads both models as fp16; inv_freq keeps
/// its type. The same plan serves a model and its base, for making the delta between them.
/// @param type f16 (the reference's rule), bf16 or f32
/// @throws FormatError ZIYA-603 when names, shapes or types do not fit
inline DeltaPlan plan_delta(const TensorSource& base, const TensorSource& delta,
                            DType type = DType::f16) {
  DeltaPlan plan;
  std::vector<std::string> problems;
  std::map<std::string_view, const TensorSpec*> in_base, in_delta;
  for (const TensorSpec& tensor : base.tensors()) in_base.emplace(tensor.name, &tensor);
  for (const TensorSpec& tensor : delta.tensors()) in_delta.emplace(tensor.name, &tensor);
  bool has_embedding = false;
  for (const TensorSpec& tensor : delta.tensors()) {
    TensorSpec spec{tensor.name, type, tensor.shape};
    const auto found = in_base.find(tensor.name);
    if (is_copied_from_delta(tensor.name)) {
      has_embedding |= tensor.name.find("embed_tokens") != std::string::npos;
      if (tensor.name.ends_with("inv_freq") || !is_float(tensor.dtype)) spec.dtype = tensor.dtype;
    } else if (found == in_base.end()) {
      problems.push_back(tensor.name + " is missing from the base");
    } else if (found->second->shape != tensor.shape) {
      problems.push_back(tensor.name + " is " + found->second->shape.to_string() +
                         " in the base and " + tensor.shape.to_string() + " in the delta");
    } else if (!is_float(tensor.dtype) || !is_float(found->second->dtype)) {
      problems.push_back(tensor.name + " is not of a floating-point type");
    }
    plan.tensors.push_back(std::move(spec));
  }
  for (const TensorSpec& tensor : base.tensors()) {
    if (in_delta.contains(tensor.name)) continue;
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
  std::ranges::sort(plan.tensors, natural_less, &TensorSpec::name);
  return plan;
}

ZIYA_NAMESPACE_END
