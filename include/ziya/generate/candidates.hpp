// SPDX-License-Identifier: Apache-2.0
// The tokens that may come next, with their scores, while logits processors narrow them down.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/error.hpp"

ZIYA_NAMESPACE_BEGIN

/// One token that may come next.
struct Candidate {
  std::int32_t id = 0;
  float score = 0;

  friend bool operator==(const Candidate&, const Candidate&) = default;
};

/// Ascending ids; of equal ones the highest score first.
inline bool in_order_of_ids(const Candidate& a, const Candidate& b) {
  return a.id != b.id ? a.id < b.id : a.score > b.score;
}

/// Starts as a whole row of logits, index = id, and becomes a short list, best first, once
/// something narrows it. Masked tokens (score −infinity) do not count. Its buffers are kept, so a
/// row of the same width allocates nothing.
class Candidates {
 public:
  /// @throws BackendError when a logit is NaN or +infinity: no distribution has it
  void assign(std::span<const float> logits) {
    row_.assign(logits.begin(), logits.end());
    seen_.resize(row_.size(), 0);
    list_.clear();
    narrowed_ = false;
    constexpr float largest = std::numeric_limits<float>::max();
    for_each_above(
        0, [&] { return largest; }, [&](std::size_t id) { check_at(id); });
  }

  /// f(candidate) for each: by ascending id, or best first once narrowed.
  template <class F>
  void for_each(F&& f) const {
    if (narrowed_) {
      for (const Candidate& candidate : list_) f(candidate);
      return;
    }
    for (std::size_t id = 0; id < row_.size(); ++id) {
      if (row_[id] != masked) f(Candidate{static_cast<std::int32_t>(id), row_[id]});
    }
  }

  /// score ← f(score) for every candidate. `f` must not reverse their order.
  template <class F>
  void transform(F&& f) {
    for (Candidate& candidate : list_) candidate.score = f(candidate.score);
    if (narrowed_) return;
    std::size_t id = 0;
    for (; id + chunk <= row_.size(); id += chunk) {
      for (std::size_t i = 0; i < chunk; ++i) row_[id + i] = f(row_[id + i]);
    }
    for (; id < row_.size(); ++id) row_[id] = f(row_[id]);
  }

  /// score ← f(score) once for every candidate among `ids`, however often it occurs there.
  template <class F>
  void transform_only(std::span<const std::int32_t> ids, F&& f) {
    if (++mark_ == 0) {  // marks of old rows would look new
      std::fill(seen_.begin(), seen_.end(), 0);
      mark_ = 1;
    }
    for (const std::int32_t id : ids) {
      if (id < 0 || static_cast<std::size_t>(id) >= seen_.size()) continue;
      std::uint32_t& seen = seen_[static_cast<std::size_t>(id)];
      if (std::exchange(seen, mark_) == mark_ || narrowed_) continue;
      row_[static_cast<std::size_t>(id)] = f(row_[static_cast<std::size_t>(id)]);
    }
    for (Candidate& candidate : list_) {
      if (seen_[static_cast<std::size_t>(candidate.id)] == mark_) {
        candidate.score = f(candidate.score);
      }
    }
    sort_list();
  }

  /// score ← score + amount for the candidates named, which stand by ascending id, each once. An
  /// amount of −infinity removes a candidate.
  void add(std::span<const Candidate> amounts) {
    if (!narrowed_) {
      for (const Candidate& amount : amounts) {
        if (amount.id < 0 || static_cast<std::size_t>(amount.id) >= row_.size()) continue;
        row_[static_cast<std::size_t>(amount.id)] += amount.score;
      }
      return;
    }
    for (Candidate& candidate : list_) {
      const auto found =
          std::lower_bound(amounts.begin(), amounts.end(), candidate.id,
                           [](const Candidate& amount, std::int32_t id) { return amount.id < id; });
      if (found != amounts.end() && found->id == candidate.id) candidate.score += found->score;
    }
    sort_list();
  }

  /// Removes the candidates among `ids`.
  void remove(std::span<const std::int32_t> ids) {
    if (!ids.empty()) transform_only(ids, [](float) { return masked; });
  }

