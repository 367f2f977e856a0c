// SPDX-License-Identifier: Apache-2.0
// What does not change a single bit: threads, the batch around a row, how a prompt was cut.
#include <catch2/catch.hpp>

#include "model/fixture.hpp"
#include "model/ziya_tiny.hpp"
#include "support/errors.hpp"
#include "ziya/core/random.hpp"

namespace invariance_test {

using namespace ziya;
using fixture::Rows;

std::vector<std::int32_t> random_ids(std::size_t count, std::uint64_t seed) {
  ziya::Random random{seed, 0};
  std::vector<std::int32_t> ids;
  for (std::size_t i = 0; i < count; ++i) ids.push_back(static_cast<int>(random.bits() % 189) + 3);
  return ids;
}

/// Logits of every row of `rows`, in order.
std::vector<float> run(const CpuModel& model, Context<Cpu>& ctx, const Rows& rows,
                       KvCache<Cpu>& cache) {
  return fixture::copy(fixture::logits(model, ctx, fixture::hidden(model, ctx, rows, cache)));
}

std::vector<float> row_of(const std::vector<float>& logits, std::size_t row, std::size_t columns) {
  const auto begin = logits.begin() + static_cast<std::ptrdiff_t>(row * columns);
  return {begin, begin + static_cast<std::ptrdiff_t>(columns)};
}

/// f(model, context): each stored type on each machine, for cases that differ in what they run.
template <class F>
void for_each_model(F&& f) {
  for (const char* name : {"plain", "grouped_llama3", "wide_heads", "biased"}) {
    for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
      const fixture::TemporaryFolder folder;
      fixture::write_case(folder.path(), name, dtype);
      const auto model = CpuModel::load(folder.path());
      for (const auto& machine : fixture::machines()) {
        INFO(name << ", " << ziya::name(dtype) << ", " << machine.describe());
        Context<Cpu> ctx = machine.context();
        f(model, ctx);
      }
    }
  }
}

/// Logits of all of `ids`, which a cache without tokens meets `chunk` at a time.
std::vector<float> in_chunks(const CpuModel& model, Context<Cpu>& ctx,
                             const std::vector<std::int32_t>& ids, std::size_t chunk,
                             KvCache<Cpu>& cache) {
  cache.release(0);
  std::vector<float> logits;
  for (std::size_t begin = 0; begin < ids.size(); begin += chunk) {
    const Rows rows(ids, begin, std::min(begin + chunk, ids.size()));
    const auto part = run(model, ctx, rows, cache);
    logits.insert(logits.end(), part.begin(), part.end());
  }
  return logits;
}

TEST_CASE("a prompt in one pass, in chunks, and token by token: the same bits") {
  const auto ids = random_ids(41, 1);
  for_each_model([&](const CpuModel& model, Context<Cpu>& ctx) {
    KvCache<Cpu> cache = fixture::make_cache(model);
    const std::vector<float> whole = run(model, ctx, Rows(ids, 0, ids.size()), cache);
    for (const std::size_t chunk : {1u, 3u, 16u, 40u}) {
      const std::vector<float> parts = in_chunks(model, ctx, ids, chunk, cache);
      INFO("chunks of " << chunk);
      CHECK(parts == whole);
    }
  });
}

TEST_CASE("a long prompt in one pass and in chunks: near, the same bits without AMX") {
  const auto ids = random_ids(100, 12);
  for_each_model([&](const CpuModel& model, Context<Cpu>& ctx) {
    const auto vocabulary = static_cast<std::size_t>(model.shape().vocabulary);
    KvCache<Cpu> cache = fixture::make_cache(model);
    const std::vector<float> whole = run(model, ctx, Rows(ids, 0, ids.size()), cache);
    for (const std::size_t chunk : {33u, 67u}) {
      const std::vector<float> parts = in_chunks(model, ctx, ids, chunk, cache);
      INFO("chunks of " << chunk);
      CHECK(golden::error(parts, whole, vocabulary) < 1e-5);
      if (ctx.isa() != Isa::amx) CHECK(parts == whole);
    }
  });
}

