// SPDX-License-Identifier: Apache-2.0
// Text that a person hands over: as an argument, in a file, or on standard input.
#pragma once

#include <iostream>
#include <iterator>
#include <string>

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

}  // namespace cli
