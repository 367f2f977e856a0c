// SPDX-License-Identifier: Apache-2.0
// Merging base and delta: PyTorch's numbers bit for bit, and every way in which it can go wrong.
#include "ziya/convert/delta_merger.hpp"

#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <csignal>
#include <fstream>
#include <map>

#include "support/errors.hpp"
#include "support/fault.hpp"
#include "support/temporary_directory.hpp"
#include "ziya/io/json.hpp"

namespace delta_merger_test {

using test::Fault;
using test::faulty;
using test::TemporaryDirectory;
using ziya::Checkpoint;
using ziya::DeltaMerger;
using ziya::DType;
using ziya::Half;

const std::filesystem::path golden = ZIYA_TEST_DATA "/merge";

std::vector<std::byte> bytes_of(const Checkpoint& checkpoint, const std::string& name) {
  std::vector<std::byte> bytes(static_cast<std::size_t>(checkpoint.find(name)->bytes()));
  checkpoint.read(name, bytes);
  return bytes;
}

/// Everything in a folder, by name.
std::map<std::string, std::string> contents(const std::filesystem::path& folder) {
  std::map<std::string, std::string> result;
  for (const auto& item : std::filesystem::directory_iterator(folder)) {
    result[item.path().filename().string()] = test::read_file(item.path());
  }
  return result;
}

struct Stored {
  std::string name;
  ziya::Shape shape;
  float value = 0;
};

/// A folder with f16 tensors of one value each, and a config.
void write_model(const std::filesystem::path& folder, const std::vector<Stored>& tensors,
                 const ziya::safetensors::Metadata& metadata = {}) {
  std::filesystem::create_directories(folder);
  std::vector<ziya::TensorSpec> specs;
  for (const auto& tensor : tensors) specs.push_back({tensor.name, DType::f16, tensor.shape});
  ziya::SafetensorsWriter writer(folder / "model.safetensors", specs, metadata);
  for (const auto& tensor : tensors) {
    const std::vector<Half> data(static_cast<std::size_t>(tensor.shape.elements()),
                                 ziya::to_half(tensor.value));
    writer.write(tensor.name, std::as_bytes(std::span(data)));
  }
  writer.commit();
  ziya::write_text_file(folder / "config.json", R"({"model_type": "llama"})");
}

const std::string embed = "model.embed_tokens.weight", up = "model.layers.0.mlp.up_proj.weight",
                  norm = "model.norm.weight", head = "lm_head.weight";

/// A small base and its delta in one folder.
struct Pair : TemporaryDirectory {
  Pair() {
    write_base({{embed, {4, 8}, 1}, {up, {16, 8}, 2}, {norm, {8}, 1.5f}, {head, {4, 8}, 3}});
    write_delta(
        {{embed, {6, 8}, 4}, {up, {16, 8}, 0.5f}, {norm, {8}, 0.25f / 2}, {head, {6, 8}, 5}});
  }
  void write_base(const std::vector<Stored>& tensors,
                  const ziya::safetensors::Metadata& metadata = {}) const {
    write_model(*this / "base", tensors, metadata);
  }
  void write_delta(const std::vector<Stored>& tensors) const {
    write_model(*this / "delta", tensors);
  }
  ziya::MergeReport merge(ziya::MergeOptions options = {}) const {
    return DeltaMerger(*this / "base", *this / "delta", *this / "target", std::move(options)).run();
  }
  [[nodiscard]] bool clean() const { return test::count_entries(path()) == 6; }
};

/// The tensors of a folder are those of a golden file, bit for bit; which NaN it is, is not
/// promised.
void require_golden(const std::filesystem::path& folder, const char* file) {
  const auto merged = Checkpoint::open(folder), expected = Checkpoint::open(golden / file);
  for (const auto& tensor : expected.tensors()) {
    INFO(file << ": " << tensor.name);
    REQUIRE(merged.find(tensor.name)->dtype == tensor.dtype);
    REQUIRE(merged.find(tensor.name)->shape == tensor.shape);
    const auto ours = bytes_of(merged, tensor.name), theirs = bytes_of(expected, tensor.name);
    const std::size_t size = ours.size() / static_cast<std::size_t>(tensor.shape.elements());
    // The bits of infinity, beyond which a number is a NaN whatever its sign.
    const std::uint32_t infinity = tensor.dtype == DType::f16    ? 0x7c00
                                   : tensor.dtype == DType::bf16 ? 0x7f80
                                                                 : 0x7f800000;
    const std::uint32_t magnitude = size == 2 ? 0x7fff : 0x7fffffff;
    for (std::size_t i = 0; i < ours.size(); i += size) {
      std::uint32_t a = 0, b = 0;
      std::memcpy(&a, ours.data() + i, size);
      std::memcpy(&b, theirs.data() + i, size);
      const bool nan = (a & magnitude) > infinity && (b & magnitude) > infinity;
      if (a != b && !nan) {
        CAPTURE(i / size, a, b);
        REQUIRE(a == b);
      }
    }
  }
}

TEST_CASE("the merge is PyTorch's, bit for bit", "[delta_merger]") {
  const TemporaryDirectory folder;
  for (const std::int64_t limit : {std::int64_t{20'000}, std::int64_t{1} << 40}) {
    ziya::MergeOptions options;
    options.overwrite = true;
    options.max_shard_bytes = limit;
    options.hooks = faulty(Fault::none);
    const auto report =
        DeltaMerger(golden / "base", golden / "delta", folder / "target", options).run();
    require_golden(folder / "target", "expected.safetensors");
    const auto merged = Checkpoint::open(folder / "target");
    REQUIRE(merged.tensors().size() == 11 + 16);
    REQUIRE(report.tensors == 11 + 16);
    REQUIRE(report.copied == 3);
    REQUIRE(report.shards == static_cast<std::int64_t>(merged.files().size()));
    REQUIRE((report.shards > 1) == (limit == 20'000));
    REQUIRE(merged.bytes() == report.bytes);
    REQUIRE(test::read_file(folder / "target/LICENSE") ==
            test::read_file(golden / "delta/LICENSE"));
    REQUIRE(std::filesystem::exists(folder / "target/added_tokens.json"));
    REQUIRE(test::read_file(folder / "target/config.json") ==
            test::read_file(golden / "delta/config.json"));
    REQUIRE(!std::filesystem::exists(folder / "target/notes.tmp"));
    REQUIRE(test::count_entries(folder.path()) ==
            static_cast<std::size_t>(1 + 3 + report.shards + (report.shards > 1)));
    REQUIRE(merged.metadata().at("ziya.fingerprint") == report.fingerprint);
    REQUIRE(ziya::fingerprint(ziya::CheckpointSource(merged)).model() == report.fingerprint);
    REQUIRE(ziya::fingerprint(*ziya::open_source(golden / "base").source).model() ==
            merged.metadata().at("ziya.base.fingerprint"));
    REQUIRE(ziya::fingerprint(*ziya::open_source(golden / "delta").source).model() ==
            merged.metadata().at("ziya.delta.fingerprint"));
    REQUIRE(report.licence.size() == 3);
    REQUIRE_THAT(report.notes.at(0), Catch::Contains("infinite or NaN"));
  }
}

TEST_CASE("other types, formats and the way back are PyTorch's too", "[delta_merger]") {
  const TemporaryDirectory folder;
  ziya::MergeOptions options;
  options.hooks = faulty(Fault::none);
  options.overwrite = true;
  const auto merge = [&](const char* base, const char* expected) {
    DeltaMerger(golden / base, golden / "delta", folder / "target", options).run();
    require_golden(folder / "target", expected);
  };
  for (const auto format : {ziya::MergeFormat::safetensors, ziya::MergeFormat::pytorch}) {
    options.format = format;
    merge("base", "expected.safetensors");
    merge("base-legacy", "expected.safetensors");
  }
  const auto made = ziya::make_delta(golden / "base", folder / "target", folder / "delta",
                                     {.hooks = options.hooks});
  require_golden(folder / "delta", "expected-delta.safetensors");
  REQUIRE(made.copied == 3);
  options.type = DType::bf16;
  merge("base", "expected-bf16.safetensors");
  options.type = DType::f32;
  merge("base-legacy", "expected-f32.safetensors");
}

TEST_CASE("views of shared storages merge as what they show", "[delta_merger]") {
  const TemporaryDirectory folder;
  ziya::MergeReport plain, views;
  plain = DeltaMerger(golden / "base", golden / "delta", folder / "plain").run();
  views = DeltaMerger(golden / "base", golden / "delta-views", folder / "views").run();
  REQUIRE(plain.fingerprint == views.fingerprint);
  REQUIRE(plain.delta_fingerprint == views.delta_fingerprint);
  REQUIRE(test::read_file(folder / "plain/model.safetensors") ==
          test::read_file(folder / "views/model.safetensors"));
}

TEST_CASE("what the report says, and how far it is", "[delta_merger]") {
  const Pair pair;
  std::vector<ziya::ProgressEvent> events;
  ziya::MergeOptions options;
  options.progress = [&](const ziya::ProgressEvent& event) { events.push_back(event); };
  const auto report = pair.merge(options);
  REQUIRE(report.target == std::filesystem::canonical(pair / "target"));
  REQUIRE(report.added == 2);
  REQUIRE(report.bytes == 2 * (48 + 128 + 8 + 48));
  REQUIRE(report.notes.empty());
  REQUIRE(events.size() == 4);
  REQUIRE(events.back().bytes == events.back().total);
  REQUIRE(events.back().total == report.bytes);
  REQUIRE(events.back().index == 3);
  REQUIRE(events.back().count == 4);
  const auto merged = Checkpoint::open(pair / "target");
  Half value;
  merged.read_elements(up, 127, 1, std::as_writable_bytes(std::span(&value, 1)));
  REQUIRE(ziya::to_float(value) == 2.5f);
}

TEST_CASE("a tensor of several chunks is merged in one piece", "[delta_merger]") {
  const Pair pair;
  const ziya::Shape large{1100, 4096};  // 4.5 million elements, three chunks
  pair.write_base({{embed, {4, 8}, 1}, {up, large, 2}, {norm, {8}, 1.5f}});
  pair.write_delta({{embed, {6, 8}, 4}, {up, large, 0.5f}, {norm, {8}, 0}});
  std::size_t events = 0;
  ziya::MergeOptions options;
  options.progress = [&](const ziya::ProgressEvent&) { ++events; };
  pair.merge(options);
  REQUIRE(events == 5);
  const auto bytes = bytes_of(Checkpoint::open(pair / "target"), up);
  std::vector<Half> values(bytes.size() / 2);
  std::memcpy(static_cast<void*>(values.data()), bytes.data(), bytes.size());
  REQUIRE(std::ranges::all_of(values, [](Half v) { return ziya::to_float(v) == 2.5f; }));
}

TEST_CASE("tensors that do not fit together are listed", "[delta_merger]") {
  const Pair pair;
  const Stored e{embed, {6, 8}, 4}, n{norm, {8}, 0}, h{head, {6, 8}, 5}, u{up, {16, 8}, 0.5f};
  pair.write_delta({e, n, h});
  REQUIRE_ERROR(pair.merge(), "ZIYA-603", up + " is missing from the delta");
  pair.write_delta({e, n, h, u, {"model.layers.1.x", {2}, 0}});
  REQUIRE_ERROR(pair.merge(), "ZIYA-603", "model.layers.1.x is missing from the base");
  pair.write_delta({e, n, h, {up, {8, 16}, 0.5f}});
  REQUIRE_ERROR(pair.merge(), "ZIYA-603", "is (16, 8) in the base and (8, 16) in the delta");
  pair.write_delta({n, h, u});
  REQUIRE_ERROR(pair.merge(), "ZIYA-603", "embed_tokens is missing from the delta");
  std::vector<Stored> many{e, n, h, u};
  for (int i = 0; i < 9; ++i) many.push_back({"x" + std::to_string(i), {1}, 0});
  pair.write_delta(many);
  REQUIRE_ERROR(pair.merge(), "ZIYA-603", "in 9 tensors; x0 is missing");
  REQUIRE_ERROR(pair.merge(), "ZIYA-603", "…");
  REQUIRE(pair.clean());
}

TEST_CASE("stored rotary frequencies and heads on one side only", "[delta_merger]") {
  const Pair pair;
  const std::string freq = "model.layers.0.self_attn.rotary_emb.inv_freq";
  const Stored n{norm, {8}, 1}, u{up, {16, 8}, 2}, dn{norm, {8}, 0}, du{up, {16, 8}, 0.5f};
  pair.write_base({{embed, {4, 8}, 1}, n, u, {freq, {4}, 7}, {head, {4, 8}, 1}});
  pair.write_delta({{embed, {6, 8}, 4}, dn, du});
  const auto report = pair.merge();
  REQUIRE(Checkpoint::open(pair / "target").find(freq) == nullptr);  // the base's is dropped
  REQUIRE(report.notes.size() == 1);
  REQUIRE_THAT(report.notes[0], Catch::StartsWith(head));
  pair.write_delta({{embed, {6, 8}, 4}, dn, du, {freq, {4}, 9}});
  ziya::MergeOptions options;
  options.overwrite = true;
  pair.merge(options);
  const auto merged = Checkpoint::open(pair / "target");
  REQUIRE(bytes_of(merged, freq) == bytes_of(Checkpoint::open(pair / "delta"), freq));
}

TEST_CASE("models given as deltas and deltas given as models are recognised", "[delta_merger]") {
  const Pair pair;
  const Stored e{embed, {6, 8}, 4}, h{head, {6, 8}, 5}, u{up, {16, 8}, 0.5f};
  pair.write_delta({e, h, u, {norm, {8}, 1.4f}});
  REQUIRE_ERROR(pair.merge(), "ZIYA-604", "it is a model already");
  pair.write_delta({e, h, u, {norm, {8}, 0.01f}});
  pair.write_base({e, h, u, {norm, {8}, 0.01f}});
  REQUIRE_ERROR(pair.merge(), "ZIYA-604", "is a delta (its norm");
  pair.write_base({e, h, u, {norm, {8}, 1.5f}}, {{"ziya.merge", "yes"}});
  REQUIRE_ERROR(pair.merge(), "ZIYA-605", "itself a merged model");
  REQUIRE(pair.clean());
}

TEST_CASE("paths that would destroy something are refused", "[delta_merger]") {
  const Pair pair;
  const auto run = [&](const char* base, const char* delta, const char* target, bool overwrite) {
    ziya::MergeOptions options;
    options.overwrite = overwrite;
    DeltaMerger(pair / base, pair / delta, pair / target, options).run();
  };
  REQUIRE_ERROR(run("base", "base", "target", true), "ZIYA-601", "base and delta");
  REQUIRE_ERROR(run("base", "delta", "base", true), "ZIYA-601", "/base are the same");
  REQUIRE_ERROR(run("base", "delta", "delta/.", true), "ZIYA-601", "/delta are the same");
  REQUIRE_ERROR(run("base", "delta", "", true), "ZIYA-601", "one in the other");
  run("base", "delta", "target", false);
  REQUIRE_ERROR(run("base", "delta", "target", false), "ZIYA-208", "exists already");
  run("base", "delta", "target", true);
  REQUIRE_ERROR(run("absent", "delta", "x", true), "ZIYA-201", "absent");
  std::filesystem::remove(pair / "delta/config.json");
  REQUIRE_ERROR(run("base", "delta", "x", true), "ZIYA-602", "no config.json");
  REQUIRE(!std::filesystem::exists(pair / "x"));
}

TEST_CASE("a failing disk at any byte leaves no target, or the old one", "[delta_merger]") {
  const Pair pair;
  const auto count = std::make_shared<test::FaultCount>();
  ziya::MergeOptions options;
  options.max_shard_bytes = 200;
  options.hooks = faulty(Fault::short_write, 0, count);
  pair.merge(options);
  const auto old = test::read_file(pair / "target/model.safetensors.index.json");
  const std::size_t entries = test::count_entries(pair.path());
  const auto attempt = [&](Fault fault, std::int64_t bytes) {
    ziya::MergeOptions broken = options;
    broken.overwrite = true;
    broken.hooks = faulty(fault, bytes);
    pair.merge(broken);
  };
  for (std::int64_t bytes = 0; bytes < count->bytes; bytes += 37) {
    REQUIRE_ERROR(attempt(Fault::disk_full, bytes), "ZIYA-206", "No space left");
    REQUIRE_ERROR(attempt(Fault::io_error, bytes), "ZIYA-206", "writing failed");
    REQUIRE(test::count_entries(pair.path()) == entries);
    REQUIRE(test::read_file(pair / "target/model.safetensors.index.json") == old);
  }
  REQUIRE_ERROR(attempt(Fault::sync_fails, 0), "ZIYA-206", "brought to the disk");
  attempt(Fault::interrupted, 0);
  REQUIRE(test::count_entries(pair.path()) == entries);
}

TEST_CASE("inputs that end too early during a merge are an error", "[delta_merger]") {
  const Pair pair;
  ziya::MergeOptions options;
  options.progress = [&](const ziya::ProgressEvent&) {
    std::filesystem::resize_file(pair / "base/model.safetensors", 300);
  };
  // Chunks are read ahead: enough tensors that some are read after the first event.
  std::vector<Stored> base{{embed, {4, 8}, 1}, {norm, {8}, 1}},
      delta{{embed, {4, 8}, 1}, {norm, {8}, 0}};
  for (int i = 0; i < 20; ++i) {
    base.push_back({"model.layers." + std::to_string(i), {64}, 1});
    delta.push_back({"model.layers." + std::to_string(i), {64}, 1});
  }
  pair.write_base(base);
  pair.write_delta(delta);
  REQUIRE_ERROR(pair.merge(options), "ZIYA-203", "base/model.safetensors");
  REQUIRE(pair.clean());
}

TEST_CASE("cancelling and throwing callbacks leave nothing", "[delta_merger]") {
  const Pair pair;
  std::atomic<bool> cancel = false;
  ziya::MergeOptions options;
  options.cancel = &cancel;
  options.progress = [&](const ziya::ProgressEvent& event) { cancel = event.index == 1; };
  REQUIRE_ERROR(pair.merge(options), "ZIYA-606", "nothing was written");
  REQUIRE(pair.clean());
  options.progress = [&](const ziya::ProgressEvent&) { throw 42; };
  cancel = false;
  REQUIRE_THROWS_AS(pair.merge(options), int);
  REQUIRE(pair.clean());
}

TEST_CASE("a merge that is killed at any point leaves nothing that looks like a model",
          "[delta_merger]") {
  const Pair pair;
  const auto count = std::make_shared<test::FaultCount>();
  std::map<std::string, std::string> expected;
  {
    ziya::MergeOptions options;
    options.max_shard_bytes = 200;
    options.hooks = faulty(Fault::none, 0, count);
    pair.merge(options);
    expected = contents(pair / "target");
    std::filesystem::remove_all(pair / "target");
  }
  for (const int signal : {SIGKILL, SIGTERM}) {
    for (std::int64_t writes = 1; writes <= count->writes; ++writes) {
      const pid_t child = ::fork();
      if (child == 0) {
        std::int64_t left = writes;
        ziya::MergeOptions options;
        options.max_shard_bytes = 200;
        options.hooks.sync = [](int) { return 0; };
        options.hooks.write = [&](int fd, const void* data, std::size_t bytes) {
          if (--left == 0) ::raise(signal);
          return ::write(fd, data, bytes);
        };
        pair.merge(options);
        ::_exit(0);
      }
      int status = 0;
      REQUIRE(::waitpid(child, &status, 0) == child);
      REQUIRE(WIFSIGNALED(status));
      REQUIRE(!std::filesystem::exists(pair / "target"));
      for (const auto& item : std::filesystem::directory_iterator(pair.path())) {
        const auto name = item.path().filename();
        if (name == "base" || name == "delta") continue;
        // What is left bears another name, and is no whole model under that name either.
        REQUIRE(name.string() == "target.partial");
        REQUIRE(!std::filesystem::exists(item.path() / "config.json"));
      }
      // The next process goes on from there, and makes the same bytes.
      ziya::MergeOptions options;
      options.max_shard_bytes = 200;
      options.resume = true;
      options.hooks = faulty(Fault::none);
      pair.merge(options);
      REQUIRE(contents(pair / "target") == expected);
      std::filesystem::remove_all(pair / "target");
    }
  }
}

TEST_CASE("an interrupted merge goes on from what is whole", "[delta_merger]") {
  const Pair pair;
  ziya::MergeOptions options;
  options.max_shard_bytes = 200;
  options.hooks = faulty(Fault::none);
  pair.merge(options);
  const auto expected = contents(pair / "target");
  std::filesystem::remove_all(pair / "target");
  const auto interrupt = [&](bool keep) {
    std::atomic<bool> cancel = false;
    ziya::MergeOptions some = options;
    some.keep_unfinished = keep;
    some.cancel = &cancel;
    some.progress = [&](const ziya::ProgressEvent& event) { cancel = event.index == 2; };
    REQUIRE_ERROR(pair.merge(some), "ZIYA-606", "cancelled");
  };
  interrupt(false);
  REQUIRE(pair.clean());
  interrupt(true);
  REQUIRE(!std::filesystem::exists(pair / "target"));
  const auto partial = pair / "target.partial";
  REQUIRE(std::filesystem::exists(partial / "model-00001-of-00003.safetensors"));

  ziya::MergeOptions other = options;
  other.resume = true;
  other.max_shard_bytes = 300;
  REQUIRE_ERROR(pair.merge(other), "ZIYA-643", "other inputs or options");
  REQUIRE(std::filesystem::exists(partial / "model-00001-of-00003.safetensors"));

  std::size_t kept = 1;
  SECTION("as it is") {}
  SECTION("a byte of a finished shard has changed") {
    std::string bytes = test::read_file(partial / "model-00001-of-00003.safetensors");
    bytes[bytes.size() - 5] ^= 1;
    pair.file("target.partial/model-00001-of-00003.safetensors", bytes);
    kept = 0;
  }
  SECTION("the last line of the journal is torn") {
    std::ofstream(partial / ziya::Journal::file_name, std::ios::app) << "{\"file\": \"model-000";
  }
  options.resume = true;
  options.threads = 2;
  const auto report = pair.merge(options);
  REQUIRE(report.resumed_shards == static_cast<std::int64_t>(kept));
  REQUIRE(contents(pair / "target") == expected);
  REQUIRE(!std::filesystem::exists(partial));
}

TEST_CASE("PyTorch files hold the same merge, and say that it is one", "[delta_merger]") {
  const TemporaryDirectory folder;
  ziya::MergeOptions options;
  options.hooks = faulty(Fault::none);
  options.format = ziya::MergeFormat::pytorch;
  options.max_shard_bytes = 20'000;
  const auto report = DeltaMerger(golden / "base", golden / "delta", folder / "bin", options).run();
  REQUIRE(report.shards > 1);
  options.format = ziya::MergeFormat::safetensors;
  const auto other = DeltaMerger(golden / "base", golden / "delta", folder / "st", options).run();
  REQUIRE(report.fingerprint == other.fingerprint);
  const auto written = ziya::open_source(folder / "bin");
  REQUIRE(ziya::fingerprint(*written.source).model() == report.fingerprint);
  REQUIRE_ERROR(DeltaMerger(folder / "bin", golden / "delta", folder / "twice", options).run(),
                "ZIYA-605", "itself a merged model");
  REQUIRE_ERROR(DeltaMerger(folder / "st", golden / "delta", folder / "twice", options).run(),
                "ZIYA-605", "itself a merged model");
}

TEST_CASE("a delta that is made gives the model back", "[delta_merger]") {
  const TemporaryDirectory folder;
  const std::filesystem::path tiny = ZIYA_EXAMPLES "/ziya-tiny";
  ziya::MergeOptions options;
  options.hooks = faulty(Fault::none);
  const auto merged = DeltaMerger(tiny / "base", tiny / "delta", folder / "model", options).run();
  REQUIRE(merged.findings.empty());
  const auto made = ziya::make_delta(tiny / "base", folder / "model", folder / "delta", options);
  REQUIRE(made.delta_fingerprint == merged.fingerprint);
  REQUIRE(made.licence.empty());
  const auto again = DeltaMerger(tiny / "base", folder / "delta", folder / "again", options).run();
  REQUIRE(again.fingerprint == merged.fingerprint);
  REQUIRE(test::read_file(folder / "again/tokenizer.model") ==
          test::read_file(tiny / "delta/tokenizer.model"));
  REQUIRE_ERROR(ziya::make_delta(tiny / "base", tiny / "delta", folder / "x", options), "ZIYA-604",
                "a delta already");
}

TEST_CASE("what checks find is told, and refused when strict", "[delta_merger]") {
  const TemporaryDirectory folder;
  const std::filesystem::path tiny = ZIYA_EXAMPLES "/ziya-tiny";
  ziya::MergeOptions options;
  options.hooks = faulty(Fault::none);
  options.limits.embedding_cosine = 0.9999;
  const auto report = DeltaMerger(tiny / "base", tiny / "delta", folder / "model", options).run();
  REQUIRE(report.findings.size() == 1);
  REQUIRE(report.findings[0].id == "ZIYA-650");
  options.strict = true;
  REQUIRE_ERROR(DeltaMerger(tiny / "base", tiny / "delta", folder / "strict", options).run(),
                "ZIYA-650", "median cosine");
  options.check = false;
  bool seen = false;
  options.verify = [&](const auto& source, const auto& config) {
    seen = std::filesystem::exists(config / "config.json") && source->tensors().size() == 33;
    return std::vector<ziya::MergeFinding>{{"ZIYA-655", "it prints garbage"}};
  };
  REQUIRE_ERROR(DeltaMerger(tiny / "base", tiny / "delta", folder / "strict", options).run(),
                "ZIYA-655", "garbage");
  REQUIRE(seen);
  REQUIRE(test::count_entries(folder.path()) == test::count_entries(folder / "model") + 1);
}

TEST_CASE("one process works on a target at a time", "[delta_merger]") {
  const Pair pair;
  {
    ziya::OutputDirectory held(pair / "target");
    REQUIRE_ERROR(pair.merge(), "ZIYA-641", "another process");
  }
  pair.file("target.partial/photo.jpg", "");
  REQUIRE_ERROR(pair.merge(), "ZIYA-208", "in the way");
}

TEST_CASE("any number of threads writes the same bytes", "[delta_merger]") {
  const Pair pair;
  const ziya::Shape large{1100, 4096};
  pair.write_base({{embed, {4, 8}, 1}, {up, large, 2}, {norm, {8}, 1.5f}});
  pair.write_delta({{embed, {6, 8}, 4}, {up, large, 0.5f}, {norm, {8}, 0}});
  std::map<std::string, std::string> expected;
  for (const int threads : {1, 3, 8}) {
    ziya::MergeOptions options;
    options.threads = threads;
    options.overwrite = true;
    pair.merge(options);
    if (threads == 1) expected = contents(pair / "target");
    REQUIRE(contents(pair / "target") == expected);
  }
}

TEST_CASE("names are ordered as people count", "[delta_merger]") {
  REQUIRE(ziya::natural_less("layers.2.a", "layers.10.a"));
  REQUIRE(!ziya::natural_less("layers.10.a", "layers.2.a"));
  REQUIRE(ziya::natural_less("layers.2.a", "layers.2.b"));
  REQUIRE(ziya::natural_less("layers.2", "layers.2.b"));
  REQUIRE(ziya::natural_less("a", "b"));
  REQUIRE(!ziya::natural_less("a", "a"));
  REQUIRE(!ziya::natural_less("a2", "a02"));
  REQUIRE(ziya::natural_less("a99999999999999999999998", "a99999999999999999999999"));
}

}  // namespace delta_merger_test
