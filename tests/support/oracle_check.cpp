#include "support/oracle_check.hpp"

#include "plugin_host.hpp"
#include "program/builder.hpp"
#include "support/logit_goldens.hpp"
#include "support/paged_steps.hpp"
#include "weights/model_files.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <sstream>

namespace quire::tests {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// Short ones in several scripts, code and chat.
constexpr size_t kFewPrompts[] = {2, 6, 8, 9, 14, 18};

std::string default_goldens() {
  const char* data = std::getenv("QUIRE_TEST_DATA");
  return (fs::path(data ? data : "tests") / "reference/goldens/smollm2_q4_1.logits").string();
}

Program load_program(const std::string& file) {
  PluginHost host;
  PluginSearch search;
  if (const char* build = std::getenv("QUIRE_BUILD")) search.paths.push_back(fs::path(build) / "plugins");
  host.load(search);
  std::shared_ptr<ModelFiles> files = ModelFiles::open(file);
  const Plugin& plugin = host.model(files->architecture());
  return build_program(plugin.model, plugin.id, program_source(files));
}

class Check {
 public:
  // result outlives the check: the backend may complain to its very end.
  Check(const quire_plugin& backend, const OracleOptions& options, OracleResult& result)
      : result_(result), options_(options),
        goldens_(read_logit_goldens(options.goldens.empty() ? default_goldens() : options.goldens)),
        program_(load_program(options.model)), row_error_(goldens_.vocab), random_(7),
        session_(backend, with_complaints(options.session)) {
    if (options.full) {
      for (const GoldenPrompt& prompt : goldens_.prompts) prompts_.push_back(&prompt);
    } else {
      for (const size_t i : kFewPrompts) prompts_.push_back(&goldens_.prompts.at(i));
    }
    quire_limits limits{};
    limits.struct_size = sizeof(limits);
    limits.max_tokens = std::max(options.chunk, options.batch);
    limits.max_sequences = options.batch;
    limits.max_rows = limits.max_tokens;
    limits.block_size = 16;
    limits.kv_format = options.kv_format;
    uint32_t blocks = 0;
    for (const GoldenPrompt* prompt : prompts_) {
      limits.max_context = std::max(limits.max_context, static_cast<uint32_t>(prompt->ids.size()));
      blocks += static_cast<uint32_t>(prompt->ids.size()) / limits.block_size + 1;
    }
    id_ = session_.compile(program_.view(), limits);
    quire_kv_config config{};
    config.struct_size = sizeof(config);
    config.program = id_;
    const std::vector<uint32_t> num_blocks(program_.kv_groups.size(), blocks);
    std::copy(num_blocks.begin(), num_blocks.end(), config.num_blocks);
    session_.kv_create(config);
    pager_ = std::make_unique<Pager>(program_, limits.block_size, num_blocks, random_);
    result_.prompts = prompts_.size();
  }

  void run() {
    teacher_forced();
    result_.single_tokens_per_second = decode({prompts_.begin(), prompts_.begin() + 1});
    for (size_t first = 1; first < prompts_.size(); first += options_.batch) {
      const size_t end = std::min<size_t>(first + options_.batch, prompts_.size());
      const double rate =
          decode({prompts_.begin() + static_cast<ptrdiff_t>(first), prompts_.begin() + static_cast<ptrdiff_t>(end)});
      result_.batch_tokens_per_second = std::max(result_.batch_tokens_per_second, rate);
    }
  }

 private:
  BackendSession::Options with_complaints(BackendSession::Options session) {
    session.complaint = [this](const std::string& message) { complain("the backend complained: " + message); };
    return session;
  }
  size_t index_of(const GoldenPrompt* prompt) const { return static_cast<size_t>(prompt - goldens_.prompts.data()); }
  void complain(const std::string& problem) {
    if (result_.problems.size() < 20) result_.problems.push_back(problem);
  }

