// SPDX-License-Identifier: Apache-2.0
// Moves the tensors of a source into a writer, a few megabytes at a time.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/convert/delta_merger.hpp"
#include "ziya/core/error.hpp"
#include "ziya/io/tensor_source.hpp"

ZIYA_NAMESPACE_BEGIN

/// Writes every tensor of writer.tensors(), in that order, from the source's tensor of that name.
/// @throws Error ZIYA-606 when cancelled, and what the source or the writer throws
template <class Writer>
void copy_tensors(Writer& writer, const TensorSource& source,
                  const std::function<void(const ProgressEvent&)>& progress,
                  const std::atomic<bool>* cancel) {
  constexpr std::int64_t chunk_elements = std::int64_t{2} << 20;
  std::map<std::string_view, std::size_t> indices;
  for (std::size_t i = 0; i < source.tensors().size(); ++i) {
    indices.emplace(source.tensors()[i].name, i);
  }
  ProgressEvent event;
  event.count = static_cast<std::int64_t>(writer.tensors().size());
  for (const TensorSpec& tensor : writer.tensors()) event.total += tensor.bytes();
  std::vector<std::byte> chunk;
  for (const TensorSpec& tensor : writer.tensors()) {
    const std::int64_t elements = tensor.shape.elements();
    for (std::int64_t first = 0; first < elements; first += chunk_elements) {
      if (cancel != nullptr && cancel->load(std::memory_order_relaxed)) {
        throw Error("ZIYA-606", "conversion: cancelled");
      }
      const std::int64_t count = std::min(chunk_elements, elements - first);
      chunk.resize(static_cast<std::size_t>(bytes_of(tensor.dtype, count)));
      source.read(indices.at(tensor.name), first, chunk);
      writer.write(tensor.name, chunk);
      event.tensor = tensor.name;
      event.bytes += static_cast<std::int64_t>(chunk.size());
      if (progress) progress(event);
    }
    ++event.index;
  }
}

ZIYA_NAMESPACE_END
