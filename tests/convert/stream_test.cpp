// SPDX-License-Identifier: Apache-2.0
// Streaming: the same bytes in the same order at any number of threads, and every way to end early.
#include "ziya/convert/stream.hpp"

#include <catch2/catch.hpp>
#include <cstring>

#include "support/errors.hpp"

namespace stream_test {

using ziya::DType;
using ziya::TensorSpec;

/// Element i of tensor t is a function of both, so that a misplaced piece is seen.
struct Counting final : ziya::TensorSource {
  std::vector<TensorSpec> specs{{"a", DType::f16, {1100, 4096}},
                                {"empty", DType::f16, {0, 4}},
                                {"b", DType::f32, {3}},
                                {"c", DType::q4_0, {70000, 64}},
                                {"wide", DType::f32, {2, 3'000'000}}};
  int fail_at = -1;
  [[nodiscard]] const std::vector<TensorSpec>& tensors() const override { return specs; }
  void read(std::size_t index, std::int64_t first, std::span<std::byte> out) const override {
    if (static_cast<int>(index) == fail_at) throw ziya::IoError("ZIYA-202", "a bad sector");
    const auto start = ziya::bytes_of(specs[index].dtype, first);
    for (std::size_t i = 0; i < out.size(); ++i) {
      out[i] = std::byte((static_cast<std::uint64_t>(start) + i) * 2654435761U >> 24 & 0xff) ^
               std::byte(index);
    }
  }
};

struct Collecting {
  std::vector<TensorSpec> specs;
  std::vector<std::string> names{};
  std::vector<std::byte> bytes{};
  [[nodiscard]] const std::vector<TensorSpec>& tensors() const { return specs; }
  void write(std::string_view name, std::span<const std::byte> data) {
    names.emplace_back(name);
    bytes.insert(bytes.end(), data.begin(), data.end());
  }
};

TEST_CASE("a stream is the source's bytes in the writer's order", "[stream]") {
  const Counting source;
  std::vector<TensorSpec> order{source.specs[3], source.specs[1], source.specs[0], source.specs[4],
                                source.specs[2]};
  std::vector<std::byte> expected;
  for (const std::size_t index : {3U, 1U, 0U, 4U, 2U}) {
    std::vector<std::byte> whole(static_cast<std::size_t>(source.specs[index].bytes()));
    source.read(index, 0, whole);
    expected.insert(expected.end(), whole.begin(), whole.end());
  }
  std::vector<std::string> names;
  for (const int threads : {1, 2, 7, 0}) {
    Collecting writer{order};
    ziya::ProgressEvent last;
    ziya::stream(writer, source, {.threads = threads, .progress = [&](const auto& event) {
                                    REQUIRE(event.bytes > last.bytes);
                                    REQUIRE(event.seconds >= last.seconds);
                                    last = event;
                                  }});
    REQUIRE(writer.bytes == expected);
    REQUIRE((names.empty() || names == writer.names));
    names = writer.names;
    REQUIRE(last.bytes == last.total);
    REQUIRE(last.total == static_cast<std::int64_t>(expected.size()));
    REQUIRE(last.seconds_left() == 0);
    REQUIRE(last.index == 4);
    REQUIRE(last.count == 5);
  }
}

TEST_CASE("what a stream throws is what its source, its writer or its listener threw", "[stream]") {
  Counting source;
  for (const int threads : {1, 4}) {
    Collecting writer{source.specs};
    source.fail_at = 3;
    REQUIRE_ERROR(ziya::stream(writer, source, {.threads = threads}), "ZIYA-202", "bad sector");
    source.fail_at = -1;
    REQUIRE_THROWS_AS(ziya::stream(writer, source,
                                   {.threads = threads,
                                    .progress =
                                        [](const auto& event) {
                                          if (event.bytes > 5'000'000)
                                            throw std::runtime_error("x");
                                        }}),
                      std::runtime_error);
    const std::atomic<bool> cancel{true};
    REQUIRE_ERROR(ziya::stream(writer, source, {.threads = threads, .cancel = &cancel}), "ZIYA-606",
                  "cancelled");
  }
}

TEST_CASE("source and writer have to mean the same tensors", "[stream]") {
  const Counting source;
  Collecting writer{{{"a", DType::f32, {1100, 4096}}}};
  REQUIRE_ERROR(ziya::stream(writer, source), "ZIYA-640", "no tensor a of f32 (1100, 4096)");
  writer.specs = {{"other", DType::f32, {1}}};
  REQUIRE_ERROR(ziya::stream(writer, source), "ZIYA-640", "other");
}

}  // namespace stream_test
