// SPDX-License-Identifier: Apache-2.0
// target = base + delta: from a base model and a published delta to the model itself.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <future>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/convert/delta_plan.hpp"
#include "ziya/convert/half_add.hpp"
#include "ziya/convert/model_files.hpp"
#include "ziya/convert/stream.hpp"
#include "ziya/core/dtype.hpp"
#include "ziya/core/error.hpp"
#include "ziya/io/checkpoint.hpp"
#include "ziya/io/file.hpp"
#include "ziya/io/output_directory.hpp"
#include "ziya/io/safetensors_writer.hpp"
#include "ziya/io/writer.hpp"

ZIYA_NAMESPACE_BEGIN

struct MergeOptions {
  bool overwrite = false;                        ///< replace an existing model at the target
  std::int64_t max_shard_bytes = 4'000'000'000;  ///< of the tensors in one file
  std::function<void(const ProgressEvent&)> progress{};  ///< may throw: that ends the merge
  const std::atomic<bool>* cancel = nullptr;             ///< true ends the merge; nothing is left
  WriteHooks hooks{};
};

struct MergeReport {
  std::filesystem::path target;
  std::int64_t tensors = 0, added = 0, copied = 0;
  std::int64_t bytes = 0;  ///< of all tensors
  std::int64_t shards = 0;
  double seconds = 0;
  std::vector<std::string> notes;    ///< what a person should know
  std::vector<std::string> licence;  ///< what the weights' licences demand, line by line
};

/// Streams a merge tensor by tensor, a few megabytes at a time; never holds a model.
///   target = fp16(fp16(base) + fp16(delta)), except that tensors whose name contains
///   embed_tokens, lm_head.weight or self_attn.rotary_emb.inv_freq are the delta's.
/// Config, tokenizer and texts are the delta's. Source: the reference's apply_delta script.
class DeltaMerger {
 public:
  DeltaMerger(std::filesystem::path base, std::filesystem::path delta, std::filesystem::path target,
              MergeOptions options = {})
      : base_path_(std::move(base)),
        delta_path_(std::move(delta)),
        target_path_(std::move(target)),
        options_(std::move(options)) {}

  /// Checks everything that can be checked, then writes. Whatever goes wrong, nothing is under the
  /// target's name that was not there before.
  /// @throws FormatError ZIYA-602 … 605 and what opening says; ArgumentError ZIYA-601, 208;
  /// IoError ZIYA-206 … 209; Error ZIYA-606 when cancelled
  MergeReport run() const {
    const auto begin = std::chrono::steady_clock::now();
    refuse_same_paths();
    const Checkpoint base = Checkpoint::open(base_path_), delta = Checkpoint::open(delta_path_);
    const auto small_files = model_files(delta.path());
    DeltaPlan plan = plan_delta(base, delta);

    OutputDirectory directory(target_path_, options_.overwrite);
    MergeReport report;
    for (const TensorSpec& tensor : plan.tensors) {
      ++report.tensors;
      ++(is_copied_from_delta(tensor.name) ? report.copied : report.added);
      report.bytes += tensor.bytes();
    }
    directory.check_space(report.bytes + total_size(small_files) + header_room);
    ShardedSafetensorsWriter writer(directory.path(), plan.tensors, options_.max_shard_bytes,
                                    provenance(base, delta), options_.hooks);
    stream(writer, base, delta, report);
    writer.commit();
    copy_model_files(small_files, directory.path(), options_.hooks);
    check_cancel();
    directory.commit();

    report.target = directory.target();
    report.shards = static_cast<std::int64_t>(writer.shards());
    report.notes.insert(report.notes.begin(), plan.notes.begin(), plan.notes.end());
    report.licence = {"Ziya-LLaMA's delta is published under GPL-3.0.",
                      "LLaMA's licence allows research only, no commercial use.",
                      "The merged weights are derived from both and may not be published."};
    report.seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    return report;
  }

 private:
  static constexpr std::int64_t chunk_elements = std::int64_t{2} << 20;
  static constexpr std::int64_t header_room = std::int64_t{16} << 20;

  /// A part of one tensor of the target.
  struct Chunk {
    const TensorSpec* tensor;
    std::int64_t index, first, count;
  };
  /// Memory for one chunk on its way; three of them are under way at once.
  struct Slot {
    std::vector<std::byte> raw;      // as stored
    std::vector<Half> sum, addend;   // rounded
    std::span<const std::byte> out;  // what is written
    std::int64_t non_finite = 0;
  };

  void refuse_same_paths() const {
    const auto same = [](const std::filesystem::path& a, const std::filesystem::path& b) {
      std::error_code ignored;
      return std::filesystem::equivalent(expand_home(a), expand_home(b), ignored);
    };
    const auto refuse = [](const std::string& which) {
      throw ArgumentError("ZIYA-601", "merge: " + which + " are the same folder");
    };
    if (same(base_path_, delta_path_)) refuse("base and delta");
    if (same(target_path_, base_path_)) refuse("target and base");
    if (same(target_path_, delta_path_)) refuse("target and delta");
  }

