// SPDX-License-Identifier: Apache-2.0
// Right and wrong bases of a delta: each mistake is found, and called by its name.
#include "ziya/convert/merge_check.hpp"

#include <catch2/catch.hpp>
#include <cstring>
#include <functional>
#include <map>

#include "ziya/convert/open_source.hpp"
#include "ziya/convert/typed_source.hpp"
#include "ziya/core/random.hpp"

namespace merge_check_test {

const std::filesystem::path tiny = ZIYA_EXAMPLES "/ziya-tiny";

/// A source whose tensors may be replaced.
struct Edited final : ziya::TensorSource {
  explicit Edited(std::shared_ptr<const ziya::TensorSource> from) : source(std::move(from)) {}
  std::shared_ptr<const ziya::TensorSource> source;
  std::map<std::size_t, std::vector<std::byte>> replaced{};

  [[nodiscard]] const std::vector<ziya::TensorSpec>& tensors() const override {
    return source->tensors();
  }
  void read(std::size_t index, std::int64_t first, std::span<std::byte> out) const override {
    const auto found = replaced.find(index);
    if (found == replaced.end()) return source->read(index, first, out);
    std::memcpy(out.data(), found->second.data() + ziya::bytes_of(tensors()[index].dtype, first),
                out.size());
  }
  [[nodiscard]] std::vector<std::byte> whole(const std::string& name) const {
    const std::size_t i = find_tensor(*source, name);
    std::vector<std::byte> bytes(static_cast<std::size_t>(tensors()[i].bytes()));
    source->read(i, 0, bytes);
    return bytes;
  }
  /// Row r becomes what row order(r) was.
  void reorder(const std::string& name, const std::function<std::size_t(std::size_t)>& order) {
    const std::size_t i = find_tensor(*source, name);
    const auto old = whole(name);
    const std::size_t rows = static_cast<std::size_t>(tensors()[i].shape[0]);
    const std::size_t row = old.size() / rows;
    std::vector<std::byte> bytes(old.size());
    for (std::size_t r = 0; r < rows; ++r) {
      std::memcpy(bytes.data() + r * row, old.data() + order(r) * row, row);
    }
    replaced[i] = std::move(bytes);
  }
  void swap(const std::string& a, const std::string& b) {
    replaced[find_tensor(*source, a)] = whole(b);
    replaced[find_tensor(*source, b)] = whole(a);
  }
};

struct Fixture {
  std::shared_ptr<const ziya::TensorSource> delta = ziya::open_source(tiny / "delta").source;
  Edited base{ziya::open_source(tiny / "base").source};

  [[nodiscard]] std::vector<ziya::MergeFinding> findings() const {
    return ziya::MergeCheck(base, *delta, 4).run();
  }
  [[nodiscard]] std::string only_finding(const std::string& id) const {
    const auto found = findings();
    for (const auto& finding : found) UNSCOPED_INFO(finding.id << ": " << finding.text);
    REQUIRE(found.size() == 1);
    REQUIRE(found[0].id == id);
    return found[0].text;
  }
};

std::string part(int layer, const char* name) {
  return "model.layers." + std::to_string(layer) + "." + name + ".weight";
}
constexpr const char* matrices[] = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
                                    "self_attn.o_proj", "mlp.gate_proj",    "mlp.up_proj",
                                    "mlp.down_proj"};

TEST_CASE("the base of a delta raises no doubt", "[merge_check]") {
  const Fixture fixture;
  REQUIRE(fixture.findings().empty());
  REQUIRE(ziya::MergeCheck(fixture.base, *fixture.delta, 4).embedding_cosine() > 0.9);
}

TEST_CASE("q and k in Meta's order are recognised", "[merge_check]") {
  Fixture fixture;
  constexpr std::size_t head = 64;
  // Hugging Face's row i + j · d/2 of a head is Meta's row 2i + j.
  const auto meta = [](std::size_t row) {
    const std::size_t in = row % head;
    return row - in + in / 2 + in % 2 * (head / 2);
  };
  for (int layer = 0; layer < 3; ++layer) {
    fixture.base.reorder(part(layer, "self_attn.q_proj"), meta);
    fixture.base.reorder(part(layer, "self_attn.k_proj"), meta);
  }
  REQUIRE_THAT(fixture.only_finding("ZIYA-651"), Catch::Contains("Meta's order"));
}

TEST_CASE("another base is recognised", "[merge_check]") {
  Fixture fixture;
  ziya::Random random{.seed = 7};
  for (std::size_t i = 0; i < fixture.base.tensors().size(); ++i) {
    const auto& tensor = fixture.base.tensors()[i];
    if (tensor.shape.rank() != 2) continue;
    std::vector<ziya::Half> values(static_cast<std::size_t>(tensor.shape.elements()));
    for (auto& value : values) value = ziya::to_half(float((random.uniform() - 0.5) * 0.1));
    const auto bytes = std::as_bytes(std::span(values));
    fixture.base.replaced[i] = {bytes.begin(), bytes.end()};
  }
  const auto found = fixture.findings();
  REQUIRE(found.size() == 2);
  REQUIRE(found[0].id == "ZIYA-650");
  REQUIRE_THAT(found[0].text, Catch::Contains("another family"));
  REQUIRE(found[1].id == "ZIYA-653");
  REQUIRE_THAT(found[1].text, Catch::Contains("another base"));
}

