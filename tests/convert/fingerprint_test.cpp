// SPDX-License-Identifier: Apache-2.0
// Fingerprints: the documented bytes, whatever the files, the order of reading or the threads.
#include "ziya/convert/fingerprint.hpp"

#include <atomic>
#include <catch2/catch.hpp>
#include <chrono>
#include <cstring>
#include <thread>

#include "support/errors.hpp"
#include "support/temporary_directory.hpp"
#include "ziya/convert/audited_source.hpp"
#include "ziya/convert/open_source.hpp"
#include "ziya/io/safetensors_writer.hpp"

namespace fingerprint_test {

struct Numbers final : ziya::TensorSource {
  std::vector<ziya::TensorSpec> specs{{"b", ziya::DType::f32, {3'000'000}},
                                      {"a", ziya::DType::f16, {2, 3}},
                                      {"none", ziya::DType::f16, {0}},
                                      {"x.rotary_emb.inv_freq", ziya::DType::f32, {4}}};
  [[nodiscard]] const std::vector<ziya::TensorSpec>& tensors() const override { return specs; }
  void read(std::size_t index, std::int64_t first, std::span<std::byte> out) const override {
    const auto start = static_cast<std::size_t>(ziya::bytes_of(specs[index].dtype, first));
    for (std::size_t i = 0; i < out.size(); ++i) out[i] = std::byte((start + i) % 251);
  }
};

TEST_CASE("a tensor's fingerprint is the hash of the documented bytes", "[fingerprint]") {
  // printf 'ziya-tensor 1\n1:a|f16|2,3,|' and the bytes 0 … 11, through sha256sum
  const auto found = ziya::fingerprint(Numbers{});
  REQUIRE(found.tensors.at("a") ==
          "791428584bddb3d34d5fb3078260913568b8524628732fbd6b5114e30b014aa3");
  // printf 'ziya-tensor 1\n4:none|f16|0,|' | sha256sum
  REQUIRE(found.tensors.at("none") ==
          "87e7b654326d8ff8bd2af6475c021a677f5301f40b302f5f05f1f57af6b22018");
  ziya::Sha256 model;
  for (const char* name : {"a", "b", "none"}) {
    model.update(found.tensors.at(name) + "  " + name + "\n");
  }
  REQUIRE(found.model() == model.hex_value());
}

TEST_CASE("fingerprints do not depend on threads, shards or their order", "[fingerprint]") {
  const Numbers source;
  const auto expected = ziya::fingerprint(source, {.threads = 1});
  REQUIRE(ziya::fingerprint(source, {.threads = 5}).tensors == expected.tensors);
  const test::TemporaryDirectory folder;
  for (const std::int64_t limit : {std::int64_t{8}, std::int64_t{1} << 40}) {
    const auto target = folder / std::to_string(limit);
    std::filesystem::create_directory(target);
    ziya::ShardedSafetensorsWriter writer(target, source.specs, limit);
    ziya::stream(writer, source);
    writer.commit();
    const auto opened = ziya::open_source(target);
    REQUIRE(ziya::fingerprint(*opened.source).tensors == expected.tensors);
  }
  const std::atomic<bool> cancel{true};
  REQUIRE_ERROR(ziya::fingerprint(source, {.cancel = &cancel}), "ZIYA-606", "cancelled");
}

TEST_CASE("an audited source hashes pieces that are read in any order", "[fingerprint]") {
  const auto source = std::make_shared<const Numbers>();
  const auto expected = ziya::fingerprint(*source);
  const ziya::AuditedSource audited(source);
  REQUIRE(audited.digest(0).empty());
  std::vector<std::byte> out(4'000'000);
  for (const std::int64_t first : {2, 1, 0}) {
    REQUIRE(audited.digest(0).empty());
    audited.read(0, first * 1'000'000, out);
  }
  REQUIRE(audited.digest(0) == expected.tensors.at("b"));
  audited.read(0, 0, out);  // again: nothing changes
  audited.read_rest();
  REQUIRE(audited.fingerprint().tensors == expected.tensors);
  REQUIRE(audited.fingerprint().model() == expected.model());

  const ziya::AuditedSource threaded(source);
  std::vector<std::thread> threads;
  for (std::int64_t t = 0; t < 6; ++t) {
    threads.emplace_back([&, t] {
      std::vector<std::byte> piece(200'000);
      for (std::int64_t i = t; i < 60; i += 6) threaded.read(0, i * 50'000, piece);
    });
  }
  for (auto& thread : threads) thread.join();
  REQUIRE(threaded.digest(0) == expected.tensors.at("b"));
}

TEST_CASE("a piece that cannot be read keeps nobody waiting", "[fingerprint]") {
  struct Broken final : ziya::TensorSource {
    Numbers numbers;
    mutable std::atomic<int> failures{1};
    [[nodiscard]] const std::vector<ziya::TensorSpec>& tensors() const override {
      return numbers.tensors();
    }
    void read(std::size_t index, std::int64_t first, std::span<std::byte> out) const override {
      if (first == 0) std::this_thread::sleep_for(std::chrono::milliseconds(50));
      if (first == 0 && failures-- > 0) throw ziya::IoError("ZIYA-202", "broken");
      numbers.read(index, first, out);
    }
  };
  const auto source = std::make_shared<const Broken>();
  const auto expected = ziya::fingerprint(Numbers{});
  const ziya::AuditedSource audited(source);
  const auto read = [&](std::int64_t piece) {
    std::vector<std::byte> out(4'000'000);
    audited.read(0, piece * 1'000'000, out);
  };
  std::string message;
  std::thread first([&] { message = test::error_of([&] { read(0); }); });
  std::thread second([&] { read(1); }), third([&] { read(2); });
  for (std::thread* thread : {&first, &second, &third}) thread->join();
  REQUIRE_THAT(message, Catch::Contains("ZIYA-202"));
  REQUIRE(audited.digest(0).empty());
  read(0);
  REQUIRE(audited.digest(0) == expected.tensors.at("b"));
}

TEST_CASE("an audited source with a limit leaves what comes too early to the end",
          "[fingerprint]") {
  const auto source = std::make_shared<const Numbers>();
  const auto expected = ziya::fingerprint(*source);
  const ziya::AuditedSource limited(source, false, 5'000'000);
  std::vector<std::byte> out(4'000'000);
  for (const std::int64_t first : {2, 1, 0}) limited.read(0, first * 1'000'000, out);
  REQUIRE(limited.digest(0).empty());  // two pieces of three are more than the limit
  limited.read_rest({.threads = 1});
  REQUIRE(limited.fingerprint().tensors == expected.tensors);

  const ziya::AuditedSource half(source);  // one part was read, the other one is never asked for
  half.read(0, 0, std::span(out).first(1'000'004));
  half.read_rest({.threads = 3});
  REQUIRE(half.fingerprint().tensors == expected.tensors);
}

}  // namespace fingerprint_test
