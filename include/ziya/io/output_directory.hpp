// SPDX-License-Identifier: Apache-2.0
// A folder that appears under its name when all of its files are written.
#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <system_error>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/error.hpp"
#include "ziya/io/file.hpp"
#include "ziya/io/journal.hpp"
#include "ziya/io/platform.hpp"
#include "ziya/io/writer.hpp"

ZIYA_NAMESPACE_BEGIN

/// The folder is filled beside its place, as `<target>.partial`, and renamed by commit(); without
/// commit() it is removed, unless keep_unfinished() was called. A process that is killed leaves
/// that name behind and nothing under the target's own; the next one goes on from its journal or
/// begins anew. One process works on a target at a time. An existing target is replaced only by
/// commit(), in one step where the file system can swap names.
class OutputDirectory {
 public:
  /// @param overwrite allows a target that exists and is not empty. Even then only a folder
  /// that holds a config.json is replaced, never another one given by mistake.
  /// @param resume keeps what an earlier process has left; journal() says what it has finished
  /// @throws ArgumentError ZIYA-208 when the target exists, ZIYA-641 when another process is at
  /// work; IoError ZIYA-207 when nothing can be created there
  explicit OutputDirectory(const std::filesystem::path& target, bool overwrite = false,
                           bool resume = false, const WriteHooks& hooks = {}) {
    std::error_code error;
    target_ = std::filesystem::weakly_canonical(expand_home(target), error);
    if (error || target_.empty()) refuse("ZIYA-207", target, "is no name for a folder");
    if (!target_.has_filename()) target_ = target_.parent_path();  // "folder/"
    if (std::filesystem::exists(target_, error) && !std::filesystem::is_empty(target_, error)) {
      if (!overwrite) refuse_target(target, "exists already; choose another, or overwrite it");
      if (!std::filesystem::is_regular_file(target_ / "config.json", error)) {
        refuse_target(target, "is not overwritten: it holds no config.json, so it is no model");
      }
      replaces_ = true;
    }
    std::filesystem::create_directories(target_.parent_path(), error);
    std::filesystem::path partial = target_;
    partial += ".partial";
    refuse_strangers(partial);
    if (!std::filesystem::create_directory(partial, error) && error) {
      refuse("ZIYA-207", partial, "cannot be created: " + error.message());
    }
    journal_.emplace(partial, hooks);
    partial_ = partial;
    if (!resume) {
      journal_->clear();
      keep_only({});
    }
  }
  OutputDirectory(const OutputDirectory&) = delete;
  OutputDirectory& operator=(const OutputDirectory&) = delete;
  ~OutputDirectory() {
    std::error_code ignored;
    if (!partial_.empty() && !kept_) std::filesystem::remove_all(partial_, ignored);
  }

  /// What is finished of the work; a user's business but for clear() without `resume`.
  [[nodiscard]] Journal& journal() { return *journal_; }
  /// From now on, an error leaves what is finished for a later process.
  void keep_unfinished() { kept_ = true; }
  [[nodiscard]] bool keeps_unfinished() const { return kept_; }
  /// Removes all files but the journal and these.
  void keep_only(const std::vector<std::string>& names) const {
    std::vector<std::filesystem::path> others;
    std::error_code error;
    for (std::filesystem::directory_iterator item(partial_, error), end; !error && item != end;
         item.increment(error)) {
      const std::string name = utf8_from_path(item->path().filename());
      if (name != Journal::file_name && std::ranges::find(names, name) == names.end()) {
        others.push_back(item->path());
      }
    }
    for (const auto& other : others) std::filesystem::remove_all(other, error);
  }

  /// Where the files are written for now.
  [[nodiscard]] const std::filesystem::path& path() const { return partial_; }
  [[nodiscard]] const std::filesystem::path& target() const { return target_; }

  /// @throws IoError ZIYA-209 when the file system has less room than `bytes`
  void check_space(std::int64_t bytes) const {
    std::error_code error;
    const auto space = std::filesystem::space(partial_, error);
    if (!error && space.available < static_cast<std::uintmax_t>(bytes)) {
      refuse("ZIYA-209", target_,
             "needs " + std::to_string(bytes) + " bytes, but the disk has only " +
                 std::to_string(space.available) + " free");
    }
  }

  /// The target is now what was written. @throws IoError ZIYA-207; then the old target is as it was
  void commit() {
    journal_->remove();
    platform::sync_directory(partial_);
    std::error_code error, ignored;
    if (!replaces_) {
      std::filesystem::rename(partial_, target_, error);
    } else if (platform::exchange(partial_, target_)) {
      std::filesystem::remove_all(partial_, ignored);
    } else {
      std::filesystem::path old = target_;
      old += ".old-" + std::to_string(platform::process_id());
      std::filesystem::rename(target_, old, error);
      if (!error) {
        std::filesystem::rename(partial_, target_, error);
        if (error) {
          std::filesystem::rename(old, target_, ignored);
        } else {
          std::filesystem::remove_all(old, ignored);
        }
      }
    }
    if (error) refuse("ZIYA-207", target_, "cannot be put in place: " + error.message());
    partial_.clear();
    platform::sync_directory(target_.parent_path());
  }

 private:
  [[noreturn]] static void refuse(const char* id, const std::filesystem::path& path,
                                  const std::string& why) {
    throw IoError(id, utf8_from_path(path) + ": " + why);
  }

  [[noreturn]] static void refuse_target(const std::filesystem::path& path,
                                         const std::string& why) {
    throw ArgumentError("ZIYA-208", utf8_from_path(path) + ": " + why);
  }

  /// `<target>.partial` is ours when it is empty, has a journal, or is a model: the old one, left
  /// by a process that was killed after it had put the new one in its place.
  static void refuse_strangers(const std::filesystem::path& partial) {
    std::error_code error;
    if (!std::filesystem::exists(std::filesystem::symlink_status(partial, error))) return;
    const bool ours = std::filesystem::is_directory(partial, error) &&
                      (std::filesystem::is_empty(partial, error) ||
                       std::filesystem::exists(partial / Journal::file_name, error) ||
                       std::filesystem::is_regular_file(partial / "config.json", error));
    if (!ours) refuse_target(partial, "is in the way: unfinished work goes there");
  }

  std::filesystem::path target_, partial_;
  std::optional<Journal> journal_;
  bool replaces_ = false, kept_ = false;
};

ZIYA_NAMESPACE_END
