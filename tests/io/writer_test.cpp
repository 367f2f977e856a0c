// SPDX-License-Identifier: Apache-2.0
// Writers: what they write reads back, and whatever fails, nothing is left that looks whole.
#include "ziya/io/writer.hpp"

#include <catch2/catch.hpp>
#include <numeric>

#include "support/errors.hpp"
#include "support/fault.hpp"
#include "support/temporary_directory.hpp"
#include "ziya/io/checkpoint.hpp"
#include "ziya/io/output_directory.hpp"
#include "ziya/io/safetensors_writer.hpp"

namespace writer_test {

using test::Fault;
using test::faulty;
using test::TemporaryDirectory;
using ziya::DType;
using ziya::Shape;

std::vector<std::byte> pattern(std::int64_t bytes, int seed) {
  std::vector<std::byte> data(static_cast<std::size_t>(bytes));
  for (std::size_t i = 0; i < data.size(); ++i) {
    data[i] = static_cast<std::byte>((i * 37 + static_cast<std::size_t>(seed)) & 0xff);
  }
  return data;
}

const std::vector<ziya::TensorSpec> specs{{"a", DType::f16, {3, 5}},
                                          {"zero", DType::f16, {0, 4}},
                                          {"\"b\\\n\"", DType::f32, {7}},
                                          {"c", DType::i64, {2, 2}},
                                          {"d", DType::boolean, Shape{}}};

/// Writes all of `specs` in pieces of at most `piece` bytes.
void fill(ziya::ShardedSafetensorsWriter& writer, std::size_t piece = 1000) {
  int seed = 0;
  for (const auto& spec : writer.tensors()) {
    const auto data = pattern(spec.bytes(), seed++);
    for (std::size_t i = 0; i < data.size(); i += piece) {
      writer.write(spec.name, std::span(data).subspan(i, std::min(piece, data.size() - i)));
    }
  }
}

TEST_CASE("a file appears at commit, whole, and replaces the old one", "[writer]") {
  const TemporaryDirectory folder;
  const auto path = folder.file("a.txt", "old");
  for (const Fault fault : {Fault::none, Fault::interrupted, Fault::short_write}) {
    ziya::OutputFile file(path, faulty(fault));
    file.write("one, ");
    file.write("two and a longer piece");
    file.finish();
    REQUIRE(test::read_file(path) != "one, two and a longer piece");
    file.commit();
    REQUIRE(test::read_file(path) == "one, two and a longer piece");
    REQUIRE(test::count_entries(folder.path()) == 1);
    folder.file("a.txt", "old");
  }
}

TEST_CASE("a file without commit leaves nothing", "[writer]") {
  const TemporaryDirectory folder;
  const auto path = folder.file("a.txt", "old");
  {
    ziya::OutputFile file(path), other(path);  // both at once
    file.write("new");
    other.write("newer");
    ziya::OutputFile moved = std::move(file);
    moved.write("er");
    REQUIRE(test::count_entries(folder.path()) == 3);
  }
  REQUIRE(test::read_file(path) == "old");
  REQUIRE(test::count_entries(folder.path()) == 1);
  REQUIRE_ERROR(ziya::OutputFile(folder / "absent/a.txt"), "ZIYA-206", "cannot be created");
}

TEST_CASE("every failure of the system is an error that names the file", "[writer]") {
  const TemporaryDirectory folder;
  const auto path = folder.file("a.txt", "old");
  const auto write = [&](Fault fault, std::int64_t after = 0) {
    ziya::write_text_file(path, "0123456789", faulty(fault, after));
  };
  REQUIRE_ERROR(write(Fault::disk_full, 4), "ZIYA-206", "after 4 bytes: No space left");
  REQUIRE_ERROR(write(Fault::zero_write, 4), "ZIYA-206", "No space left");
  REQUIRE_ERROR(write(Fault::io_error), "ZIYA-206", "a.txt: writing failed");
  REQUIRE_ERROR(write(Fault::sync_fails), "ZIYA-206", "cannot be brought to the disk");
  REQUIRE(test::read_file(path) == "old");
  REQUIRE(test::count_entries(folder.path()) == 1);
  std::filesystem::create_directory(folder / "b");
  REQUIRE_ERROR(ziya::write_text_file(folder / "b", "x"), "ZIYA-207", "cannot be renamed to b");
  REQUIRE(test::count_entries(folder.path()) == 2);
}

TEST_CASE("past the page cache the same bytes are written, and the same errors seen", "[writer]") {
  const TemporaryDirectory folder;
  const auto path = folder / "a";
  const auto data = pattern(40'000'001, 3);
  const auto write = [&](ziya::OutputFile file, std::size_t begin, std::size_t piece) {
    for (std::size_t i = begin; i < data.size(); i += piece) {
      file.write(std::span(data).subspan(i, std::min(piece, data.size() - i)));
      REQUIRE(file.bytes() == static_cast<std::int64_t>(std::min(i + piece, data.size())));
    }
    file.commit();
    const std::string found = test::read_file(path);
    REQUIRE(std::equal(data.begin(), data.end(), std::as_bytes(std::span(found)).begin(),
                       std::as_bytes(std::span(found)).end()));
  };
  const auto past_cache = [](Fault fault, std::int64_t after = 0) {
    ziya::WriteHooks hooks = faulty(fault, after);
    hooks.past_cache = true;
    return hooks;
  };
  for (const std::size_t piece : {std::size_t{123'457}, std::size_t{20} << 20}) {
    write(ziya::OutputFile(path, past_cache(Fault::interrupted)), 0, piece);
    for (const std::size_t kept : {0, 4096, 17'000'001}) {  // at any place goes on
      const std::span<const char> front(reinterpret_cast<const char*>(data.data()), kept);
      folder.file("a.front", std::string(front.begin(), front.end()));
      write(ziya::OutputFile(path, folder / "a.front", static_cast<std::int64_t>(kept),
                             past_cache(Fault::none)),
            kept, piece);
    }
    // what is written by 512 bytes ends between blocks
    ziya::WriteHooks few = past_cache(Fault::none);
    few.write = [](int fd, const void* bytes, std::size_t size) {
      return ziya::platform::write_some(fd, bytes, size > 1'000'000 ? 999'936 : size);
    };
    write(ziya::OutputFile(path, few), 0, piece);
    REQUIRE_ERROR(write(ziya::OutputFile(path, past_cache(Fault::disk_full, 20'000'000)), 0, piece),
                  "ZIYA-206", "after 20000000 bytes: No space left");
    REQUIRE_ERROR(write(ziya::OutputFile(path, past_cache(Fault::sync_fails)), 0, piece),
                  "ZIYA-206", "cannot be brought to the disk");
  }
  REQUIRE(test::count_entries(folder.path()) == 1);
}

TEST_CASE("checkpoints of any number of shards read back", "[writer]") {
  for (const std::int64_t limit : {1, 40, 60, 1000}) {
    const TemporaryDirectory folder;
    ziya::ShardedSafetensorsWriter writer(folder.path(), specs, limit, {{"made by", "a \"test\""}},
                                          faulty(Fault::short_write));
    fill(writer, 11);
    REQUIRE(!ziya::Checkpoint::exists(folder.path()));
    writer.commit();
    const auto checkpoint = ziya::Checkpoint::open(folder.path());
    INFO(limit);
    REQUIRE(checkpoint.files().size() == writer.shards());
    REQUIRE(checkpoint.metadata().at("format") == "pt");
    REQUIRE(checkpoint.metadata().at("made by") == "a \"test\"");
    REQUIRE(checkpoint.tensors().size() == specs.size());
    int seed = 0;
    for (const auto& spec : writer.tensors()) {
      REQUIRE(checkpoint.find(spec.name)->dtype == spec.dtype);
      REQUIRE(checkpoint.find(spec.name)->shape == spec.shape);
      const auto mapped = checkpoint.map(spec.name);
      const auto data = pattern(spec.bytes(), seed++);
      REQUIRE(std::equal(data.begin(), data.end(), mapped.data));
      const auto aligned = reinterpret_cast<std::uintptr_t>(mapped.data) %
                           static_cast<std::uintptr_t>(ziya::info(spec.dtype).block_bytes);
      REQUIRE(aligned == 0);
    }
    for (const auto& file : checkpoint.files()) {  // mapped as they are: no copy was needed
      for (const auto& entry : file->tensors()) REQUIRE(entry.offset % entry.item_bytes() == 0);
    }
    if (limit == 1000) {
      REQUIRE(test::count_entries(folder.path()) == 1);
    } else {
      const auto index = ziya::read_json_file(folder / "model.safetensors.index.json");
      REQUIRE(index["metadata"]["total_size"] == 30 + 28 + 32 + 1);
      REQUIRE(index["weight_map"].size() == specs.size());
    }
  }
}

TEST_CASE("tensors out of turn, too long, missing or twice are refused", "[writer]") {
  const TemporaryDirectory folder;
  const auto data = pattern(100, 0);
  {
    ziya::SafetensorsWriter writer(folder / "a.safetensors", specs);
    REQUIRE(writer.tensors()[0].name == "c");
    REQUIRE_ERROR(writer.write("a", data), "ZIYA-215", "tensor a");
    REQUIRE_ERROR(writer.write("c", data), "ZIYA-215", "100 bytes of tensor c");
    writer.write("c", std::span(data).first(32));
    REQUIRE_ERROR(writer.write("c", data), "ZIYA-215", "not what comes next");
    REQUIRE_ERROR(writer.commit(), "ZIYA-215", "was not written");
  }
  {
    ziya::ShardedSafetensorsWriter writer(folder.path(), specs, 1);
    REQUIRE_ERROR(writer.commit(), "ZIYA-215", "was not written");
  }
  REQUIRE_ERROR(ziya::SafetensorsWriter(folder / "a", {specs[0], specs[0]}), "ZIYA-215",
                "only one");
  REQUIRE_ERROR(ziya::ShardedSafetensorsWriter(folder.path(), {specs[0], specs[0]}, 1), "ZIYA-215",
                "only one");
  REQUIRE_ERROR(ziya::SafetensorsWriter(folder / "a", {{"__metadata__", DType::f32, {1}}}),
                "ZIYA-215", "__metadata__");
  REQUIRE_ERROR(ziya::SafetensorsWriter(folder / "a", {{"\xff", DType::f32, {1}}}), "ZIYA-239",
                "UTF-8");
  REQUIRE(test::count_entries(folder.path()) == 0);
}

TEST_CASE("a disk that fills up at any byte leaves nothing of a checkpoint", "[writer]") {
  const auto count = std::make_shared<test::FaultCount>();
  {
    const TemporaryDirectory folder;
    ziya::ShardedSafetensorsWriter writer(folder.path(), specs, 40, {},
                                          faulty(Fault::none, 0, count));
    fill(writer);
    writer.commit();
  }
  REQUIRE(count->bytes > 500);
  for (std::int64_t bytes = 0; bytes < count->bytes; bytes += 13) {
    const TemporaryDirectory folder;
    const auto attempt = [&] {
      ziya::ShardedSafetensorsWriter writer(folder.path(), specs, 40, {},
                                            faulty(Fault::disk_full, bytes));
      fill(writer);
      writer.commit();
    };
    REQUIRE_ERROR(attempt(), "ZIYA-206", "No space left");
    REQUIRE(!ziya::Checkpoint::exists(folder.path()));
  }
}

TEST_CASE("a folder appears at commit", "[writer]") {
  const TemporaryDirectory folder;
  const auto target = folder / "deep/model";
  {
    ziya::OutputDirectory output(target);
    ziya::write_text_file(output.path() / "config.json", "{}");
    REQUIRE(!std::filesystem::exists(target));
  }
  REQUIRE(test::count_entries(folder.path()) == 1);  // "deep"
  std::filesystem::create_directory(target);         // an empty one may be there
  ziya::OutputDirectory output(target.string() + "/");
  ziya::write_text_file(output.path() / "config.json", "{}");
  output.check_space(1);
  REQUIRE_ERROR(output.check_space(std::int64_t{1} << 60), "ZIYA-209", "but the disk has only");
  output.commit();
  REQUIRE(test::read_file(target / "config.json") == "{}");
  REQUIRE(test::count_entries(folder.path()) == 3);
}

TEST_CASE("a folder that cannot be put in place is no model, and can be gone on with", "[writer]") {
  const TemporaryDirectory folder;
  const auto target = folder / "model";
  {
    ziya::OutputDirectory output(target);
    output.keep_unfinished();
    output.journal().append("half");
    ziya::write_text_file(output.path() / "model.bin", "x");
    ziya::write_text_file(output.path() / "config.json", "{}");
    folder.file("model/in the way", "");
    REQUIRE_ERROR(output.commit(), "ZIYA-207", "model.partial");
  }
  REQUIRE(!std::filesystem::exists(folder / "model.partial/config.json"));
  std::filesystem::remove_all(target);
  ziya::OutputDirectory output(target, false, true);
  REQUIRE(output.journal().lines() == std::vector<std::string>{"half"});
  REQUIRE(test::read_file(output.path() / "model.bin") == "x");
}

TEST_CASE("a target and an input apart from each other", "[writer]") {
  const TemporaryDirectory folder;
  folder.file("base/config.json", "{}");
  folder.file("base/inner/config.json", "{}");
  const auto base = folder / "base";
  ziya::refuse_overlap(folder / "target", base);
  ziya::refuse_overlap(folder / "base2", base);
  REQUIRE_ERROR(ziya::refuse_overlap(base, base), "ZIYA-601", "are the same");
  REQUIRE_ERROR(ziya::refuse_overlap(base / "", base), "ZIYA-601", "are the same");
  REQUIRE_ERROR(ziya::refuse_overlap(base / "new", base), "ZIYA-601", "one in the other");
  REQUIRE_ERROR(ziya::refuse_overlap(base, base / "inner"), "ZIYA-601", "one in the other");
  ziya::refuse_overlap(base / "one.gguf", base, true);
  const auto file = folder.file("one.gguf", "x");
  REQUIRE_ERROR(ziya::refuse_overlap(file, file, true), "ZIYA-601", "are the same");
  std::filesystem::create_directory_symlink(base, folder / "link");
  REQUIRE_ERROR(ziya::refuse_overlap(folder / "link", base), "ZIYA-601", "are the same");
}

TEST_CASE("an existing folder is replaced only on request, and only if it is a model", "[writer]") {
  const TemporaryDirectory folder;
  folder.file("model/other.json", "old");
  const auto target = folder / "model";
  REQUIRE_ERROR(ziya::OutputDirectory(target), "ZIYA-208", "exists already");
  REQUIRE_ERROR(ziya::OutputDirectory(target, true), "ZIYA-208", "no config.json");
  folder.file("model/config.json", "old");
  {
    ziya::OutputDirectory output(target, true);
    ziya::write_text_file(output.path() / "config.json", "new");
  }
  REQUIRE(test::read_file(target / "config.json") == "old");
  ziya::OutputDirectory output(target, true);
  ziya::write_text_file(output.path() / "config.json", "new");
  output.commit();
  REQUIRE(test::read_file(target / "config.json") == "new");
  REQUIRE(test::count_entries(folder.path()) == 2);  // nothing of the old one
  folder.file("model/photos/cat.jpg", "mine");
  REQUIRE_ERROR(ziya::OutputDirectory(target, true), "ZIYA-208", "holds photos");
  std::filesystem::remove_all(target / "photos");
  folder.file("model/notes.txt", "mine");
  REQUIRE_ERROR(ziya::OutputDirectory(target, true), "ZIYA-208", "holds notes.txt");
  REQUIRE(test::read_file(target / "config.json") == "new");
  std::filesystem::create_directory_symlink(folder / "nowhere", folder / "link");
  REQUIRE_ERROR(ziya::OutputDirectory(folder / "link"), "ZIYA-207", "link to nothing");
  REQUIRE_ERROR(ziya::WorkDirectory("/proc"), "ZIYA-207", "mounted");
  folder.file("file", "x");
  REQUIRE_ERROR(ziya::OutputDirectory(folder / "file"), "ZIYA-208", "exists already");
  REQUIRE_ERROR(ziya::OutputDirectory(folder / "file/model"), "ZIYA-207", "file/model");
}

}  // namespace writer_test
