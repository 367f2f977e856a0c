// SPDX-License-Identifier: Apache-2.0
// The model that a delta or an adapter was made of: where it lies, and whether it is the right one.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "terminal.hpp"
#include "ziya/convert/meta_folder.hpp"
#include "ziya/core/error.hpp"
#include "ziya/io/file.hpp"
#include "ziya/model/lora_adapter.hpp"

namespace cli {

/// Where a base lies: what --base names, or of Meta's sizes in there the one that --model-size
/// does.
/// @throws IoError ZIYA-612
inline std::filesystem::path base_path(const std::string& base, const std::string& model_size) {
  const auto path = ziya::path_from_utf8(base);
  return model_size.empty() ? path : ziya::find_meta_folder(path, model_size).leaf;
}

/// @param names of the model given   @param any whether another one than it records will do
/// @throws FormatError ZIYA-624 for an adapter that records another base
inline void check_base(const ziya::LoraAdapter& adapter, const std::vector<std::string>& names,
                       bool any) {
  const std::string mismatch = adapter.base_mismatch(names);
  if (mismatch.empty()) return;
  if (!any) {
    throw ziya::FormatError(
        "ZIYA-624", adapter.name() + ": " + mismatch + "; --any-base takes it all the same");
  }
  note("note: " + printable(mismatch) + "; its shapes decide");
}

}  // namespace cli
