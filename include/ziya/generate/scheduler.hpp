// SPDX-License-Identifier: Apache-2.0
// Many answers at once: sequences join and leave between the steps of one model.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/error.hpp"
#include "ziya/generate/limits.hpp"
#include "ziya/generate/sequence.hpp"
#include "ziya/generate/step_rows.hpp"
#include "ziya/generate/stopping.hpp"
#include "ziya/generate/token_draws.hpp"
#include "ziya/nn/kv_cache.hpp"

ZIYA_NAMESPACE_BEGIN

struct SchedulerOptions {
  DType cache_dtype = DType::f32;   ///< f32, f16, bf16 or q8_0
  int slots = 16;                   ///< sequences at a time; more wait
  std::int64_t max_tokens = 0;      ///< longest prompt and answer together; 0: the model's context
  std::int64_t pages = 0;           ///< of all sequences; 0: enough for each at its longest
  std::int64_t page_tokens = 64;    ///< cache tokens per page
  std::int64_t chunk_tokens = 512;  ///< rows of a step that may be prompt
};

using RequestId = std::uint64_t;

/// How a request ended.
struct Outcome {
  RequestId id = 0;
  GenerationResult result;
  /// What its callback threw, or what was wrong with its logits; the request ended there and its
  /// `finish_reason` says `cancelled`. Others are not touched.
  std::exception_ptr error;
};

struct Request {
  std::vector<std::int32_t> prompt;
  GenerationConfig config = {};
  TextCallback on_text = {};
  std::function<void(Outcome)> on_end =
      {};                          ///< called once, in `step`; what it throws, step throws
  Cancellation cancellation = {};  ///< from any thread; looked at between steps
};

/// Answers requests with one model, all rows of a step in one forward pass: one token of each
/// answer, and chunks of prompts beside them. A text is what the request alone would get, on the
/// CPU to the bit (but for what docs/architecture.md says of AMX), on a GPU within its tolerance
/// (docs/devices.md). Beginnings of prompts that the cache knows, of running or of earlier
/// requests, are shared. When pages run out, the youngest sequence gives its own back and is
/// computed again later.
///
/// It has no thread: whoever drives it calls `step` while it says that there is work. All calls
/// come from that thread; callbacks may `submit` and `cancel`. Context, model and tokenizer
/// outlive it.
template <class Model, class Policy = ConfiguredPolicy>
class Scheduler {
 public:
  using Device = typename Model::Device;
  static_assert(SamplingPolicy<Policy, Device>);

  /// @throws ConfigError when tokenizer and model do not fit, ArgumentError for sizes that no cache
  /// can have, and for a limit of pages with dynamic RoPE scaling, whose keys cannot be computed
  /// again as they were
  Scheduler(Context<Device>& ctx, const Model& model, const Tokenizer& tokenizer,
            const SchedulerOptions& options = {}, Policy policy = {})
      : ctx_(&ctx),
        model_(&model),
        tokenizer_(&tokenizer),
        policy_(std::move(policy)),
        options_(completed(options, model.shape())),
        cache_(model.shape().cache_shape(), {.dtype = options_.cache_dtype,
                                             .slots = options_.slots,
                                             .max_tokens = options_.max_tokens,
                                             .page_tokens = options_.page_tokens,
                                             .pages = options_.pages}),
        slots_(static_cast<std::size_t>(options_.slots)) {
    check_vocabulary(tokenizer, model.shape());
    check_chunk(options.chunk_tokens);
  }

  /// Most tokens that prompt and answer may have together.
  [[nodiscard]] std::int64_t context_limit() const { return options_.max_tokens; }

  /// Queues a request; nothing of it happens before the next step.
  /// @throws ArgumentError for a request that cannot be answered
  RequestId submit(Request request) {
    check_request(request.prompt, request.config, model_->shape(), context_limit());
    auto job = std::make_unique<Job>(
        Job{next_id_,
            Sequence<Policy>(*tokenizer_, policy_, request.config, std::move(request.prompt),
                             context_limit(), std::move(request.on_text)),
            std::move(request.on_end), std::move(request.cancellation)});
    waiting_.push_back(std::move(job));
    return next_id_++;
  }

