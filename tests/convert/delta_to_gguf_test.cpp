// SPDX-License-Identifier: Apache-2.0
// Merging straight to a GGUF file: the weights of merging and then quantising, whole or not at all.
#include "ziya/convert/delta_to_gguf.hpp"

#include <catch2/catch.hpp>
#include <fstream>
#include <numeric>

#include "support/errors.hpp"
#include "support/fault.hpp"
#include "support/temporary_directory.hpp"
#include "ziya/convert/delta_merger.hpp"
#include "ziya/convert/fingerprint.hpp"
#include "ziya/convert/hf_writer.hpp"

namespace delta_to_gguf_test {

namespace fs = std::filesystem;
using test::Fault;
using test::faulty;
using test::TemporaryDirectory;
using ziya::merge_delta_to_gguf;
using ziya::quantisation_mix;

const fs::path tiny = ZIYA_EXAMPLES "/ziya-tiny", base = tiny / "base", delta = tiny / "delta";

ziya::MergeOptions quick() {
  ziya::MergeOptions options;
  options.check = false;
  options.hooks = faulty(Fault::none);
  return options;
}

TEST_CASE("delta to gguf: the tensors of merging to a folder and quantising that", "[gguf_merge]") {
  for (const char* type : {"f16", "bf16", "f32", "q4_k_m", "q8_0"}) {
    CAPTURE(type);
    const TemporaryDirectory folder;
    const ziya::QuantisationMix mix = quantisation_mix(type);
    const bool quantised = ziya::is_quantised(mix.type);
    ziya::MergeOptions options = quick();
    const auto report = merge_delta_to_gguf(base, delta, folder / "once.gguf", mix, options);
    if (!quantised) options.type = mix.type;
    ziya::DeltaMerger(base, delta, folder / "merged", options).run();
    ziya::ModelSource model = ziya::open_hf_model(folder / "merged");
    model.tensors = std::make_shared<const ziya::QuantisedSource>(
        model.tensors, ziya::QuantisationPlan(mix, model.tensors->tensors()));
    ziya::write_gguf_model(model, folder / "twice.gguf");
    const auto once = ziya::open_source(folder / "once.gguf"),
               twice = ziya::open_source(folder / "twice.gguf");
    REQUIRE(ziya::fingerprint(*once.source).model() == ziya::fingerprint(*twice.source).model());
    REQUIRE(once.metadata.at("ziya.fingerprint") == ziya::fingerprint(*once.source).model());
    REQUIRE(once.metadata.at("ziya.fingerprint") == report.fingerprint);
    REQUIRE(once.metadata.at("ziya.base.fingerprint") ==
            ziya::fingerprint(*ziya::open_source(base).source).model());
    REQUIRE(once.metadata.at("ziya.delta.fingerprint") ==
            ziya::fingerprint(*ziya::open_source(delta).source).model());
    REQUIRE(once.metadata.at("ziya.merge").starts_with(quantised ? "f16(" : type));
    REQUIRE(report.quantised.empty() != quantised);
    REQUIRE(report.bytes ==
            std::accumulate(
                once.source->tensors().begin(), once.source->tensors().end(), std::int64_t{0},
                [](std::int64_t sum, const ziya::TensorSpec& t) { return sum + t.bytes(); }));
    REQUIRE(test::count_entries(folder.path()) > 2);
    REQUIRE(test::read_file(folder / "once.gguf").find(folder.path().string()) ==
            std::string::npos);  // no path
  }
}

TEST_CASE("delta to gguf: what is merged is no base, in whatever form it is written again",
          "[gguf_merge]") {
  const TemporaryDirectory folder;
  merge_delta_to_gguf(base, delta, folder / "m.gguf", quantisation_mix("f16"), quick());
  const auto refused = [&](const fs::path& merged) {
    REQUIRE_ERROR(
        merge_delta_to_gguf(merged, delta, folder / "x.gguf", quantisation_mix("f16"), quick()),
        "ZIYA-605", "itself a merged model");
  };
  refused(folder / "m.gguf");
  ziya::write_hf_model(ziya::open_gguf_model(folder / "m.gguf"), folder / "hf");
  refused(folder / "hf");
  ziya::write_gguf_model(ziya::open_hf_model(folder / "hf"), folder / "again.gguf");
  refused(folder / "again.gguf");
  REQUIRE(!fs::exists(folder / "x.gguf"));
}

TEST_CASE("delta to gguf: any number of threads writes the same bytes", "[gguf_merge]") {
  const TemporaryDirectory folder;
  for (const int threads : {1, 2, 5}) {
    ziya::MergeOptions options = quick();
    options.threads = threads;
    const fs::path file = folder / (std::to_string(threads) + ".gguf");
    merge_delta_to_gguf(base, delta, file, quantisation_mix("q4_0"), options);
    const bool same = test::read_file(file) == test::read_file(folder / "1.gguf");
    REQUIRE(same);
  }
}

TEST_CASE("delta to gguf: nothing is left of what does not end well", "[gguf_merge]") {
  const TemporaryDirectory folder;
  const auto target = folder.file("m.gguf", "what was there");
  const auto untouched = [&] {
    REQUIRE(test::read_file(target) == "what was there");
    REQUIRE(test::count_entries(folder.path()) == 1);
  };
  const auto merge = [&](ziya::MergeOptions options) {
    return merge_delta_to_gguf(base, delta, target, quantisation_mix("q8_0"), options);
  };
  ziya::MergeOptions options = quick();
  REQUIRE_ERROR(merge(options), "ZIYA-208", "m.gguf");
  options.overwrite = true;
  for (const std::int64_t bytes : {0, 5000, 2'000'000}) {
    options.hooks = faulty(Fault::disk_full, bytes);
    REQUIRE_ERROR(merge(options), "ZIYA-206", "m.gguf");
    untouched();
  }
  options.hooks = faulty(Fault::sync_fails);
  REQUIRE_ERROR(merge(options), "ZIYA-206", "brought to the disk");
  options.hooks = faulty(Fault::none);
  const std::atomic<bool> cancelled{true};
  options.cancel = &cancelled;
  REQUIRE_ERROR(merge(options), "ZIYA-606", "cancelled");
  options.cancel = nullptr;
  options.strict = true;
  options.verify = [&](const auto& source, const fs::path& folder_of_texts) {
    REQUIRE(source->tensors().size() == 30);
    REQUIRE(fs::equivalent(folder_of_texts, delta));
    REQUIRE(test::read_file(target) == "what was there");
    return std::vector<ziya::MergeFinding>{{"ZIYA-655", "it does not speak"}};
  };
  REQUIRE_ERROR(merge(options), "ZIYA-655", "does not speak");
  untouched();
  options.strict = false;
  REQUIRE(merge(options).findings.size() == 1);
  REQUIRE(ziya::gguf::is_gguf(target));
  REQUIRE_ERROR(
      merge_delta_to_gguf(delta, base, folder / "x.gguf", quantisation_mix("q8_0"), quick()),
      "ZIYA-604", "is a delta");
}

TEST_CASE("delta to gguf: what was ended anywhere is resumed to the same bytes and report",
          "[gguf_merge]") {
  const TemporaryDirectory folder;
  for (const char* type : {"q4_k_m", "f16"}) {
    CAPTURE(type);
    const ziya::QuantisationMix mix = quantisation_mix(type);
    ziya::MergeOptions options = quick();
    const auto whole = merge_delta_to_gguf(base, delta, folder / "whole.gguf", mix, options);
    const std::string expected = test::read_file(folder / "whole.gguf");
    const auto size = static_cast<std::int64_t>(expected.size());
    options.keep_unfinished = true;
    std::int64_t most = 0;
    for (const std::int64_t end :
         {std::int64_t{3000}, size / 3, size / 2, size - 100'000, size + 2000}) {
      for (const bool damaged : {false, true}) {
        CAPTURE(end, damaged);
        const fs::path partial = folder / "m.gguf.partial" / "m.gguf";
        options.resume = false;
        options.threads = 2;
        options.hooks = faulty(Fault::io_error, end);
        REQUIRE_ERROR(merge_delta_to_gguf(base, delta, folder / "m.gguf", mix, options), "ZIYA-206",
                      "m.gguf");
        REQUIRE_FALSE(fs::exists(folder / "m.gguf"));
        if (damaged && fs::exists(partial)) {
          std::string bytes = test::read_file(partial);
          bytes[bytes.size() / 2] ^= 0x20;
          std::ofstream(partial, std::ios::binary) << bytes;
        }
        options.resume = true;
        options.threads = 5;
        options.hooks = faulty(Fault::none);
        std::int64_t done = 0;
        options.needs = [&](const ziya::ConversionNeeds& needs) { done = needs.disk_done; };
        const auto report = merge_delta_to_gguf(base, delta, folder / "m.gguf", mix, options);
        options.needs = nullptr;
        most = std::max(most, done);
        const bool same = test::read_file(folder / "m.gguf") == expected;
        REQUIRE(same);
        REQUIRE(test::count_entries(folder.path()) == 2);
        REQUIRE(report.fingerprint == whole.fingerprint);
        REQUIRE(report.delta_fingerprint == whole.delta_fingerprint);
        REQUIRE(report.quantised.size() == whole.quantised.size());
        for (std::size_t i = 0; i < report.quantised.size(); ++i) {
          REQUIRE(report.quantised[i].rmse() == Approx(whole.quantised[i].rmse()));
        }
        fs::remove(folder / "m.gguf");
      }
    }
    REQUIRE(most > size / 3);
    fs::remove(folder / "whole.gguf");
  }
}

TEST_CASE("delta to gguf: only the same work is resumed", "[gguf_merge]") {
  const TemporaryDirectory folder;
  ziya::MergeOptions options = quick();
  options.keep_unfinished = true;
  options.hooks = faulty(Fault::io_error, 1'900'000);
  const auto merge = [&](const char* type) {
    return merge_delta_to_gguf(base, delta, folder / "m.gguf", quantisation_mix(type), options);
  };
  REQUIRE_ERROR(merge("q8_0"), "ZIYA-206", "m.gguf");
  options.hooks = faulty(Fault::none);
  options.resume = true;
  REQUIRE_ERROR(merge("q4_0"), "ZIYA-643", "other inputs or options");
  REQUIRE(fs::exists(folder / "m.gguf.partial" / "m.gguf"));
  options.resume = false;
  merge("q4_0");
  REQUIRE(test::count_entries(folder.path()) == 1);
}

TEST_CASE("delta to gguf: needs are said before anything is written", "[gguf_merge]") {
  const TemporaryDirectory folder;
  ziya::MergeOptions options = quick();
  std::int64_t disk = 0;
  options.needs = [&](const ziya::ConversionNeeds& needs) {
    disk = needs.disk;
    REQUIRE(needs.memory < 512'000'000);
    REQUIRE(test::count_entries(folder / "m.gguf.partial") == 1);  // the journal
    throw ziya::Error("ZIYA-606", "not today");
  };
  REQUIRE_ERROR(
      merge_delta_to_gguf(base, delta, folder / "m.gguf", quantisation_mix("q4_0"), options),
      "ZIYA-606", "not today");
  REQUIRE(disk > 2'000'000);
  REQUIRE(test::count_entries(folder.path()) == 0);
}

}  // namespace delta_to_gguf_test