  /// Keeps what `allowed(id)` is true for.
  template <class F>
  void keep_if(F&& allowed) {
    for (Candidate& candidate : list_) {
      if (!allowed(candidate.id)) candidate.score = masked;
    }
    if (narrowed_) return sort_list();
    for (std::size_t id = 0; id < row_.size(); ++id) {
      if (row_[id] != masked && !allowed(static_cast<std::int32_t>(id))) row_[id] = masked;
    }
  }

  /// Only `ids` are left, all with the score 0, whatever they had before.
  void force(std::span<const std::int32_t> ids) {
    std::fill(row_.begin(), row_.end(), masked);
    list_.clear();
    narrowed_ = false;
    for (const std::int32_t id : ids) {
      if (id >= 0 && static_cast<std::size_t>(id) < row_.size()) {
        row_[static_cast<std::size_t>(id)] = 0;
      }
    }
  }

  /// Keeps the scores that are not below `least`, and the `at_least` best in any case.
  void keep_above(float least, std::size_t at_least = 1) {
    if (!narrowed_) {
      at_least = std::clamp<std::size_t>(at_least, 1, row_.size());
      return narrow_to(std::min(least, at_least == 1 ? best().score : kth_best(at_least)));
    }
    while (list_.size() > at_least && list_.back().score < least) list_.pop_back();
  }

  /// Removes the `count` best.   @pre the candidates are narrowed
  void drop_best(std::size_t count) {
    list_.erase(list_.begin(), list_.begin() + static_cast<std::ptrdiff_t>(count));
  }

  /// Makes the short list of all that is left, best first.
  void narrow() {
    if (!narrowed_) narrow_to(masked);
  }

  /// The list, best first.   @pre the candidates are narrowed
  [[nodiscard]] std::span<const Candidate> list() const { return {list_.data(), list_.size()}; }

  /// Replaces the list.   @param kept any of the candidates, in any order
  void assign_list(std::span<const Candidate> kept) {
    list_.assign(kept.begin(), kept.end());
    narrowed_ = true;
    sort_list();
  }

  /// log Σ exp(score).   @throws BackendError when every token is masked
  [[nodiscard]] double log_sum() const {
    const double highest = best().score;
    double total = 0;
    for_each([&](const Candidate& candidate) { total += std::exp(candidate.score - highest); });
    return highest + std::log(total);
  }

  /// Keeps the `count` best, and those that equal the last of them.   @param count at least 1
  void keep_best(std::size_t count) {
    if (!narrowed_) {
      if (count >= row_.size()) return;
      narrow_to(kth_best(count));
    }
    if (count >= list_.size()) return;
    const float least = list_[count - 1].score;
    while (list_.back().score < least) list_.pop_back();
  }

  /// Keeps a candidate while those before it, best first and of equals the higher id first, hold
  /// less than `mass` of the probability. The `at_least` best always stay.
  void keep_mass(double mass, std::size_t at_least = 1) {
    const double highest = best().score;
    double total = 0;
    for_each([&](const Candidate& candidate) { total += std::exp(candidate.score - highest); });
    const auto enough = [&](double above) { return above >= mass * total; };
    double above = 0;
    if (narrowed_) {
      std::size_t kept = 0;
      while (kept < list_.size() && (kept < at_least || !enough(above))) {
        above += std::exp(list_[kept++].score - highest);
      }
      list_.resize(kept);
      return;
    }
    // A heap sorts only as far as the mass reaches.
    for_each([&](const Candidate& candidate) { list_.push_back({candidate.id, candidate.score}); });
    const auto worse = [](const Candidate& a, const Candidate& b) { return better(b, a); };
    std::make_heap(list_.begin(), list_.end(), worse);
    auto end = list_.end();
    const auto kept = [&] { return static_cast<std::size_t>(list_.end() - end); };
    while (end != list_.begin() && (kept() < at_least || !enough(above))) {
      std::pop_heap(list_.begin(), end--, worse);
      above += std::exp(end->score - highest);
    }
    list_.erase(list_.begin(), end);
    std::reverse(list_.begin(), list_.end());
    narrowed_ = true;
  }

  /// The highest score; of equals the lowest id.
  /// @throws BackendError when every token is masked, or a processor made a score NaN or +infinity
  [[nodiscard]] Candidate best() const {
    Candidate best{-1, masked};
    const auto meet = [&](const Candidate& candidate) {
      check(candidate.id, candidate.score);
      const bool first = candidate.score == best.score && candidate.id < best.id;
      if (candidate.score > best.score || first) best = candidate;
    };
    if (narrowed_) {
      for (const Candidate& candidate : list_) meet(candidate);
    } else {
      for_each_above(
          0, [&] { return best.score; },
          [&](std::size_t id) {
            meet({static_cast<std::int32_t>(id), row_[id]});
          });
    }
    if (best.id < 0) throw BackendError("ZIYA-503", "sampling: every token is masked");
    return best;
  }

