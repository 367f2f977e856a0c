// SPDX-License-Identifier: Apache-2.0
// Text that a person hands over: as an argument, in a file, or on standard input.
#pragma once

#include <algorithm>
#include <cstddef>
#include <iostream>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

#include "ziya/core/error.hpp"
#include "ziya/io/file.hpp"

namespace cli {

/// The whole of a file; "-" is standard input. @throws IoError
inline std::string read_input(const std::string& file) {
  if (file != "-") return ziya::read_text_file(ziya::expand_home(ziya::path_from_utf8(file)));
  std::string text{std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>()};
  if (std::cin.bad()) throw ziya::IoError("ZIYA-202", "standard input: reading failed");
  return text;
}

/// Lines without their ends ("\n", "\r\n") and without a byte order mark.
inline std::vector<std::string> lines_of(std::string_view text) {
  std::vector<std::string> lines;
  if (text.starts_with("\xEF\xBB\xBF")) text.remove_prefix(3);
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    if (line.ends_with('\r')) line.remove_suffix(1);
    lines.emplace_back(line);
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return lines;
}

}  // namespace cli
