// SPDX-License-Identifier: Apache-2.0
// The journal: what it remembers, what a kill leaves of it, and who may write it.
#include "ziya/io/journal.hpp"

#include <catch2/catch.hpp>

#include "support/errors.hpp"
#include "support/fault.hpp"
#include "support/temporary_directory.hpp"

namespace journal_test {

using test::Fault;
using test::faulty;
using test::TemporaryDirectory;
using ziya::Journal;

using Lines = std::vector<std::string>;

TEST_CASE("journal: lines are there for the next process, in their order", "[journal]") {
  const TemporaryDirectory folder;
  {
    Journal journal(folder.path(), faulty(Fault::short_write));
    REQUIRE(journal.lines().empty());
    journal.append("what is made");
    journal.append("");
    journal.append("a second line, longer than seven bytes");
    REQUIRE(journal.lines().size() == 3);
  }
  Journal again(folder.path(), faulty(Fault::interrupted));
  REQUIRE(again.lines() == Lines{"what is made", "", "a second line, longer than seven bytes"});
  again.append("one more");
  REQUIRE(again.lines().back() == "one more");
  again.clear();
  REQUIRE(again.lines().empty());
  again.append("begun anew");
  REQUIRE(test::read_file(folder / Journal::file_name) == "begun anew\n");
  again.remove();
  REQUIRE(test::count_entries(folder.path()) == 0);
}

TEST_CASE("journal: a line that a kill has cut is no line", "[journal]") {
  const TemporaryDirectory folder;
  for (const char* text : {"", "half", "one\n", "one\ntw", "one\n\n"}) {
    folder.file(Journal::file_name, text);
    CAPTURE(text);
    Journal journal(folder.path(), faulty(Fault::none));
    const std::string whole = std::string(text).substr(0, std::string(text).rfind('\n') + 1);
    REQUIRE(journal.lines().size() ==
            static_cast<std::size_t>(std::count(whole.begin(), whole.end(), '\n')));
    journal.append("next");  // not behind the half of another
    REQUIRE(test::read_file(folder / Journal::file_name) == whole + "next\n");
  }
}

TEST_CASE("journal: one process holds it", "[journal]") {
  const TemporaryDirectory folder;
  {
    const Journal journal(folder.path(), faulty(Fault::none));
    REQUIRE_ERROR(Journal(folder.path()), "ZIYA-641", "another process");
  }
  REQUIRE(Journal(folder.path()).lines().empty());
}

TEST_CASE("journal: a line that is not on the disk is not finished", "[journal]") {
  const TemporaryDirectory folder;
  for (const Fault fault : {Fault::disk_full, Fault::zero_write, Fault::io_error}) {
    {
      Journal journal(folder.path(), faulty(fault, 3));
      REQUIRE_ERROR(journal.append("longer than three"), "ZIYA-206", "writing failed");
      REQUIRE(journal.lines().empty());
    }
    REQUIRE(Journal(folder.path()).lines().empty());
  }
  Journal journal(folder.path(), faulty(Fault::sync_fails));
  REQUIRE_ERROR(journal.append("x"), "ZIYA-206", "brought to the disk");
  REQUIRE_ERROR(Journal(folder / "nowhere"), "ZIYA-206", "cannot be created");
}

}  // namespace journal_test
