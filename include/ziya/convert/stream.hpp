// SPDX-License-Identifier: Apache-2.0
// Moves the tensors of a source into a writer: read and computed by threads, written in order.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <map>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/dtype.hpp"
#include "ziya/core/error.hpp"
#include "ziya/io/tensor_source.hpp"
#include "ziya/io/tensor_spec.hpp"

ZIYA_NAMESPACE_BEGIN

/// How far a conversion is; sent for every few megabytes.
struct ProgressEvent {
  std::string_view tensor;  ///< being written
  std::int64_t index = 0;   ///< of it, from 0
  std::int64_t count = 0;   ///< of all tensors
  std::int64_t bytes = 0;   ///< written so far
  std::int64_t total = 0;   ///< bytes in the end
  double seconds = 0;       ///< since the first tensor

  [[nodiscard]] double bytes_per_second() const {
    return seconds > 0 ? static_cast<double>(bytes) / seconds : 0;
  }
  /// As long as what is left takes at the speed so far; 0 when nothing can be said yet.
  [[nodiscard]] double seconds_left() const {
    return bytes > 0 ? seconds * static_cast<double>(total - bytes) / static_cast<double>(bytes)
                     : 0;
  }
};

struct StreamOptions {
  int threads = 0;  ///< that read and compute; 0: what the machine has, but 4 to 8. No bit depends
                    ///< on it
  std::function<void(const ProgressEvent&)> progress{};  ///< may throw: that ends the work
  const std::atomic<bool>* cancel = nullptr;             ///< true ends the work
};

namespace detail {

/// A piece of one tensor on its way: whole rows where they are short, whole blocks always.
struct StreamChunk {
  std::size_t source, target;  // index among the source's and among the writer's tensors
  std::int64_t first, elements;
};

inline int stream_threads(int wanted) {
  const int machine = static_cast<int>(std::thread::hardware_concurrency());
  return wanted > 0 ? std::min(wanted, 256) : std::clamp(machine, 4, 8);
}

inline constexpr std::int64_t stream_chunk_bytes = std::int64_t{4} << 20;
/// Of quantised types no more, because their sources read several bytes for each that they give.
inline constexpr std::int64_t stream_chunk_elements = stream_chunk_bytes / 2;

/// What a conversion holds at most, about: of each chunk under way the result and what waits for
/// its hash, of each thread what it reads beside that; and the program.
constexpr std::int64_t stream_memory(std::int64_t threads) {
  return (4 * (threads + 2) + threads) * stream_chunk_bytes + (std::int64_t{80} << 20);
}

/// @throws ArgumentError ZIYA-640 when source and writer do not mean the same tensors
inline std::vector<StreamChunk> stream_chunks(const std::vector<TensorSpec>& source,
                                              const std::vector<TensorSpec>& target) {
  std::map<std::string_view, std::size_t> indices;
  for (std::size_t i = 0; i < source.size(); ++i) indices.emplace(source[i].name, i);
  std::vector<StreamChunk> chunks;
  for (std::size_t i = 0; i < target.size(); ++i) {
    const TensorSpec& tensor = target[i];
    const auto found = indices.find(tensor.name);
    if (found == indices.end() || source[found->second].dtype != tensor.dtype ||
        source[found->second].shape != tensor.shape) {
      throw ArgumentError("ZIYA-640", "stream: the source has no tensor " + tensor.name + " of " +
                                          std::string(name(tensor.dtype)) + " " +
                                          tensor.shape.to_string());
    }
    const DTypeInfo type = info(tensor.dtype);
    const std::int64_t all = tensor.shape.elements();
    std::int64_t step = std::min(stream_chunk_elements,
                                 stream_chunk_bytes / type.block_bytes * type.block_elements);
    if (tensor.shape.rank() > 1) {
      const std::int64_t row = tensor.shape[tensor.shape.rank() - 1];
      if (row > 0 && row <= step) step = step / row * row;
    }
    for (std::int64_t first = 0; first < all; first += step) {
      chunks.push_back({found->second, i, first, std::min(step, all - first)});
    }
  }
  return chunks;
}

/// A ring of buffers that threads fill in any order and one thread empties in order.
class StreamRing {
 public:
  StreamRing(const TensorSource& source, const std::vector<StreamChunk>& chunks, int threads)
      : source_(source), chunks_(chunks), slots_(static_cast<std::size_t>(threads) + 2) {
    try {
      for (int i = 0; i < threads; ++i) threads_.emplace_back([this] { fill(); });
    } catch (...) {
      stop();
      throw;
    }
  }
  StreamRing(const StreamRing&) = delete;
  StreamRing& operator=(const StreamRing&) = delete;
  ~StreamRing() { stop(); }