  // The next `count` ids of the oracle's sequence.
  std::vector<float> forward(const GoldenPrompt& prompt, uint32_t begin, uint32_t count, std::vector<uint32_t> rows) {
    LogicalStep step{{{0, {prompt.ids.begin() + begin, prompt.ids.begin() + begin + count}}}, std::move(rows)};
    const PagedStep paged = pager_->page(step);
    session_.wait(session_.submit(paged.view(id_)), {});
    std::vector<float> logits(step.rows.size() * goldens_.vocab);
    if (!logits.empty()) session_.read_output(id_, 0, logits.data(), logits.size());
    return logits;
  }

  void teacher_forced() {
    double seconds = 0, sum = 0;
    size_t tokens = 0;
    for (const GoldenPrompt* prompt : prompts_) {
      const auto length = static_cast<uint32_t>(prompt->ids.size()) - 1; // nothing is known of what follows the last
      auto row = prompt->rows.begin();
      for (uint32_t begin = 0; begin < length; begin += options_.chunk) {
        const uint32_t count = std::min(options_.chunk, length - begin);
        std::vector<uint32_t> rows;
        for (auto r = row; r != prompt->rows.end() && r->position < begin + count; ++r)
          rows.push_back(r->position - begin);
        const auto start = Clock::now();
        const std::vector<float> logits = forward(*prompt, begin, count, rows);
        seconds += seconds_since(start);
        tokens += count;
        for (size_t i = 0; i < rows.size(); ++i, ++row) {
          const std::span<const float> got(logits.data() + i * goldens_.vocab, goldens_.vocab);
          sum += judge_row(*prompt, *row, got);
        }
      }
      pager_->drop(0);
    }
    result_.mean_row = sum / static_cast<double>(result_.rows);
    result_.prefill_tokens_per_second = static_cast<double>(tokens) / seconds;
  }

  // Logits this far apart may change places.
  double error_bound(const GoldenRow& row) const { return 2 * options_.row_limit * row.rms; }

  double judge_row(const GoldenPrompt& prompt, const GoldenRow& row, std::span<const float> got) {
    const double error = row_error_(got, row);
    result_.worst_row = std::max(result_.worst_row, error);
    ++result_.rows;
    std::ostringstream where;
    where << "prompt " << index_of(&prompt) << ", position " << row.position << ": ";
    if (!(error <= options_.row_limit)) {
      where << "RMS(difference) / RMS(oracle) is " << error << ", over " << options_.row_limit;
      complain(where.str());
      return error;
    }
    const auto best = static_cast<int32_t>(std::max_element(got.begin(), got.end()) - got.begin());
    const bool generated = row.position + 1 >= prompt.prompt_tokens;
    const double gap = row.logits[0] - row.logits[1];
    if (generated && best != row.ids[0] && (options_.exact_tokens || gap > error_bound(row))) {
      where << "the largest logit is token " << best << ", the oracle's " << row.ids[0] << " by a gap of " << gap;
      complain(where.str());
    }
    return error;
  }

  // Greedy continuation of prompts together; the rate of the decoding steps.
  double decode(const std::vector<const GoldenPrompt*>& batch) {
    const uint32_t steps = 64;
    std::vector<std::vector<int32_t>> tokens(batch.size());
    for (size_t s = 0; s < batch.size(); ++s) {
      const GoldenPrompt& prompt = *batch[s];
      for (uint32_t begin = 0; begin < prompt.prompt_tokens; begin += options_.chunk) {
        const uint32_t count = std::min(options_.chunk, prompt.prompt_tokens - begin);
        const bool last = begin + count == prompt.prompt_tokens;
        LogicalStep step{{{static_cast<uint32_t>(s), {prompt.ids.begin() + begin, prompt.ids.begin() + begin + count}}},
                         {}};
        if (last) step.rows = {count - 1};
        const std::vector<int32_t> sampled = sample(step);
        tokens[s] = sampled;
      }
    }
    const auto start = Clock::now();
    for (uint32_t i = 1; i < steps; ++i) {
      LogicalStep step;
      for (uint32_t s = 0; s < batch.size(); ++s) {
        step.parts.push_back({s, {std::max(0, tokens[s].back())}});
        step.rows.push_back(s);
      }
      const std::vector<int32_t> sampled = sample(step);
      for (size_t s = 0; s < batch.size(); ++s) tokens[s].push_back(sampled[s]);
    }
    const double seconds = seconds_since(start);
    for (uint32_t s = 0; s < batch.size(); ++s) {
      judge_tokens(*batch[s], tokens[s]);
      pager_->drop(s);
    }
    return static_cast<double>((steps - 1) * batch.size()) / seconds;
  }

