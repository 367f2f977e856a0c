// SPDX-License-Identifier: Apache-2.0
// Options made into a context and a model, for the commands that run a model themselves.
#pragma once

#include <cstdint>
#include <filesystem>

#include "commands.hpp"
#include "ziya/backend/cpu/context.hpp"
#include "ziya/model/llama.hpp"

namespace cli {

/// Threads and instruction set.   @throws UsageError for an unknown instruction set
ziya::CpuOptions cpu_options(const ModelOptions& options);

/// Says what a copy takes, and warns when running takes more memory than is free.
/// @param tokens that will be in the cache
ziya::CpuModel load_model(const ModelOptions& options, const std::filesystem::path& folder,
                          std::int64_t tokens);

}  // namespace cli
