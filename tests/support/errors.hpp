// SPDX-License-Identifier: Apache-2.0
// Checks that an expression throws one ziya::Error with an id, whose message names what it should.
#pragma once

#include <catch2/catch.hpp>
#include <string>

#include "ziya/core/error.hpp"

namespace test {

/// The id and message of the ziya::Error that `body` throws; anything else fails the test.
template <class Body>
std::string error_of(Body&& body) {
  try {
    body();
  } catch (const ziya::Error& error) {
    return error.what();
  }
  return "no error";
}

}  // namespace test

/// REQUIRE_ERROR(open(path), "ZIYA-233", "tensor b"): id, and a part of the message.
#define REQUIRE_ERROR(expression, id, part)                                             \
  do {                                                                                  \
    const std::string message = test::error_of([&] { static_cast<void>(expression); }); \
    REQUIRE_THAT(message, Catch::Contains("[" id "]") && Catch::Contains(part));        \
  } while (false)
