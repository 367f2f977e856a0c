// SPDX-License-Identifier: Apache-2.0
// A source that hashes what is read through it, in the same pass.
#pragma once

#include <atomic>
#include <cmath>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/convert/buffer_pool.hpp"
#include "ziya/convert/digest.hpp"
#include "ziya/convert/fingerprint.hpp"
#include "ziya/convert/half_add.hpp"
#include "ziya/convert/stream.hpp"
#include "ziya/convert/tensor_memory.hpp"
#include "ziya/core/dtype.hpp"
#include "ziya/io/tensor_source.hpp"

ZIYA_NAMESPACE_BEGIN

/// Passes reads on, and hashes the bytes of each tensor in their order though threads read them in
/// any. A read whose piece comes too early waits while the piece that is hashed next is in another
/// thread's hands, so that threads pass the hash one after another, as they pass those of other
/// sources, and each keeps no more than its own piece. Where nobody has that piece yet, a copy is
/// kept for the thread that brings it. When every read of a tensor's pieces has returned, its hash
/// is complete, unless more came too early (columns before other columns) than is kept: then it is
/// left to read_rest().
class AuditedSource final : public TensorSource {
 public:
  /// @param counts whether non_finite() is asked for   @param most_early bytes that are kept
  /// because they came too early; who gives a limit calls read_rest() in the end
  explicit AuditedSource(std::shared_ptr<const TensorSource> source, bool counts = false,
                         std::int64_t most_early = std::numeric_limits<std::int64_t>::max())
      : source_(std::move(source)),
        counts_(counts),
        most_early_(most_early),
        states_(source_->tensors().size()) {
    for (std::size_t i = 0; i < states_.size(); ++i) {
      if (tensors()[i].bytes() != 0) continue;  // nothing of it will be read
      Sha256 hash;
      hash.update(fingerprint_preamble(tensors()[i]));
      states_[i].digest = hash.hex_value();
    }
  }

  [[nodiscard]] const std::vector<TensorSpec>& tensors() const override {
    return source_->tensors();
  }
  void read(std::size_t index, std::int64_t first, std::span<std::byte> out) const override {
    Piece piece(states_[index], bytes_of(tensors()[index].dtype, first));
    source_->read(index, first, out);
    audit(index, piece, out);
  }

  /// 64 hexadecimal digits; empty while parts of the tensor have not been read.
  [[nodiscard]] std::string digest(std::size_t index) const {
    State& state = states_[index];
    const std::lock_guard lock(state.mutex);
    return state.digest;
  }
  /// NaN and infinities among what was read.
  [[nodiscard]] std::int64_t non_finite(std::size_t index) const {
    const std::lock_guard lock(states_[index].mutex);
    return states_[index].non_finite;
  }
  /// What an earlier process has found.
  void set_found(std::size_t index, std::string digest, std::int64_t non_finite) const {
    const std::lock_guard lock(states_[index].mutex);
    states_[index].digest = std::move(digest);
    states_[index].non_finite = non_finite;
  }

  /// Reads every tensor whose hash is not complete, from its beginning; nobody else may read
  /// meanwhile. @throws as fingerprint()
  void read_rest(const StreamOptions& options = {}) const {
    Rest rest;
    for (std::size_t i = 0; i < states_.size(); ++i) {
      if (!digest(i).empty()) continue;
      rest.specs.push_back(tensors()[i]);
      State& state = states_[i];
      const std::lock_guard lock(state.mutex);
      state.hash.reset();
      drop_early(state);
      state.next = state.non_finite = 0;
      state.left = false;
    }
    StreamOptions quiet = options;
    quiet.progress = nullptr;
    stream(rest, *this, quiet);
  }
  /// Of all tensors, once all are read.
  [[nodiscard]] Fingerprint fingerprint() const {
    Fingerprint result;
    for (std::size_t i = 0; i < states_.size(); ++i) result.tensors[tensors()[i].name] = digest(i);
    return result;
  }

 private:
  struct State {
    std::mutex mutex;
    std::condition_variable changed;
    std::multiset<std::int64_t> in_hands;  // where pieces begin that threads read, hold or hash
    std::optional<Sha256> hash;
    std::int64_t next = 0;  // byte that is hashed next
    bool busy = false;      // a thread is hashing
    bool left = false;      // to read_rest()
    std::map<std::int64_t, BufferPool::Buffer> early;
    std::string digest;
    std::int64_t non_finite = 0;
  };
  /// A piece in its thread's hands, however they let go of it.
  struct Piece {
    Piece(State& whole, std::int64_t first_byte) : state(whole), begin(first_byte) {
      const std::lock_guard lock(state.mutex);
      state.in_hands.insert(begin);
    }
    Piece(const Piece&) = delete;
    Piece& operator=(const Piece&) = delete;
    ~Piece() {
      {
        const std::lock_guard lock(state.mutex);
        state.in_hands.erase(state.in_hands.find(begin));
        if (hashing) state.busy = false;
      }
      state.changed.notify_all();
    }
    State& state;
    std::int64_t begin;
    bool hashing = false;
  };
  struct Rest {
    std::vector<TensorSpec> specs;
    [[nodiscard]] const std::vector<TensorSpec>& tensors() const { return specs; }
    void write(std::string_view, std::span<const std::byte>) {}
  };

