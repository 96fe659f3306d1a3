// Choosing kernels by timing: the counts of rows, what wins over a stopwatch that is made up, and the file.
#include "linear_choice.hpp"
#include "tuner.hpp"

#include "support/temp_folder.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <map>
#include <string>

namespace quire::cuda {
namespace {

LinearChoice library_choice(uint64_t number, double seconds = 0) {
  LinearChoice choice;
  choice.algorithm = {number, ~number, number << 32, 1, 2, 3, 4, number * 0x9e3779b97f4a7c15};
  choice.seconds = seconds;
  return choice;
}

const LinearShape kShape{4096, 14336, Type::f16, LinearTail::none};

TEST(CudaTimedRows, AreTheBucketsOfDecodeStepsAndThenHalfPowers) {
  EXPECT_EQ(timed_rows(64, 1000),
            (std::vector<uint32_t>{8, 16, 24, 32, 40, 48, 56, 64, 96, 128, 192, 256, 384, 512, 768, 1000}));
  EXPECT_EQ(timed_rows(64, 64), (std::vector<uint32_t>{8, 16, 24, 32, 40, 48, 56, 64})) << "the logits' rows";
  EXPECT_EQ(timed_rows(4, 4), std::vector<uint32_t>{}) << "our own kernels take them";
  EXPECT_EQ(timed_rows(1, 40), (std::vector<uint32_t>{8, 12, 16, 24, 32, 40}));
  const std::vector<uint32_t> counts = timed_rows(300, 2048);
  EXPECT_TRUE(std::is_sorted(counts.begin(), counts.end()));
  EXPECT_EQ(std::adjacent_find(counts.begin(), counts.end()), counts.end());
  EXPECT_NE(std::find(counts.begin(), counts.end(), 272u), counts.end());
  EXPECT_EQ(counts.back(), 2048u);
}

TEST(CudaLinearChoices, EveryCountOfRowsFindsOneOnceAllWereTimed) {
  LinearChoices choices;
  const std::vector<uint32_t> counts = timed_rows(64, 3000);
  for (const uint32_t rows : counts) choices.put(kShape, rows, library_choice(rows));
  for (uint32_t rows = 17; rows <= 3000; ++rows) {
    const LinearChoice* found = choices.find(kShape, rows);
    ASSERT_NE(found, nullptr) << rows;
    EXPECT_EQ(found->algorithm[0], *std::lower_bound(counts.begin(), counts.end(), rows));
  }
  EXPECT_EQ(choices.find(kShape, 3001), nullptr);
}

TEST(CudaLinearChoices, ACountFarAboveTellsNothing) {
  LinearChoices choices;
  choices.put(kShape, 2048, library_choice(1));
  EXPECT_EQ(choices.find(kShape, 64), nullptr);
  EXPECT_EQ(choices.find(kShape, 1365), nullptr);
  EXPECT_NE(choices.find(kShape, 1366), nullptr);
  EXPECT_NE(choices.find(kShape, 2048), nullptr);
  for (LinearShape other :
       {LinearShape{4096, 14336, Type::f32, LinearTail::none}, LinearShape{4096, 14336, Type::f16, LinearTail::glu},
        LinearShape{4097, 14336, Type::f16, LinearTail::none}})
    EXPECT_EQ(choices.find(other, 2048), nullptr) << "another shape, type or tail";
}

// ---- The tuner over made-up times ----

class FakeStopwatch final : public Stopwatch {
 public:
  // Seconds of candidate `number` the n-th time; negative: it can't run.
  std::function<double(const TuningJob&, uint64_t number, uint32_t n)> seconds;
  uint64_t library_candidates = 8;
  std::map<uint64_t, uint32_t> runs; // by candidate; own is 1000
  std::vector<TuningJob> asked;