TEST_CASE("a row among others is the row alone: the same bits") {
  const std::vector<std::vector<std::int32_t>> prompts{random_ids(5, 2), random_ids(23, 3),
                                                       random_ids(1, 4), random_ids(12, 5)};
  for_each_model([&](const CpuModel& model, Context<Cpu>& ctx) {
    const auto vocabulary = static_cast<std::size_t>(model.shape().vocabulary);
    KvCache<Cpu> together = fixture::make_cache(model, 4), alone = fixture::make_cache(model, 4);
    Rows rows;
    for (const std::int32_t slot : {2, 0, 3, 1}) {
      const auto& prompt = prompts[static_cast<std::size_t>(slot)];
      rows.append(prompt, 0, prompt.size() - 1, slot);
    }
    (void)run(model, ctx, rows, together);
    Rows last;  // one more token each, as decoding does
    for (std::int32_t slot = 0; slot < 4; ++slot) {
      const auto& prompt = prompts[static_cast<std::size_t>(slot)];
      last.append(prompt, prompt.size() - 1, prompt.size(), slot);
    }
    const auto batch = run(model, ctx, last, together);
    for (std::size_t i = 0; i < prompts.size(); ++i) {
      const auto slot = static_cast<std::int32_t>(i);
      const auto own = run(model, ctx, Rows(prompts[i], 0, prompts[i].size(), slot), alone);
      INFO("sequence " << i);
      CHECK(row_of(batch, i, vocabulary) == row_of(own, prompts[i].size() - 1, vocabulary));
    }
  });
}

TEST_CASE("the number of threads changes nothing: the same bits") {
  const auto ids = random_ids(91, 6);
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    const fixture::TemporaryFolder folder;
    fixture::write_case(folder.path(), "grouped", dtype);
    const auto model = CpuModel::load(folder.path());
    for (const Isa isa : available_isas()) {
      std::vector<float> first;
      for (const int threads : {1, 2, 3, 5}) {
        INFO(name(dtype) << ", " << name(isa) << ", " << threads << " threads");
        Context<Cpu> ctx({threads, isa});
        KvCache<Cpu> cache = fixture::make_cache(model);
        auto logits = run(model, ctx, Rows(ids, 0, 90), cache);
        const auto decoded = run(model, ctx, Rows(ids, 90, 91), cache);
        logits.insert(logits.end(), decoded.begin(), decoded.end());
        if (threads == 1) first = logits;
        CHECK(logits == first);
      }
    }
  }
}

void check_trained(const CpuModel& model, DType cache_dtype = DType::f32) {
  const auto ids = random_ids(20, 10), other = random_ids(9, 11);
  const auto vocabulary = static_cast<std::size_t>(model.shape().vocabulary);
  for (const Isa isa : available_isas()) {
    std::vector<float> first;
    for (const int threads : {1, 2, 5}) {
      INFO(name(isa) << ", " << threads << " threads");
      Context<Cpu> ctx({threads, isa});
      KvCache<Cpu> cache = fixture::make_cache(model, 2, 128, cache_dtype);
      const auto whole = run(model, ctx, Rows(ids, 0, ids.size()), cache);
      if (threads == 1) first = whole;
      CHECK(whole == first);
      cache.release(0);
      Rows rows(ids, 0, 17);  // in two parts, the second beside another sequence
      rows.append(other, 0, 8, 1);
      (void)run(model, ctx, rows, cache);
      Rows last(ids, 17, 20);
      last.append(other, 8, 9, 1);
      auto parts = run(model, ctx, last, cache);
      parts.resize(3 * vocabulary);
      CHECK(parts == std::vector<float>(whole.end() - static_cast<std::ptrdiff_t>(parts.size()),
                                        whole.end()));
    }
  }
}

TEST_CASE("trained models: threads, parts and neighbours change no bit") {
  check_trained(fixture::ZiyaTiny::instance().model());
  check_trained(fixture::ZiyaTiny::instance().model(), DType::q8_0);
  const auto folder = golden::shared("stories260K-hf");
  if (!folder.empty()) check_trained(CpuModel::load(folder));
}

TEST_CASE("a cache in 16 bits stays near, and keeps the same promises") {
  const auto ids = random_ids(30, 7);
  const fixture::TemporaryFolder folder;
  fixture::write_case(folder.path(), "grouped", DType::f16);
  const auto model = CpuModel::load(folder.path());
  const auto vocabulary = static_cast<std::size_t>(model.shape().vocabulary);
  for (const auto& machine : fixture::machines()) {
    INFO(machine.describe());
    Context<Cpu> ctx = machine.context();
    KvCache<Cpu> exact = fixture::make_cache(model);
    const auto expected = run(model, ctx, Rows(ids, 0, ids.size()), exact);
    for (const DType dtype : {DType::f16, DType::bf16}) {
      KvCache<Cpu> cache = fixture::make_cache(model, 1, 128, dtype);
      const auto found = run(model, ctx, Rows(ids, 0, ids.size()), cache);
      CHECK(golden::error(found, expected, vocabulary) < (dtype == DType::f16 ? 1e-2 : 8e-2));
      CHECK(found != expected);
      cache.release(0);
      (void)run(model, ctx, Rows(ids, 0, 29), cache);
      CHECK(run(model, ctx, Rows(ids, 29, 30), cache) == row_of(found, 29, vocabulary));
    }
  }
}

