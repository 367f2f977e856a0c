// SPDX-License-Identifier: Apache-2.0
// A folder that appears under its name when all of its files are written.
#pragma once

#include <filesystem>
#include <string>
#include <system_error>

#include "ziya/config.hpp"
#include "ziya/io/file.hpp"
#include "ziya/io/platform.hpp"
#include "ziya/io/work_directory.hpp"
#include "ziya/io/writer.hpp"

ZIYA_NAMESPACE_BEGIN

/// The folder is filled beside its place, as WorkDirectory, and renamed by commit(). An existing
/// target is replaced only by commit(), in one step where the file system can swap names.
class OutputDirectory : public WorkDirectory {
 public:
  /// @param overwrite allows a target that exists and is not empty. Even then only a folder
  /// that holds a config.json is replaced, never another one given by mistake.
  /// @throws ArgumentError ZIYA-208 when the target exists, and as WorkDirectory
  explicit OutputDirectory(const std::filesystem::path& target, bool overwrite = false,
                           bool resume = false, const WriteHooks& hooks = {})
      : WorkDirectory(allowed(target, overwrite), resume, hooks),
        replaces_(overwrite && holds_something(this->target())) {}

  /// The target is now what was written. @throws IoError ZIYA-207; then the old target is as it was
  void commit() {
    journal().remove();
    platform::sync_directory(path());
    std::error_code error, ignored;
    if (!replaces_) {
      std::filesystem::rename(path(), target(), error);
    } else if (platform::exchange(path(), target())) {
      std::filesystem::remove_all(path(), ignored);
    } else {
      std::filesystem::path old = target();
      old += ".old-" + std::to_string(platform::process_id());
      std::filesystem::rename(target(), old, error);
      if (!error) {
        std::filesystem::rename(path(), target(), error);
        if (error) {
          std::filesystem::rename(old, target(), ignored);
        } else {
          std::filesystem::remove_all(old, ignored);
        }
      }
    }
    if (error) refuse("ZIYA-207", target(), "cannot be put in place: " + error.message());
    forget();
    platform::sync_directory(target().parent_path());
  }

 private:
  static bool holds_something(const std::filesystem::path& target) {
    std::error_code error;
    return std::filesystem::exists(target, error) && !std::filesystem::is_empty(target, error);
  }
  static const std::filesystem::path& allowed(const std::filesystem::path& target, bool overwrite) {
    const auto path = expand_home(target);
    if (!holds_something(path)) return target;
    if (!overwrite) refuse_target(target, "exists already; choose another, or overwrite it");
    std::error_code error;
    if (!std::filesystem::is_regular_file(path / "config.json", error)) {
      refuse_target(target, "is not overwritten: it holds no config.json, so it is no model");
    }
    return target;
  }

  bool replaces_;
};

ZIYA_NAMESPACE_END
