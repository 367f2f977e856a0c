// SPDX-License-Identifier: Apache-2.0
// What running a model takes and what the machine has free, before anything is allocated.
#pragma once

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <optional>
#include <string>

#include "ziya/core/dtype.hpp"
#include "ziya/io/checkpoint.hpp"
#include "ziya/model/llama_names.hpp"
#include "ziya/model/llama_shape.hpp"

namespace cli {

/// What the control group of this process may hold at most; none where it is not limited.
inline std::optional<std::int64_t> memory_limit() {
  for (const char* name : {"/sys/fs/cgroup/memory.max",  // as a container sees it: v2, v1
                           "/sys/fs/cgroup/memory/memory.limit_in_bytes"}) {
    std::ifstream file(name);
    std::int64_t bytes = 0;
    if (file >> bytes) return bytes;
  }
  return std::nullopt;
}

/// Bytes that new programs can have without swapping; none where the system does not say.
inline std::optional<std::int64_t> available_memory() {
  std::ifstream file("/proc/meminfo");
  std::string key, unit;
  std::int64_t kilobytes = 0;
  while (file >> key >> kilobytes >> unit) {
    if (key == "MemAvailable:") {
      return std::min(kilobytes * 1024, memory_limit().value_or(kilobytes * 1024));
    }
    file.ignore(256, '\n');
  }
  return std::nullopt;
}

struct MemoryNeed {
  std::int64_t weights = 0;  ///< mapped from the files; the system may drop and read them again
  std::int64_t copies = 0;   ///< weights converted to another type, in memory
  std::int64_t cache = 0;    ///< keys and values of `tokens`
  std::int64_t tokens = 0;

  /// Where a copy is made, the stored weights are read once and not needed any more.
  [[nodiscard]] std::int64_t total() const { return (copies > 0 ? copies : weights) + cache; }
};

/// @param dtype type the matrices are converted to; none: they are used as stored
inline MemoryNeed memory_need(const ziya::Checkpoint& checkpoint, const ziya::LlamaShape& shape,
                              std::optional<ziya::DType> dtype, ziya::DType cache_dtype,
                              std::int64_t tokens) {
  MemoryNeed need;
  bool copied = false;
  std::int64_t in_memory = 0;
  for (const ziya::TensorInfo& tensor : checkpoint.tensors()) {
    if (ziya::llama_names::is_rotary_cache(tensor.name)) continue;
    need.weights += tensor.bytes();
    const bool converts = dtype && tensor.shape.rank() == 2 && tensor.dtype != *dtype;
    copied = copied || converts;
    in_memory += converts ? tensor.shape.elements() * info(*dtype).block_bytes : tensor.bytes();
  }
  if (copied) need.copies = in_memory;
  need.tokens = tokens;
  need.cache = tokens * shape.cache_bytes_per_token(cache_dtype);
  return need;
}

}  // namespace cli
