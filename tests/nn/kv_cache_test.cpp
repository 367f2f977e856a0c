// SPDX-License-Identifier: Apache-2.0
// Pages, block table and lengths of the key/value cache.
#include "ziya/nn/kv_cache.hpp"

#include <catch2/catch.hpp>
#include <set>
#include <string>
#include <vector>

#include "support/errors.hpp"

namespace kv_cache_test {

using ziya::Cpu;
using ziya::KvCache;

KvCache<Cpu> small(std::int64_t pages = 0) {
  return {{.layers = 2, .kv_heads = 2, .head_dim = 4},
          {.slots = 3, .max_tokens = 10, .page_tokens = 4, .pages = pages}};
}

void append(KvCache<Cpu>& cache, const std::vector<std::int32_t>& slots) {
  (void)cache.prepare(slots);
  cache.commit();
}

TEST_CASE("rows go behind what their slot holds, in order", "[kv_cache]") {
  auto cache = small();
  append(cache, {0, 0, 0});
  const std::vector<std::int32_t> slots{1, 0, 1};
  const auto step = cache.prepare(slots);
  REQUIRE(std::vector<std::int64_t>(step.indices.begin(), step.indices.end()) ==
          std::vector<std::int64_t>{0, 3, 1});
  REQUIRE(std::vector<std::int64_t>(step.visible.begin(), step.visible.end()) ==
          std::vector<std::int64_t>{1, 4, 2});
  REQUIRE(cache.length(0) == 3);  // not yet committed
  cache.commit();
  REQUIRE(cache.length(0) == 4);
  REQUIRE(cache.length(1) == 2);
  REQUIRE(cache.length(2) == 0);
}

TEST_CASE("no page belongs to two sequences, and pages come back", "[kv_cache]") {
  auto cache = small();
  REQUIRE(cache.free_pages() == 9);
  append(cache, std::vector<std::int32_t>(9, 0));
  append(cache, std::vector<std::int32_t>(5, 1));
  REQUIRE(cache.free_pages() == 4);
  const auto layer = cache.layer(1);
  std::set<std::int32_t> pages;
  for (const int page : {0, 1, 2}) pages.insert(layer.block_table[page]);
  for (const int page : {0, 1}) pages.insert(layer.block_table[layer.table_stride + page]);
  REQUIRE(pages.size() == 5);
  cache.truncate(0, 4);
  REQUIRE(cache.length(0) == 4);
  REQUIRE(cache.free_pages() == 6);
  cache.release(1);
  REQUIRE(cache.free_pages() == 8);
  REQUIRE(cache.bytes_per_token() == 2 * 2 * 2 * 4 * 4);
}

TEST_CASE("a cache refuses what it cannot hold and stays as it was", "[kv_cache]") {
  auto cache = small(2);
  append(cache, std::vector<std::int32_t>(4, 0));
  const std::vector<std::int32_t> many(5, 1), too_long(7, 0), unknown{3};
  REQUIRE_ERROR(cache.prepare(many), "ZIYA-405", "pages");  // one page is left, two are needed
  REQUIRE(cache.length(1) == 0);
  REQUIRE_ERROR(cache.prepare(too_long), "ZIYA-405", "pages");
  auto roomy = small();
  const std::vector<std::int32_t> longer(static_cast<std::size_t>(roomy.options().max_tokens) + 1);
  REQUIRE_ERROR(roomy.prepare(longer), "ZIYA-404", "slot 0");
  REQUIRE(cache.length(0) == 4);
  REQUIRE_ERROR(cache.prepare(unknown), "ZIYA-403", "3");
  cache.release(1);
  append(cache, {0});
  REQUIRE(cache.length(0) == 5);
  REQUIRE_ERROR(KvCache<Cpu>({1, 1, 4}, {.dtype = ziya::DType::i8, .max_tokens = 4}), "ZIYA-401",
                "i8");
  REQUIRE_ERROR(KvCache<Cpu>({1, 1, 4}, {.max_tokens = 0}), "ZIYA-402", "cache");
  for (const std::int64_t head : {8, 80, 8192}) {
    REQUIRE_ERROR(KvCache<Cpu>({1, 1, head}, {.dtype = ziya::DType::q8_0, .max_tokens = 4}),
                  "ZIYA-407", std::to_string(head));
  }
}

TEST_CASE("a cache in q8_0 takes 34 bytes where one in f16 takes 64", "[kv_cache]") {
  const auto bytes = [](ziya::DType dtype) {
    return KvCache<Cpu>({3, 2, 128}, {.dtype = dtype, .max_tokens = 100}).bytes_per_token();
  };
  REQUIRE(bytes(ziya::DType::f16) == 3 * 2 * 2 * 128 * 2);
  REQUIRE(bytes(ziya::DType::q8_0) * 64 == bytes(ziya::DType::f16) * 34);
}

TEST_CASE("slots share pages, and copy a page before one of them changes it", "[kv_cache]") {
  auto cache = small();
  append(cache, std::vector<std::int32_t>(6, 0));
  const auto page = [&](int slot, int index) {
    const auto layer = cache.layer(0);
    return layer.block_table[slot * layer.table_stride + index];
  };
  const auto byte = [&](int layer, int slot, int index) -> std::byte& {
    const auto where = cache.layer(layer);
    return where.values[where.block_table[slot * where.table_stride + index] * where.page_bytes];
  };
  for (const int layer : {0, 1}) byte(layer, 0, 1) = std::byte{7};
  cache.share(0, 1, 5);
  cache.share(0, 2, 4);
  REQUIRE(cache.length(1) == 5);
  REQUIRE(cache.used_pages() == 2);
  REQUIRE(page(1, 0) == page(0, 0));
  REQUIRE(page(2, 1) == -1);
  REQUIRE(cache.pages_needed(1, 1) == 1);
  REQUIRE(cache.pages_needed(2, 5) == 2);
  append(cache, {1});
  REQUIRE(page(1, 1) != page(0, 1));
  for (const int layer : {0, 1}) REQUIRE(byte(layer, 1, 1) == std::byte{7});
  REQUIRE(cache.pages_needed(0, 1) == 0);  // its page is its own again
  append(cache, {0});
  REQUIRE(cache.used_pages() == 3);
  cache.release(0);
  REQUIRE(cache.used_pages() == 2);  // the first page is still slot 1's and 2's
  cache.release(1);
  REQUIRE(cache.used_pages() == 1);
  cache.release(2);
  REQUIRE(cache.free_pages() == 9);
  REQUIRE_ERROR(cache.share(0, 0, 0), "ZIYA-406", "slot 0");
  REQUIRE_ERROR(cache.share(0, 1, 1), "ZIYA-406", "which holds 0");
}

}  // namespace kv_cache_test
