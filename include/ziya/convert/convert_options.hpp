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

struct ConvertOptions {
  std::optional<DType> type;                     ///< of the matrices; none: as they are stored
  bool overwrite = false;                        ///< replace an existing model at the target
  std::int64_t max_shard_bytes = 4'000'000'000;  ///< of the tensors in one safetensors file
  std::function<void(const ProgressEvent&)> progress{};  ///< may throw: that ends the conversion
  const std::atomic<bool>* cancel = nullptr;  ///< true ends the conversion; nothing is left
  WriteHooks hooks{};
  int threads = 0;  ///< that read and convert; no bit depends on it

  [[nodiscard]] StreamOptions streaming() const { return {threads, progress, cancel}; }
};

struct ConvertReport {
  std::int64_t tensors = 0;
  std::int64_t bytes = 0;          ///< of all tensors
  std::int64_t files = 0;          ///< that hold them
  std::vector<std::string> notes;  ///< what a person should know
};

ZIYA_NAMESPACE_END
