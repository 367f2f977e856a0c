// SPDX-License-Identifier: Apache-2.0
// Buffers that are used again: pages that the system gives anew cost more than adding what is in
// them.
#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <new>
#include <span>
#include <utility>
#include <vector>

#include "ziya/config.hpp"

ZIYA_NAMESPACE_BEGIN

/// Lends memory that is not initialised, from any thread. As many buffers are kept as were ever
/// lent at once. Outlives what it lends.
class BufferPool {
  struct Memory {
    std::unique_ptr<std::byte[]> bytes;
    std::size_t size = 0;
  };

 public:
  class Buffer {
   public:
    Buffer() = default;
    Buffer(Buffer&& other) noexcept { swap(other); }
    Buffer& operator=(Buffer&& other) noexcept {
      swap(other);
      return *this;
    }
    ~Buffer() {
      if (pool_ != nullptr) pool_->take_back(std::move(memory_));
    }
    [[nodiscard]] std::span<std::byte> span() const { return {memory_.bytes.get(), size_}; }

   private:
    friend BufferPool;
    Buffer(BufferPool& pool, Memory memory, std::size_t size)
        : pool_(&pool), memory_(std::move(memory)), size_(size) {}
    void swap(Buffer& other) noexcept {
      std::swap(pool_, other.pool_);
      std::swap(memory_, other.memory_);
      std::swap(size_, other.size_);
    }
    BufferPool* pool_ = nullptr;
    Memory memory_;
    std::size_t size_ = 0;
  };

  BufferPool() = default;
  BufferPool(const BufferPool&) = delete;
  BufferPool& operator=(const BufferPool&) = delete;

  [[nodiscard]] Buffer lend(std::size_t bytes) {
    Memory memory;
    {
      const std::lock_guard lock(mutex_);
      if (!free_.empty()) {
        memory = std::move(free_.back());
        free_.pop_back();
      }
    }
    if (memory.size < bytes) {
      memory.bytes.reset();  // before the new one is there
      memory = {std::unique_ptr<std::byte[]>(new std::byte[bytes]), bytes};
    }
    return {*this, std::move(memory), bytes};
  }

 private:
  void take_back(Memory memory) noexcept {
    try {
      const std::lock_guard lock(mutex_);
      free_.push_back(std::move(memory));
    } catch (const std::bad_alloc&) {  // then it is freed
    }
  }

  std::mutex mutex_;
  std::vector<Memory> free_;
};

ZIYA_NAMESPACE_END
