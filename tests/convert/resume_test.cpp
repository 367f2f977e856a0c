// SPDX-License-Identifier: Apache-2.0
// Conversions that an error ends anywhere, resumed: the bytes of an undisturbed one in every
// format.
#include <catch2/catch.hpp>
#include <functional>
#include <map>

#include "support/errors.hpp"
#include "support/fault.hpp"
#include "support/temporary_directory.hpp"
#include "ziya/convert/delta_merger.hpp"
#include "ziya/convert/fengshen_writer.hpp"
#include "ziya/convert/gguf_model.hpp"
#include "ziya/convert/hf_writer.hpp"

namespace resume_test {

namespace fs = std::filesystem;
using test::Fault;
using test::faulty;
using test::TemporaryDirectory;

const fs::path tiny = ZIYA_EXAMPLES "/ziya-tiny";

/// Path → contents of everything below.
std::map<std::string, std::string> contents(const fs::path& path) {
  std::map<std::string, std::string> files;
  if (fs::is_regular_file(path)) files[""] = test::read_file(path);
  if (!fs::is_directory(path)) return files;
  for (const auto& entry : fs::recursive_directory_iterator(path)) {
    if (entry.is_regular_file()) {
      files[fs::relative(entry.path(), path).string()] = test::read_file(entry.path());
    }
  }
  return files;
}

/// Writes to `target`; how much was there already comes back.
using Write = std::function<std::int64_t(const fs::path& target, bool resume, int threads,
                                         const ziya::WriteHooks& hooks)>;

void check(const Write& write, const char* name) {
  const TemporaryDirectory folder;
  write(folder / "whole" / name, false, 1, faulty(Fault::none));
  const auto expected = contents(folder / "whole" / name);
  std::int64_t size = 0, most = 0;
  for (const auto& [file, bytes] : expected) size += static_cast<std::int64_t>(bytes.size());
  const fs::path target = folder / "made" / name;
  for (const int percent : {0, 30, 60, 80, 97}) {
    CAPTURE(name, percent);
    REQUIRE_ERROR(write(target, false, 3, faulty(Fault::disk_full, size * percent / 100)),
                  "ZIYA-206", name);
    REQUIRE_FALSE(fs::exists(target));
    most = std::max(most, write(target, true, 2, faulty(Fault::none)));
    const bool same = contents(target) == expected;
    REQUIRE(same);
    const auto left = fs::directory_iterator(folder / "made");
    REQUIRE(std::distance(begin(left), end(left)) == 1);
    fs::remove_all(target);
  }
  REQUIRE(most > size / 4);
}

ziya::ConvertOptions convert(bool resume, int threads, const ziya::WriteHooks& hooks,
                             std::int64_t& done) {
  ziya::ConvertOptions options;
  options.resume = resume;
  options.keep_unfinished = true;
  options.threads = threads;
  options.hooks = hooks;
  options.max_shard_bytes = 300'000;
  options.needs = [&done](const ziya::ConversionNeeds& needs) { done = needs.disk_done; };
  return options;
}

TEST_CASE("resume: every format that convert writes", "[resume]") {
  const auto model = ziya::open_hf_model(tiny / "base");
  check(
      [&](const auto& target, bool resume, int threads, const auto& hooks) {
        std::int64_t done = 0;
        ziya::write_hf_model(model, target, convert(resume, threads, hooks, done));
        return done;
      },
      "hf");
  check(
      [&](const auto& target, bool resume, int threads, const auto& hooks) {
        std::int64_t done = 0;
        ziya::write_gguf_model(model, target, convert(resume, threads, hooks, done));
        return done;
      },
      "m.gguf");
  check(
      [&](const auto& target, bool resume, int threads, const auto& hooks) {
        std::int64_t done = 0;
        ziya::write_fengshen_model(model, target, 2, convert(resume, threads, hooks, done));
        return done;
      },
      "fengshen");
}

TEST_CASE("resume: a merge to either format of folders", "[resume]") {
  for (const auto format : {ziya::MergeFormat::safetensors, ziya::MergeFormat::pytorch}) {
    check(
        [&](const auto& target, bool resume, int threads, const auto& hooks) {
          std::int64_t done = 0;
          ziya::MergeOptions options;
          options.format = format;
          options.check = false;
          options.resume = resume;
          options.keep_unfinished = true;
          options.threads = threads;
          options.hooks = hooks;
          options.max_shard_bytes = 300'000;
          options.needs = [&](const ziya::ConversionNeeds& needs) { done = needs.disk_done; };
          ziya::DeltaMerger(tiny / "base", tiny / "delta", target, options).run();
          return done;
        },
        format == ziya::MergeFormat::pytorch ? "bin" : "safetensors");
  }
}

}  // namespace resume_test
