// SPDX-License-Identifier: Apache-2.0
// What a long piece of work has finished, line by line, so that another process can go on from
// there.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/error.hpp"
#include "ziya/io/file.hpp"
#include "ziya/io/platform.hpp"
#include "ziya/io/writer.hpp"

ZIYA_NAMESPACE_BEGIN

/// A file of lines that is only appended to, and that one process holds at a time. A line counts
/// when it is whole; what a kill left of the last one is cut off.
class Journal {
 public:
  static constexpr const char* file_name = ".ziya-journal";

  /// @throws IoError ZIYA-206 when it cannot be opened; ArgumentError ZIYA-641 when another process
  /// holds it
  explicit Journal(const std::filesystem::path& directory, WriteHooks hooks = {})
      : path_(directory / file_name),
        hooks_(std::move(hooks)),
        file_(platform::open_for_appending(path_)) {
    if (!file_.valid()) fail("cannot be created");
    if (!platform::try_lock(file_)) {
      throw ArgumentError("ZIYA-641", utf8_from_path(directory) +
                                          ": another process is writing there; wait for it");
    }
    constexpr std::int64_t most = std::int64_t{64} << 20;
    std::string text =
        InputFile(path_).read_text(0, std::min(most, platform::regular_file_size(file_)));
    text.resize(text.rfind('\n') + 1);  // npos + 1 is 0
    cut(static_cast<std::int64_t>(text.size()));
    for (std::string_view rest = text; !rest.empty();) {
      const std::size_t end = rest.find('\n');
      lines_.emplace_back(rest.substr(0, end));
      rest.remove_prefix(end + 1);
    }
  }

  /// What earlier processes and this one have written.
  [[nodiscard]] const std::vector<std::string>& lines() const { return lines_; }

  /// On the disk when it returns. @param line without a line feed   @throws IoError ZIYA-206
  void append(const std::string& line) {
    const std::string text = line + "\n";
    for (std::span<const char> rest = text; !rest.empty();) {
      const auto n = hooks_.write(file_.get(), rest.data(), rest.size());
      if (n < 0 && platform::interrupted()) continue;
      if (n == 0) platform::set_disk_full_error();
      if (n <= 0) fail("writing failed");
      rest = rest.subspan(static_cast<std::size_t>(n));
    }
    if (hooks_.sync(file_.get()) != 0) fail("cannot be brought to the disk");
    lines_.push_back(line);
  }
  /// Nothing is finished. @throws IoError ZIYA-206
  void clear() {
    cut(0);
    lines_.clear();
  }
  /// The work is whole; the file is gone.
  void remove() {
    std::error_code ignored;
    std::filesystem::remove(path_, ignored);
  }
  /// Takes remove() back. @throws IoError ZIYA-206
  void restore() {
    file_ = platform::open_for_appending(path_);
    if (!file_.valid()) fail("cannot be created");
    (void)platform::try_lock(file_);
    const auto lines = std::exchange(lines_, {});
    for (const std::string& line : lines) append(line);
  }

 private:
  void cut(std::int64_t bytes) {
    if (!platform::truncate(file_, bytes)) fail("cannot be cut");
  }
  [[noreturn]] void fail(const std::string& what) const {
    throw IoError("ZIYA-206", utf8_from_path(path_) + ": " + what + ": " + platform::last_error());
  }

  std::filesystem::path path_;
  WriteHooks hooks_;
  platform::Descriptor file_;
  std::vector<std::string> lines_;
};

ZIYA_NAMESPACE_END