  void check_cancel() const {
    if (options_.cancel != nullptr && options_.cancel->load(std::memory_order_relaxed)) {
      throw Error("ZIYA-606",
                  "merge: cancelled; nothing was written to " + utf8_from_path(target_path_));
    }
  }

  static std::int64_t total_size(const std::vector<std::filesystem::path>& files) {
    std::int64_t sum = 0;
    for (const auto& file : files) sum += InputFile(file).size();
    return sum;
  }

  static safetensors::Metadata provenance(const Checkpoint& base, const Checkpoint& delta) {
    return {{"ziya.merge",
             "fp16(base + delta); from the delta: embed_tokens, lm_head.weight, "
             "self_attn.rotary_emb.inv_freq"},
            {"ziya.base", model_name(base.path())},
            {"ziya.delta", model_name(delta.path())},
            {"ziya.version", ZIYA_VERSION}};
  }

  /// Reads and adds one chunk.
  static void prepare(const Chunk& chunk, Slot& slot, const Checkpoint& base,
                      const Checkpoint& delta) {
    const std::string& name = chunk.tensor->name;
    const auto elements = static_cast<std::size_t>(chunk.count);
    const auto read = [&](const Checkpoint& checkpoint) {
      const DType dtype = checkpoint.find(name)->dtype;
      slot.raw.resize(elements * static_cast<std::size_t>(info(dtype).block_bytes));
      checkpoint.read_elements(name, chunk.first, chunk.count, slot.raw);
      return dtype;
    };
    const auto read_half = [&](const Checkpoint& checkpoint, std::vector<Half>& out) {
      out.resize(elements);
      if (checkpoint.find(name)->dtype == DType::f16) {
        return checkpoint.read_elements(name, chunk.first, chunk.count,
                                        std::as_writable_bytes(std::span(out)));
      }
      const DType dtype = read(checkpoint);
      round_to_half(out, slot.raw.data(), dtype);
    };
    slot.non_finite = 0;
    if (chunk.tensor->dtype != DType::f16) {
      read(delta);
      slot.out = slot.raw;
      return;
    }
    read_half(delta, slot.sum);
    if (!is_copied_from_delta(name)) {
      read_half(base, slot.addend);
      add_half(slot.sum, slot.addend, slot.sum);
    }
    slot.non_finite = count_non_finite(slot.sum);
    slot.out = std::as_bytes(std::span(slot.sum));
  }

  /// Chunks are read and added by threads while earlier ones are written.
  void stream(ShardedSafetensorsWriter& writer, const Checkpoint& base, const Checkpoint& delta,
              MergeReport& report) const {
    std::vector<Chunk> chunks;
    std::int64_t index = 0, written = 0;
    for (const TensorSpec& tensor : writer.tensors()) {
      const std::int64_t elements = tensor.shape.elements();
      for (std::int64_t first = 0; first < elements; first += chunk_elements) {
        chunks.push_back({&tensor, index, first, std::min(chunk_elements, elements - first)});
      }
      ++index;
    }
    std::array<Slot, 3> slots;  // outlive the threads, which the futures wait for
    std::array<std::future<void>, 3> ready;
    const auto start = [&](std::size_t i) {
      if (i >= chunks.size()) return;
      Slot& slot = slots[i % slots.size()];
      const Chunk& chunk = chunks[i];
      ready[i % ready.size()] =
          std::async(std::launch::async, [&, chunk] { prepare(chunk, slot, base, delta); });
    };
    for (std::size_t i = 0; i < slots.size(); ++i) start(i);
    std::int64_t tensor_non_finite = 0;
    for (std::size_t i = 0; i < chunks.size(); ++i) {
      check_cancel();
      const Chunk& chunk = chunks[i];
      Slot& slot = slots[i % slots.size()];
      ready[i % ready.size()].get();
      writer.write(chunk.tensor->name, slot.out);
      written += static_cast<std::int64_t>(slot.out.size());
      tensor_non_finite += slot.non_finite;
      if (chunk.first + chunk.count == chunk.tensor->shape.elements()) {
        if (tensor_non_finite != 0) {
          report.notes.push_back(chunk.tensor->name + " has " + std::to_string(tensor_non_finite) +
                                 " infinite or NaN elements");
        }
        tensor_non_finite = 0;
      }
      start(i + slots.size());
      if (options_.progress) {
        options_.progress({chunk.tensor->name, chunk.index, report.tensors, written, report.bytes});
      }
    }
  }

  std::filesystem::path base_path_, delta_path_, target_path_;
  MergeOptions options_;
};

ZIYA_NAMESPACE_END
