// SPDX-License-Identifier: Apache-2.0
// Whichever rows of a batch are wanted: their bits and the cache are those of a pass that wants
// all.
#include <catch2/catch.hpp>
#include <cstdint>
#include <vector>

#include "model/fixture.hpp"
#include "model/ziya_tiny.hpp"
#include "ziya/core/random.hpp"

namespace wanted_rows_test {

using namespace ziya;
using fixture::Rows;
using Ids = std::vector<std::int32_t>;

Ids random_ids(std::size_t count, std::uint64_t seed) {
  ziya::Random random{seed, 0};
  Ids ids;
  for (std::size_t i = 0; i < count; ++i) ids.push_back(static_cast<int>(random.bits() % 189) + 3);
  return ids;
}

/// A batch of three sequences, the last one behind some tokens, and one token more of each.
struct Sequences {
  std::vector<Ids> ids;
  std::vector<std::size_t> past{0, 0, 6};

  explicit Sequences(std::size_t longest)
      : ids{random_ids(longest, 1), random_ids(10, 2), random_ids(19, 3)} {}

  [[nodiscard]] Rows begin() const { return Rows(ids[2], 0, past[2], 2); }
  [[nodiscard]] Rows batch() const {
    Rows rows;
    for (const std::int32_t slot : {2, 0, 1}) {
      const auto at = static_cast<std::size_t>(slot);
      rows.append(ids[at], past[at], ids[at].size() - 1, slot);
    }
    return rows;
  }
  [[nodiscard]] Rows next() const {
    Rows rows;
    for (const std::int32_t slot : {0, 1, 2}) {
      const auto& own = ids[static_cast<std::size_t>(slot)];
      rows.append(own, own.size() - 1, own.size(), slot);
    }
    return rows;
  }
};

std::vector<float> rows_of(const std::vector<float>& all, const Ids& rows, std::size_t columns) {
  std::vector<float> result;
  for (const std::int32_t row : rows) {
    const auto begin = all.begin() + static_cast<std::ptrdiff_t>(columns) * row;
    result.insert(result.end(), begin, begin + static_cast<std::ptrdiff_t>(columns));
  }
  return result;
}

/// @param longest rows of the longest of the sequences, which with AMX decide about bits
void check_wanted(const CpuModel& model, Context<Cpu>& ctx, DType cache_dtype,
                  std::size_t longest = 24) {
  const Sequences sequences(longest);
  const auto columns = static_cast<std::size_t>(model.shape().hidden);
  KvCache<Cpu> cache = fixture::make_cache(model, 3, 128, cache_dtype);
  const auto run = [&](const Rows& rows) {
    return fixture::copy(fixture::hidden(model, ctx, rows, cache));
  };
  (void)run(sequences.begin());
  Rows rows = sequences.batch();
  const auto whole = run(rows);
  const auto expected_next = run(sequences.next());
  const auto count = static_cast<std::int32_t>(rows.ids.size());
  Ids every_third;
  for (std::int32_t row = 0; row < count; row += 3) every_third.push_back(row);
  Ids backwards;
  for (std::int32_t row = count; row-- > 0;) backwards.push_back(row);
  Ids repeated = backwards;
  repeated.insert(repeated.end(), {3, 3, count - 1, 0});
  for (const Ids& wanted : {Ids{}, Ids{count - 1}, Ids{0}, Ids{11, count - 10, count - 1},
                            Ids{count - 1, 2, 1, 2, 15, 14}, every_third, backwards, repeated}) {
    CAPTURE(wanted);
    for (const std::int32_t slot : {0, 1, 2}) cache.release(slot);
    (void)run(sequences.begin());
    rows.outputs = wanted;
    const auto found = run(rows);
    const auto expected = rows_of(whole, wanted, columns);
    const auto next = run(sequences.next());
    if (ctx.isa() != Isa::amx || longest < 64) {
      CHECK(found == expected);
    } else if (!wanted.empty()) {
      CHECK(golden::error(found, expected, columns) < 1e-5);
    }
    CHECK(next == expected_next);
  }
}

TEST_CASE("wanted rows: the bits of a pass that wants all, models of every kind") {
  for (const char* name : {"plain", "grouped_llama3", "wide_heads", "biased", "dynamic"}) {
    for (const DType dtype : {DType::f32, DType::f16}) {
      const fixture::TemporaryFolder folder;
      fixture::write_case(folder.path(), name, dtype);
      const auto model = CpuModel::load(folder.path());
      for (const Isa isa : available_isas()) {
        INFO(name << ", " << ziya::name(dtype) << ", " << ziya::name(isa));
        Context<Cpu> ctx({3, isa});
        check_wanted(model, ctx, dtype);
        check_wanted(model, ctx, dtype, 90);
      }
    }
  }
}

TEST_CASE("wanted rows: the bits of a pass that wants all, in every type and pages of each") {
  const auto& folder = fixture::ZiyaTiny::instance().folder();
  for (const DType dtype : {DType::f16, DType::i8, DType::q8_0, DType::q4_0, DType::q4_k}) {
    const auto model = CpuModel::load(folder, {.dtype = dtype});
    for (const Isa isa : available_isas()) {
      for (const DType cache : {DType::f32, DType::f16, DType::q8_0}) {
        INFO(name(dtype) << ", pages " << name(cache) << ", " << name(isa));
        Context<Cpu> ctx({2, isa});
        check_wanted(model, ctx, cache);
      }
    }
  }
}

TEST_CASE("wanted rows: without a cache as with one, and beside what training keeps") {
  const fixture::TemporaryFolder folder;
  fixture::write_case(folder.path(), "grouped", DType::f32);
  const auto model = CpuModel::load(folder.path());
  Context<Cpu> ctx({.threads = 2});
  Rows rows(random_ids(12, 4), 0, 12, 0);
  rows.append(random_ids(5, 5), 0, 5, 1);
  const auto run = [&](LlamaSaved<float, Cpu>* saved) {
    Tensor<float> hidden(Shape{std::ssize(rows.outputs), model.shape().hidden});
    model.forward(ctx, hidden.view(), rows.batch(), saved);
    return fixture::copy(hidden);
  };
  const auto whole = run(nullptr);
  rows.outputs = {16, 3, 3};
  const auto expected =
      rows_of(whole, rows.outputs, static_cast<std::size_t>(model.shape().hidden));
  CHECK(run(nullptr) == expected);
  LlamaSaved<float, Cpu> saved;
  CHECK(run(&saved) == expected);
  CHECK(saved.output.view().rows() == 17);
  CHECK(saved.layers.back().mlp.gate.view().rows() == 17);
  rows.outputs.clear();
  CHECK(run(nullptr).empty());
}

}  // namespace wanted_rows_test
