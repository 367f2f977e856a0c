// SPDX-License-Identifier: Apache-2.0
// Labels of rows: the class that a row should have named.
#pragma once

#include <cstdint>

#include "ziya/config.hpp"

ZIYA_NAMESPACE_BEGIN

/// A row with this label does not count.
inline constexpr std::int32_t ignored_label = -100;

ZIYA_NAMESPACE_END