  /// The candidate at quantile `uniform` of the distribution softmax(scores).
  /// @param uniform in [0, 1)   @throws BackendError when every token is masked
  [[nodiscard]] std::int32_t at_quantile(double uniform) {
    const double highest = best().score;
    double total = 0;
    weights_.clear();
    for_each([&](const Candidate& candidate) {
      weights_.push_back(std::exp(candidate.score - highest));
      total += weights_.back();
    });
    double left = uniform * total;
    std::size_t chosen = 0, index = 0;
    while (index < weights_.size()) {
      if (weights_[index] > 0) chosen = index;  // rounding must not end on an impossible token
      if ((left -= weights_[index++]) < 0) break;
    }
    std::int32_t id = -1;
    index = 0;
    if (narrowed_) return list_[chosen].id;
    for_each([&](const Candidate& candidate) {
      if (index++ == chosen) id = candidate.id;
    });
    return id;
  }

 private:
  static constexpr float masked = -std::numeric_limits<float>::infinity();
  static constexpr std::size_t chunk = 16;  ///< scores that a compiler meets as vectors

  static bool better(const Candidate& a, const Candidate& b) {
    return a.score != b.score ? a.score > b.score : a.id > b.id;
  }
  static void check(std::int32_t id, float score) {
    if (!(score < std::numeric_limits<float>::infinity())) {
      throw BackendError("ZIYA-502", "sampling: the score of token " + std::to_string(id) + " is " +
                                         (std::isnan(score) ? "NaN" : "infinite"));
    }
  }

  void check_at(std::size_t id) const { check(static_cast<std::int32_t>(id), row_[id]); }

  /// f(id) in ascending order for every score of the row from `first` on that is not at most
  /// `limit()`, which f may raise. Most scores are far below: they are passed by in chunks, without
  /// a branch each.
  template <class Limit, class F>
  void for_each_above(std::size_t first, Limit&& limit, F&& f) const {
    std::size_t id = first;
    for (; id + chunk <= row_.size(); id += chunk) {
      const float most = limit();
      std::int32_t above = 0;
      for (std::size_t i = 0; i < chunk; ++i) above |= row_[id + i] <= most ? 0 : -1;
      if (above == 0) continue;
      for (std::size_t i = 0; i < chunk; ++i) {
        if (!(row_[id + i] <= limit())) f(id + i);
      }
    }
    for (; id < row_.size(); ++id) {
      if (!(row_[id] <= limit())) f(id);
    }
  }

  /// The value at rank `count` of the row, by one pass with a heap of the best seen.
  float kth_best(std::size_t count) {
    heap_.assign(row_.begin(), row_.begin() + static_cast<std::ptrdiff_t>(count));
    std::make_heap(heap_.begin(), heap_.end(), std::greater<>());
    for_each_above(
        count, [&] { return heap_.front(); },
        [&](std::size_t id) {
          if (std::isnan(row_[id])) return;  // best() names it
          std::pop_heap(heap_.begin(), heap_.end(), std::greater<>());
          heap_.back() = row_[id];
          std::push_heap(heap_.begin(), heap_.end(), std::greater<>());
        });
    return heap_.front();
  }
  void narrow_to(float least) {
    const float below = std::nextafter(least, masked);
    for_each_above(
        0, [&] { return below; },
        [&](std::size_t id) {
          list_.push_back({static_cast<std::int32_t>(id), row_[id]});
        });
    narrowed_ = true;
    sort_list();
  }
  /// Best first, without what is masked.
  void sort_list() {
    std::sort(list_.begin(), list_.end(), better);
    while (!list_.empty() && list_.back().score == masked) list_.pop_back();
  }

  std::vector<float> row_;  ///< index = id; stale once narrowed
  std::vector<Candidate> list_;
  bool narrowed_ = false;
  std::vector<std::uint32_t> seen_;
  std::uint32_t mark_ = 0;
  std::vector<float> heap_;
  std::vector<double> weights_;
};

ZIYA_NAMESPACE_END