  std::vector<LinearChoice> candidates(const TuningJob& job) override {
    asked.push_back(job);
    runs.clear();
    std::vector<LinearChoice> found;
    for (uint64_t i = 0; i < library_candidates; ++i) found.push_back(library_choice(i));
    found.push_back({true, {}, 0});
    return found;
  }
  std::optional<double> time(const TuningJob& job, const LinearChoice& choice) override {
    const uint64_t number = choice.own ? 1000 : choice.algorithm[0];
    const double result = seconds(job, number, runs[number]++);
    return result < 0 ? std::nullopt : std::optional<double>(result);
  }
};

void run_all(Tuner& tuner) {
  for (int i = 0; i < 100000 && tuner.step(); ++i) {
  }
  EXPECT_TRUE(tuner.done());
}

TEST(CudaTuner, TheFastestWinsAndTheSlowOnesAreTimedOnce) {
  FakeStopwatch watch;
  watch.seconds = [](const TuningJob&, uint64_t number, uint32_t n) {
    if (n == 0) return 1.0; // loading the code says nothing
    return (number == 5 ? 80e-6 : number == 1000 ? 120e-6 : 100e-6) * (1 + 0.01 * std::sin(n + 3.0 * number));
  };
  LinearChoices choices;
  Tuner tuner({{kShape, 64}}, choices, watch);
  run_all(tuner);
  const LinearChoice* found = choices.at(kShape, 64);
  ASSERT_NE(found, nullptr);
  EXPECT_EQ(found->algorithm, library_choice(5).algorithm);
  EXPECT_FALSE(found->own);
  EXPECT_NEAR(found->seconds, 80e-6, 1e-6);
  EXPECT_EQ(watch.runs[1000], 2u) << "untimed, and once";
  EXPECT_GT(watch.runs[5], 5u);
  EXPECT_EQ(tuner.totals().changed, 1u);
  EXPECT_NEAR(tuner.totals().before_seconds, 100e-6, 2e-6);
}

TEST(CudaTuner, SaysWhichStepsMayTakeLong) {
  FakeStopwatch watch;
  watch.seconds = [](const TuningJob&, uint64_t, uint32_t) { return 1e-5; };
  LinearChoices choices;
  Tuner tuner({{kShape, 64}}, choices, watch);
  uint32_t questions_and_first_runs = 0;
  for (bool more = true; more;) {
    const bool said = tuner.next_is_long();
    const auto asked = watch.asked.size();
    const std::map<uint64_t, uint32_t> before = watch.runs;
    more = tuner.step();
    const bool first = std::any_of(watch.runs.begin(), watch.runs.end(),
                                   [&](const auto& run) { return run.second == 1 && !before.count(run.first); });
    EXPECT_EQ(said, watch.asked.size() != asked || first);
    questions_and_first_runs += said ? 1 : 0;
  }
  EXPECT_EQ(questions_and_first_runs, 1u + 9u);
}

TEST(CudaTuner, OneSlowRunDoesNotCostTheFastestItsPlace) {
  FakeStopwatch watch;
  watch.seconds = [](const TuningJob&, uint64_t number, uint32_t n) {
    if (number == 3) return n == 3 ? 400e-6 : 70e-6;
    return 75e-6;
  };
  LinearChoices choices;
  Tuner tuner({{kShape, 64}}, choices, watch);
  run_all(tuner);
  EXPECT_EQ(choices.at(kShape, 64)->algorithm[0], 3u);
}

TEST(CudaTuner, OurOwnKernelMayWin) {
  FakeStopwatch watch;
  watch.seconds = [](const TuningJob&, uint64_t number, uint32_t) { return number == 1000 ? 50e-6 : 100e-6; };
  LinearChoices choices;
  Tuner tuner({{kShape, 24}}, choices, watch);
  run_all(tuner);
  EXPECT_TRUE(choices.at(kShape, 24)->own);
}

TEST(CudaTuner, TheFirstGuessStaysUnlessAnotherIsClearlyFaster) {
  FakeStopwatch watch;
  watch.seconds = [](const TuningJob&, uint64_t number, uint32_t) { return number == 0 ? 100e-6 : 99.5e-6; };
  LinearChoices choices;
  Tuner tuner({{kShape, 64}}, choices, watch);
  run_all(tuner);
  EXPECT_EQ(choices.at(kShape, 64)->algorithm[0], 0u);
  EXPECT_EQ(tuner.totals().changed, 0u);
}

TEST(CudaTuner, WhatCantRunIsNotChosen) {
  FakeStopwatch watch;
  watch.seconds = [](const TuningJob&, uint64_t number, uint32_t n) {
    if (number == 0 || (number == 2 && n > 0)) return -1.0;
    return number == 2 ? 10e-6 : number == 4 ? 60e-6 : 70e-6;
  };
  LinearChoices choices;
  Tuner tuner({{kShape, 64}}, choices, watch);
  run_all(tuner);
  ASSERT_NE(choices.at(kShape, 64), nullptr);
  EXPECT_EQ(choices.at(kShape, 64)->algorithm[0], 4u);
  EXPECT_EQ(watch.runs[0], 1u);
  // None can run: nothing is chosen, and the count is settled nevertheless.
  watch.seconds = [](const TuningJob&, uint64_t, uint32_t) { return -1.0; };
  Tuner none({{kShape, 32}}, choices, watch);
  run_all(none);
  EXPECT_EQ(choices.at(kShape, 32), nullptr);
  EXPECT_EQ(none.take_settled(), 32u);
}

TEST(CudaTuner, AllShapesOfACountComeTogetherRoundCountsFirstAndKnownOnesNotAtAll) {
  FakeStopwatch watch;
  watch.seconds = [](const TuningJob&, uint64_t, uint32_t) { return 1e-5; };
  const LinearShape other{6144, 4096, Type::f16, LinearTail::none};
  LinearChoices choices;
  choices.put(other, 24, library_choice(9));
  Tuner tuner({{kShape, 24}, {kShape, 64}, {kShape, 2048}, {other, 24}, {other, 64}, {other, 2048}}, choices, watch);
  std::vector<uint32_t> settled;
  while (tuner.step())
    if (const uint32_t rows = tuner.take_settled(); rows != 0) {
      settled.push_back(rows);
      EXPECT_NE(choices.at(kShape, rows), nullptr);
      EXPECT_NE(choices.at(other, rows), nullptr);
    }
  EXPECT_TRUE(tuner.has_settled());
  settled.push_back(tuner.take_settled());
  EXPECT_EQ(settled, (std::vector<uint32_t>{2048, 64, 24}));
  EXPECT_EQ(tuner.take_settled(), 0u);
  EXPECT_EQ(watch.asked,
            (std::vector<TuningJob>{{kShape, 2048}, {other, 2048}, {kShape, 64}, {other, 64}, {kShape, 24}}));
  EXPECT_EQ(choices.at(other, 24)->algorithm[0], 9u);
}

// ---- The file ----

class CudaChoiceFile : public testing::Test {
 protected:
  CudaChoiceFile() {
    some_.put(kShape, 24, library_choice(0xfedcba9876543210, 12.345e-6));
    some_.put(kShape, 2048, library_choice(7, 1.5e-3));
    some_.put({128256, 4096, Type::f32, LinearTail::finish}, 64, {true, {}, 250e-6});
    some_.put({28672, 4096, Type::f16, LinearTail::glu}, 64, library_choice(1, 60e-6));
  }

