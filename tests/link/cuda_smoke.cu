// SPDX-License-Identifier: Apache-2.0
// Kernels of each kind that older GPUs have to compile too: one of rows, one of a block, sampling,
// attention on the tensor cores.
#include <ziya/backend/cuda/attention.hpp>
#include <ziya/backend/cuda/draw_tokens.hpp>
#include <ziya/backend/cuda/rms_norm.hpp>
#include <ziya/backend/cuda/softmax.hpp>

ZIYA_NAMESPACE_BEGIN
namespace backend {

template void rms_norm(Context<Cuda>&, View<Half, Cuda>, View<const Half, Cuda>,
                       View<const float, Cuda>, float);
template void attention(Context<Cuda>&, View<Half, Cuda>, View<const Half, Cuda>,
                        const CachedKeysValues<Cuda>&, const AttentionRows&, float);
template void softmax(Context<Cuda>&, View<BFloat16, Cuda>, View<const BFloat16, Cuda>);
template void draw_tokens(Context<Cuda>&, std::span<std::int32_t>, View<const float, Cuda>,
                          std::span<const TokenDraw>, std::span<const ScoreChange>);

}  // namespace backend
ZIYA_NAMESPACE_END