TEST_CASE("a shortened cache is the cache that never went further") {
  const auto ids = random_ids(40, 8), other = random_ids(40, 9);
  const fixture::TemporaryFolder folder;
  fixture::write_case(folder.path(), "plain", DType::bf16);
  const auto model = CpuModel::load(folder.path());
  Context<Cpu> ctx({.threads = 2});
  const auto vocabulary = static_cast<std::size_t>(model.shape().vocabulary);
  KvCache<Cpu> cache = fixture::make_cache(model);
  (void)run(model, ctx, Rows(other, 0, 40), cache);
  for (const std::size_t kept : {0u, 1u, 7u, 8u, 9u, 31u}) {  // pages hold 8
    INFO(kept << " kept");
    KvCache<Cpu> straight = fixture::make_cache(model);
    auto mixed = ids;
    std::copy_n(other.begin(), kept, mixed.begin());
    const auto expected = run(model, ctx, Rows(mixed, 0, 40), straight);
    cache.truncate(0, static_cast<std::int64_t>(kept));
    CHECK(cache.length(0) == static_cast<std::int64_t>(kept));
    const auto found = run(model, ctx, Rows(mixed, kept, 40), cache);
    CHECK(row_of(found, 39 - kept, vocabulary) == row_of(expected, 39, vocabulary));
    cache.release(0);
    (void)run(model, ctx, Rows(other, 0, 40), cache);
  }
}

TEST_CASE("batches whose parts do not belong together are refused") {
  const std::vector<std::int32_t> ids{1, 2}, places{0, 1}, slots{0, 0}, outputs{1};
  Tensor<float> memory(Shape{1, 8});
  const auto check = [&](const auto& change, std::int64_t width = 8) {
    Batch<float, Cpu> batch;
    batch.ids = ids;
    batch.positions = places;
    batch.slots = slots;
    batch.outputs = outputs;
    change(batch);
    check_batch(batch, memory.view(), width);
  };
  const std::vector<std::int32_t> none, three{0, 1, 2}, negative{0, -1};
  check([](auto&) {});
  REQUIRE_ERROR(check([&](auto& b) { b.ids = none; }), "ZIYA-441", "no rows");
  REQUIRE_ERROR(check([&](auto& b) { b.positions = three; }), "ZIYA-442", "3 positions");
  REQUIRE_ERROR(check([&](auto& b) { b.slots = three; }), "ZIYA-442", "3 slots");
  REQUIRE_ERROR(check([&](auto& b) { b.outputs = three; }), "ZIYA-442", "expected (3, 8)");
  REQUIRE_ERROR(check([](auto&) {}, 9), "ZIYA-442", "expected (1, 9)");
  REQUIRE_ERROR(check([&](auto& b) { b.positions = negative; }), "ZIYA-443", "-1");
  const std::vector<std::int32_t> behind{2}, before{-1};
  REQUIRE_ERROR(check([&](auto& b) { b.outputs = behind; }), "ZIYA-444", "output 2 of 2 rows");
  REQUIRE_ERROR(check([&](auto& b) { b.outputs = before; }), "ZIYA-444", "output -1 of 2 rows");
}

TEST_CASE("a pass that throws leaves the cache as it was") {
  const auto ids = random_ids(20, 10);
  const fixture::TemporaryFolder folder;
  fixture::write_case(folder.path(), "plain", DType::f32);
  const auto model = CpuModel::load(folder.path());
  Context<Cpu> ctx({.threads = 2});
  KvCache<Cpu> cache = fixture::make_cache(model, 1, 20), untouched = fixture::make_cache(model);
  (void)run(model, ctx, Rows(ids, 0, 10), cache);
  auto wrong = ids;
  wrong[12] = 192;
  CHECK_THROWS_AS(run(model, ctx, Rows(wrong, 10, 20), cache), ArgumentError);
  wrong[12] = -1;
  CHECK_THROWS_AS(run(model, ctx, Rows(wrong, 10, 20), cache), ArgumentError);
  wrong.resize(21, 5);
  wrong[12] = 5;
  CHECK_THROWS_AS(run(model, ctx, Rows(wrong, 10, 21), cache), ArgumentError);
  CHECK_THROWS_AS(run(model, ctx, Rows(ids, 10, 12, 1), cache), ArgumentError);
  CHECK(cache.length(0) == 10);
  (void)run(model, ctx, Rows(ids, 0, 10), untouched);
  CHECK(run(model, ctx, Rows(ids, 10, 20), cache) == run(model, ctx, Rows(ids, 10, 20), untouched));
}

}  // namespace invariance_test
