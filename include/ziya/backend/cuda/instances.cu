// SPDX-License-Identifier: Apache-2.0
// The library `ziya::cuda`, with instances_f16.cu and instances_bf16.cu: ops for activations in 32
// bits, and what has no such type.
#include "ziya/backend/cuda/instances.cuh"

ZIYA_NAMESPACE_BEGIN
namespace backend {

ZIYA_INSTANCES(float)

template Weight<Cuda> quantised_on(const Weight<Cpu>&, Staging<Cuda>&);
template Weight<Cuda> float8_on(const Weight<Cpu>&, Staging<Cuda>&);
template std::int32_t draw_token(Context<Cuda>&, View<const float, Cuda>,
                                 std::span<const ScoreChange>, const TokenDraw&);
template void top_k(Context<Cuda>&, std::span<std::int32_t>, std::span<float>,
                    View<const float, Cuda>);

}  // namespace backend
ZIYA_NAMESPACE_END
