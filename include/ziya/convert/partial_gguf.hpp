// SPDX-License-Identifier: Apache-2.0
// A GGUF file on its way, so that another process can go on where this one is ended.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/convert/conversion_journal.hpp"
#include "ziya/convert/convert_options.hpp"
#include "ziya/io/file.hpp"
#include "ziya/io/gguf_metadata.hpp"
#include "ziya/io/gguf_writer.hpp"
#include "ziya/io/tensor_source.hpp"
#include "ziya/io/tensor_spec.hpp"
#include "ziya/io/work_directory.hpp"

ZIYA_NAMESPACE_BEGIN

/// The tensors that lie whole at the front of a GGUF file which may end anywhere.
class GgufFront final : public TensorSource {
 public:
  /// @param tensors of the whole file, in its order   @param header bytes in front of the data
  /// @throws IoError when there is no such file
  GgufFront(const std::filesystem::path& file, const std::vector<TensorSpec>& tensors,
            std::int64_t header)
      : file_(file) {
    offsets_.push_back(header);
    for (const TensorSpec& tensor : tensors) {
      const std::int64_t end = offsets_.back() + gguf::padded(tensor.bytes());
      if (end > file_.size()) break;
      tensors_.push_back(tensor);
      offsets_.push_back(end);
    }
  }
  [[nodiscard]] const std::vector<TensorSpec>& tensors() const override { return tensors_; }
  void read(std::size_t index, std::int64_t first, std::span<std::byte> out) const override {
    file_.read(offsets_.at(index) + bytes_of(tensors_.at(index).dtype, first), out);
  }
  /// Where the first `count` tensors and the padding behind them end.
  [[nodiscard]] std::int64_t end(std::size_t count) const { return offsets_.at(count); }

 private:
  InputFile file_;
  std::vector<TensorSpec> tensors_;
  std::vector<std::int64_t> offsets_;
};

/// Writes a GGUF file in a WorkDirectory; every 64th part, at least a megabyte, it notes in the
/// journal what is whole.
class PartialGguf {
 public:
  /// Keeps what an earlier process has written, as far as its hashes are right.
  /// @param tensors in gguf::file_order
  /// @throws Error ZIYA-606 when cancelled, IoError, ArgumentError ZIYA-255
  PartialGguf(WorkDirectory& directory, ConversionJournal& journal, std::vector<TensorSpec> tensors,
              const gguf::Metadata& metadata, const ConvertOptions& options)
      : directory_(directory),
        journal_(journal),
        keeps_(options.keep_unfinished),
        name_(utf8_from_path(directory.target().filename())) {
    const std::filesystem::path file = directory.path() / directory.target().filename();
    std::error_code ignored;
    if (std::filesystem::is_regular_file(file, ignored)) {
      const auto header = static_cast<std::int64_t>(gguf::make_header(tensors, metadata).size());
      const GgufFront front(file, tensors, header);
      noted_ = journal_.verify_front(name_, front, options.verifying());
      kept_bytes_ = noted_ == 0 ? 0 : front.end(noted_);
    }
    if (noted_ > 0) {
      directory_.keep_only({name_});
      if (keeps_) directory_.keep_unfinished();
    } else {
      directory_.keep_only({});
    }
    rest_.assign(tensors.begin() + static_cast<std::ptrdiff_t>(noted_), tensors.end());
    std::int64_t bytes = 0;
    for (const TensorSpec& tensor : tensors) bytes += tensor.bytes();
    step_ = std::max(bytes / 64, std::int64_t{1} << 20);
    detail::say_needs(options, bytes, kept_bytes_);
    directory.check_space(bytes - kept_bytes_);
    writer_.emplace(OutputFile(directory.target(), file, kept_bytes_, options.hooks),
                    std::move(tensors), metadata, noted_, options.hooks);
  }

  /// Those that are still to be written, in that order.
  [[nodiscard]] const std::vector<TensorSpec>& tensors() const { return rest_; }
  /// See TensorFileWriter::write.
  void write(std::string_view name, std::span<const std::byte> data) {
    writer_->write(name, data);
    since_ += static_cast<std::int64_t>(data.size());
    const std::size_t whole = writer_->written_tensors();
    if (since_ < step_ || whole == noted_) return;
    journal_.finished(name_, std::span(writer_->tensors()).subspan(noted_, whole - noted_));
    if (keeps_) directory_.keep_unfinished();
    noted_ = whole;
    since_ = 0;
  }
  [[nodiscard]] GgufWriter& file() { return *writer_; }
  /// The file has its name and the folder is gone. @throws as TensorFileWriter::commit
  void commit() {
    writer_->commit();
    directory_.discard();
  }

 private:
  WorkDirectory& directory_;
  ConversionJournal& journal_;
  bool keeps_;
  std::string name_;
  std::size_t noted_ = 0;  // tensors that the journal knows
  std::int64_t kept_bytes_ = 0, step_ = 0, since_ = 0;
  std::vector<TensorSpec> rest_;
  std::optional<GgufWriter> writer_;
};

ZIYA_NAMESPACE_END
