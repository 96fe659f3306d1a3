// The memory study's parts, on short runs: what the issue asks of the paged policy, and that the figures mean what they
// say.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>

#include "bench/memory_figures.hpp"
#include "bench/plot.hpp"
#include "bench/sharing.hpp"
#include "quire/error.hpp"
#include "support/temp_folder.hpp"

namespace quire::bench {
namespace {

MemoryStudyOptions minutes(double count) {
  MemoryStudyOptions options;
  options.out_dir.clear();
  options.minutes = count;
  return options;
}

TEST(MemoryStudy, LengthsHaveTheMeansAskedFor) {
  for (const Lengths& lengths : {sharegpt(), alpaca()}) {
    const auto requests = make_requests(lengths, 10, 20000, 3);
    double prompt = 0, output = 0;
    for (const Request& request : requests) {
      prompt += request.prompt;
      output += request.output;
      ASSERT_LE(request.prompt + request.output, lengths.max_total);
    }
    EXPECT_NEAR(prompt / 20000, lengths.mean_prompt, 0.01 * lengths.mean_prompt);
    EXPECT_NEAR(output / 20000, lengths.mean_output, 0.01 * lengths.mean_output);
    EXPECT_NEAR(requests.back().arrival_s, 2000, 100);
  }
}

TEST(MemoryStudy, PagedBlocksAreFullAndThePoolIsUsedWhileRequestsWait) { // through the real scheduler
  const MemoryStudyOptions options = minutes(10);
  const ServeResult result = serve(opt13b(PolicyKind::paged, options), requests_for(sharegpt(), 3, options));
  EXPECT_GT(result.waiting_steps, 1000u);
  EXPECT_GE(result.utilisation, 0.96);
  EXPECT_GE(result.occupancy, 0.95);
  EXPECT_GT(result.preemptions_swap + result.preemptions_recompute, 0u);
}

TEST(MemoryStudy, SlotsOfEveryPolicyAddUp) {
  const MemoryStudyOptions options = minutes(5);
  const auto requests = requests_for(sharegpt(), 2, options);
  for (const PolicyKind policy : {PolicyKind::max, PolicyKind::pow2, PolicyKind::oracle, PolicyKind::paged}) {
    const SlotShares shares = serve(opt13b(policy, options), requests).shares;
    EXPECT_NEAR(shares.tokens + shares.reserved + shares.internal + shares.external, 1, 1e-9) << to_string(policy);
    EXPECT_GE(shares.external, 0) << to_string(policy);
    EXPECT_EQ(shares.internal > 0, policy != PolicyKind::oracle) << to_string(policy);
    EXPECT_EQ(shares.reserved > 0, policy != PolicyKind::paged) << to_string(policy);
  }
}

TEST(MemoryStudy, EveryRequestIsServedOnce) {
  MemoryStudyOptions options = minutes(2);
  const auto requests = requests_for(alpaca(), 5, options);
  std::uint64_t output = 0;
  for (const Request& request : requests) output += request.output;
  for (const PolicyKind policy : {PolicyKind::pow2, PolicyKind::paged}) {
    ServeOptions serve_options = opt13b(policy, options);
    serve_options.horizon_s = 1e9;
    serve_options.warm_up_s = 0;
    const ServeResult result = serve(serve_options, requests);
    EXPECT_EQ(result.finished, requests.size());
    EXPECT_EQ(result.output_tokens, output);
  }
}

TEST(MemoryStudy, SamplesShareExactlyTheirPromptsFullBlocks) {
  // 40 tokens of prompt: two full blocks of 16 and a partial one that each but one sequence copies. 10 tokens of
  // output: 4 blocks at most.
  const Saving saving = parallel_saving({{.prompt = 40, .output = 10}}, 3);
  double alone = 0, shared = 0;
  for (int t = 1; t <= 10; ++t) {
    const int blocks = (40 + t + 15) / 16;
    alone += 3 * blocks;
    shared += 2 + 3 * (blocks - 2);
  }
  EXPECT_DOUBLE_EQ(saving.saved, 1 - shared / alone);
  EXPECT_DOUBLE_EQ(saving.copied_blocks, 2 / 30.0);
}

TEST(MemoryStudy, BeamsOfOneParentShareAllButTheirLastBlockAndBeamsApartOnlyThePrompt) {
  const std::vector<Request> one{{.prompt = 64, .output = 64}};
  BeamTrace same{.name = "same", .width = 2, .prompt_tokens = 1, .parents = {}}; // all descend from beam 0, each step
  same.parents.assign(64, {0, 0});
  BeamTrace apart = same; // each goes its own way
  apart.parents.assign(64, {0, 1});
  EXPECT_DOUBLE_EQ(beam_saving(one, 2, {apart}).saved, parallel_saving(one, 2).saved);
  EXPECT_GT(beam_saving(one, 2, {same}).saved, 0.4);
  EXPECT_LT(beam_saving(one, 2, {same}).saved, 0.5);
}

TEST(MemoryStudy, BuiltInBeamTracesAreThere) {
  const auto traces = read_beam_traces({});
  for (const std::uint32_t width : {2u, 4u, 6u}) {
    EXPECT_TRUE(std::any_of(traces.begin(), traces.end(), [&](const BeamTrace& trace) { return trace.width == width; }))
        << width;
  }
}

TEST(MemoryStudy, BrokenBeamTraceIsAnErrorThatNamesTheLine) {
  const test::TempFolder folder;
  for (const char* text : {"a 2 5 2 00 0x\n", "a 2 5 3 00 01\n", "a 2 5 2 00 012\n", "a two\n"}) {
    const auto file = folder.write("broken-beams.txt", std::string("# beams\n") + text);
    try {
      read_beam_traces(file);
      ADD_FAILURE() << text;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find("line 2"), std::string::npos) << error.what();
    }
  }
}

TEST(MemoryStudy, WritesFilesOrSaysWhyNot) {
  const test::TempFolder temporary;
  const auto folder = temporary.path() / "study";
  std::filesystem::create_directories(folder);
  const Table table{"row", {"a", "b"}, {"one", "two"}, {{1, 2.5}, {std::nan(""), 4}}};
  write_csv(folder / "t.csv", table);
  write_bar_chart(folder / "t.svg", {"a < b", "%", true}, table);
  std::ifstream csv(folder / "t.csv"), svg(folder / "t.svg");
  const std::string text((std::istreambuf_iterator<char>(csv)), {}), picture((std::istreambuf_iterator<char>(svg)), {});
  EXPECT_EQ(text, "row,a,b\none,1.000,2.500\ntwo,,4.000\n");
  EXPECT_NE(picture.find("a &lt; b"), std::string::npos);
  std::filesystem::remove_all(folder);
  EXPECT_THROW(write_csv(folder / "t.csv", table), Error);
}

} // namespace
} // namespace quire::bench
