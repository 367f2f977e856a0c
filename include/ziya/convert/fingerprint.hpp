// SPDX-License-Identifier: Apache-2.0
// SHA-256 of tensors and of whole models, whatever files they lie in.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/convert/digest.hpp"
#include "ziya/convert/stream.hpp"
#include "ziya/core/error.hpp"
#include "ziya/io/tensor_source.hpp"
#include "ziya/io/tensor_spec.hpp"
#include "ziya/model/llama_names.hpp"

ZIYA_NAMESPACE_BEGIN

/// What stands before the data in the hashed bytes of a tensor:
/// "ziya-tensor 1\n" <bytes of the name> ":" <name> "|" <type> "|" <extent> "," … "|"
inline std::string fingerprint_preamble(const TensorSpec& tensor) {
  std::string text = "ziya-tensor 1\n" + std::to_string(tensor.name.size()) + ":" + tensor.name +
                     "|" + std::string(name(tensor.dtype)) + "|";
  for (const std::int64_t extent : tensor.shape.extents()) text += std::to_string(extent) + ",";
  return text + "|";
}

/// The hashes of a model's tensors and the one of all of them.
struct Fingerprint {
  std::map<std::string, std::string> tensors;  ///< name → 64 hexadecimal digits

  /// SHA-256 of the lines "<digits>  <name>\n", sorted by name, as sha256sum prints them. Stored
  /// rotary frequencies are left out: they follow from the config and no loader reads them.
  [[nodiscard]] std::string model() const {
    Sha256 hash;
    for (const auto& [name, digits] : tensors) {
      if (!llama_names::is_rotary_cache(name)) hash.update(digits + "  " + name + "\n");
    }
    return hash.hex_value();
  }
};

/// Reads every tensor once, one thread per tensor.
/// @throws what the source throws; Error ZIYA-606 when cancelled
inline Fingerprint fingerprint(const TensorSource& source, const StreamOptions& options = {}) {
  const std::vector<TensorSpec>& tensors = source.tensors();
  std::vector<std::string> digits(tensors.size());
  ProgressEvent event;
  event.count = static_cast<std::int64_t>(tensors.size());
  for (const TensorSpec& tensor : tensors) event.total += tensor.bytes();
  const auto begin = std::chrono::steady_clock::now();
  std::mutex mutex;  // of `event` and `error`
  std::exception_ptr error;
  std::atomic<std::size_t> next{0};
  std::atomic<bool> stop{false};

  const auto report = [&](const TensorSpec& tensor, std::size_t bytes) {
    if (options.cancel != nullptr && options.cancel->load(std::memory_order_relaxed)) {
      throw Error("ZIYA-606", "conversion: cancelled");
    }
    const std::lock_guard lock(mutex);
    event.tensor = tensor.name;
    event.bytes += static_cast<std::int64_t>(bytes);
    event.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    if (options.progress) options.progress(event);
  };
  const auto work = [&] {
    try {
      std::vector<std::byte> buffer;
      for (std::size_t i = next++; i < tensors.size() && !stop; i = next++) {
        const TensorSpec& tensor = tensors[i];
        Sha256 hash;
        hash.update(fingerprint_preamble(tensor));
        for (const auto& chunk : detail::stream_chunks(tensors, {tensor})) {
          if (stop) return;
          buffer.resize(static_cast<std::size_t>(bytes_of(tensor.dtype, chunk.elements)));
          source.read(i, chunk.first, buffer);
          hash.update(buffer);
          report(tensor, buffer.size());
        }
        digits[i] = hash.hex_value();
      }
    } catch (...) {
      const std::lock_guard lock(mutex);
      if (!error) error = std::current_exception();
      stop = true;
    }
  };
  {
    std::vector<std::thread> threads;
    const int count = detail::stream_threads(options.threads);
    try {
      for (int i = 1; i < count; ++i) threads.emplace_back(work);
    } catch (const std::system_error&) {  // fewer threads do the same
    }
    work();
    for (std::thread& thread : threads) thread.join();
  }
  if (error) std::rethrow_exception(error);
  Fingerprint result;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    result.tensors.emplace(tensors[i].name, std::move(digits[i]));
  }
  return result;
}

ZIYA_NAMESPACE_END
