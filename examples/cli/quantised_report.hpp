// SPDX-License-Identifier: Apache-2.0
// What quantising has made of each tensor, as a table.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "terminal.hpp"
#include "ziya/convert/quantised_source.hpp"
#include "ziya/model/llama_names.hpp"

namespace cli {

/// One line per tensor on standard output; rotary caches are not written.
inline void print_report(const std::vector<ziya::QuantisedTensor>& report,
                         const std::string& wanted) {
  std::size_t widest = 6;
  for (const ziya::QuantisedTensor& tensor : report) widest = std::max(widest, tensor.name.size());
  const auto line = [&](const std::string& name, const char* type, const char* rmse,
                        const char* relative, const std::string& bytes, const std::string& reason) {
    char text[160];
    std::snprintf(text, sizeof text, "  %-7s %10s %9s  %9s  ", type, rmse, relative, bytes.c_str());
    print(printable(name) + std::string(widest - name.size(), ' ') + text + reason + "\n");
  };
  line("tensor", "type", "rmse", "relative", "size", "");
  std::int64_t fallbacks = 0;
  for (const ziya::QuantisedTensor& tensor : report) {
    if (ziya::llama_names::is_rotary_cache(tensor.name)) continue;
    fallbacks += tensor.reason.find("not whole blocks") != std::string::npos ? 1 : 0;
    char rmse[32], relative[32];
    std::snprintf(rmse, sizeof rmse, "%.3e", tensor.rmse());
    std::snprintf(relative, sizeof relative, "%.4f %%", 100 * tensor.relative_rmse());
    line(tensor.name, std::string(ziya::name(tensor.to)).c_str(), rmse, relative,
         bytes_text(tensor.bytes), tensor.reason);
  }
  if (fallbacks > 0) {
    note("note: " + std::to_string(fallbacks) + " tensors have rows that blocks of " + wanted +
         " do not divide; they are stored in the types that the report shows");
  }
}

}  // namespace cli
