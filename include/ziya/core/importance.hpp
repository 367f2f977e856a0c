// SPDX-License-Identifier: Apache-2.0
// How much the inputs of matrices matter.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "ziya/config.hpp"

ZIYA_NAMESPACE_BEGIN

/// Mean squares of the inputs of each matrix, by its name; as long as its rows.
using Importance = std::map<std::string, std::vector<float>>;

ZIYA_NAMESPACE_END
