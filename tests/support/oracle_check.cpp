#include "support/oracle_check.hpp"

#include "kv/kv_format.hpp"
#include "plugin_host.hpp"
#include "program/builder.hpp"
#include "reference/reference.hpp"
#include "support/logit_goldens.hpp"
#include "support/paged_steps.hpp"
#include "support/tolerance.hpp"
#include "weights/model_files.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <optional>
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

// The same program on one backend, fed ids of a prompt.
struct Machine {
  Machine(const quire_plugin& backend, const BackendSession::Options& options, const Program& program,
          const quire_limits& limits, uint32_t blocks, Random& random)
      : session(backend, options), id(session.compile(program.view(), limits)),
        pager(program, limits.block_size, std::vector<uint32_t>(program.kv_groups.size(), blocks), random) {
    quire_kv_config config{};
    config.struct_size = sizeof(config);
    config.program = id;
    std::fill_n(config.num_blocks, program.kv_groups.size(), blocks);
    session.kv_create(config);
  }

  // Logits [rows, vocab] of the next `count` ids of sequence 0.
  std::vector<float> forward(const GoldenPrompt& prompt, uint32_t begin, uint32_t count, std::vector<uint32_t> rows,
                             uint32_t vocab) {
    LogicalStep step{{{0, {prompt.ids.begin() + begin, prompt.ids.begin() + begin + count}}}, std::move(rows)};
    const PagedStep paged = pager.page(step);
    session.wait(session.submit(paged.view(id)), {});
    std::vector<float> logits(step.rows.size() * vocab);
    if (!logits.empty()) session.read_output(id, 0, logits.data(), logits.size());
    return logits;
  }

  BackendSession session;
  uint32_t id;
  Pager pager;
};

class Check {
 public:
  // result outlives the check: the backend may complain to its very end.
  Check(const quire_plugin& backend, const OracleOptions& options, OracleResult& result)
      : result_(result), options_(options),
        goldens_(read_logit_goldens(options.goldens.empty() ? default_goldens() : options.goldens)),
        program_(load_program(options.model)), row_error_(goldens_.vocab), random_(7),
        is_reference_(&backend == &reference_plugin()) {
    if (options.full) {
      for (const GoldenPrompt& prompt : goldens_.prompts) prompts_.push_back(&prompt);
    } else {
      for (const size_t i : kFewPrompts) prompts_.push_back(&goldens_.prompts.at(i));
    }
    quire_limits& limits = limits_;
    limits.struct_size = sizeof(limits);
    limits.max_tokens = std::max(options.chunk, options.batch);
    limits.max_sequences = options.batch;
    limits.max_rows = limits.max_tokens;
    limits.block_size = 16;
    limits.kv_format = options.kv_format;
    for (const GoldenPrompt* prompt : prompts_) {
      limits.max_context = std::max(limits.max_context, static_cast<uint32_t>(prompt->ids.size()));
      blocks_ += static_cast<uint32_t>(prompt->ids.size()) / limits.block_size + 1;
    }
    machine_.emplace(backend, with_complaints(options.session), program_, limits, blocks_, random_);
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
        const std::vector<float> logits = machine_->forward(*prompt, begin, count, rows, goldens_.vocab);
        seconds += seconds_since(start);
        tokens += count;
        for (size_t i = 0; i < rows.size(); ++i, ++row) {
          const std::span<const float> got(logits.data() + i * goldens_.vocab, goldens_.vocab);
          sum += judge_row(*prompt, *row, got);
        }
      }
      machine_->pager.drop(0);
    }
    result_.mean_row = sum / static_cast<double>(result_.rows);
    if (!(result_.mean_row <= options_.mean_limit))
      result_.problems.push_back("RMS(difference) / RMS(oracle) is " + std::to_string(result_.mean_row) +
                                 " on average, over " + std::to_string(options_.mean_limit));
    result_.prefill_tokens_per_second = static_cast<double>(tokens) / seconds;
  }

  // Logits this far apart may change places.
  double error_bound(const GoldenRow& row) const { return 2 * options_.row_limit * row.rms; }

  // The goldens have 64 sums of a row, so an error near the limit may be one on the other side of it. Such a row is
  // compared in full with the reference's, whose own distance from the oracle is added.
  double exact_error(const GoldenPrompt& prompt, const GoldenRow& row, std::span<const float> got) {
    if (!exact_) {
      quire_limits limits = limits_;
      limits.kv_format = QUIRE_F32;
      exact_.emplace(reference_plugin(), BackendSession::Options{}, program_, limits, blocks_, random_);
    }
    std::vector<float> logits;
    for (uint32_t begin = 0; begin <= row.position; begin += limits_.max_tokens) {
      const uint32_t count = std::min(limits_.max_tokens, row.position + 1 - begin);
      const bool last = begin + count > row.position;
      logits = exact_->forward(prompt, begin, count, last ? std::vector<uint32_t>{count - 1} : std::vector<uint32_t>{},
                               goldens_.vocab);
    }
    exact_->pager.drop(0);
    double difference = 0, square = 0;
    for (size_t i = 0; i < logits.size(); ++i) {
      difference += (double{got[i]} - logits[i]) * (double{got[i]} - logits[i]);
      square += double{logits[i]} * logits[i];
    }
    return std::sqrt(difference / square) + row_error_(logits, row);
  }

  double judge_row(const GoldenPrompt& prompt, const GoldenRow& row, std::span<const float> got) {
    double error = row_error_(got, row);
    if (error > options_.row_limit && error < 1.5 * options_.row_limit && !is_reference_)
      error = exact_error(prompt, row, got);
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
      machine_->pager.drop(s);
    }
    return static_cast<double>((steps - 1) * batch.size()) / seconds;
  }

  std::vector<int32_t> sample(const LogicalStep& step) {
    const PagedStep paged = machine_->pager.page(step);
    const uint64_t ticket = machine_->session.submit(paged.view(machine_->id));
    machine_->session.sample(ticket, std::vector<quire_sampling_row>(step.rows.size()));
    std::vector<quire_sampled_row> rows(step.rows.size());
    machine_->session.wait(ticket, rows);
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
  const bool is_reference_;
  quire_limits limits_{};
  uint32_t blocks_ = 0;
  std::optional<Machine> machine_;
  std::optional<Machine> exact_; // the reference in float32
  std::vector<const GoldenPrompt*> prompts_;
};

} // namespace