  /// The bytes of chunk `i`, which must be the next one; valid until release().
  std::span<const std::byte> take(std::size_t i) {
    Slot& slot = slots_[i % slots_.size()];
    std::unique_lock lock(mutex_);
    ready_.wait(lock, [&] { return slot.filled; });
    if (slot.error) std::rethrow_exception(slot.error);
    return slot.bytes;
  }
  void release() {
    {
      const std::lock_guard lock(mutex_);
      slots_[taken_ % slots_.size()].filled = false;
      ++taken_;
    }
    room_.notify_one();
  }

 private:
  struct Slot {
    std::vector<std::byte> bytes;
    std::exception_ptr error;
    bool filled = false;
  };

  void fill() noexcept {
    while (true) {
      std::unique_lock lock(mutex_);
      room_.wait(lock, [&] {
        return stopped_ || started_ == chunks_.size() || started_ < taken_ + slots_.size();
      });
      if (stopped_ || started_ == chunks_.size()) return;
      const std::size_t i = started_++;
      lock.unlock();
      Slot& slot = slots_[i % slots_.size()];
      const StreamChunk& chunk = chunks_[i];
      try {
        const DType dtype = source_.tensors()[chunk.source].dtype;
        slot.bytes.resize(static_cast<std::size_t>(ziya::bytes_of(dtype, chunk.elements)));
        source_.read(chunk.source, chunk.first, slot.bytes);
      } catch (...) {
        slot.error = std::current_exception();
      }
      lock.lock();
      slot.filled = true;
      lock.unlock();
      ready_.notify_one();
    }
  }
  void stop() noexcept {
    {
      const std::lock_guard lock(mutex_);
      stopped_ = true;
    }
    room_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  const TensorSource& source_;
  const std::vector<StreamChunk>& chunks_;
  std::vector<Slot> slots_;
  std::mutex mutex_;
  std::condition_variable ready_, room_;
  std::size_t started_ = 0, taken_ = 0;
  bool stopped_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace detail

/// Writes every tensor of writer.tensors(), in that order, from the source's tensor of the same
/// name. Chunks of 4 MiB are read by a few threads, in order of their start, while earlier ones
/// are written by the caller's; memory is that of threads + 2 chunks. The bytes that the writer
/// gets are the same in the same pieces whatever the number of threads.
/// @tparam Writer has tensors() and write(name, bytes), as ShardedSafetensorsWriter
/// @throws what the source or the writer throws; ArgumentError ZIYA-640 when source and writer do
/// not mean the same tensors; Error ZIYA-606 when cancelled
template <class Writer>
void stream(Writer& writer, const TensorSource& source, const StreamOptions& options = {}) {
  const std::vector<TensorSpec>& tensors = writer.tensors();
  const std::vector<detail::StreamChunk> chunks = detail::stream_chunks(source.tensors(), tensors);
  const int threads = detail::stream_threads(options.threads);
  ProgressEvent event;
  event.count = static_cast<std::int64_t>(tensors.size());
  for (const TensorSpec& tensor : tensors) event.total += tensor.bytes();
  const auto begin = std::chrono::steady_clock::now();
  detail::StreamRing ring(source, chunks, threads);
  for (std::size_t i = 0; i < chunks.size(); ++i) {
    if (options.cancel != nullptr && options.cancel->load(std::memory_order_relaxed)) {
      throw Error("ZIYA-606", "conversion: cancelled");
    }
    const TensorSpec& tensor = tensors[chunks[i].target];
    const std::span<const std::byte> bytes = ring.take(i);
    writer.write(tensor.name, bytes);
    event.bytes += static_cast<std::int64_t>(bytes.size());
    ring.release();
    if (!options.progress) continue;
    event.tensor = tensor.name;
    event.index = static_cast<std::int64_t>(chunks[i].target);
    event.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    options.progress(event);
  }
}

ZIYA_NAMESPACE_END
