// SPDX-License-Identifier: Apache-2.0
// Device tags, and how memory is taken and given back on each device.
#pragma once

#include <cstddef>
#include <new>

#include "ziya/config.hpp"

ZIYA_NAMESPACE_BEGIN

/// The host processor.
struct Cpu {};
/// An NVIDIA GPU; its parts live in backend/cuda.
struct Cuda {};

/// Everything an operation needs to run on a device: threads or stream, workspace, kernels.
/// Specialised by each backend; the first argument of every op.
template <class Device>
class Context;

/// Raw memory of a device. Each backend specialises it.
template <class Device>
struct Memory;

template <>
struct Memory<Cpu> {
  static constexpr std::size_t alignment = 64;
  /// Uninitialised, aligned to 64 bytes. @throws std::bad_alloc
  static void* allocate(std::size_t bytes) {
    return ::operator new (bytes, std::align_val_t{alignment});
  }
  static void release(void* memory) noexcept {
    ::operator delete (memory, std::align_val_t{alignment});
  }
};

ZIYA_NAMESPACE_END