  const LinearChoiceFile file_{"NVIDIA H200 / test", 90, 132, 130100};
  LinearChoices some_;
  const test::TempFolder temporary_;
  const std::filesystem::path folder_ = temporary_.path() / "choices"; // not there yet
};

TEST_F(CudaChoiceFile, GivesBackWhatWasSaved) {
  const std::string path = file_.path(folder_.string());
  LinearChoices none;
  EXPECT_EQ(file_.load(path, none), "") << "no file is no fault";
  EXPECT_EQ(none.size(), 0u);
  ASSERT_EQ(file_.save(path, some_), "");
  LinearChoices again;
  ASSERT_EQ(file_.load(path, again), "");
  EXPECT_EQ(again.size(), 4u);
  EXPECT_EQ(file_.text(again), file_.text(some_));
  const LinearChoice* found = again.at(kShape, 24);
  ASSERT_NE(found, nullptr);
  EXPECT_EQ(found->algorithm, library_choice(0xfedcba9876543210).algorithm);
  EXPECT_NEAR(found->seconds, 12.345e-6, 1e-9);
  EXPECT_TRUE(again.at({128256, 4096, Type::f32, LinearTail::finish}, 64)->own);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_), {}), 1) << "nothing is left aside";
}

TEST_F(CudaChoiceFile, KeepsWhatAnotherProcessAdded) {
  const std::string path = file_.path(folder_.string());
  LinearChoices theirs;
  theirs.put(kShape, 64, library_choice(64));
  theirs.put(kShape, 24, library_choice(24));
  ASSERT_EQ(file_.save(path, theirs), "");
  ASSERT_EQ(file_.save(path, some_), "");
  LinearChoices all;
  ASSERT_EQ(file_.load(path, all), "");
  EXPECT_EQ(all.size(), 5u);
  EXPECT_EQ(all.at(kShape, 64)->algorithm, library_choice(64).algorithm);
  EXPECT_EQ(all.at(kShape, 24)->algorithm, some_.at(kShape, 24)->algorithm) << "the newer one";
}

TEST_F(CudaChoiceFile, OfAnotherChipOrLibraryIsNotUsed) {
  const std::string text = file_.text(some_);
  for (const LinearChoiceFile& other :
       {LinearChoiceFile{"NVIDIA H100", 90, 132, 130100}, LinearChoiceFile{"NVIDIA H200 / test", 80, 132, 130100},
        LinearChoiceFile{"NVIDIA H200 / test", 90, 66, 130100},
        LinearChoiceFile{"NVIDIA H200 / test", 90, 132, 130200}}) {
    LinearChoices none;
    EXPECT_EQ(other.parse(text, none), "it is of another chip or library");
    EXPECT_EQ(none.size(), 0u);
    EXPECT_NE(other.path("x"), file_.path("x"));
  }
}

TEST_F(CudaChoiceFile, CutOrAlteredAnywhereIsTakenForNone) {
  const std::string text = file_.text(some_);
  LinearChoices none;
  for (size_t length = 0; length < text.size() - 1; ++length) // without its last line feed it is whole
    EXPECT_NE(file_.parse(text.substr(0, length), none), "") << length;
  for (size_t i = 0; i < text.size(); ++i) {
    std::string altered = text;
    altered[i] = static_cast<char>(altered[i] ^ 1);
    EXPECT_NE(file_.parse(altered, none), "") << i;
  }
  EXPECT_NE(file_.parse(text + "more", none), "");
  EXPECT_NE(file_.parse("", none), "");
  EXPECT_EQ(none.size(), 0u);
  EXPECT_EQ(file_.parse(text, none), "");
}

TEST_F(CudaChoiceFile, AFolderThatCantBeWrittenIsSaidAndNoMore) {
  std::filesystem::create_directories(folder_);
  std::ofstream(folder_ / "file") << "x";
  EXPECT_NE(file_.save(file_.path((folder_ / "file").string()), some_), "");
}

} // namespace
} // namespace quire::cuda
