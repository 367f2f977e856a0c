// SPDX-License-Identifier: Apache-2.0
// Merging as a source: every pairing of formats and types, by the formula.
#include "ziya/convert/merged_source.hpp"

#include <catch2/catch.hpp>
#include <iostream>

#include "support/random.hpp"
#include "ziya/convert/fingerprint.hpp"
#include "ziya/convert/open_source.hpp"
#include "ziya/io/tensor_sample.hpp"

namespace merged_source_test {

using ziya::DType;

const std::filesystem::path shared = ZIYA_SHARED_DATA;

/// Random values in one tensor of any floating-point type.
struct Values final : ziya::TensorSource {
  Values(DType type, std::uint64_t seed) : values(test::random_values(1000, seed, 3)) {
    specs = {{"model.embed_tokens.weight", type, {10, 100}}, {"w", type, {10, 100}}};
    for (const float value : values) {
      bytes.resize(bytes.size() + static_cast<std::size_t>(ziya::info(type).block_bytes));
      std::byte* to = bytes.data() + bytes.size() - ziya::info(type).block_bytes;
      if (type == DType::f64) {
        const auto wide = static_cast<double>(value) * (1 + 1e-12);
        std::memcpy(to, &wide, sizeof wide);
      } else {
        test::store(type, to, value);
      }
    }
  }
  [[nodiscard]] const std::vector<ziya::TensorSpec>& tensors() const override { return specs; }
  void read(std::size_t index, std::int64_t first, std::span<std::byte> out) const override {
    std::memcpy(out.data(), bytes.data() + ziya::bytes_of(specs[index].dtype, first), out.size());
  }
  /// Element i in type `to`, after it was stored in its own.
  [[nodiscard]] float at(std::size_t i, DType to) const {
    return test::rounded(to, test::rounded(specs[0].dtype, values[i]));
  }
  std::vector<ziya::TensorSpec> specs;
  std::vector<float> values;
  std::vector<std::byte> bytes{};
};

float element(DType type, const std::byte* data, std::size_t i) {
  if (type == DType::f32) return reinterpret_cast<const float*>(data)[i];
  if (type == DType::f16) return ziya::to_float(reinterpret_cast<const ziya::Half*>(data)[i]);
  return ziya::to_float(reinterpret_cast<const ziya::BFloat16*>(data)[i]);
}

TEST_CASE("every pairing of types, added and subtracted in every type", "[merged_source]") {
  for (const DType a : {DType::f16, DType::bf16, DType::f32, DType::f64}) {
    for (const DType b : {DType::f16, DType::bf16, DType::f32, DType::f64}) {
      for (const DType to : {DType::f16, DType::bf16, DType::f32}) {
        CAPTURE(name(a), name(b), name(to));
        const auto base = std::make_shared<const Values>(a, 1);
        const auto delta = std::make_shared<const Values>(b, 2);
        const auto plan = ziya::plan_delta(*base, *delta, to);
        for (const auto sign : {ziya::MergeSign::add, ziya::MergeSign::subtract}) {
          const ziya::MergedSource merged(base, delta, plan.tensors, sign);
          for (std::size_t t = 0; t < 2; ++t) {
            std::vector<std::byte> out(static_cast<std::size_t>(plan.tensors[t].bytes()));
            const std::size_t half = out.size() / 2;
            merged.read(t, 500, std::span(out).subspan(half));
            merged.read(t, 0, std::span(out).first(half));
            const bool copied = plan.tensors[t].name != "w";
            for (std::size_t i = 0; i < 1000; ++i) {
              const float x = base->at(i, to), y = delta->at(i, to);
              const float expected =
                  copied ? y : test::rounded(to, sign == ziya::MergeSign::add ? y + x : y - x);
              if (element(to, out.data(), i) != expected) REQUIRE(i == 1000);
            }
          }
        }
      }
    }
  }
}

TEST_CASE("every pairing of formats gives the same merge", "[merged_source]") {
  if (!std::filesystem::exists(shared / "torch-fixtures")) {
    std::cout << "SKIPPED: " << shared << " is absent\n";
    return;
  }
  const auto hf = ziya::open_source(shared / "stories260K-hf");
  std::vector<ziya::OpenedSource> sources;
  for (const char* name :
       {"bin", "bin-legacy", "bin-sharded", "safetensors-sharded", "meta", "meta-mp2"}) {
    sources.push_back(ziya::open_source(shared / "torch-fixtures" / name));
  }
  sources.push_back(hf);
  std::string expected;
  for (const auto& base : sources) {
    for (const auto& delta : sources) {
      INFO(base.path << " + " << delta.path);
      std::vector<ziya::TensorSpec> plan;  // of what all have: some hold the tied head twice
      for (const auto& tensor : hf.source->tensors()) {
        if (tensor.name != ziya::llama_names::head) {
          plan.push_back({tensor.name, DType::f16, tensor.shape});
        }
      }
      const ziya::MergedSource merged(base.source, delta.source, plan);
      const std::string found = ziya::fingerprint(merged).model();
      if (expected.empty()) expected = found;
      REQUIRE(found == expected);
    }
  }
  const ziya::MergedSource merged(hf.source, hf.source, {{"model.norm.weight", DType::f16, {64}}});
  std::vector<ziya::Half> out(64);
  merged.read(0, 0, std::as_writable_bytes(std::span(out)));
  const auto stored =
      ziya::read_floats(*hf.source, find_tensor(*hf.source, "model.norm.weight"), 0, 64);
  for (std::size_t i = 0; i < 64; ++i) {
    const float half = ziya::to_float(ziya::to_half(stored[i]));
    REQUIRE(ziya::to_float(out[i]) == ziya::to_float(ziya::to_half(half + half)));
  }
}

}  // namespace merged_source_test
