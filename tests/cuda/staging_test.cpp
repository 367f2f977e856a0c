// SPDX-License-Identifier: Apache-2.0
// Weights that go to the GPU in pieces arrive whole.
#include <algorithm>
#include <atomic>
#include <catch2/catch.hpp>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "cuda/devices.hpp"
#include "support/errors.hpp"
#include "ziya/backend/cuda/staging.hpp"
#include "ziya/io/platform.hpp"

namespace staging_test {

using namespace ziya;

TEST_CASE("cuda: staged copies arrive, small and large, in any order", "[cuda]") {
  if (!test::gpu()) return;
  constexpr std::size_t piece = std::size_t{16} << 20;
  const std::vector<std::size_t> sizes{1, 100, 5 * piece + 7, 3, piece, piece + 1, 0, 1 << 20};
  std::vector<std::vector<std::uint32_t>> sources;
  std::vector<Tensor<std::byte, Cuda>> copies;
  std::int64_t said = 0, total = 0;
  Staging<Cuda> staging([&](std::int64_t done) {
    CHECK(done >= said);
    said = done;
  });
  std::uint32_t state = 1;
  for (const std::size_t size : sizes) {
    sources.emplace_back(size / 4 + 1);
    for (std::uint32_t& value : sources.back()) value = state = state * 1664525u + 1013904223u;
    copies.emplace_back(Shape{static_cast<std::int64_t>(size)});
    staging.copy(copies.back().data(), reinterpret_cast<const std::byte*>(sources.back().data()),
                 size);
    total += static_cast<std::int64_t>(size);
  }
  staging.finish();
  CHECK(said == total);
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    const auto back = copies[i].to<Cpu>();
    CHECK((sizes[i] == 0 || std::memcmp(back.data(), sources[i].data(), sizes[i]) == 0));
  }
}

TEST_CASE("cuda: what is staged in order comes in whole units, and its source may go", "[cuda]") {
  if (!test::gpu()) return;
  const std::size_t unit = 90'000;
  std::vector<std::vector<std::byte>> sources;
  std::vector<Tensor<std::byte, Cuda>> there;
  std::atomic<bool> whole{true};
  Staging<Cuda> staging;
  std::uint32_t state = 1;
  for (const std::size_t units : {3, 500, 1, 101, 500}) {  // the first without threads
    auto source = std::make_shared<std::vector<std::byte>>(units * unit);
    for (std::byte& byte : *source) {
      byte = static_cast<std::byte>((state = state * 1664525u + 1013904223u) >> 24);
    }
    sources.push_back(*source);
    there.emplace_back(Shape{static_cast<std::int64_t>(source->size())});
    std::byte* to = there.back().data();
    const auto order = [=, &whole](const std::byte* stored, std::size_t begin, std::size_t bytes,
                                   cudaStream_t stream) {
      if (begin % unit != 0 || bytes % unit != 0 || bytes == 0) whole = false;
      (void)cudaMemcpyAsync(to + begin, stored, bytes, cudaMemcpyDeviceToDevice, stream);
    };
    const std::byte* from = source->data();
    const std::size_t bytes = source->size();
    staging.copy_in_order(from, bytes, unit, order, std::move(source));
  }
  staging.finish();
  CHECK(whole);
  for (std::size_t i = 0; i < sources.size(); ++i) {
    const auto back = there[i].to<Cpu>();
    CHECK(std::memcmp(back.data(), sources[i].data(), sources[i].size()) == 0);
  }
}

TEST_CASE("cuda: what cannot be read while it is staged is an exception", "[cuda]") {
  if (!test::gpu()) return;
  constexpr std::int64_t bytes = std::int64_t{128} << 20;  // 32 pieces
  Tensor<std::byte, Cuda> there(Shape{bytes});
  const std::vector<std::byte> from(bytes);
  std::atomic<int> pieces{0};
  const auto fill = [&](const std::byte* at, std::span<std::byte> out) {
    if (++pieces > 20) throw IoError("ZIYA-202", "a disk that fails");
    std::copy_n(at, out.size(), out.data());
  };
  Staging<Cuda> staging({}, {fill, platform::prefer_large_pages});
  const auto load = [&] {
    staging.copy(there.data(), from.data(), from.size());
    staging.finish();
  };
  REQUIRE_ERROR(load(), "ZIYA-202", "a disk that fails");
  REQUIRE_ERROR(load(), "ZIYA-202", "a disk that fails");  // and not a wait for ever
}

}  // namespace staging_test
