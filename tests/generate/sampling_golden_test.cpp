// SPDX-License-Identifier: Apache-2.0
// The processors against Transformers': which tokens they keep, with which scores.
#include <catch2/catch.hpp>
#include <map>

#include "model/golden.hpp"
#include "ziya/generate/sampling.hpp"
#include "ziya/io/json.hpp"

namespace sampling_golden_test {

using namespace ziya;

/// The formula of tests/reference/sampling_golden.py.
std::vector<float> spread(std::int64_t vocabulary) {
  std::vector<float> logits;
  for (std::int64_t i = 0; i < vocabulary; ++i) {
    const auto mixed = static_cast<std::uint32_t>(static_cast<std::uint64_t>(i) * 2654435761u);
    logits.push_back(static_cast<float>(mixed * 0x1p-32 * 20.0 - 10.0));
  }
  return logits;
}

TEST_CASE("processors keep what the reference keeps, with its scores and probabilities") {
  const auto folder = golden::folder("sampling");
  const Checkpoint file = Checkpoint::open(folder / "golden.safetensors");
  const nlohmann::json cases = read_json_file(folder / "cases.json");
  REQUIRE(cases.size() >= 60);
  SamplerState state;  // one for all: rows of other widths must leave nothing behind
  for (const nlohmann::json& entry : cases) {
    const std::string name = entry.at("name");
    INFO(name);
    const std::int64_t wide = entry.at("spread");
    const std::vector<float> logits =
        wide != 0 ? spread(wide) : golden::values<float>(file, name + "/logits");
    const auto history = golden::values<std::int32_t>(file, name + "/history");
    state.history = history;
    const ProcessorChain chain(RepetitionPenalty(entry.at("repetition_penalty")),
                               Temperature(entry.at("temperature")), TopK(entry.at("top_k")),
                               TopP(entry.at("top_p")));
    const Candidates& candidates =
        chain.run({logits.data(), Shape{static_cast<std::int64_t>(logits.size())}}, state);

    std::map<std::int32_t, float> kept;
    double highest = -1e300, total = 0;
    candidates.for_each([&](const Candidate& candidate) {
      CHECK(kept.emplace(candidate.id, candidate.score).second);
      highest = std::max(highest, double{candidate.score});
    });
    for (const auto& [id, score] : kept) total += std::exp(score - highest);

    const auto ids = golden::values<std::int32_t>(file, name + "/kept");
    const auto scores = golden::values<float>(file, name + "/scores");
    const auto probabilities = golden::values<float>(file, name + "/probabilities");
    REQUIRE(kept.size() == ids.size());
    std::size_t i = 0;
    for (const auto& [id, score] : kept) {
      CHECK(id == ids[i]);
      CHECK(score == scores[i]);
      CHECK(std::exp(score - highest) / total == Approx(probabilities[i]).epsilon(1e-5));
      ++i;
    }
  }
}

}  // namespace sampling_golden_test
