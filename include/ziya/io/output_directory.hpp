// SPDX-License-Identifier: Apache-2.0
// A folder that appears under its name when all of its files are written.
#pragma once

#include <filesystem>
#include <string>
#include <system_error>

#include "ziya/config.hpp"
#include "ziya/core/error.hpp"
#include "ziya/io/file.hpp"
#include "ziya/io/journal.hpp"
#include "ziya/io/platform.hpp"
#include "ziya/io/work_directory.hpp"
#include "ziya/io/writer.hpp"

ZIYA_NAMESPACE_BEGIN

/// @param target folder that is to be made, or one file   @param input what it is made of
/// @throws ArgumentError ZIYA-601 when they are the same, or a folder holds the other: replacing
/// the target would take the input away. A file may lie in the folder that it is made of
inline void refuse_overlap(const std::filesystem::path& target, const std::filesystem::path& input,
                           bool one_file = false) {
  const auto whole = [](const std::filesystem::path& path) {
    std::error_code ignored;
    const auto found = std::filesystem::weakly_canonical(expand_home(path), ignored);
    return found.has_filename() ? found : found.parent_path();  // "folder/"
  };
  const auto holds = [](const std::filesystem::path& outer, const std::filesystem::path& inner) {
    const auto way = inner.lexically_relative(outer);
    return !way.empty() && *way.begin() != "..";
  };
  const auto a = whole(target), b = whole(input);
  const std::string both = utf8_from_path(target) + ": the target and " + utf8_from_path(input);
  if (a.empty() || b.empty()) return;
  if (a == b) throw ArgumentError("ZIYA-601", both + " are the same");
  if (!one_file && (holds(a, b) || holds(b, a))) {
    throw ArgumentError("ZIYA-601", both + " lie one in the other");
  }
}

/// The folder is filled beside its place, as WorkDirectory, and renamed by commit(). An existing
/// target is replaced only by commit(), in one step where the file system can swap names.
class OutputDirectory : public WorkDirectory {
 public:
  /// @param overwrite allows a target that exists and is not empty. Even then only a folder
  /// that holds a config.json and nothing but a model's files is replaced, never another one given
  /// by mistake.
  /// @throws ArgumentError ZIYA-208 when the target exists, and as WorkDirectory
  explicit OutputDirectory(const std::filesystem::path& target, bool overwrite = false,
                           bool resume = false, const WriteHooks& hooks = {})
      : WorkDirectory(allowed(target, overwrite), resume, hooks),
        replaces_(overwrite && holds_something(this->target())) {}

  /// The target is now what was written. @throws IoError ZIYA-207; then the old target is as it
  /// was, and what was written lies in path() as unfinished work: without config.json it is no
  /// model
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
    if (error) {
      std::filesystem::remove(path() / "config.json", ignored);
      journal().restore();
      refuse("ZIYA-207", target(),
             "cannot be put in place: " + error.message() +
                 (keeps_unfinished() ? "; the work is kept in " + utf8_from_path(path()) : ""));
    }
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
    std::filesystem::directory_iterator item(path, error);
    for (const std::filesystem::directory_iterator end; !error && item != end;
         item.increment(error)) {
      if (!is_of_a_model(*item)) {
        refuse_target(target, "is not overwritten: it also holds " +
                                  utf8_from_path(item->path().filename()) +
                                  ", which is no part of a model; move it away");
      }
    }
    if (error) refuse("ZIYA-207", target, "cannot be listed: " + error.message());
    return target;
  }
  /// Files by the names that models are published with; Fengshen's parts, and what the hub's
  /// program notes about its downloads.
  static bool is_of_a_model(const std::filesystem::directory_entry& item) {
    const std::string name = utf8_from_path(item.path().filename());
    std::error_code error;
    if (item.is_directory(error)) return name.starts_with("part_") || name == ".cache";
    const std::string kind = utf8_from_path(item.path().extension());
    for (const char* known : {".json", ".safetensors", ".bin", ".pt", ".pth", ".model", ".gguf",
                              ".md", ".chk", ".jinja", ".py"}) {
      if (kind == known) return true;
    }
    return name == Journal::file_name || name == ".gitattributes" || name.starts_with("LICENSE") ||
           name.starts_with("NOTICE");
  }

  bool replaces_;
};

ZIYA_NAMESPACE_END
