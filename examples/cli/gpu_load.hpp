// SPDX-License-Identifier: Apache-2.0
// How the program gets a model onto a GPU, and with which activations.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <utility>

#include "session.hpp"
#include "terminal.hpp"
#include "ziya/ziya.hpp"

namespace cli {

/// @throws BackendError ZIYA-702 in a program without CUDA
[[noreturn]] inline void refuse_gpu() {
  throw ziya::BackendError("ZIYA-702",
                           "--device cuda: this program was built without CUDA; use --device cpu, "
                           "or build it with -DZIYA_BUILD_CUDA=ON");
}

#if ZIYA_WITH_CUDA
/// load(progress), whose bar disappears when it is done.
template <class Load>
auto with_bar(Load&& load) {
  ProgressBar bar("loading");
  const std::function<void(std::int64_t, std::int64_t)> progress =
      [&](std::int64_t done, std::int64_t total) { bar.update(done, total, ""); };
  return load(progress);
}

/// All of a model on the current GPU.
template <class Config>
ziya::LlamaModel<Config> load_whole(const std::filesystem::path& folder,
                                    ziya::LoadOptions options) {
  return with_bar([&](auto progress) {
    options.progress = progress;
    return ziya::LlamaModel<Config>::load(folder, options);
  });
}

/// The type of activations beside weights of a type: f16 beside quantised ones and random fp8.
inline ziya::DType compute_type(ziya::DType stored) {
  const bool float8 = stored == ziya::DType::f8_e4m3;
  if (stored == ziya::DType::f16 || is_quantised(stored) || float8) return ziya::DType::f16;
  return stored == ziya::DType::bf16 ? stored : ziya::DType::f32;
}

/// That of the matrices of a model; with fp8, of what is stored.
inline ziya::DType compute_type(const ModelOptions& options, const std::filesystem::path& folder) {
  if (const auto dtype = ziya::dtype_from_name(options.dtype)) return compute_type(*dtype);
  const auto checkpoint = ziya::Checkpoint::open(folder);
  const auto* table = checkpoint.find(ziya::llama_names::embedding);
  return compute_type(table == nullptr ? ziya::DType::f32 : table->dtype);
}

/// f(Config{}) of the type of activations.
template <class F>
auto with_config(ziya::DType compute, F&& f) {
  if (compute == ziya::DType::f16) return f(ziya::CudaHalfConfig{});
  if (compute == ziya::DType::bf16) return f(ziya::CudaBFloat16Config{});
  return f(ziya::CudaConfig{});
}

#endif

}  // namespace cli
