// SPDX-License-Identifier: Apache-2.0
// The element types of GGUF tensors by their numbers.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "ziya/config.hpp"
#include "ziya/core/dtype.hpp"

ZIYA_NAMESPACE_BEGIN

namespace gguf {

/// A type that files may name; `dtype` is none where the library does not know it.
struct TensorType {
  std::uint32_t number;
  std::string_view name;
  std::optional<DType> dtype;
  std::uint32_t file_type;  ///< `general.file_type` of a file whose matrices mostly have it
};

/// Source: ggml.h and the GGUF specification of the ggml project
inline constexpr TensorType tensor_types[] = {{0, "F32", DType::f32, 0},
                                              {1, "F16", DType::f16, 1},
                                              {2, "Q4_0", DType::q4_0, 2},
                                              {3, "Q4_1", DType::q4_1, 3},
                                              {4, "Q4_2", {}, 5},
                                              {5, "Q4_3", {}, 6},
                                              {6, "Q5_0", DType::q5_0, 8},
                                              {7, "Q5_1", DType::q5_1, 9},
                                              {8, "Q8_0", DType::q8_0, 7},
                                              {9, "Q8_1", {}, 0},
                                              {10, "Q2_K", DType::q2_k, 10},
                                              {11, "Q3_K", DType::q3_k, 12},
                                              {12, "Q4_K", DType::q4_k, 15},
                                              {13, "Q5_K", DType::q5_k, 17},
                                              {14, "Q6_K", DType::q6_k, 18},
                                              {15, "Q8_K", {}, 0},
                                              {16, "IQ2_XXS", {}, 19},
                                              {17, "IQ2_XS", {}, 20},
                                              {18, "IQ3_XXS", {}, 23},
                                              {19, "IQ1_S", {}, 24},
                                              {20, "IQ4_NL", DType::iq4_nl, 25},
                                              {21, "IQ3_S", {}, 26},
                                              {22, "IQ2_S", {}, 28},
                                              {23, "IQ4_XS", {}, 30},
                                              {24, "I8", DType::i8, 0},
                                              {25, "I16", DType::i16, 0},
                                              {26, "I32", DType::i32, 0},
                                              {27, "I64", DType::i64, 0},
                                              {28, "F64", DType::f64, 0},
                                              {29, "IQ1_M", {}, 31},
                                              {30, "BF16", DType::bf16, 32},
                                              {31, "Q4_0_4_4", {}, 33},
                                              {32, "Q4_0_4_8", {}, 34},
                                              {33, "Q4_0_8_8", {}, 35},
                                              {34, "TQ1_0", {}, 36},
                                              {35, "TQ2_0", {}, 37},
                                              {39, "MXFP4", {}, 38}};

/// Nullptr for a number that means no type.
constexpr const TensorType* tensor_type(std::uint32_t number) {
  for (const TensorType& type : tensor_types) {
    if (type.number == number) return &type;
  }
  return nullptr;
}
/// Nullptr for a type that the format does not have (u8, bool).
constexpr const TensorType* tensor_type(DType dtype) {
  for (const TensorType& type : tensor_types) {
    if (type.dtype == dtype) return &type;
  }
  return nullptr;
}

}  // namespace gguf

ZIYA_NAMESPACE_END
