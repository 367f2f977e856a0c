// SPDX-License-Identifier: Apache-2.0
// Golden ids made by tests/reference/tokenizer_golden.py, and the tokenizers they belong to.
#pragma once

#include <catch2/catch.hpp>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

#include "ziya/io/json.hpp"
#include "ziya/text/tokenizer.hpp"

namespace ziya_test {

using Ids = std::vector<std::int32_t>;

inline const std::filesystem::path golden_folder =
    std::filesystem::path(ZIYA_TEST_DATA) / "golden/tokenizer";
inline const std::filesystem::path tiny_folder =
    std::filesystem::path(ZIYA_EXAMPLES) / "ziya-tiny/delta";

inline nlohmann::json golden(const std::string& name) {
  return ziya::read_json_file(golden_folder / (name + ".json"));
}

/// The folder of the tokenizer that a golden file is named after; empty, and said so, when absent.
inline std::filesystem::path tokenizer_folder(const std::string& name) {
  if (name == "ziya-tiny") return tiny_folder;
  const std::string folder = name == "llama"         ? "llama-tokenizer"
                             : name == "stories260K" ? "stories260K-hf"
                                                     : name;
  const std::filesystem::path path = std::filesystem::path(ZIYA_SHARED_DATA) / folder;
  if (std::filesystem::exists(path)) return path;
  std::cout << "SKIPPED: " << folder << " is not in the shared data folder\n";
  return {};
}

/// A folder of its own, removed at the end.
class ScratchFolder {
 public:
  ScratchFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "ziya-text-XXXXXX").string();
    REQUIRE(mkdtemp(name.data()) != nullptr);
    path_ = name;
  }
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;
  ~ScratchFolder() { std::filesystem::remove_all(path_); }

  const std::filesystem::path& path() const { return path_; }
  void write(const std::string& name, const std::string& contents) const {
    std::ofstream(path_ / name, std::ios::binary) << contents;
  }

 private:
  std::filesystem::path path_;
};

inline std::string read_file(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  REQUIRE(file);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// The id of the ziya::Error that `call` throws, "" when it throws none; anything else escapes.
template <class F>
std::string error_of(F&& call) {
  try {
    call();
  } catch (const ziya::Error& error) {
    UNSCOPED_INFO(error.what());
    return error.id();
  }
  return "";
}

}  // namespace ziya_test