  void drop_early(State& state) const {
    for (const auto& [begin, piece] : state.early) {
      early_bytes_ -= static_cast<std::int64_t>(piece.span().size());
    }
    state.early.clear();
  }

  void audit(std::size_t index, Piece& piece, std::span<const std::byte> bytes) const {
    const TensorSpec& tensor = tensors()[index];
    const std::int64_t unusual = counts_ ? count_unusual(tensor.dtype, bytes) : 0;
    State& state = piece.state;
    std::unique_lock lock(state.mutex);
    state.non_finite += unusual;
    state.changed.wait(lock, [&] {
      if (piece.begin < state.next) return true;
      return !state.busy && (piece.begin == state.next || !state.in_hands.contains(state.next));
    });
    if (state.left || !state.digest.empty() || piece.begin < state.next) return;  // read before
    if (piece.begin > state.next) return keep(state, piece.begin, bytes);
    if (!state.hash) {
      state.hash.emplace();
      state.hash->update(fingerprint_preamble(tensor));
    }
    BufferPool::Buffer held;
    state.busy = piece.hashing = true;
    while (true) {
      lock.unlock();
      state.hash->update(bytes);
      lock.lock();
      state.next += static_cast<std::int64_t>(bytes.size());
      const auto follower = state.early.find(state.next);
      if (follower == state.early.end()) break;
      held = std::move(follower->second);
      bytes = held.span();
      early_bytes_ -= static_cast<std::int64_t>(bytes.size());
      state.early.erase(follower);
    }
    if (state.next == tensor.bytes()) {
      state.digest = state.hash->hex_value();
      state.hash.reset();
    }
  }

  /// A copy of what came too early; or, where that is too much, the tensor is left.
  void keep(State& state, std::int64_t begin, std::span<const std::byte> bytes) const {
    const auto size = static_cast<std::int64_t>(bytes.size());
    if (size > most_early_ - early_bytes_.load(std::memory_order_relaxed)) {
      drop_early(state);
      state.left = true;
      return;
    }
    const auto [place, fresh] = state.early.try_emplace(begin);
    if (!fresh) return;  // read twice
    early_bytes_ += size;
    place->second = buffers_.lend(bytes.size());
    std::memcpy(place->second.span().data(), bytes.data(), bytes.size());
  }

  static std::int64_t count_unusual(DType dtype, std::span<const std::byte> bytes) {
    const auto count = [&]<class T>(T) {
      std::int64_t sum = 0;
      const auto* values = reinterpret_cast<const T*>(bytes.data());
      for (std::size_t i = 0; i < bytes.size() / sizeof(T); ++i) {
        sum += !std::isfinite(to_float(values[i]));
      }
      return sum;
    };
    switch (dtype) {
      case DType::f16:
        return count_non_finite({reinterpret_cast<const Half*>(bytes.data()), bytes.size() / 2});
      case DType::bf16:
        return count(BFloat16{});
      case DType::f32:
        return count(0.0f);
      default:
        return 0;
    }
  }

  std::shared_ptr<const TensorSource> source_;
  bool counts_;
  std::int64_t most_early_;
  mutable std::atomic<std::int64_t> early_bytes_{0};
  mutable BufferPool buffers_;  // behind what is early
  mutable std::deque<State> states_;
};

/// The hashes and counts of what was read.
inline TensorMemory memory_of(const std::shared_ptr<const AuditedSource>& audit) {
  return {[audit](const std::string& name) {
            nlohmann::json saved;
            const std::size_t i = find_tensor(*audit, name);
            if (i == audit->tensors().size() || audit->digest(i).empty()) return saved;
            saved.push_back(audit->digest(i));
            saved.push_back(audit->non_finite(i));
            return saved;
          },
          [audit](const std::string& name, const nlohmann::json& saved) {
            const std::size_t i = find_tensor(*audit, name);
            if (i == audit->tensors().size()) return;
            audit->set_found(i, saved.at(0).get<std::string>(), saved.at(1).get<std::int64_t>());
          }};
}

ZIYA_NAMESPACE_END
