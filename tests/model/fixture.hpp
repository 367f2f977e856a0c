// SPDX-License-Identifier: Apache-2.0
// Model folders made for a test and removed after it.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "model/golden.hpp"
#include "ziya/backend/cpu/context.hpp"
#include "ziya/io/checkpoint.hpp"
#include "ziya/io/json.hpp"
#include "ziya/io/safetensors_writer.hpp"
#include "ziya/model/llama.hpp"

namespace fixture {

using namespace ziya;

class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "ziya-test-XXXXXX").string();
    if (mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("no temporary folder");
    path_ = pattern;
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  [[nodiscard]] const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

struct StoredTensor {
  DType dtype = DType::f32;
  Shape shape;
  std::vector<std::byte> bytes;
};
using Tensors = std::map<std::string, StoredTensor>;

inline Tensors read_all(const std::filesystem::path& path) {
  const Checkpoint file = Checkpoint::open(path);
  Tensors result;
  for (const TensorInfo& tensor : file.tensors()) {
    StoredTensor& stored = result[tensor.name];
    stored = {tensor.dtype, tensor.shape,
              std::vector<std::byte>(static_cast<std::size_t>(tensor.bytes()))};
    file.read(tensor.name, stored.bytes);
  }
  return result;
}

inline std::vector<float> widened(const StoredTensor& tensor) {
  std::vector<float> result;
  const auto count = tensor.shape.elements();
  for (std::int64_t i = 0; i < count; ++i) {
    const std::byte* at = tensor.bytes.data() + i * info(tensor.dtype).block_bytes;
    float value = 0;
    std::uint16_t half = 0;
    if (tensor.dtype == DType::f32) {
      std::memcpy(&value, at, 4);
    } else {
      std::memcpy(&half, at, 2);
      value = tensor.dtype == DType::f16 ? to_float(Half{half}) : to_float(BFloat16{half});
    }
    result.push_back(value);
  }
  return result;
}

inline StoredTensor stored(const Shape& shape, const std::vector<float>& values, DType dtype) {
  StoredTensor result{dtype, shape, {}};
  result.bytes.resize(static_cast<std::size_t>(shape.elements() * info(dtype).block_bytes));
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (dtype == DType::f32) {
      std::memcpy(result.bytes.data() + 4 * i, &values[i], 4);
    } else {
      const std::uint16_t half =
          dtype == DType::f16 ? to_half(values[i]).bits : to_bfloat16(values[i]).bits;
      std::memcpy(result.bytes.data() + 2 * i, &half, 2);
    }
  }
  return result;
}

