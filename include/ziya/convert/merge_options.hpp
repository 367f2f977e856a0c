// SPDX-License-Identifier: Apache-2.0
// What a merge may be told, and what it reports.
#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/convert/convert_options.hpp"
#include "ziya/convert/merge_check.hpp"
#include "ziya/convert/merged_source.hpp"
#include "ziya/convert/quantised_source.hpp"
#include "ziya/convert/stream.hpp"
#include "ziya/core/dtype.hpp"
#include "ziya/io/tensor_source.hpp"
#include "ziya/io/writer.hpp"

ZIYA_NAMESPACE_BEGIN

enum class MergeFormat { safetensors, pytorch };

struct MergeOptions {
  MergeSign sign = MergeSign::add;  ///< subtract: the target is the delta of a model and its base
  MergeFormat format = MergeFormat::safetensors;  ///< of the files
  DType type = DType::f16;                        ///< of the sums; see MergedSource
  bool overwrite = false;                         ///< replace an existing model at the target
  bool resume = false;                            ///< go on where an earlier process was ended
  bool keep_unfinished = false;                   ///< an error leaves finished shards for `resume`
  bool check = true;                              ///< compare base and delta before writing
  bool strict = false;                            ///< what checks find is an error
  bool checksums = false;  ///< read the inputs once more before, comparing what archives record
  std::int64_t max_shard_bytes = 4'000'000'000;  ///< of the tensors in one file
  int threads = 0;                               ///< see StreamOptions
  MergeLimits limits{};
  /// Called before writing; may throw: that ends the merge.
  std::function<void(const ConversionNeeds&)> needs{};
  /// Called with the written weights and the folder of config and tokenizer before the target gets
  /// its name: what it returns is added to the findings. E.g. a forward pass.
  std::function<std::vector<MergeFinding>(const std::shared_ptr<const TensorSource>&,
                                          const std::filesystem::path&)>
      verify{};
  std::function<void(const ProgressEvent&)> progress{};  ///< may throw: that ends the merge
  const std::atomic<bool>* cancel = nullptr;             ///< true ends the merge
  WriteHooks hooks{};

  [[nodiscard]] StreamOptions streaming() const { return {threads, progress, cancel}; }
};

struct MergeReport {
  std::filesystem::path target;
  std::int64_t tensors = 0, added = 0, copied = 0;
  std::int64_t bytes = 0;  ///< of all tensors
  std::int64_t shards = 0, resumed_shards = 0;
  double seconds = 0;
  std::string fingerprint, base_fingerprint, delta_fingerprint;
  std::vector<MergeFinding> findings;      ///< what speaks against the result
  std::vector<std::string> notes;          ///< what a person should know
  std::vector<std::string> licence;        ///< what the weights' licences demand, line by line
  std::vector<QuantisedTensor> quantised;  ///< of a merge to quantised weights
};

ZIYA_NAMESPACE_END
