// SPDX-License-Identifier: Apache-2.0
// What a conversion may be told, and what it reports.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/convert/stream.hpp"
#include "ziya/core/dtype.hpp"
#include "ziya/io/writer.hpp"

ZIYA_NAMESPACE_BEGIN

/// What a conversion is going to take; sent before anything is written.
struct ConversionNeeds {
  std::int64_t disk = 0;       ///< bytes at the target
  std::int64_t disk_done = 0;  ///< of them, from an earlier process
  std::int64_t memory = 0;     ///< bytes, about, whatever the model's size
  std::int64_t read = 0;       ///< bytes of the inputs; 0: not known
};

struct ConvertOptions {
  std::optional<DType> type;                     ///< of the matrices; none: as they are stored
  bool overwrite = false;                        ///< replace an existing model at the target
  bool resume = false;                           ///< go on where an earlier process was ended
  bool keep_unfinished = false;                  ///< an error leaves what is done for `resume`
  std::int64_t max_shard_bytes = 4'000'000'000;  ///< of the tensors in one safetensors file
  /// Called before writing; may throw: that ends the conversion.
  std::function<void(const ConversionNeeds&)> needs{};
  std::function<void(const ProgressEvent&)> progress{};  ///< may throw: that ends the conversion
  const std::atomic<bool>* cancel = nullptr;             ///< true ends the conversion
  WriteHooks hooks{};
  int threads = 0;  ///< that read and convert; no bit depends on it

  [[nodiscard]] StreamOptions streaming() const { return {threads, progress, cancel}; }
  /// Without progress: of what is read again.
  [[nodiscard]] StreamOptions verifying() const { return {threads, {}, cancel}; }
};

namespace detail {

/// Tells the listener. @param bytes at the target   @param done of them, from an earlier process
inline void say_needs(const ConvertOptions& options, std::int64_t bytes, std::int64_t done) {
  if (!options.needs) return;
  ConversionNeeds needs;
  needs.disk = bytes;
  needs.disk_done = done;
  needs.memory = stream_memory(stream_threads(options.threads));
  options.needs(needs);
}

}  // namespace detail

struct ConvertReport {
  std::int64_t tensors = 0;
  std::int64_t bytes = 0;          ///< of all tensors
  std::int64_t files = 0;          ///< that hold them
  std::vector<std::string> notes;  ///< what a person should know
};

ZIYA_NAMESPACE_END
