// SPDX-License-Identifier: Apache-2.0
// The `ziya` program: one line per error, exit status 1 for bad input, 2 for a bad command line.
#include <exception>
#include <new>
#include <string>

#include "commands.hpp"
#include "terminal.hpp"
#include "ziya/core/error.hpp"

namespace {

int fail(const std::string& message) {
  cli::note("error: " + cli::printable(message));
  return 1;
}

}  // namespace

int main(int count, char** arguments) {
  try {
    return cli::main(count, arguments);
  } catch (const cli::UsageError& error) {
    return fail(error.what()) + 1;
  } catch (const ziya::Error& error) {
    return fail(error.what());
  } catch (const std::bad_alloc&) {
    return fail(ziya::BackendError("ZIYA-707", "out of memory").what());
  } catch (const std::exception& error) {
    return fail(ziya::Error("ZIYA-708", error.what()).what());
  }
}
