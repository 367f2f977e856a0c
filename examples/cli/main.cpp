// SPDX-License-Identifier: Apache-2.0
// The `ziya` program: one line per error, exit status 1 for bad input, 2 for a bad command line.
#include <algorithm>
#include <exception>
#include <new>
#include <string>

#include "commands.hpp"
#include "terminal.hpp"
#include "ziya/core/error.hpp"

namespace {

/// Names of files and tensors come from outside: what could move the cursor is not printed.
int fail(std::string message) {
  std::replace_if(
      message.begin(), message.end(), [](unsigned char c) { return c < 0x20 || c == 0x7f; }, ' ');
  cli::note("error: " + message);
  return 1;
}

}  // namespace

int main(int count, char** arguments) {
  try {
    return cli::main(count, arguments);
  } catch (const ziya::Error& error) {
    return fail(error.what());
  } catch (const std::bad_alloc&) {
    return fail("out of memory [ZIYA-707]");
  } catch (const std::exception& error) {
    return fail(std::string(error.what()) + " [ZIYA-708]");
  }
}