OracleOptions oracle_options(const std::string& backend, bool full, const std::string& kv_format) {
  OracleOptions options;
  options.full = full;
  if (backend != "reference") {
    // Tensor cores take fp16 operands, so that a block format's weights are rounded on their way: four times the mean
    // error of Vulkan, which multiplies them in float32.
    options.row_limit = backend == "cuda" ? 3e-2 : 1e-2;
    options.exact_tokens = false;
    options.kv_format = QUIRE_F16;
  }
  if (!kv_format.empty()) options.kv_format = parse_kv_format(kv_format, "--kv-format");
  // What a cache of fewer bits costs: measured 9 roundoffs of f16 at worst. Of E4M3 0.23 on the reference and 0.41 on
  // CUDA at worst, over all prompts 0.85 and 0.82: it makes other logits of some rows. So the average tells more (0.048
  // and 0.047; 0.051 and 0.050).
  const bool coarse = options.kv_format == QUIRE_KV_E4M3;
  if (options.kv_format != QUIRE_F32) {
    const double limit = !coarse ? 16 * unit_roundoff(options.kv_format) : full ? 1 : 0.5;
    options.row_limit = std::max(options.row_limit, limit);
    options.exact_tokens = false;
  }
  options.mean_limit = coarse ? 0.06 : options.row_limit;
  return options;
}

std::string OracleResult::summary(const OracleOptions& o) const {
  std::ostringstream out;
  out.precision(3);
  out << prompts << " prompts, " << rows << " rows: RMS(difference) / RMS(oracle) at worst " << worst_row
      << ", on average " << mean_row << ", allowed " << o.row_limit << " and " << o.mean_limit << "; " << tokens
      << " greedy tokens, " << excused << " texts parted at a near tie; prefill " << prefill_tokens_per_second
      << " tokens/s by " << o.chunk << ", decode " << single_tokens_per_second << " alone, " << batch_tokens_per_second
      << " by " << o.batch;
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
