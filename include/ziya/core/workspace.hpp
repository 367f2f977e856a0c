// SPDX-License-Identifier: Apache-2.0
// Scratch memory that is taken and given back like a stack, so that a step allocates nothing.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/device.hpp"
#include "ziya/core/shape.hpp"
#include "ziya/core/view.hpp"

ZIYA_NAMESPACE_BEGIN

/// Chunks of device memory. What a `Scope` took is given back when it ends; when the outermost
/// one ends, several chunks become one, so a repeated step finds all it needs in one piece.
template <class Device>
class Workspace {
 public:
  Workspace() = default;
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  ~Workspace() { release_all(); }

  /// Marks a level of the stack; views taken after it are valid until it ends.
  class Scope {
   public:
    explicit Scope(Workspace& workspace)
        : workspace_(workspace), chunk_(workspace.chunk_), used_(workspace.used_) {
      ++workspace_.depth_;
    }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;
    ~Scope() {
      workspace_.chunk_ = chunk_;
      workspace_.used_ = used_;
      if (--workspace_.depth_ == 0) workspace_.merge_chunks();
    }

   private:
    Workspace& workspace_;
    std::size_t chunk_, used_;
  };

  /// Uninitialised memory, aligned to 64 bytes, valid until the enclosing scope ends.
  template <class T>
  [[nodiscard]] View<T, Device> take(const Shape& shape) {
    const std::size_t bytes = static_cast<std::size_t>(shape.elements()) * sizeof(T);
    return {static_cast<T*>(take_bytes((bytes + 63) / 64 * 64)), shape};
  }
  /// Bytes held, for memory reports.
  [[nodiscard]] std::size_t capacity() const {
    std::size_t sum = 0;
    for (const Chunk& chunk : chunks_) sum += chunk.bytes;
    return sum;
  }

 private:
  struct Chunk {
    std::byte* memory;
    std::size_t bytes;
  };
  static constexpr std::size_t min_chunk = std::size_t{1} << 20;

  void* take_bytes(std::size_t bytes) {
    while (chunk_ < chunks_.size() && chunks_[chunk_].bytes - used_ < bytes) {
      ++chunk_;
      used_ = 0;
    }
    if (chunk_ == chunks_.size()) add_chunk(std::max(bytes, min_chunk));
    std::byte* result = chunks_[chunk_].memory + used_;
    used_ += bytes;
    return result;
  }
  void add_chunk(std::size_t bytes) {
    chunks_.reserve(chunks_.size() + 1);
    chunks_.push_back({static_cast<std::byte*>(Memory<Device>::allocate(bytes)), bytes});
    used_ = 0;
  }
  void merge_chunks() noexcept {
    if (chunks_.size() < 2) return;
    const std::size_t total = capacity();
    release_all();
    try {
      add_chunk(total);
    } catch (...) {  // the next take allocates what it needs
    }
  }
  void release_all() noexcept {
    for (const Chunk& chunk : chunks_) Memory<Device>::release(chunk.memory);
    chunks_.clear();
    chunk_ = used_ = 0;
  }

  std::vector<Chunk> chunks_;
  std::size_t chunk_ = 0, used_ = 0;
  int depth_ = 0;
};

ZIYA_NAMESPACE_END
