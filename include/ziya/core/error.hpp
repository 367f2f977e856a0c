// SPDX-License-Identifier: Apache-2.0
// The exceptions of the library; every throw carries a stable id that docs/errors.md lists.
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

#include "ziya/config.hpp"

ZIYA_NAMESPACE_BEGIN

/// Base of everything the library throws. `what()` is "message [ZIYA-123]"; the message names the
/// file or op, the thing, what was found and what was expected.
class Error : public std::runtime_error {
 public:
  Error(std::string_view id, const std::string& message)
      : std::runtime_error(message + " [" + std::string(id) + "]"), id_(id) {}

  /// Stable identifier, e.g. "ZIYA-211"; the first digit is the part of the library
  /// (docs/errors.md).
  [[nodiscard]] const std::string& id() const noexcept { return id_; }

 private:
  std::string id_;
};

/// Views or tensors whose shapes do not fit an operation.
struct ShapeError : Error {
  using Error::Error;
};
/// Bytes that are not what their format demands.
struct FormatError : Error {
  using Error::Error;
};
/// The operating system could not open, read, map or write something.
struct IoError : Error {
  using Error::Error;
};
/// A config.json that is incomplete, contradicts the tensors, or asks for something unsupported.
struct ConfigError : Error {
  using Error::Error;
};
/// A caller's argument outside its domain.
struct ArgumentError : Error {
  using Error::Error;
};
/// A device, its memory or its driver failed.
struct BackendError : Error {
  using Error::Error;
};

ZIYA_NAMESPACE_END
