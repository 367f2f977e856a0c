// SPDX-License-Identifier: Apache-2.0
// The Python program of Ziya's model card, line for line; its lines stand above ours.
#include <cstdint>
#include <iostream>
#include <string>
#include <vector>
#include <ziya/ziya.hpp>

int main(int count, char** arguments) try {
  // ckpt = '...'
  const std::string ckpt = count > 1 ? arguments[1] : "build/ziya-tiny";
  // device = torch.device("cuda")
  ziya::Context<ziya::Cpu> device;
  // query = "帮我写一份去西安的旅游计划"
  const std::string query = "帮我写一份去西安的旅游计划";
  // model = LlamaForCausalLM.from_pretrained(ckpt, torch_dtype=torch.float16, device_map="auto")
  const auto model = ziya::CpuModel::load(ckpt, {.dtype = ziya::DType::f16});
  // tokenizer = AutoTokenizer.from_pretrained(ckpt, use_fast=False)
  const auto tokenizer = ziya::Tokenizer::load(ckpt);
  // inputs = '<human>:' + query.strip() + '\n<bot>:'
  const std::string inputs = "<human>:" + std::string(ziya::strip(query)) + "\n<bot>:";
  // input_ids = tokenizer(inputs, return_tensors="pt").input_ids.to(device)
  const std::vector<std::int32_t> input_ids = tokenizer.encode(inputs);
  // generate_ids = model.generate(input_ids, max_new_tokens=1024, do_sample=True, top_p=0.85,
  //     temperature=1.0, repetition_penalty=1., eos_token_id=2, bos_token_id=1, pad_token_id=0)
  ziya::Generator generator(device, model, tokenizer);
  const ziya::GenerationResult result = generator.generate(input_ids, {.max_new_tokens = 1024,
                                                                       .do_sample = true,
                                                                       .temperature = 1.0f,
                                                                       .top_p = 0.85f,
                                                                       .repetition_penalty = 1.0f,
                                                                       .eos_ids = {2},
                                                                       .bos_id = 1,
                                                                       .pad_id = 0});
  std::vector<std::int32_t> generate_ids = result.prompt_ids;
  generate_ids.insert(generate_ids.end(), result.generated_ids.begin(), result.generated_ids.end());
  // output = tokenizer.batch_decode(generate_ids)[0]
  const std::string output = tokenizer.decode(generate_ids, {.spaces_around_added = true});
  // print(output)
  std::cout << output << "\n";
} catch (const ziya::Error& error) {
  std::cerr << "error: " << error.what() << "\n";
  return 1;
}
