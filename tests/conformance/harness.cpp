#include "conformance/harness.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <map>
#include <numeric>

namespace quire::tests {
namespace {

constexpr uint32_t kUnwritten = 0xFFBADBAD; // a NaN that no arithmetic makes

uint64_t seed_of(const char* test) {
  uint64_t hash = 1469598103934665603u; // FNV-1a
  for (const char* c = test; *c; ++c) hash = (hash ^ static_cast<unsigned char>(*c)) * 1099511628211u;
  return hash ^ options().seed * 0x9E3779B97F4A7C15u;
}

// Tokens that each sequence has had after all steps.
std::map<uint32_t, uint32_t> lengths_after(const std::vector<LogicalStep>& steps) {
  std::map<uint32_t, uint32_t> lengths;
  for (const LogicalStep& step : steps)
    for (const LogicalStep::Part& part : step.parts)
      lengths[part.sequence] += part.skip + static_cast<uint32_t>(part.tokens.size());
  return lengths;
}

} // namespace

BackendSession::Options session_options() {
  BackendSession::Options o;
  o.device = options().device;
  o.num_threads = options().threads;
  o.validate = options().validate;
  o.invariant = options().any_order ? 0 : 1;
  o.cache_dir = options().cache_dir;
  o.complaint = [](const std::string& message) { ADD_FAILURE() << "the backend complained: " << message; };
  return o;
}

quire_limits limits_for(const std::vector<LogicalStep>& steps, const Layout& layout) {
  quire_limits limits{};
  limits.struct_size = sizeof(limits);
  limits.block_size = layout.block_size;
  limits.kv_format = layout.kv_format;
  limits.max_context = layout.max_context;
  for (const LogicalStep& step : steps) {
    limits.max_tokens = std::max(limits.max_tokens, step.num_tokens());
    limits.max_sequences = std::max(limits.max_sequences, static_cast<uint32_t>(step.parts.size()));
    limits.max_rows = std::max(limits.max_rows, static_cast<uint32_t>(step.rows.size()));
  }
  limits.max_rows = std::max(limits.max_rows, 1u);
  for (const auto& [sequence, length] : lengths_after(steps)) limits.max_context = std::max(limits.max_context, length);
  return limits;
}

uint32_t blocks_for(const std::vector<LogicalStep>& steps, const Layout& layout) {
  if (layout.num_blocks != 0) return layout.num_blocks;
  uint32_t blocks = 3;
  for (const auto& [sequence, length] : lengths_after(steps))
    blocks += (length + layout.block_size - 1) / layout.block_size;
  return blocks;
}

Runner::Runner(BackendSession& session, const TestProgram& program, const quire_limits& limits, uint32_t num_blocks,
               Random& random, uint32_t host_blocks)
    : session_(session), program_(program), limits_(limits), id_(session.compile(program.view(), limits)),
      pager_(program, limits.block_size, std::vector<uint32_t>(program.kv_groups.size(), num_blocks), random) {
  if (program.kv_groups.empty()) return;
  quire_kv_config config{};
  config.struct_size = sizeof(config);
  config.program = id_;
  for (size_t g = 0; g < program.kv_groups.size(); ++g) {
    config.num_blocks[g] = num_blocks;
    config.host_blocks[g] = host_blocks;
  }
  session_.kv_create(config);
}

void Runner::poison() {
  constexpr int max_steps = 6;
  const uint32_t tokens = std::min(limits_.max_tokens, limits_.max_context);
  std::vector<uint32_t> used;
  for (int i = 0; i < max_steps; ++i) {
    const uint32_t sequence = 1000000u + static_cast<uint32_t>(i);
    const uint32_t blocks = (tokens + limits_.block_size - 1) / limits_.block_size;
    for (uint32_t g = 0; g < program_.kv_groups.size(); ++g)
      if (pager_.free_blocks(g) < blocks && i > 0) goto done;
    {
      LogicalStep step{{{sequence, std::vector<int32_t>(tokens, static_cast<int32_t>(program_.poison_token()))}}, {}};
      step.rows.resize(std::min(tokens, limits_.max_rows));
      std::iota(step.rows.begin(), step.rows.end(), 0u);
      run(step);
      used.push_back(sequence);
    }
    if (program_.kv_groups.empty()) break;
  }
done:
  for (const uint32_t sequence : used) pager_.drop(sequence);
}

void Runner::run(const LogicalStep& step) {
  const PagedStep paged = pager_.page(step);
  session_.wait(session_.submit(paged.view(id_)), {});
}

size_t Runner::output_rows(uint32_t index, const LogicalStep& step) const {
  const uint32_t rows = program_.value(program_.outputs[index].value).rows;
  return rows == QUIRE_TOKENS ? step.num_tokens() : rows == QUIRE_SEQUENCES ? step.parts.size() : step.rows.size();
}

std::vector<float> Runner::read(uint32_t index, size_t rows) {
  const quire_value& value = program_.value(program_.outputs[index].value);
  std::vector<float> out(rows * value.heads * value.dim, std::bit_cast<float>(kUnwritten));
  if (out.empty()) return out;
  session_.read_output(id_, index, out.data(), out.size());
  for (size_t i = 0; i < out.size(); ++i)
    if (std::bit_cast<uint32_t>(out[i]) == kUnwritten) {
      ADD_FAILURE() << "read_output left element " << i << " of output " << index << " unwritten";
      break;
    }
  return out;
}

Harness::Harness(const char* test)
    : random_(seed_of(test)), session_(std::make_unique<BackendSession>(*backend_plugin(), session_options())) {}

Precision Harness::precision(uint32_t kv_format) const {
  Precision p = precision_of(options().backend);
  p.kv_e4m3 = kv_format == QUIRE_KV_E4M3;
  p.kv = unit_roundoff(kv_format);
  p.kv_smallest = smallest_normal(kv_format);
  return p;
}

void Harness::check(const TestProgram& program, const std::vector<LogicalStep>& steps, const std::string& what,
                    const Layout& layout) {
  SCOPED_TRACE(what + " (--seed " + std::to_string(options().seed) + ")");
  try {
    Runner runner(session(), program, limits_for(steps, layout), blocks_for(steps, layout), random_);
    if (cases_++ % 2 == 1)
      while (session().idle(20'000)) {
      }
    runner.poison();
    Float64Machine machine(program, precision(layout.kv_format));
    for (size_t s = 0; s < steps.size(); ++s) {
      SCOPED_TRACE("step " + std::to_string(s));
      const LogicalStep& step = steps[s];
      runner.run(step);
      if (!step.checked) {
        machine.run(step, {});
        continue;
      }
      std::vector<std::vector<float>> outputs;
      for (uint32_t i = 0; i < program.outputs.size(); ++i)
        outputs.push_back(runner.read(i, runner.output_rows(i, step)));
      machine.run(step, [&](uint32_t value) {
        std::vector<int32_t> ids;
        for (uint32_t i = 0; i < program.outputs.size(); ++i)
          if (program.outputs[i].value == value)
            for (const float bits : outputs[i]) ids.push_back(std::bit_cast<int32_t>(bits));
        return ids;
      });
      ASSERT_EQ(machine.wrong_choice(), "");
      for (uint32_t i = 0; i < program.outputs.size(); ++i) {
        const Tensor64& expected = machine.value(program.outputs[i].value);
        if (!expected.ids.empty()) continue; // checked by the machine
        const Comparison result = compare(outputs[i].data(), expected.v, expected.e, expected.rows, expected.width());
        worst().element = std::max(worst().element, result.worst_element);
        worst().row = std::max(worst().row, result.worst_row);
        EXPECT_TRUE(result.ok()) << "output " << i << " («" << program.outputs[i].name << "»): " << result.message;
        if (!result.ok()) return;
      }
    }
  } catch (const BackendError& error) {
    ADD_FAILURE() << error.what();
  }
}

Worst& worst() {
  static Worst worst;
  return worst;
}

LogicalStep plain_step(uint32_t tokens, uint32_t rows, Random& random) {
  LogicalStep step{{{0, std::vector<int32_t>(tokens)}}, random.ascending(std::min(rows, tokens), tokens)};
  std::iota(step.parts[0].tokens.begin(), step.parts[0].tokens.end(), 0);
  return step;
}

} // namespace quire::tests
