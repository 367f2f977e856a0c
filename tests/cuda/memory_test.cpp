// SPDX-License-Identifier: Apache-2.0
// A GPU that is full: what is said, and that nothing is lost.
#include <algorithm>
#include <catch2/catch.hpp>
#include <memory>
#include <string>
#include <vector>

#include "cuda/devices.hpp"
#include "model/ziya_tiny.hpp"
#include "support/errors.hpp"
#include "ziya/generate/generator.hpp"

namespace cuda_memory_test {

using namespace ziya;

std::size_t free_bytes() { return Memory<Cuda>::room().free; }

/// Takes all memory but about `left` bytes.
std::vector<Tensor<std::byte, Cuda>> all_but(std::size_t left) {
  std::vector<Tensor<std::byte, Cuda>> taken;
  for (std::size_t piece = std::size_t{8} << 30; piece >= std::size_t{2} << 20; piece /= 2) {
    while (free_bytes() >= left + piece) {
      taken.emplace_back(Shape{static_cast<std::int64_t>(piece)});
    }
  }
  return taken;
}

/// A matrix of 64 MiB on the host.
Weight<Cpu> large_weight() {
  auto memory = std::make_shared<Tensor<float>>(Shape{4096, 4096});
  std::fill_n(memory->data(), memory->elements(), 0.5f);
  return {DType::f32, 4096, 4096, reinterpret_cast<const std::byte*>(memory->data()), memory};
}

TEST_CASE("cuda: out of memory says what was needed and free, and loses nothing",
          "[cuda][memory]") {
  if (!test::gpu()) return;
  const auto& tiny = fixture::ZiyaTiny::instance();
  const auto load_and_answer = [&] {
    Context<Cuda> ctx;
    const CudaModel model = CudaModel::load(tiny.folder());
    Generator generator(ctx, model, tiny.tokenizer());
    return generator.generate({1, 5, 6}, {.max_new_tokens = 4, .do_sample = false}).generated_ids;
  };
  const auto expected = load_and_answer();  // what the driver keeps for itself is there now
  (void)test::values_of(Tensor<float>(Shape{1}).to<Cuda>());
  const std::size_t before = free_bytes();
  for (int round = 0; round < 3; ++round) {
    {
      const auto taken = all_but(std::size_t{48} << 20);
      const Weight<Cpu> weight = large_weight();
      REQUIRE_ERROR(weight_on<Cuda>(weight), "ZIYA-152", "needs 64 MiB");
      try {
        (void)weight_on<Cuda>(weight);
      } catch (const BackendError& error) {
        const std::string text = error.what();
        for (const char* part :
             {"out of memory", "free are", "a shorter context", "16-bit cache"}) {
          CHECK(text.find(part) != text.npos);
        }
      }
      // Half of a model, a cache, scratch memory: whatever comes when there is no room.
      std::vector<Weight<Cuda>> some;
      REQUIRE_ERROR(
          [&] {
            for (int i = 0; i < 100; ++i) {
              Tensor<float> part(Shape{2048, 1024});
              some.push_back({DType::f32, 1, 1, nullptr,
                              std::make_shared<Tensor<float, Cuda>>(part.to<Cuda>())});
            }
          }(),
          "ZIYA-152", "needs 8 MiB");
      some.clear();
      REQUIRE_ERROR(KvCache<Cuda>({40, 40, 128}, {.dtype = DType::f16, .max_tokens = 4096}),
                    "ZIYA-152", "needs 3200 MiB");
    }
    CHECK(free_bytes() == before);
    CHECK(load_and_answer() == expected);
    CHECK(free_bytes() == before);
  }
}

TEST_CASE("cuda: a model that does not fit is given back layer by layer", "[cuda][memory]") {
  if (!test::gpu()) return;
  const auto& tiny = fixture::ZiyaTiny::instance();
  (void)CudaModel::load(tiny.folder());
  const std::size_t before = free_bytes();
  {
    const auto taken = all_but(std::size_t{4} << 20);
    REQUIRE_ERROR(CudaModel::load(tiny.folder()), "ZIYA-152", "free are");
  }
  CHECK(free_bytes() == before);
}

}  // namespace cuda_memory_test