TEST_CASE("rows in another order are recognised", "[merge_check]") {
  Fixture fixture;
  SECTION("of the embedding: another tokenizer") {
    fixture.base.reorder("model.embed_tokens.weight", [](std::size_t row) {
      return row * 7 % 1800 == row ? row : (row + 901) % 1800;
    });
    REQUIRE_THAT(fixture.only_finding("ZIYA-650"), Catch::Contains("another order"));
  }
  SECTION("of the values") {
    for (int layer = 0; layer < 3; ++layer) {
      fixture.base.reorder(part(layer, "self_attn.v_proj"),
                           [](std::size_t row) { return 255 - row; });
    }
    REQUIRE_THAT(fixture.only_finding("ZIYA-654"), Catch::Contains("self_attn.v_proj"));
  }
}

TEST_CASE("swapped layers are recognised", "[merge_check]") {
  Fixture fixture;
  for (const char* name : matrices) fixture.base.swap(part(0, name), part(2, name));
  const std::string text = fixture.only_finding("ZIYA-652");
  REQUIRE_THAT(text, Catch::Contains("layer 0 is at 2") && Catch::Contains("layer 2 is at 0"));
}

/// Halves whose row norms are those of rotary pairs: alike within a pair, not between pairs.
std::vector<std::byte> with_paired_rows(const ziya::TensorSpec& tensor, std::uint64_t seed) {
  constexpr std::int64_t head = 64;
  ziya::Random random{.seed = seed};
  std::vector<double> sizes;  // of the pairs i, i + d/2 of all heads
  for (std::int64_t pair = 0; pair < tensor.shape[0] / 2; ++pair) {
    sizes.push_back(0.01 + 0.1 * random.uniform());
  }
  std::vector<ziya::Half> values;
  for (std::int64_t row = 0; row < tensor.shape[0]; ++row) {
    const std::int64_t pair = row / head * (head / 2) + row % head % (head / 2);
    for (std::int64_t i = 0; i < tensor.shape[1]; ++i) {
      values.push_back(ziya::to_half(
          static_cast<float>(sizes[static_cast<std::size_t>(pair)] * (random.uniform() - 0.5))));
    }
  }
  const auto bytes = std::as_bytes(std::span(values));
  return {bytes.begin(), bytes.end()};
}

/// The delta as it would be had it been made in 32 bits: its numbers are no halves.
std::shared_ptr<const Edited> in_floats(const std::shared_ptr<const ziya::TensorSource>& delta) {
  const auto wide = std::make_shared<Edited>(std::make_shared<const ziya::TypedSource>(
      delta, [](const ziya::TensorSpec&) { return ziya::DType::f32; }));
  for (std::size_t i = 0; i < wide->tensors().size(); ++i) {
    std::vector<std::byte> bytes = wide->whole(wide->tensors()[i].name);
    for (std::size_t at = 0; at < bytes.size(); at += 4) bytes[at] ^= std::byte{1};
    wide->replaced[i] = std::move(bytes);
  }
  return wide;
}

TEST_CASE("where a delta's numbers say nothing, row norms tell q and k in Meta's order",
          "[merge_check]") {
  Fixture fixture;
  fixture.delta = in_floats(fixture.delta);
  const auto pairing = [&] { return ziya::MergeCheck(fixture.base, *fixture.delta, 4).pairing(); };
  // The miniature's norms have no pairs: in either order far below the limit.
  REQUIRE(pairing() == Approx(0.137).margin(0.001));
  REQUIRE(fixture.findings().empty());
  const auto rotary = [&](const std::function<void(const std::string&)>& edit) {
    for (int layer = 0; layer < 3; ++layer) {
      for (const char* name : {"self_attn.q_proj", "self_attn.k_proj"}) edit(part(layer, name));
    }
  };
  rotary([&](const std::string& name) {
    const std::size_t i = find_tensor(fixture.base, name);
    fixture.base.replaced[i] = with_paired_rows(fixture.base.tensors()[i], i);
  });
  REQUIRE(pairing() < -0.75);
  REQUIRE(fixture.findings().empty());

  Edited meta(std::make_shared<const Edited>(fixture.base));
  rotary([&](const std::string& name) {
    meta.reorder(name, [](std::size_t row) {
      const std::size_t in = row % 64;
      return row - in + in / 2 + in % 2 * 32;
    });
  });
  const ziya::MergeCheck check(meta, *fixture.delta, 4);
  REQUIRE(check.pairing() > 0.8);
  const auto found = check.run();
  REQUIRE(found.size() == 1);
  REQUIRE(found[0].id == "ZIYA-651");
  REQUIRE_THAT(found[0].text, Catch::Contains("row norms of pairs"));
  ziya::MergeLimits limits;
  limits.pairing = 1;
  REQUIRE(ziya::MergeCheck(meta, *fixture.delta, 4, limits).run().empty());
}

TEST_CASE("how alike the rows of one token are is a limit too", "[merge_check]") {
  Fixture fixture;
  fixture.base.reorder("model.embed_tokens.weight",
                       [](std::size_t row) { return (row + 901) % 1800; });
  ziya::MergeLimits limits;
  limits.same_row = 1.01;
  const auto found = ziya::MergeCheck(fixture.base, *fixture.delta, 4, limits).run();
  REQUIRE(found.size() == 1);
  REQUIRE_THAT(found[0].text, Catch::Contains("another family"));
}

TEST_CASE("one damaged layer is named", "[merge_check]") {
  Fixture fixture;
  auto bytes = fixture.base.whole(part(1, "mlp.down_proj"));
  for (std::size_t i = 1; i < bytes.size(); i += 2) bytes[i] ^= std::byte{0x0c};
  fixture.base.replaced[find_tensor(fixture.base, part(1, "mlp.down_proj"))] = bytes;
  REQUIRE_THAT(fixture.only_finding("ZIYA-653"), Catch::Contains("in layers 1"));
}

}  // namespace merge_check_test
