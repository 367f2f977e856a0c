// SPDX-License-Identifier: Apache-2.0
// The library `ziya::cuda`, with instances_f16.cu and instances_bf16.cu: ops for activations in 32
// bits, and what has no such type.
#include "ziya/backend/cuda/instances.cuh"

ZIYA_NAMESPACE_BEGIN
namespace cuda {

template std::string built_for_others<int>();
template std::uint64_t fingerprint(cudaStream_t, std::uint64_t*, const std::uint16_t*, std::int64_t,
                                   std::int64_t, std::int64_t);
template std::uint64_t fingerprint(cudaStream_t, std::uint64_t*, const std::uint32_t*, std::int64_t,
                                   std::int64_t, std::int64_t);

}  // namespace cuda
namespace backend {

ZIYA_INSTANCES(float)

template Weight<Cuda> quantised_on(const Weight<Cpu>&, Staging<Cuda>&);
template Weight<Cuda> float8_on(const Weight<Cpu>&, Staging<Cuda>&);
template void draw_tokens(Context<Cuda>&, std::span<std::int32_t>, View<const float, Cuda>,
                          std::span<const TokenDraw>, std::span<const ScoreChange>);
template void top_k(Context<Cuda>&, std::span<std::int32_t>, std::span<float>,
                    View<const float, Cuda>);

}  // namespace backend
ZIYA_NAMESPACE_END