  /// Ends a request at the next step with what it has. @returns false when there is none
  bool cancel(RequestId id) {
    for (auto* queue : {&waiting_, &running_}) {
      for (auto& job : *queue) {
        if (job->id == id) return job->cancelled = true;
      }
    }
    return false;
  }

  /// One forward pass, and all that follows from it. @returns whether requests are left
  /// @throws what an `on_end` throws, and what the forward pass throws (out of memory); the
  /// scheduler goes on with the next step. ArgumentError when a callback calls it
  bool step() {
    if (stepping_) throw ArgumentError("ZIYA-581", "scheduler: step is called by a callback");
    stepping_ = true;
    const std::unique_ptr<bool, ResetFlag> reset(&stepping_);
    end_cancelled();
    deliver();
    admit();
    if (build_rows()) {
      rows_.run_together(*ctx_, *model_, cache_, tokenizer_->vocabulary_size(),
                         [&](const auto& logits) { accept(logits); });
    }
    end_finished(running_);
    deliver();
    return !waiting_.empty() || !running_.empty();
  }
  /// Steps until nothing is left. @throws as `step`
  void run() {
    while (step()) {
    }
  }

  [[nodiscard]] std::size_t waiting() const { return waiting_.size(); }
  [[nodiscard]] std::size_t running() const { return running_.size(); }
  [[nodiscard]] const KvCache<Device>& cache() const { return cache_; }
  /// How often a sequence had to give its pages back.
  [[nodiscard]] std::int64_t preemptions() const { return preemptions_; }

 private:
  struct Job {
    RequestId id;
    Sequence<Policy> sequence;
    std::function<void(Outcome)> on_end;
    Cancellation cancellation;
    bool cancelled = false;
    std::exception_ptr error = {};
    std::int32_t slot = -1;
    bool begun = false;  ///< rows of it were computed in its slot
    std::int64_t reused = 0;
  };
  using Queue = std::deque<std::unique_ptr<Job>>;

  /// What a slot holds when nobody runs in it: an earlier conversation, until room is needed.
  struct Slot {
    bool taken = false;
    std::vector<std::int32_t> ids;
    std::uint64_t left = 0;  ///< when it was left: the oldest goes first
  };
  struct ResetFlag {
    void operator()(bool* flag) const { *flag = false; }
  };

  static SchedulerOptions completed(SchedulerOptions options, const LlamaShape& shape) {
    const std::int64_t context = ziya::context_limit(shape);
    if (options.slots < 1 || options.max_tokens < 0 || options.pages < 0 ||
        options.page_tokens < 1) {
      throw ArgumentError("ZIYA-580",
                          "scheduler: slots and page_tokens must be at least 1, "
                          "max_tokens and pages not negative");
    }
    if (options.pages > 0 && shape.rope_scaling.kind == RopeScaling::Kind::dynamic) {
      throw ArgumentError("ZIYA-580", "scheduler: pages is " + std::to_string(options.pages) +
                                          ", expected 0 for a model with dynamic RoPE scaling");
    }
    options.max_tokens = options.max_tokens == 0 ? context : std::min(options.max_tokens, context);
    if (options.pages > 0) {
      options.max_tokens = std::min(options.max_tokens, options.pages * options.page_tokens);
    }
    return options;
  }

  /// Every sequence whose logits are there gets its next token.
  void accept(View<const float, Device> logits) {
    const auto each = [&](auto&& f) {
      for (std::size_t row = 0; row < rows_.owners().size(); ++row) {
        Job& job = *running_[rows_.owners()[row]];
        if (!job.sequence.finished()) guarded(job, [&] { f(job.sequence, row); });
      }
    };
    draws_.reset(rows_.owners().size());
    each([&](auto& sequence, std::size_t row) { sequence.ask(draws_, row, sequence.ids()); });
    draws_.run(*ctx_, logits);
    each([&](auto& sequence, std::size_t row) {
      sequence.accept(*ctx_, StepRows::row_of(logits, row), draws_, row);
    });
  }
  /// What a request's own callback throws ends that request only.
  template <class F>
  static void guarded(Job& job, F&& f) {
    try {
      f();
    } catch (...) {
      job.error = std::current_exception();
      job.sequence.abandon();
    }
  }