inline void write_file(const std::filesystem::path& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

inline void write_weights(const std::filesystem::path& folder, const Tensors& tensors) {
  std::vector<TensorSpec> specs;
  for (const auto& [name, tensor] : tensors) specs.push_back({name, tensor.dtype, tensor.shape});
  SafetensorsWriter writer(folder / "model.safetensors", specs);
  for (const TensorSpec& spec : writer.tensors()) {
    writer.write(spec.name, tensors.at(spec.name).bytes);
  }
  writer.commit();
}

/// The cases of tests/reference/model_golden.py.
inline const nlohmann::json& cases() {
  static const nlohmann::json value = read_json_file(golden::folder("models") / "cases.json");
  return value;
}
inline const nlohmann::json& case_named(const std::string& name) {
  for (const auto& entry : cases()) {
    if (entry.at("name") == name) return entry;
  }
  throw std::runtime_error("no case " + name);
}

/// The weights of a case, rounded to a type.
inline Tensors case_weights(const nlohmann::json& entry, DType dtype) {
  static const Tensors base = read_all(golden::folder("models") / "weights.safetensors");
  Tensors tensors = base;
  if (!entry.at("overlay").is_null()) {
    const std::string overlay = entry.at("overlay");
    for (auto& [name, tensor] : read_all(golden::folder("models") / (overlay + ".safetensors"))) {
      tensors[name] = std::move(tensor);
    }
  }
  if (entry.at("config").at("tie_word_embeddings") == true) tensors.erase("lm_head.weight");
  for (auto& [name, tensor] : tensors) tensor = stored(tensor.shape, widened(tensor), dtype);
  return tensors;
}

inline void write_case(const std::filesystem::path& folder, const std::string& name, DType dtype) {
  const nlohmann::json& entry = case_named(name);
  write_weights(folder, case_weights(entry, dtype));
  write_file(folder / "config.json", entry.at("config").dump());
}

/// Rows [begin, end) of one sequence in slot `slot`; all outputs, or only the last.
struct Rows {
  std::vector<std::int32_t> ids, positions, slots, outputs;

  Rows() = default;
  Rows(std::span<const std::int32_t> tokens, std::size_t begin, std::size_t end,
       std::int32_t slot = 0) {
    append(tokens, begin, end, slot);
  }
  void append(std::span<const std::int32_t> tokens, std::size_t begin, std::size_t end,
              std::int32_t slot) {
    for (std::size_t i = begin; i < end; ++i) {
      outputs.push_back(static_cast<std::int32_t>(ids.size()));
      ids.push_back(tokens[i]);
      positions.push_back(static_cast<std::int32_t>(i));
      slots.push_back(slot);
    }
  }
  [[nodiscard]] Batch<float, Cpu> batch() const {
    Batch<float, Cpu> batch;
    batch.ids = ids;
    batch.positions = positions;
    batch.slots = slots;
    batch.outputs = outputs;
    return batch;
  }
};

inline KvCache<Cpu> make_cache(const CpuModel& model, int slots = 1, std::int64_t tokens = 128,
                               DType dtype = DType::f32) {
  return KvCache<Cpu>(model.shape().cache_shape(),
                      {.dtype = dtype, .slots = slots, .max_tokens = tokens, .page_tokens = 8});
}

/// Final hidden states of rows with a cache.
inline Tensor<float> hidden(const CpuModel& model, Context<Cpu>& ctx, const Rows& rows,
                            KvCache<Cpu>& cache) {
  Tensor<float> result(Shape{static_cast<std::int64_t>(rows.outputs.size()), model.shape().hidden});
  model.forward(ctx, result.view(), rows.batch(), cache);
  return result;
}

inline Tensor<float> logits(const CpuModel& model, Context<Cpu>& ctx, const Tensor<float>& hidden) {
  Tensor<float> result(Shape{hidden.shape()[0], model.shape().vocabulary});
  model.logits(ctx, result.view(), hidden.view());
  return result;
}

inline std::vector<float> copy(const Tensor<float>& tensor) {
  return {tensor.data(), tensor.data() + tensor.elements()};
}

inline std::int32_t argmax(std::span<const float> row) {
  return static_cast<std::int32_t>(std::ranges::max_element(row) - row.begin());
}

/// Greedy tokens: the prompt in one pass, then one token each.
inline std::vector<std::int32_t> greedy(const CpuModel& model, Context<Cpu>& ctx,
                                        std::vector<std::int32_t> ids, std::size_t count) {
  KvCache<Cpu> cache = make_cache(model, 1, static_cast<std::int64_t>(ids.size() + count));
  const std::size_t prompt = ids.size();
  for (std::size_t begin = 0; ids.size() < prompt + count;) {
    const Tensor<float> last = hidden(model, ctx, Rows(ids, begin, ids.size()), cache);
    begin = ids.size();
    const Tensor<float> row = logits(model, ctx, last);
    const auto vocabulary = static_cast<std::size_t>(model.shape().vocabulary);
    ids.push_back(argmax(golden::span(row.view()).last(vocabulary)));
  }
  return {ids.begin() + static_cast<std::ptrdiff_t>(prompt), ids.end()};
}

/// How far the logits of the ids that follow a prompt are behind the best ones, at most, over the
/// size of the largest.
inline double behind_best(const CpuModel& model, Context<Cpu>& ctx, std::vector<std::int32_t> ids,
                          const std::vector<std::int32_t>& following) {
  KvCache<Cpu> cache =
      make_cache(model, 1, static_cast<std::int64_t>(ids.size() + following.size()));
  double behind = 0;
  std::size_t begin = 0;
  for (const std::int32_t next : following) {
    const Tensor<float> last = hidden(model, ctx, Rows(ids, begin, ids.size()), cache);
    begin = ids.size();
    const Tensor<float> rows = logits(model, ctx, last);
    const auto row =
        golden::span(rows.view()).last(static_cast<std::size_t>(model.shape().vocabulary));
    float best = row[0], largest = 0;
    for (const float value : row) {
      best = std::max(best, value);
      largest = std::max(largest, std::abs(value));
    }
    behind = std::max(behind,
                      static_cast<double>((best - row[static_cast<std::size_t>(next)]) / largest));
    ids.push_back(next);
  }
  return behind;
}

/// Every instruction set of this machine.
struct Machine {
  Isa isa;
  int threads;
  [[nodiscard]] Context<Cpu> context() const { return Context<Cpu>({threads, isa}); }
  [[nodiscard]] std::string describe() const {
    return std::string(name(isa)) + ", " + std::to_string(threads) + " threads";
  }
};
inline std::vector<Machine> machines() {
  std::vector<Machine> result;
  for (const Isa isa : available_isas()) {
    for (const int threads : {1, 2, 5}) result.push_back({isa, threads});
  }
  return result;
}

}  // namespace fixture
