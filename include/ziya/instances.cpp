// SPDX-License-Identifier: Apache-2.0
// The library's long functions, compiled once: target ziya::compiled.
#define ZIYA_COMPILING
#include "ziya/ziya.hpp"

ZIYA_NAMESPACE_BEGIN

template class LlamaModel<CpuConfig>;
template class Generator<CpuModel>;

ZIYA_NAMESPACE_END
