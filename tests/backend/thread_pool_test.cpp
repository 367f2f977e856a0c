// SPDX-License-Identifier: Apache-2.0
// The pool: what every thread gets, exceptions, sleeping and waking.
#include "ziya/backend/cpu/thread_pool.hpp"

#include <algorithm>
#include <atomic>
#include <catch2/catch.hpp>
#include <chrono>
#include <cstdint>
#include <map>
#include <mutex>
#include <numeric>
#include <set>
#include <stdexcept>
#include <thread>
#include <vector>

namespace thread_pool_test {

using ziya::ThreadPool;

TEST_CASE("every index once, in one contiguous part per thread, parts in whole grains",
          "[thread_pool]") {
  for (const int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    REQUIRE(pool.size() == threads);
    for (const std::int64_t count : {0, 1, 3, 5, 64, 1001}) {
      for (const std::int64_t grain : {1, 4, 100}) {
        std::vector<std::atomic<int>> seen(static_cast<std::size_t>(count));
        std::atomic<int> parts = 0, odd = 0;
        pool.run(
            count,
            [&](std::int64_t begin, std::int64_t end) {
              ++parts;
              odd += begin >= end || begin % grain != 0 || (end % grain != 0 && end != count);
              for (auto i = begin; i < end; ++i) ++seen[static_cast<std::size_t>(i)];
            },
            grain);
        REQUIRE(odd == 0);
        REQUIRE(parts <= threads);
        for (const auto& times : seen) REQUIRE(times == 1);
      }
    }
  }
}

TEST_CASE("work is spread over all threads, the calling one among them", "[thread_pool]") {
  ThreadPool pool(3);
  std::mutex mutex;
  std::set<std::thread::id> ids;
  const auto arrived = [&] {
    const std::lock_guard lock(mutex);
    ids.insert(std::this_thread::get_id());
    return ids.size();
  };
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  pool.run(3, [&](std::int64_t, std::int64_t) {  // no part ends before all have begun
    while (arrived() < 3 && std::chrono::steady_clock::now() < deadline) std::this_thread::yield();
  });
  REQUIRE(ids.size() == 3);
  REQUIRE(ids.count(std::this_thread::get_id()) == 1);
}

TEST_CASE("an exception of any thread is thrown to the caller, and the pool works on",
          "[thread_pool]") {
  for (const int threads : {1, 3}) {
    ThreadPool pool(threads);
    for (const std::int64_t guilty : {0, 1, 2}) {
      REQUIRE_THROWS_WITH(pool.run(3,
                                   [&](std::int64_t begin, std::int64_t end) {
                                     for (auto i = begin; i < end; ++i) {
                                       if (i == guilty) throw std::runtime_error("part");
                                     }
                                   }),
                          "part");
      std::atomic<std::int64_t> sum = 0;
      pool.run(100, [&](std::int64_t begin, std::int64_t end) { sum += end - begin; });
      REQUIRE(sum == 100);
    }
  }
}

TEST_CASE("many small regions, and regions after the workers fell asleep", "[thread_pool]") {
  ThreadPool pool(4);
  std::atomic<std::int64_t> sum = 0;
  const auto add = [&](std::int64_t begin, std::int64_t end) { sum += end - begin; };
  for (int i = 0; i < 5000; ++i) pool.run(4, add);
  for (int i = 0; i < 3; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(60));
    pool.run(4, add);
  }
  REQUIRE(sum == 4 * 5003);
}

TEST_CASE("the caller takes over the parts that other threads have not begun", "[thread_pool]") {
  ThreadPool pool(64);  // more threads than any machine of tests runs at once
  const auto caller = std::this_thread::get_id();
  int by_caller = 0;
  for (int round = 0; round < 200; ++round) {
    std::atomic<int> here = 0, all = 0;
    pool.run(64, [&](std::int64_t begin, std::int64_t end) {
      all += static_cast<int>(end - begin);
      if (std::this_thread::get_id() == caller) ++here;
    });
    REQUIRE(all == 64);
    REQUIRE(here >= 1);
    by_caller += here;
  }
  CHECK(by_caller > 200);
}

