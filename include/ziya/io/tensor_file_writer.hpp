// SPDX-License-Identifier: Apache-2.0
// What the writers of one file of tensors have in common: the order, and that nothing is left out.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/error.hpp"
#include "ziya/io/file.hpp"
#include "ziya/io/tensor_spec.hpp"
#include "ziya/io/writer.hpp"

ZIYA_NAMESPACE_BEGIN

/// @param id of the error   @throws ArgumentError for a name that occurs twice
inline void check_names(const std::vector<TensorSpec>& tensors, const char* id = "ZIYA-215",
                        std::set<std::string_view> names = {}) {
  for (const TensorSpec& tensor : tensors) {
    if (!names.insert(tensor.name).second) {
      throw ArgumentError(id, "writer: there can be only one tensor " + tensor.name);
    }
  }
}

/// One file of tensors, which come in the order of tensors(), each in as many pieces as the caller
/// likes. A format derives from it and says what stands around the data of each tensor.
class TensorFileWriter {
 public:
  TensorFileWriter(const TensorFileWriter&) = delete;
  TensorFileWriter& operator=(const TensorFileWriter&) = delete;
  virtual ~TensorFileWriter() = default;

  /// In the order of the data, which is the order of writing.
  [[nodiscard]] const std::vector<TensorSpec>& tensors() const { return tensors_; }
  /// How many of them are whole.
  [[nodiscard]] std::size_t written_tensors() const { return next_; }
  [[nodiscard]] bool complete() const { return bytes_left_ == 0; }

  /// The next bytes of tensor `name`, row-major.
  /// @throws ArgumentError (the format's id) when it is not its turn or not so long; IoError
  void write(std::string_view name, std::span<const std::byte> data) {
    if (data.empty()) return;
    pass_empty();
    const auto bytes = static_cast<std::int64_t>(data.size());
    if (next_ == tensors_.size() || tensors_[next_].name != name ||
        bytes > tensors_[next_].bytes() - written_) {
      refuse(std::to_string(bytes) + " bytes of tensor " + std::string(name) +
             " are not what comes next");
    }
    if (written_ == 0) begin_tensor(next_);
    put(data);
    written_ += bytes;
    bytes_left_ -= bytes;
    if (written_ < tensors_[next_].bytes()) return;
    end_tensor(next_++);
    written_ = 0;
  }

  /// Every tensor is written and on the disk; the file does not bear its name yet.
  /// @throws ArgumentError (the format's id) when tensors are missing, IoError
  void finish() {
    pass_empty();
    if (!complete()) refuse("tensor " + tensors_[next_].name + " was not written");
    if (!std::exchange(finished_, true)) end_file();
    file_.finish();
  }
  /// Finishes, and gives the file its name.
  void commit() {
    finish();
    file_.commit();
  }
  [[nodiscard]] const std::filesystem::path& path() const { return file_.path(); }
  /// Where the file is until commit().
  [[nodiscard]] const std::filesystem::path& partial() const { return file_.partial(); }

 protected:
  /// @param id of the errors   @param done tensors that are in the file already
  TensorFileWriter(OutputFile file, std::vector<TensorSpec> tensors, const char* id = "ZIYA-215",
                   std::size_t done = 0)
      : file_(std::move(file)), tensors_(std::move(tensors)), id_(id), next_(done) {
    for (std::size_t i = next_; i < tensors_.size(); ++i) bytes_left_ += tensors_[i].bytes();
  }
  [[nodiscard]] OutputFile& file() { return file_; }
  [[noreturn]] void refuse(const std::string& why) const {
    throw ArgumentError(id_, utf8_from_path(path()) + ": " + why);
  }

  virtual void begin_tensor(std::size_t) {}
  virtual void put(std::span<const std::byte> data) { file_.write(data); }
  virtual void end_tensor(std::size_t) {}
  virtual void end_file() {}

 private:
  /// Tensors without elements are over where they begin.
  void pass_empty() {
    for (; next_ < tensors_.size() && tensors_[next_].bytes() == 0; ++next_) {
      begin_tensor(next_);
      end_tensor(next_);
    }
  }

  OutputFile file_;
  std::vector<TensorSpec> tensors_;
  const char* id_;
  std::size_t next_;
  std::int64_t written_ = 0;  // bytes of tensors_[next_]
  std::int64_t bytes_left_ = 0;
  bool finished_ = false;
};

ZIYA_NAMESPACE_END
