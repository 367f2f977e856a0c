// SPDX-License-Identifier: Apache-2.0
// SHA-256 and MD5 of bytes that arrive piece by piece; the only header that includes OpenSSL.
#pragma once

#include <openssl/evp.h>

#include <array>
#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "ziya/config.hpp"
#include "ziya/core/error.hpp"

ZIYA_NAMESPACE_BEGIN

/// Lower-case hexadecimal digits of `bytes`, two each.
inline std::string hex(std::span<const std::byte> bytes) {
  constexpr std::string_view digits = "0123456789abcdef";
  std::string text;
  text.reserve(bytes.size() * 2);
  for (const std::byte b : bytes) {
    text += digits[std::to_integer<std::size_t>(b >> 4)];
    text += digits[std::to_integer<std::size_t>(b & std::byte{15})];
  }
  return text;
}

/// A hash of libcrypto. Movable, copyable (the copy goes on from the same state), not shared
/// between threads. A program that uses it links `ziya::convert`; one that only runs models need
/// not.
/// @tparam algorithm EVP_sha256, EVP_md5   @tparam bytes of the result
template <const EVP_MD* (*algorithm)(), std::size_t bytes>
class Digest {
 public:
  using Value = std::array<std::byte, bytes>;

  /// @throws BackendError ZIYA-610 when libcrypto refuses the algorithm (MD5 in FIPS mode) or has
  /// no memory
  Digest() : state_(EVP_MD_CTX_new()) {
    check(state_ != nullptr && EVP_DigestInit_ex(state_.get(), algorithm(), nullptr) == 1);
  }
  Digest(const Digest& other) : state_(EVP_MD_CTX_new()) {
    check(state_ != nullptr && EVP_MD_CTX_copy_ex(state_.get(), other.state_.get()) == 1);
  }
  Digest& operator=(const Digest& other) {
    check(EVP_MD_CTX_copy_ex(state_.get(), other.state_.get()) == 1);
    return *this;
  }
  Digest(Digest&&) noexcept = default;
  Digest& operator=(Digest&&) noexcept = default;

  void update(std::span<const std::byte> data) {
    check(EVP_DigestUpdate(state_.get(), data.data(), data.size()) == 1);
  }
  void update(std::string_view text) { update(std::as_bytes(std::span(text))); }

  /// The hash of what came so far; more may follow.
  [[nodiscard]] Value value() const {
    Digest copy(*this);
    Value result{};
    check(EVP_DigestFinal_ex(copy.state_.get(), reinterpret_cast<unsigned char*>(result.data()),
                             nullptr) == 1);
    return result;
  }
  [[nodiscard]] std::string hex_value() const { return hex(value()); }

 private:
  struct Free {
    void operator()(EVP_MD_CTX* state) const { EVP_MD_CTX_free(state); }
  };
  static void check(bool good) {
    if (!good) {
      throw BackendError("ZIYA-610", "digest: OpenSSL's libcrypto does not compute a hash of " +
                                         std::to_string(bytes * 8) + " bits here");
    }
  }

  std::unique_ptr<EVP_MD_CTX, Free> state_;
};

/// FIPS 180-4.
using Sha256 = Digest<EVP_sha256, 32>;
/// RFC 1321; for comparing with published lists only, it proves nothing against forgery.
using Md5 = Digest<EVP_md5, 16>;

ZIYA_NAMESPACE_END
