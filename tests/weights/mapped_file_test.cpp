// Mapped files, and one that shrinks while it is mapped (hazard 31).
#include "weights/mapped_file.hpp"

#include "support/expect_error.hpp"
#include "support/temp_folder.hpp"

#include <gtest/gtest.h>

#include <csignal>
#include <sys/stat.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

namespace quire {
namespace {

using test::TempFolder;

uint64_t sum(std::span<const std::byte> bytes) {
  uint64_t total = 0;
  for (const std::byte byte : bytes) total += static_cast<uint64_t>(byte);
  return total;
}

TEST(MappedFile, HoldsTheFilesBytes) {
  const TempFolder folder;
  const auto file = MappedFile::open(folder.write("f", "abc"));
  EXPECT_EQ(file->size(), 3u);
  EXPECT_EQ(file->bytes()[2], std::byte('c'));
  EXPECT_EQ(file->file_name(), "f");
  EXPECT_NO_THROW(file->check_unchanged());
  EXPECT_FALSE(file->damaged());
  EXPECT_TRUE(MappedFile::open(folder.write("empty", ""))->bytes().empty());
}

TEST(MappedFile, WhatIsNoReadableFileIsRefused) {
  const TempFolder folder;
  EXPECT_ERROR(MappedFile::open(folder.path() / "absent"), "absent cannot be opened");
  EXPECT_ERROR(MappedFile::open(folder.path()), "cannot be mapped");
  EXPECT_ERROR(MappedFile::open("/dev/null"), "not a regular file");
  ASSERT_EQ(mkfifo((folder.path() / "pipe").c_str(), 0600), 0);
  EXPECT_ERROR(MappedFile::open(folder.path() / "pipe"), "not a regular file");
}

TEST(MappedFile, AdviceOutsideTheFileIsHarmless) {
  const TempFolder folder;
  const auto file = MappedFile::open(folder.write("f", std::string(20000, 'x')));
  for (const uint64_t offset : {uint64_t(0), uint64_t(4095), uint64_t(19999), uint64_t(20000), UINT64_MAX})
    for (const uint64_t bytes : {uint64_t(0), uint64_t(1), uint64_t(5000), UINT64_MAX}) file->will_need(offset, bytes);
  EXPECT_EQ(sum(file->bytes()), 20000u * 'x');
}

TEST(MappedFile, ShrinkingIsSurvivedAndReported) {
  const TempFolder folder;
  const auto path = folder.write("f", std::string(8 * 65536, 'x'));
  const auto file = MappedFile::open(path);
  const auto other = MappedFile::open(folder.write("g", std::string(65536, 'y')));
  ASSERT_EQ(truncate(path.c_str(), 65536), 0);
  EXPECT_ERROR(file->check_unchanged(), "f shrank from 524288 to 65536 bytes");
  // Readers on several threads at once, past the new end.
  std::vector<uint64_t> sums(4);
  {
    std::vector<std::jthread> threads;
    for (uint64_t& total : sums) threads.emplace_back([&] { total = sum(file->bytes()); });
  }
  for (const uint64_t total : sums) EXPECT_EQ(total, 65536u * 'x') << "what is gone reads as zeros";
  EXPECT_TRUE(file->damaged());
  EXPECT_FALSE(other->damaged());
  EXPECT_EQ(sum(other->bytes()), 65536u * 'y');
  EXPECT_NO_THROW(other->check_unchanged());
  // Growing back does not heal it: zeros have been read.
  ASSERT_EQ(truncate(path.c_str(), 8 * 65536), 0);
  EXPECT_ERROR(file->check_unchanged(), "while it was being read");
}

TEST(MappedFile, ChangesAreReported) {
  const TempFolder folder;
  const auto path = folder.write("f", std::string(5000, 'x'));
  const auto file = MappedFile::open(path);
  std::filesystem::last_write_time(path, std::filesystem::last_write_time(path) + std::chrono::seconds(5));
  EXPECT_ERROR(file->check_unchanged(), "f changed");
  const auto again = MappedFile::open(path);
  std::ofstream(path, std::ios::app) << "more";
  EXPECT_ERROR(again->check_unchanged(), "f changed");
}

TEST(MappedFileDeathTest, OtherBusErrorsStillEndTheProcess) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(
      {
        const TempFolder folder;
        const auto file = MappedFile::open(folder.write("f", "abc")); // the handler is installed
        std::raise(SIGBUS);
        std::raise(SIGBUS); // the first one restored the default
      },
      [](int status) { return !WIFEXITED(status) || WEXITSTATUS(status) != 0; }, ""); // a sanitizer ends it its own way
}

} // namespace
} // namespace quire
