// SPDX-License-Identifier: Apache-2.0
// Paths, reading by offset, mapping, and what a person may write for a model.
#include "ziya/io/file.hpp"

#include <sys/stat.h>

#include <catch2/catch.hpp>
#include <cstdlib>
#include <iostream>

#include "support/errors.hpp"
#include "support/temporary_directory.hpp"
#include "ziya/io/model_path.hpp"

namespace file_test {

using test::TemporaryDirectory;

TEST_CASE("files are read at any offset, and a short file is an exception", "[file]") {
  const TemporaryDirectory folder;
  const auto path = folder.file("数据.bin", "0123456789");
  const ziya::InputFile file(ziya::path_from_utf8(ziya::utf8_from_path(path)));
  REQUIRE(file.size() == 10);
  REQUIRE(file.read_text(3, 4) == "3456");
  std::filesystem::resize_file(path, 5);  // behind the back of the open file
  REQUIRE(file.read_text(3, 2) == "34");
  REQUIRE_ERROR(file.read_text(3, 4), "ZIYA-203", "ends at byte 5");
  REQUIRE_ERROR(ziya::MappedFile(file), "ZIYA-203", "has 5 bytes, but had 10");
}

TEST_CASE("what is no readable regular file is refused by name", "[file]") {
  const TemporaryDirectory folder;
  REQUIRE_ERROR(ziya::InputFile(folder / "absent"), "ZIYA-201", "absent");
  REQUIRE_ERROR(ziya::InputFile(folder.path()), "ZIYA-201", "not a regular file");
  const auto pipe = folder / "pipe";  // opening one for reading must not wait for a writer
  REQUIRE(::mkfifo(pipe.c_str(), 0600) == 0);
  REQUIRE_ERROR(ziya::InputFile(pipe), "ZIYA-201", "not a regular file");
  folder.file("large", "0123456789");
  REQUIRE_ERROR(ziya::read_text_file(folder / "large", 9), "ZIYA-205", "at most 9");
  REQUIRE(ziya::read_text_file(folder / "large", 10) == "0123456789");
}

TEST_CASE("a mapping shows the file, an empty one too", "[file]") {
  const TemporaryDirectory folder;
  const ziya::InputFile file(folder.file("a", "abc"));
  const ziya::MappedFile mapped(file);
  REQUIRE(mapped.bytes().size() == 3);
  REQUIRE(mapped.bytes()[2] == std::byte{'c'});
  REQUIRE(ziya::MappedFile(ziya::InputFile(folder.file("b", ""))).bytes().empty());
}

TEST_CASE("a file system without mapping is an exception", "[file]") {
  const std::filesystem::path file = "/sys/devices/system/cpu/online";
  if (!std::filesystem::exists(file)) {
    std::cout << "SKIPPED: there is no " << file << "\n";
    return;
  }
  REQUIRE_ERROR(ziya::MappedFile(ziya::InputFile(file)), "ZIYA-204", "cannot be mapped");
}

TEST_CASE("a leading tilde is the home directory", "[file]") {
  const std::string home = std::getenv("HOME") != nullptr ? std::getenv("HOME") : "";
  ::setenv("HOME", "/somewhere", 1);
  CHECK(ziya::expand_home("~/models/a") == "/somewhere/models/a");
  CHECK(ziya::expand_home("~") == "/somewhere");
  CHECK(ziya::expand_home("~user/a") == "~user/a");
  CHECK(ziya::expand_home("a/~/b") == "a/~/b");
  CHECK(ziya::expand_home("") == "");
  ::setenv("HOME", home.c_str(), 1);
}

TEST_CASE("a hub name is answered with the command that downloads it", "[file]") {
  REQUIRE_ERROR(ziya::resolve_model_path("IDEA-CCNL/Ziya-LLaMA-13B-v1"), "ZIYA-235",
                "hf download IDEA-CCNL/Ziya-LLaMA-13B-v1 --local-dir Ziya-LLaMA-13B-v1");
  for (const char* path : {"/absent/model", "./absent", "a/b/c", "absent", "a b/c", "a/", "/a"}) {
    INFO(path);
    REQUIRE_ERROR(ziya::resolve_model_path(path), "ZIYA-201", "no such file or folder");
  }
}

TEST_CASE("a file means its folder, unless it begins as a GGUF file", "[file]") {
  const TemporaryDirectory folder;
  const auto weights = folder.file("model.safetensors", "{}"), text = folder.file("a.gguf", "text"),
             model = folder.file("named-anyhow", "GGUF\x03");
  REQUIRE(ziya::resolve_model_folder(weights) == folder.path());
  REQUIRE(ziya::resolve_model_folder(text) == folder.path());
  REQUIRE(ziya::resolve_model_folder(model) == model);
  REQUIRE(ziya::resolve_model_folder(folder.path()) == folder.path());
}

TEST_CASE("of a hub cache folder the snapshot of its main revision is taken", "[file]") {
  const TemporaryDirectory folder;
  folder.file("refs/main", "abc123\n");
  folder.file("blobs/1", "{}");
  std::filesystem::create_directories(folder / "snapshots/abc123");
  REQUIRE(ziya::resolve_model_path(folder.path()) == folder / "snapshots/abc123");
  folder.file("refs/main", "another");  // the only one there is
  REQUIRE(ziya::resolve_model_path(folder.path()) == folder / "snapshots/abc123");
  std::filesystem::create_directories(folder / "snapshots/def456");
  REQUIRE_ERROR(ziya::resolve_model_path(folder.path()), "ZIYA-201", "def456");
}

}  // namespace file_test
