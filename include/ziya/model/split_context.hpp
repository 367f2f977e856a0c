// SPDX-License-Identifier: Apache-2.0
// The contexts of a model whose layers lie on several devices.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/decode_hook.hpp"
#include "ziya/core/split.hpp"
#include "ziya/core/workspace.hpp"
#include "ziya/ops/embedding.hpp"

ZIYA_NAMESPACE_BEGIN

/// @tparam FarOptions of the context of a far device
template <class FarOptions>
struct SplitOptions {
  CpuOptions near{};
  std::vector<FarOptions> far{};  ///< one for each device, in the order of the parts
};

/// Belongs to one thread, as the contexts in it do.
template <class Far>
class Context<Split<Far>> {
 public:
  /// @throws BackendError for a far device that does not exist
  template <class FarOptions>
  explicit Context(const SplitOptions<FarOptions>& options) : near_(options.near) {
    for (const FarOptions& far : options.far) far_.push_back(std::make_unique<Context<Far>>(far));
  }

  [[nodiscard]] Context<Cpu>& near() { return near_; }
  [[nodiscard]] Context<Far>& far(std::size_t part) { return *far_[part]; }
  [[nodiscard]] Workspace<Split<Far>>& workspace() { return workspace_; }
  [[nodiscard]] const DecodeHook* decode_hook() const { return nullptr; }

 private:
  Context<Cpu> near_;
  std::vector<std::unique_ptr<Context<Far>>> far_;
  Workspace<Split<Far>> workspace_;
};

ZIYA_NAMESPACE_END
