// SPDX-License-Identifier: Apache-2.0
// What every op is run on: each instruction set of the machine, on 1, 2 and 5 threads.
#pragma once

#include <catch2/catch.hpp>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "ziya/backend/cpu/context.hpp"
#include "ziya/core/dtype.hpp"

namespace test {

inline bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() &&
         (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
}

/// f(isa) for every instruction set of the machine.
template <class F>
void on_every_isa(F&& f) {
  for (const ziya::Isa isa : ziya::available_isas()) {
    INFO("isa " << name(isa));
    f(isa);
  }
}

/// So many tokens, or more, may sum their products with floats in another order than fewer do.
inline std::int64_t other_order_from(ziya::Isa isa) {
  const ziya::TokenPacking* packing =
      ziya::Context<ziya::Cpu>({.threads = 1, .isa = isa}).kernels().packings[1];
  return packing == nullptr ? std::numeric_limits<std::int64_t>::max() : packing->least_tokens;
}

/// Whether products with weights of a type round their activations to bf16.
inline bool rounds_to_bf16(ziya::Isa isa, ziya::DType dtype) {
  return dtype == ziya::DType::bf16 &&
         ziya::Context<ziya::Cpu>({.threads = 1, .isa = isa}).kernels().bf16_packing != nullptr;
}
/// The best instruction set that does not.
inline ziya::Isa exact_isa() {
  const ziya::Isa best = ziya::best_isa();
  return rounds_to_bf16(best, ziya::DType::bf16) ? ziya::Isa::avx2 : best;
}
/// Activations as those products meet them.
inline std::vector<float> as_met(ziya::Isa isa, ziya::DType dtype, std::vector<float> x) {
  if (!rounds_to_bf16(isa, dtype)) return x;
  for (float& value : x) {
    value = ziya::to_float(ziya::to_bfloat16(value));
    if (std::fpclassify(value) == FP_SUBNORMAL) value = 0;
  }
  return x;
}

/// So many adjacent rows of a sequence, or more, may sum their attention in another order than
/// fewer do.
inline std::int64_t other_attention_from(ziya::Isa isa) {
  const ziya::AttentionTiles* tiles =
      ziya::Context<ziya::Cpu>({.threads = 1, .isa = isa}).kernels().attention;
  return tiles == nullptr ? std::numeric_limits<std::int64_t>::max() : tiles->least_rows;
}

/// compute(ctx) → floats, which must not depend on the number of threads.
template <class F>
std::vector<float> on_threads(ziya::Isa isa, F&& compute) {
  std::vector<float> first;
  for (const int threads : {1, 2, 5}) {
    INFO(threads << " threads");
    ziya::Context<ziya::Cpu> ctx({.threads = threads, .isa = isa});
    const std::vector<float> result = compute(ctx);
    if (threads == 1) first = result;
    REQUIRE(same_bits(result, first));
  }
  return first;
}

/// Row `row` of a (rows, width) array.
inline std::vector<float> row_of(const std::vector<float>& values, std::int64_t row,
                                 std::int64_t width) {
  return {values.begin() + row * width, values.begin() + (row + 1) * width};
}

/// Id of the error that f throws as an E; empty when it throws none.
template <class E, class F>
std::string error_id(F&& f) {
  try {
    f();
  } catch (const E& error) {
    return error.id();
  }
  return "";
}

}  // namespace test