TEST_CASE("parts taken in turn: every index once, none shorter than asked while there are enough",
          "[thread_pool]") {
  for (const int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    for (const std::int64_t count : {0, 1, 3, 64, 1001}) {
      for (const std::int64_t least : {1, 4, 100}) {
        std::vector<std::atomic<int>> seen(static_cast<std::size_t>(count));
        std::atomic<std::int64_t> parts = 0, odd = 0, shorter = 0;
        pool.share_out(count, least,
                       [&](std::int64_t thread, std::int64_t begin, std::int64_t end) {
                         ++parts;
                         odd += thread < 0 || thread >= threads || begin >= end || end > count;
                         shorter += end - begin < least && (count - begin) / threads >= least;
                         for (auto i = begin; i < end; ++i) ++seen[static_cast<std::size_t>(i)];
                       });
        REQUIRE(odd == 0);
        REQUIRE(shorter == 0);
        REQUIRE(parts <= std::max<std::int64_t>(threads, count));
        for (const auto& times : seen) REQUIRE(times == 1);
      }
    }
  }
}

TEST_CASE("a thread that is slower gets less of what is taken in turn", "[thread_pool]") {
  ThreadPool pool(2);
  const auto caller = std::this_thread::get_id();
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  std::atomic<std::int64_t> slow = 0, quick = 0;
  pool.share_out(1000, 1, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
    if (std::this_thread::get_id() == caller) {  // holds its first part until all else is done
      slow += end - begin;
      while (slow + quick < 1000 && std::chrono::steady_clock::now() < deadline) {
        std::this_thread::yield();
      }
    } else {
      quick += end - begin;
    }
  });
  CHECK(slow + quick == 1000);
  CHECK(slow <= 250);
}

TEST_CASE("an exception within a part taken in turn ends nobody else's", "[thread_pool]") {
  ThreadPool pool(3);
  std::atomic<std::int64_t> done = 0;
  REQUIRE_THROWS_WITH(pool.share_out(300, 1,
                                     [&](std::int64_t, std::int64_t begin, std::int64_t end) {
                                       if (begin == 0) throw std::runtime_error("part");
                                       done += end - begin;
                                     }),
                      "part");
  CHECK(done == 250);
}

TEST_CASE("the default number of threads is what the process may use", "[thread_pool]") {
  REQUIRE(ziya::default_threads() >= 1);
  REQUIRE(ziya::default_threads() <=
          std::max(1, static_cast<int>(std::thread::hardware_concurrency())));
}

TEST_CASE("parts do not change from run to run, and join without gaps", "[thread_pool]") {
  ThreadPool pool(5);
  const auto parts_of = [&](std::int64_t count, std::int64_t grain) {
    std::map<std::int64_t, std::int64_t> parts;
    std::mutex mutex;
    pool.run(
        count,
        [&](std::int64_t begin, std::int64_t end) {
          const std::lock_guard lock(mutex);
          parts.emplace(begin, end);
        },
        grain);
    return parts;
  };
  for (const std::int64_t count : {1, 7, 64, 1000}) {
    const auto parts = parts_of(count, 4);
    std::int64_t covered = 0;
    for (const auto& [begin, end] : parts) {
      CHECK(begin == covered);
      covered = end;
    }
    CHECK(covered == count);
    CHECK(parts_of(count, 4) == parts);
  }
}

TEST_CASE("a run sees what the caller wrote before, and is seen after", "[thread_pool]") {
  ThreadPool pool(3);
  std::vector<std::int64_t> input(16), results(16);  // plain: the pool must order the accesses
  for (std::int64_t round = 1; round <= 2000; ++round) {
    std::fill(input.begin(), input.end(), round);
    pool.run(16, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        results[static_cast<std::size_t>(i)] = input[static_cast<std::size_t>(15 - i)] + i;
      }
    });
    const std::int64_t sum = std::accumulate(results.begin(), results.end(), std::int64_t{0});
    if (sum != 16 * round + 120) FAIL("round " << round << " summed to " << sum);
  }
}

TEST_CASE("every part ends before an exception reaches the caller", "[thread_pool]") {
  ThreadPool pool(4);
  for (std::int64_t guilty = 0; guilty < 4; ++guilty) {
    std::atomic<int> finished{0};
    CHECK_THROWS_AS(pool.run(4,
                             [&](std::int64_t begin, std::int64_t) {
                               if (begin == guilty) throw std::out_of_range("part");
                               std::this_thread::sleep_for(std::chrono::milliseconds(2));
                               ++finished;
                             }),
                    std::out_of_range);
    CHECK(finished == 3);
  }
}

TEST_CASE("pools come and go, used or not, asleep or not", "[thread_pool]") {
  for (int i = 0; i < 50; ++i) {
    ThreadPool pool(1 + i % 4);
    if (i % 3 == 0) pool.run(10, [](std::int64_t, std::int64_t) {});
    if (i % 10 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  SUCCEED();
}

}  // namespace thread_pool_test
