// SPDX-License-Identifier: Apache-2.0
// The model behind generate and chat on an NVIDIA GPU.
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "session.hpp"
#include "session_parts.hpp"
#include "terminal.hpp"
#include "ziya/ziya.hpp"

namespace cli {

#if ZIYA_WITH_CUDA
namespace {

template <class Config>
class PartsOnGpu : public ModelParts<ziya::LlamaModel<Config>> {
 public:
  PartsOnGpu(const ziya::CudaOptions& device, const SessionSetup& setup,
             const ziya::Tokenizer& text)
      : Base(device, text, setup,
             ziya::dtype_from_name(setup.model.cache_dtype)
                 .value_or(ziya::dtype_of<typename Config::Compute>),
             [&](const std::filesystem::path& folder, bool draft) {
               return draft ? Model::load(folder)
                            : Model::load(folder, load_options(setup.model, folder));
             }),
        graph_(this->context_) {}

  std::vector<ziya::GenerationResult> search(const std::vector<std::int32_t>&,
                                             const ziya::GenerationConfig&) override {
    throw ziya::BackendError("ZIYA-702",
                             "beam search and contrastive search run on the CPU only; use --device "
                             "cpu");
  }

 private:
  using Model = ziya::LlamaModel<Config>;
  using Base = ModelParts<Model>;
  ziya::DecodeGraph<Model> graph_;
};

/// The type of activations: that of the matrices, f16 beside quantised ones.
ziya::DType compute_type(const ModelOptions& options, const std::filesystem::path& folder) {
  auto dtype = ziya::dtype_from_name(options.dtype);
  if (!dtype) {
    const auto checkpoint = ziya::Checkpoint::open(folder);
    const auto* table = checkpoint.find(ziya::llama_names::embedding);
    dtype = table == nullptr ? ziya::DType::f32 : table->dtype;
  }
  const bool half = *dtype == ziya::DType::f16 || is_quantised(*dtype);
  return half ? ziya::DType::f16 : *dtype == ziya::DType::bf16 ? *dtype : ziya::DType::f32;
}

}  // namespace

bool has_gpu() { return ziya::cuda::device_count() > 0; }

std::unique_ptr<SessionParts> parts_on_gpu(const SessionSetup& setup,
                                           const ziya::Tokenizer& tokenizer) {
  const ziya::CudaOptions device;
  const ziya::Context<ziya::Cuda> check(device);  // before anything is read
  const ziya::DType dtype = compute_type(setup.model, setup.folder);
  note("device: GPU " + std::to_string(device.device) + ", activations in " +
       std::string(name(dtype)));
  if (dtype == ziya::DType::f16) {
    return std::make_unique<PartsOnGpu<ziya::CudaHalfConfig>>(device, setup, tokenizer);
  }
  if (dtype == ziya::DType::bf16) {
    return std::make_unique<PartsOnGpu<ziya::CudaBFloat16Config>>(device, setup, tokenizer);
  }
  return std::make_unique<PartsOnGpu<ziya::CudaConfig>>(device, setup, tokenizer);
}
#else
bool has_gpu() { return false; }

std::unique_ptr<SessionParts> parts_on_gpu(const SessionSetup&, const ziya::Tokenizer&) {
  throw ziya::BackendError("ZIYA-702",
                           "--device cuda: this program was built without CUDA; use --device cpu, "
                           "or build it with -DZIYA_BUILD_CUDA=ON");
}
#endif

}  // namespace cli
