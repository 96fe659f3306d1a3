// `quire run`: one prompt in, the answer on standard output as it is made, figures on standard error.
#include <CLI/CLI.hpp>

#include <condition_variable>
#include <cstdio>
#include <deque>
#include <mutex>

#include "commands.hpp"
#include "plugin_host.hpp"
#include "program/builder.hpp"
#include "program/print.hpp"
#include "quire/engine.hpp"
#include "quire/error.hpp"
#include "server/conversation.hpp"
#include "text/chat_template.hpp"
#include "text/detokenizer.hpp"
#include "text/tokenizer.hpp"
#include "weights/model_files.hpp"

namespace quire::cli {
namespace {

struct RunOptions {
  EngineOptions engine;
  std::string prompt, system;
  uint32_t max_tokens = 256;
  float temperature = 0;
  float top_p = 1;
  int32_t top_k = 0;
  std::optional<uint64_t> seed;
  std::vector<std::string> stop;
  std::string sampler;
  int32_t beam_width = 0;
  bool raw = false;
  bool print_program = false;
};

// Hands the engine thread's events to the waiting main thread.
class Inbox : public EventSink {
 public:
  void token(TokenEvent&& event) noexcept override {
    const std::lock_guard lock(mutex_);
    events_.push_back(std::move(event));
    changed_.notify_one();
  }
  void finished(const Finished& summary) noexcept override {
    const std::lock_guard lock(mutex_);
    summary_ = summary;
    changed_.notify_one();
  }
  // The next event; nullopt at the end, or after a short while so that the caller can look at signals.
  std::optional<TokenEvent> next(bool& done) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, std::chrono::milliseconds(100), [&] { return !events_.empty() || summary_; });
    done = events_.empty() && summary_;
    if (events_.empty()) return std::nullopt;
    TokenEvent event = std::move(events_.front());
    events_.pop_front();
    return event;
  }
  const Finished& summary() const { return *summary_; }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<TokenEvent> events_;
  std::optional<Finished> summary_;
};

Request make_request(const RunOptions& o, const Engine& engine) {
  Request request;
  if (o.raw) {
    request.prompt = engine.tokenizer()->encode(o.prompt);
  } else {
    std::optional<std::string> system;
    if (!o.system.empty()) system = o.system;
    const boost::json::array messages{{{"role", "user"}, {"content", o.prompt}}};
    request.prompt =
        server::make_prompt(nullptr, system, messages, *engine.tokenizer(), engine.chat_template().get()).tokens;
  }
  request.max_tokens = o.max_tokens;
  request.sampling.temperature = o.temperature;
  request.sampling.top_p = o.top_p;
  request.sampling.top_k = o.top_k;
  request.sampling.seed = o.seed;
  request.sampling.sampler = o.sampler;
  request.beam.width = o.beam_width;
  request.stop = o.stop;
  return request;
}

// The list of operations that every backend runs for this model, without loading a device.
int list_program(const EngineOptions& o) {
  PluginHost host;
  PluginSearch search;
  search.paths.assign(o.plugins.begin(), o.plugins.end());
  host.load(search);
  const std::shared_ptr<ModelFiles> files = ModelFiles::open(o.model, parse_load_format(o.load_format));
  const Plugin& model = host.model(files->architecture());
  const Program program = build_program(model.model, model.id, program_source(files, o.max_context));
  const std::string listing = print_program(program.view());
  std::fwrite(listing.data(), 1, listing.size(), stdout);
  return 0;
}

int run(RunOptions& o) {
  if (o.print_program) return list_program(o.engine);
  o.engine.progress = progress_bar();
  Engine engine(o.engine);
  install_stop_signals();
  Request request = make_request(o, engine);
  const auto inbox = std::make_shared<Inbox>();
  request.sink = inbox;
  const bool engine_text = !request.stop.empty();
  Detokenizer detokenizer(engine.tokenizer(), {}, false);
  const RequestId id = engine.submit(std::move(request));

  bool done = false;
  std::string error;
  while (!done) {
    if (stop_requested()) engine.cancel(id);
    const auto event = inbox->next(done);
    if (!event) continue;
    std::string text = event->text;
    if (!engine_text && event->token >= 0) text += detokenizer.push(event->token);
    if (!engine_text && event->finish != FinishReason::none) text += detokenizer.flush();
    if (event->finish == FinishReason::error) error = event->error;
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
  }
  std::fputc('\n', stdout);
  if (!error.empty()) throw Error(error);
  const Finished& f = inbox->summary();
  const double decode_seconds = f.total_seconds - f.first_token_seconds;
  std::fprintf(stderr, "%u tokens in, %u out; first token after %.3f s; %.1f tokens/s; %s on %s (%s)\n",
               f.prompt_tokens, f.output_tokens, f.first_token_seconds,
               f.output_tokens > 1 && decode_seconds > 0 ? (f.output_tokens - 1) / decode_seconds : 0.0,
               engine.device().backend.c_str(), engine.device().device.c_str(), engine.device().why.c_str());
  return 0;
}

} // namespace

Command add_run(CLI::App& app) {
  const auto o = std::make_shared<RunOptions>();
  o->engine.max_sequences = 8;
  add_engine_options(app, o->engine);
  app.add_option("-p,--prompt", o->prompt, "What to ask");
  app.add_flag("--print-program", o->print_program, "Print the model's list of operations, and end");
  app.add_option("--system", o->system, "A system message");
  app.add_flag("--raw", o->raw, "Continue the prompt as it stands, without the chat template");
  app.add_option("-n,--max-tokens", o->max_tokens, "At most so many tokens; 0: to the end of the context")
      ->capture_default_str();
  app.add_option("--temperature", o->temperature, "0: greedy")->capture_default_str();
  app.add_option("--top-p", o->top_p)->capture_default_str();
  app.add_option("--top-k", o->top_k)->capture_default_str();
  app.add_option("--seed", o->seed, "Of sampling; drawn and reported if not given");
  app.add_option("--stop", o->stop, "Stop strings");
  app.add_option("--sampler", o->sampler, "A sampler plugin, such as mirostat");
  app.add_option("--beam-width", o->beam_width, "Beam search")->capture_default_str();
  return [o] {
    if (o->prompt.empty() && !o->print_program) throw Error("--prompt is missing: say what to ask");
    return run(*o);
  };
}

} // namespace quire::cli
