// SPDX-License-Identifier: Apache-2.0
// The host processor together with other devices that hold a part of a model.
#pragma once

#include <cstddef>

#include "ziya/config.hpp"
#include "ziya/core/device.hpp"
#include "ziya/core/tensor.hpp"

ZIYA_NAMESPACE_BEGIN

/// What goes in and comes out is in the host's memory; `Far` devices hold layers of their own.
template <class Far>
struct Split {};

template <class Far>
struct Memory<Split<Far>> : Memory<Cpu> {};

template <class Far>
void copy(Cpu, void* to, Split<Far>, const void* from, std::size_t bytes) {
  copy(Cpu{}, to, Cpu{}, from, bytes);
}
template <class Far>
void copy(Split<Far>, void* to, Cpu, const void* from, std::size_t bytes) {
  copy(Cpu{}, to, Cpu{}, from, bytes);
}
template <class Far>
void copy(Split<Far>, void* to, Split<Far>, const void* from, std::size_t bytes) {
  copy(Cpu{}, to, Cpu{}, from, bytes);
}

/// There is one host processor.
inline void set_current(Cpu, int) {}

ZIYA_NAMESPACE_END