  void end_cancelled() {
    for (Queue* queue : {&waiting_, &running_}) {
      for (std::size_t i = 0; i < queue->size(); ++i) {  // a callback may submit
        Job& job = *(*queue)[i];
        if (!job.cancelled && !job.cancellation.requested()) continue;
        guarded(job, [&] { job.sequence.cancel(); });
      }
      end_finished(*queue);
    }
  }
  void end_finished(Queue& queue) {
    for (auto& job : queue) {
      if (!job->sequence.finished()) continue;
      if (job->slot >= 0) leave(*job);
      ended_.push_back(std::move(job));
    }
    std::erase(queue, nullptr);
  }
  void leave(Job& job) {
    Slot& slot = slots_[static_cast<std::size_t>(job.slot)];
    const auto held = held_by(job);
    slot = {.taken = false, .ids = {held.begin(), held.end()}, .left = ++clock_};
    job.slot = -1;
  }
  void deliver() {
    while (!ended_.empty()) {
      const std::unique_ptr<Job> job = std::move(ended_.front());
      ended_.pop_front();
      if (!job->on_end) continue;
      Outcome outcome{job->id, job->sequence.take_result(), job->error};
      outcome.result.reused_tokens = job->reused;
      job->on_end(std::move(outcome));
    }
  }

  [[nodiscard]] std::span<const std::int32_t> held_by(const Job& job) const {
    return job.sequence.ids().first(static_cast<std::size_t>(cache_.length(job.slot)));
  }
  /// Tokens that a sequence may take over from `other`: not its last one, whose logits it needs.
  [[nodiscard]] std::int64_t common(const Job& job, std::span<const std::int32_t> other) const {
    const auto ids = job.sequence.ids();
    if (rotation_changes(model_->shape(), ids.size()) ||
        rotation_changes(model_->shape(), other.size())) {
      return 0;
    }
    return common_beginning(ids.first(ids.size() - 1), other);
  }

  /// Sequences enter in the order in which they were submitted, while slots and pages last.
  void admit() {
    end_finished(waiting_);  // those that want no token
    while (!waiting_.empty() && running_.size() < slots_.size()) {
      Job& job = *waiting_.front();
      std::optional<std::size_t> donor, slot;
      std::int64_t shared = 0;
      for (std::size_t i = 0; i < slots_.size(); ++i) {
        if (slots_[i].taken) continue;
        const std::int64_t tokens = common(job, slots_[i].ids);
        if (tokens > shared) donor = i, shared = tokens;
        if (!slot || slots_[i].left < slots_[*slot].left) slot = i;
      }
      if (!make_room(job, donor, shared)) return;
      const auto to = static_cast<std::int32_t>(*slot);
      if (!donor) {
        cache_.release(to);
      } else if (donor == slot) {
        cache_.truncate(to, shared);
      } else {
        cache_.share(static_cast<std::int32_t>(*donor), to, shared);
      }
      slots_[*slot] = {.taken = true, .ids = {}};
      job.slot = to;
      job.begun = false;
      job.reused = shared;
      running_.push_back(std::move(waiting_.front()));
      waiting_.pop_front();
    }
  }
  /// Whether the pages that a sequence needs now, and one for each running one, are free or can be
  /// taken from earlier conversations. A sequence that is alone always gets in.
  bool make_room(const Job& job, std::optional<std::size_t> donor, std::int64_t shared) {
    const auto pages = [&](std::int64_t tokens) { return tokens / options_.page_tokens; };
    const auto size = static_cast<std::int64_t>(job.sequence.ids().size());
    const std::int64_t needed =
        pages(size) + 1 - pages(shared) + static_cast<std::int64_t>(running_.size());
    while (cache_.free_pages() < needed && forget_oldest(donor)) {
    }
    return cache_.free_pages() >= needed || running_.empty();
  }
  /// Gives the pages of the conversation back that was left first.
  bool forget_oldest(std::optional<std::size_t> except = {}) {
    std::optional<std::size_t> oldest;
    for (std::size_t i = 0; i < slots_.size(); ++i) {
      if (slots_[i].taken || slots_[i].ids.empty() || i == except) continue;
      if (!oldest || slots_[i].left < slots_[*oldest].left) oldest = i;
    }
    if (!oldest) return false;
    cache_.release(static_cast<std::int32_t>(*oldest));
    slots_[*oldest] = {};
    return true;
  }

