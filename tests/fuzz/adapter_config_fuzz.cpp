// SPDX-License-Identifier: Apache-2.0
// adapter_config.json and the patterns in it.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "ziya/model/lora_config.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    const ziya::LoraConfig config = ziya::parse_lora_config(text, "fuzz");
    for (const char* module : {"model.layers.0.self_attn.q_proj", "model.layers.11.mlp.down_proj",
                               "lm_head", "model.embed_tokens", ""}) {
      (void)config.targets_module(module);
      (void)config.saves_module(module);
      if (config.rank_of(module) < 1) __builtin_trap();
      if (!(config.scale_of(module) > 0)) __builtin_trap();
    }
  } catch (const ziya::Error&) {
  }
  return 0;
}
