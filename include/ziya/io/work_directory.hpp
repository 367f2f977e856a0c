// SPDX-License-Identifier: Apache-2.0
// Where unfinished work lies: `<target>.partial`, with a journal of what is done.
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

/// A folder beside the target that one process holds at a time. It is removed in the end unless
/// keep_unfinished() was called. A process that is killed leaves it behind; the next one goes on
/// from its journal or begins anew.
class WorkDirectory {
 public:
  /// @param target the file or folder that is being made
  /// @param resume keeps what an earlier process has left; journal() says what it has finished
  /// @throws ArgumentError ZIYA-208 when something else has the folder's name, ZIYA-641 when
  /// another process is at work; IoError ZIYA-207 when nothing can be created there
  explicit WorkDirectory(const std::filesystem::path& target, bool resume = false,
                         const WriteHooks& hooks = {}) {
    std::error_code error;
    target_ = std::filesystem::weakly_canonical(expand_home(target), error);
    if (error || target_.empty()) refuse("ZIYA-207", target, "is no name for a file or folder");
    if (!target_.has_filename()) target_ = target_.parent_path();  // "folder/"
    if (std::filesystem::is_symlink(std::filesystem::symlink_status(target_, error))) {
      refuse("ZIYA-207", target, "is a link to nothing");
    }
    if (platform::is_mount_point(target_)) {
      refuse(
          "ZIYA-207", target,
          "is where a file system is mounted, so no folder can be put there; choose a name in it");
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
  WorkDirectory(const WorkDirectory&) = delete;
  WorkDirectory& operator=(const WorkDirectory&) = delete;
  ~WorkDirectory() {
    if (!kept_) discard();
  }

  /// What is finished of the work; a user's business but for clear() without `resume`.
  [[nodiscard]] Journal& journal() { return *journal_; }
  /// From now on, an error leaves what is finished for a later process.
  void keep_unfinished() { kept_ = true; }
  [[nodiscard]] bool keeps_unfinished() const { return kept_; }
  /// Removes all files but the journal and these. @param names relative to path(), with '/'
  void keep_only(const std::vector<std::string>& names) const { keep_only_in(partial_, "", names); }
  /// The folder is gone; its journal last, so that what a kill leaves of it is still ours.
  void discard() {
    std::error_code ignored;
    if (partial_.empty()) return;
    keep_only({});
    journal_->remove();
    std::filesystem::remove(partial_, ignored);
    partial_.clear();
  }

  /// Where the files are written for now.
  [[nodiscard]] const std::filesystem::path& path() const { return partial_; }
  [[nodiscard]] const std::filesystem::path& target() const { return target_; }

  /// @throws IoError ZIYA-209 when the file system has less room than `bytes`
  void check_space(std::int64_t bytes) const {
    std::error_code error;
    const auto space = std::filesystem::space(partial_, error);
    if (!error && bytes > 0 && space.available < static_cast<std::uintmax_t>(bytes)) {
      refuse("ZIYA-209", target_,
             "needs " + std::to_string(bytes) + " bytes, but the disk has only " +
                 std::to_string(space.available) + " free");
    }
  }

 protected:
  [[noreturn]] static void refuse(const char* id, const std::filesystem::path& path,
                                  const std::string& why) {
    throw IoError(id, utf8_from_path(path) + ": " + why);
  }
  [[noreturn]] static void refuse_target(const std::filesystem::path& path,
                                         const std::string& why) {
    throw ArgumentError("ZIYA-208", utf8_from_path(path) + ": " + why);
  }
  /// The work is done: there is no such folder any more.
  void forget() { partial_.clear(); }

 private:
  static void keep_only_in(const std::filesystem::path& folder, const std::string& prefix,
                           const std::vector<std::string>& names) {
    std::vector<std::filesystem::path> others, folders;
    std::error_code error;
    for (std::filesystem::directory_iterator item(folder, error), end; !error && item != end;
         item.increment(error)) {
      const std::string name = prefix + utf8_from_path(item->path().filename());
      if (name == Journal::file_name || std::ranges::find(names, name) != names.end()) continue;
      const bool has_some = std::ranges::any_of(
          names, [&](const std::string& kept) { return kept.starts_with(name + "/"); });
      (has_some ? folders : others).push_back(item->path());
    }
    for (const auto& other : others) std::filesystem::remove_all(other, error);
    for (const auto& inner : folders) {
      keep_only_in(inner, prefix + utf8_from_path(inner.filename()) + "/", names);
    }
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
  bool kept_ = false;
};

ZIYA_NAMESPACE_END
