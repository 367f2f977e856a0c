// SPDX-License-Identifier: Apache-2.0
// Which type each tensor of a model gets when the model is quantised.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/dtype.hpp"
#include "ziya/core/error.hpp"
#include "ziya/io/tensor_spec.hpp"
#include "ziya/model/llama_names.hpp"

ZIYA_NAMESPACE_BEGIN

/// A type's name, or a mixture's: q3_k_m, q4_k_m and q5_k_m give the matrices that harm most when
/// they are coarse (values and the MLP's output, in some layers) more bits, as llama.cpp's mixtures
/// of these names do.
struct QuantisationMix {
  std::string name;
  DType type = DType::f16;  ///< of most matrices
  bool mixed = false;
};

/// @throws ArgumentError ZIYA-131 for int8 and fp8, which are made at load time, and for unknown
/// names
inline QuantisationMix quantisation_mix(const std::string& name) {
  if (name == "int8" || name == "i8" || name == "fp8") {
    throw ArgumentError("ZIYA-131", "quantize: " + name +
                                        " is made when a model is loaded (--dtype) and is never "
                                        "written; q8_0 is the stored type of that size");
  }
  const bool mixed = name == "q3_k_m" || name == "q4_k_m" || name == "q5_k_m";
  const auto type = dtype_from_name(mixed ? name.substr(0, 4) : name);
  if (!type || (!is_plain_float(*type) && !is_quantised(*type))) {
    throw ArgumentError("ZIYA-131", "quantize: type " + name +
                                        " is not one of q8_0, q6_k, q5_k_m, q5_k, q5_1, q5_0, "
                                        "q4_k_m, q4_k, q4_1, q4_0, iq4_nl, q3_k_m, q3_k, q2_k, "
                                        "f16, bf16, f32");
  }
  return {name, *type, mixed};
}

/// What stands in for a type whose blocks do not divide rows of `columns`, as in llama.cpp: the
/// type of 32-element blocks nearest in size, or f16 where 32 does not divide them either.
constexpr DType fallback_type(DType type, std::int64_t columns) {
  if (columns % info(type).block_elements == 0) return type;
  if (columns % 32 != 0) return DType::f16;
  switch (type) {
    case DType::q4_k:
      return DType::q5_0;
    case DType::q5_k:
      return DType::q5_1;
    case DType::q6_k:
      return DType::q8_0;
    default:  // q2_k, q3_k
      return DType::iq4_nl;
  }
}

/// The target of one tensor, and why it is another than the type asked for.
struct PlannedTensor {
  DType type = DType::f32;
  std::string reason;  ///< empty: it has the type that was asked for
};

/// '*' stands for any characters, '?' for one. A pattern without either matches anywhere.
inline bool matches(std::string_view pattern, std::string_view name) {
  if (pattern.find_first_of("*?") == std::string_view::npos) {
    return name.find(pattern) != std::string_view::npos;
  }
  std::size_t p = 0, n = 0, star = std::string_view::npos, retry = 0;
  while (n < name.size()) {
    if (p < pattern.size() && (pattern[p] == '?' || pattern[p] == name[n])) {
      ++p, ++n;
    } else if (p < pattern.size() && pattern[p] == '*') {
      star = p++, retry = n;
    } else if (star != std::string_view::npos) {
      p = star + 1, n = ++retry;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

/// Types for the tensors of one model, under Hugging Face's names:
/// - what is no matrix (norms, biases) becomes f32;
/// - a tensor that a `keep` pattern matches keeps its type;
/// - the head, or the embedding where it is the head too, becomes q6_k, unless the type is q8_0 or
///   a float;
/// - every other matrix gets the type, or what the mixture says;
/// - where blocks do not divide the rows, fallback_type().
class QuantisationPlan {
 public:
  QuantisationPlan(QuantisationMix mix, const std::vector<TensorSpec>& tensors,
                   std::vector<std::string> keep = {})
      : mix_(std::move(mix)), keep_(std::move(keep)) {
    for (const TensorSpec& tensor : tensors) {
      tied_ = tied_ && tensor.name != llama_names::head;
      if (const auto layer = layer_of(tensor.name)) layers_ = std::max(layers_, *layer + 1);
    }
    for (const TensorSpec& tensor : tensors) planned_.push_back(plan(tensor));
  }

  [[nodiscard]] const QuantisationMix& mix() const { return mix_; }
  /// In the order of the tensors given.
  [[nodiscard]] const std::vector<PlannedTensor>& tensors() const { return planned_; }

 private:
  static std::optional<std::int64_t> layer_of(std::string_view name) {
    if (!name.starts_with(llama_names::layers)) return std::nullopt;
    std::int64_t layer = 0;
    std::size_t digits = 0;
    for (const char c : name.substr(llama_names::layers.size())) {
      if (c < '0' || c > '9' || digits == 9) break;
      layer = layer * 10 + (c - '0');
      ++digits;
    }
    return digits > 0 ? std::optional(layer) : std::nullopt;
  }

  PlannedTensor plan(const TensorSpec& tensor) const {
    if (!is_float(tensor.dtype) && !is_quantised(tensor.dtype)) return {tensor.dtype, "no weights"};
    if (tensor.shape.rank() != 2) return {DType::f32, "no matrix"};
    for (const std::string& pattern : keep_) {
      if (matches(pattern, tensor.name)) return {tensor.dtype, "kept"};
    }
    PlannedTensor result{mix_.type, ""};
    if (is_plain_float(mix_.type)) return result;
    const bool head = tensor.name == (tied_ ? llama_names::embedding : llama_names::head);
    if (head) {
      if (mix_.type != DType::q8_0) result = {DType::q6_k, "head"};
    } else if (mix_.mixed) {
      result = mixed(tensor.name);
    }
    if (result.type == mix_.type) result.reason.clear();
    const std::int64_t columns = tensor.shape[1];
    const DType fits = fallback_type(result.type, columns);
    if (fits != result.type) {
      result.reason = "rows of " + std::to_string(columns) + " are not whole blocks of " +
                      std::string(ziya::name(result.type));
      result.type = fits;
    }
    return result;
  }

  /// First and last eighths of the layers, and every third between them.
  [[nodiscard]] bool sensitive(std::int64_t layer) const {
    const std::int64_t eighth = layers_ / 8;
    return layer < eighth || layer >= 7 * layers_ / 8 || (layer - eighth) % 3 == 2;
  }
  [[nodiscard]] PlannedTensor mixed(std::string_view name) const {
    const auto layer = layer_of(name);
    if (!layer) return {mix_.type, ""};
    const bool values = name.ends_with("self_attn.v_proj.weight");
    const bool down = name.ends_with("mlp.down_proj.weight");
    const bool output = name.ends_with("self_attn.o_proj.weight");
    if (mix_.type == DType::q3_k) {
      if (values) return {*layer < 2 ? DType::q5_k : DType::q4_k, "values"};
      if (down && *layer < layers_ / 16) return {DType::q5_k, "MLP output"};
      if (down && sensitive(*layer)) return {DType::q4_k, "MLP output"};
      if (output) return {DType::q4_k, "attention output"};
      return {mix_.type, ""};
    }
    if ((values || down) && sensitive(*layer)) {
      return {DType::q6_k, values ? "values" : "MLP output"};
    }
    return {mix_.type, ""};
  }

  QuantisationMix mix_;
  std::vector<std::string> keep_;
  std::vector<PlannedTensor> planned_;
  std::int64_t layers_ = 0;
  bool tied_ = true;
};

ZIYA_NAMESPACE_END