  std::vector<int32_t> sample(const LogicalStep& step) {
    const PagedStep paged = pager_->page(step);
    const uint64_t ticket = session_.submit(paged.view(id_));
    session_.sample(ticket, std::vector<quire_sampling_row>(step.rows.size()));
    std::vector<quire_sampled_row> rows(step.rows.size());
    session_.wait(ticket, rows);
    std::vector<int32_t> tokens;
    for (const quire_sampled_row& row : rows) tokens.push_back(row.token);
    return tokens;
  }

  void judge_tokens(const GoldenPrompt& prompt, const std::vector<int32_t>& tokens) {
    const GoldenRow* rows = prompt.rows.data() + prompt.rows.size() - tokens.size();
    for (size_t i = 0; i < tokens.size(); ++i) {
      const int32_t expected = prompt.ids[prompt.prompt_tokens + i];
      ++result_.tokens;
      if (tokens[i] == expected) continue;
      const double gap = rows[i].logits[0] - rows[i].logits[1];
      if (!options_.exact_tokens && gap <= error_bound(rows[i])) {
        ++result_.excused; // from here on it is another text
        return;
      }
      std::ostringstream problem;
      problem << "prompt " << index_of(&prompt) << ": greedy token " << i << " is " << tokens[i] << ", the oracle's "
              << expected << " by a gap of " << gap;
      complain(problem.str());
      return;
    }
  }

  OracleResult& result_;
  const OracleOptions options_;
  const LogitGoldens goldens_;
  const Program program_;
  const RowError row_error_;
  Random random_;
  BackendSession session_;
  uint32_t id_ = 0;
  std::unique_ptr<Pager> pager_;
  std::vector<const GoldenPrompt*> prompts_;
};

} // namespace

OracleOptions oracle_options(const std::string& backend) {
  OracleOptions options;
  if (backend != "reference") {
    options.row_limit = 1e-2;
    options.exact_tokens = false;
    options.kv_format = QUIRE_F16;
  }
  return options;
}

std::string OracleResult::summary(const OracleOptions& o) const {
  std::ostringstream out;
  out.precision(3);
  out << prompts << " prompts, " << rows << " rows: RMS(difference) / RMS(oracle) at worst " << worst_row
      << ", on average " << mean_row << ", allowed " << o.row_limit << "; " << tokens << " greedy tokens, " << excused
      << " texts parted at a near tie; prefill " << prefill_tokens_per_second << " tokens/s by " << o.chunk
      << ", decode " << single_tokens_per_second << " alone, " << batch_tokens_per_second << " by " << o.batch;
  return out.str();
}

OracleResult check_oracle(const quire_plugin& backend, const OracleOptions& options) {
  OracleResult result;
  Check(backend, options, result).run();
  return result;
}

std::string find_test_model() {
  std::error_code error;
  if (const char* model = std::getenv("QUIRE_MODEL"); model && fs::exists(model, error)) return model;
  const char *cache = std::getenv("XDG_CACHE_HOME"), *home = std::getenv("HOME");
  const fs::path root = cache ? fs::path(cache) : home ? fs::path(home) / ".cache" : fs::path();
  const fs::path file = root / "quire/models/SmolLM2-135M-Instruct.Q4_1.gguf";
  return fs::exists(file, error) ? file.string() : std::string();
}

} // namespace quire::tests
