// SPDX-License-Identifier: Apache-2.0
// What is learned of tensors while they are read, for the process that goes on after this one.
#pragma once

#include <functional>
#include <string>

#include "ziya/config.hpp"
#include "ziya/io/json.hpp"

ZIYA_NAMESPACE_BEGIN

/// A journal saves it with each tensor that is written, and loads it for one that need not be read
/// again. Names that the source does not have are saved as null, and null changes nothing.
struct TensorMemory {
  std::function<nlohmann::json(const std::string& name)> save{};
  std::function<void(const std::string& name, const nlohmann::json& saved)> load{};
};

ZIYA_NAMESPACE_END