  /// @returns false when there is nothing to run
  bool build_rows() {
    while (true) {
      rows_.clear();
      std::int64_t pages = 0;
      for (const bool prompts : {false, true}) {
        for (std::size_t i = 0; i < running_.size(); ++i) pages += add_rows(i, prompts);
      }
      if (pages <= cache_.free_pages()) return !rows_.empty();
      if (!forget_oldest()) preempt_youngest();
    }
  }
  /// The next rows of a sequence that is in its prompt, or not. @returns pages that they take
  std::int64_t add_rows(std::size_t index, bool prompts) {
    Job& job = *running_[index];
    const auto ids = job.sequence.ids();
    const auto size = static_cast<std::int64_t>(ids.size());
    if ((size - cache_.length(job.slot) > 1) != prompts) return 0;
    std::int64_t end = size;
    if (prompts) {
      if (!job.begun && waits_for_prefix(index)) return 0;
      const std::int64_t room = options_.chunk_tokens - rows_.size();
      if (!rotation_changes(model_->shape(), ids.size())) {
        end = std::min(end, cache_.length(job.slot) + room);
      } else if (size > room && !rows_.empty()) {
        return 0;
      }
    }
    const std::int64_t begin = cache_.length(job.slot);
    if (begin >= end) return 0;
    job.begun = true;
    rows_.push_back(ids, begin, end, job.slot);
    if (end == size) rows_.want_last(index);
    return cache_.pages_needed(job.slot, end - begin);
  }
  /// An older sequence may be computing the same beginning: its pages are shared once it is done.
  bool waits_for_prefix(std::size_t index) {
    Job& job = *running_[index];
    for (std::size_t i = 0; i < running_.size(); ++i) {
      const Job& other = *running_[i];
      if (i == index || (i > index && !other.begun)) continue;
      const std::int64_t held = cache_.length(other.slot);
      const std::int64_t tokens = common(job, other.sequence.ids());
      const std::int64_t worth_it = cache_.length(job.slot) + options_.page_tokens;
      const bool in_prompt = std::ssize(other.sequence.ids()) > held + 1;
      if (i < index && in_prompt && tokens > held && tokens >= worth_it) return true;
      if (std::min(tokens, held) < worth_it) continue;
      cache_.share(other.slot, job.slot, std::min(tokens, held));
      job.reused = std::min(tokens, held);
    }
    return false;
  }
  void preempt_youngest() {
    std::unique_ptr<Job> job = std::move(running_.back());
    running_.pop_back();
    cache_.release(job->slot);
    slots_[static_cast<std::size_t>(job->slot)] = {};
    job->slot = -1;
    waiting_.push_front(std::move(job));
    ++preemptions_;
  }

  Context<Device>* ctx_;
  const Model* model_;
  const Tokenizer* tokenizer_;
  Policy policy_;
  SchedulerOptions options_;
  KvCache<Device> cache_;
  std::vector<Slot> slots_;
  Queue waiting_, running_, ended_;
  StepRows rows_;
  TokenDraws<Device> draws_;
  RequestId next_id_ = 1;
  std::uint64_t clock_ = 0;
  std::int64_t preemptions_ = 0;
  bool stepping_ = false;
};

ZIYA_NAMESPACE_END
