#include "plugin_probe.hpp"

#include "plugin_host.hpp"
#include "program/builder.hpp"
#include "program/print.hpp"
#include "quire/error.hpp"
#include "quire/plugin_check.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <csignal>
#include <cstdint>
#include <cstring>
#include <fcntl.h>
#include <limits>
#include <map>
#include <poll.h>
#include <string_view>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

namespace quire {
namespace {

// ---- In the child ----

// What the child tells its parent: a line «@call» before each call into the plugin, other lines for the report.
class Report {
 public:
  explicit Report(int descriptor) : descriptor_(descriptor) {}
  void calling(const char* what) const { send(std::string("@").append(what)); }
  void line(std::string text) const {
    std::replace_if(
        text.begin(), text.end(), [](unsigned char c) { return c < ' '; }, ' ');
    send(text);
  }

 private:
  void send(std::string text) const {
    text += '\n';
    for (size_t sent = 0; sent < text.size();) {
      const ssize_t got = write(descriptor_, text.data() + sent, text.size() - sent);
      if (got <= 0) return;
      sent += static_cast<size_t>(got);
    }
  }
  int descriptor_;
};

// A broken contract: the end of a sentence that begins with the file.
class Broken : public Error {
 public:
  using Error::Error;
};

void exercise_backend(const quire_backend& backend, const Report& report) {
  CallStatus status;
  report.calling("device_count");
  const uint32_t devices = backend.device_count(backend.self, status);
  if (!status.ok()) return report.line(std::string("device_count: ") + status.message());
  report.line(std::to_string(devices) + (devices == 1 ? " device" : " devices"));
  bool created = false;
  for (uint32_t device = 0; device < devices; ++device) {
    quire_device_info info{};
    report.calling("device_info");
    backend.device_info(backend.self, device, &info, status);
    if (!status.ok()) {
      report.line(std::string("device_info: ") + status.message());
      continue;
    }
    if (std::memchr(info.name, 0, sizeof(info.name)) == nullptr ||
        std::memchr(info.note, 0, sizeof(info.note)) == nullptr)
      throw Broken("gives device " + std::to_string(device) + " a name or note without an end");
    report.line("device " + std::to_string(device) + ": " + info.name +
                (info.usable != 0 ? "" : std::string(", not usable: ") + info.note));
    if (info.usable == 0 || created) continue;
    quire_create_options options{};
    options.struct_size = sizeof(options);
    options.device = device;
    options.log = [](void*, int32_t, const char*) {};
    options.progress = [](void*, uint64_t, uint64_t) {};
    report.calling("create");
    void* instance = backend.create(backend.self, &options, status);
    if (!status.ok() || instance == nullptr) {
      if (status.ok()) throw Broken("makes no instance and says no error");
      report.line(std::string("create: ") + status.message());
      continue;
    }
    created = true;
    quire_memory_info memory{};
    report.calling("memory");
    backend.memory(instance, &memory, status);
    report.line(status.ok() ? "memory: " + std::to_string(memory.free_bytes) + " bytes free of " +
                                  std::to_string(memory.total_bytes)
                            : std::string("memory: ") + status.message());
    report.calling("destroy");
    backend.destroy(instance);
  }
}

// A tiny network in the words that nearly every configuration has.
class TinyConfig {
 public:
  explicit TinyConfig(const std::string& architecture) {
    texts_["architectures.0"] = architecture;
    texts_["hidden_act"] = "silu";
    numbers_ = {{"hidden_size", 64},      {"intermediate_size", 128},       {"vocab_size", 256},
                {"num_hidden_layers", 2}, {"num_attention_heads", 4},       {"num_key_value_heads", 2},
                {"head_dim", 16},         {"max_position_embeddings", 128}, {"rope_theta", 10000},
                {"rms_norm_eps", 1e-5},   {"layer_norm_eps", 1e-5},         {"num_experts", 4},
                {"num_local_experts", 4}, {"num_experts_per_tok", 2},       {"moe_intermediate_size", 32}};
  }
  quire_config view() {
    quire_config config{};
    config.struct_size = sizeof(config);
    config.self = this;
    config.integer = [](void* self, const char* key, int64_t* out) {
      return of(self).number(key, [&](double value) {
        *out = static_cast<int64_t>(value);
        return value == std::floor(value);
      });
    };
    config.real = [](void* self, const char* key, double* out) {
      return of(self).number(key, [&](double value) {
        *out = value;
        return true;
      });
    };
    config.boolean = [](void*, const char*, int32_t*) { return 0; };
    config.string = [](void* self, const char* key, const char** out) {
      const auto found = of(self).texts_.find(key);
      if (found == of(self).texts_.end()) return 0;
      *out = found->second.c_str();
      return 1;
    };
    config.length = [](void*, const char* key, uint64_t* out) {
      return std::strcmp(key, "architectures") == 0 ? (*out = 1, 1) : 0;
    };
    return config;
  }

 private:
  static TinyConfig& of(void* self) { return *static_cast<TinyConfig*>(self); }
  template <class Take> int32_t number(const char* key, Take take) const {
    const auto found = numbers_.find(key);
    return found != numbers_.end() && take(found->second) ? 1 : 0;
  }
  std::map<std::string, double, std::less<>> numbers_;
  std::map<std::string, std::string, std::less<>> texts_;
};

void exercise_model(const Plugin& plugin, const Report& report) {
  const quire_model& model = plugin.model;
  for (const char* const* name = model.architectures; *name != nullptr; ++name) {
    TinyConfig config{*name};
    ProgramSource source;
    source.name = *name;
    source.config_name = "made-up configuration";
    source.config = config.view();
    std::vector<std::vector<float>> weights;
    source.bind = [&](quire_weight& wanted, bool optional) {
      if (optional) return false;
      const uint64_t count = (wanted.experts != 0 ? wanted.experts : 1) * wanted.rows * wanted.cols;
      if (count > 1 << 24)
        throw Error("it asks for a weight `" + std::string(wanted.name) + "` of " + std::to_string(count) +
                    " elements");
      weights.emplace_back(count);
      wanted.format = QUIRE_F32;
      wanted.planes[0] = {weights.back().data(), count * sizeof(float)};
      return true;
    };
    report.calling("build");
    try {
      const Program program = build_program(model, plugin.id, std::move(source));
      report.line(std::string(*name) + ": a made-up configuration gives " + std::to_string(program.ops.size()) +
                  " ops, " + std::to_string(program.weights.size()) + " weights");
    } catch (const Error& error) {
      report.line(std::string(*name) + ": " + error.what());
    }
  }
}

void exercise_sampler(const quire_sampler& sampler, const Report& report) {
  constexpr uint32_t vocab = 97;
  quire_sampler_request request{};
  request.struct_size = sizeof(request);
  request.seed = 1;
  request.vocab_size = vocab;
  request.number = [](void*, const char*, double*) { return 0; };
  CallStatus status;
  report.calling("open");
  void* state = sampler.open(sampler.self, &request, status);
  if (!status.ok()) return report.line(std::string("open: ") + status.message());
  const auto draw = [&](void* from, uint32_t position) {
    std::array<float, vocab> logits{};
    for (uint32_t i = 0; i < vocab; ++i)
      logits[i] = i % 3 == 0 ? -std::numeric_limits<float>::infinity() : static_cast<float>((i * 37 + position) % 11);
    report.calling("choose");
    const int32_t token = sampler.choose(from, logits.data(), vocab, position, status);
    if (!status.ok()) return report.line(std::string("choose: ") + status.message()), false;
    if (token < 0 || token >= static_cast<int32_t>(vocab))
      throw Broken("chooses token " + std::to_string(token) + " of " + std::to_string(vocab));
    if (token % 3 == 0) throw Broken("chooses a token that is not allowed");
    return true;
  };
  uint32_t drawn = 0;
  while (drawn < 64 && draw(state, drawn)) ++drawn;
  if (sampler.clone != nullptr) {
    report.calling("clone");
    void* fork = sampler.clone(state, status);
    if (status.ok()) {
      draw(fork, drawn);
      report.calling("close");
      sampler.close(fork);
    } else {
      report.line(std::string("clone: ") + status.message());
    }
  }
  report.calling("close");
  sampler.close(state);
  report.line(std::to_string(drawn) + " tokens chosen" +
              (sampler.clone != nullptr ? ", can be forked" : ", can't be forked"));
}

constexpr int exit_ok = 0, exit_broken = 97; // no code that a plugin is likely to end the process with

int exercise(const std::filesystem::path& file, const Report& report) {
  try {
    report.calling("loading it");
    const Plugin plugin = load_plugin(file);
    report.line(std::string(plugin_kind_word(plugin.kind)) + " " + plugin.id + " " + plugin.version);
    if (plugin.kind == QUIRE_PLUGIN_BACKEND)
      exercise_backend(plugin.backend, report);
    else if (plugin.kind == QUIRE_PLUGIN_MODEL)
      exercise_model(plugin, report);
    else
      exercise_sampler(plugin.sampler, report);
    report.calling("exit");
    return exit_ok;
  } catch (const std::exception& error) {
    report.line(file.string() + ": " + error.what());
    return exit_broken;
  }
}

[[noreturn]] void child(const std::filesystem::path& file, int descriptor) {
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  const rlimit no_core{0, 0};
  setrlimit(RLIMIT_CORE, &no_core);
  for (const int signal_number : {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGTRAP, SIGPIPE})
    signal(signal_number, SIG_DFL);
  // What it prints itself is not part of the report.
  if (const int null = open("/dev/null", O_RDWR); null >= 0)
    for (const int standard : {0, 1, 2}) dup2(null, standard);
  _exit(exercise(file, Report(descriptor)));
}

// ---- In the parent ----

struct Child {
  pid_t pid;
  int status = 0;
  bool ended = false;

  bool has_ended() {
    if (!ended && waitpid(pid, &status, WNOHANG) == pid) ended = true;
    return ended;
  }
  void stop() {
    kill(-pid, SIGKILL);
    kill(pid, SIGKILL);
    if (!ended) waitpid(pid, &status, 0), ended = true;
  }
};

std::string seconds_text(std::chrono::milliseconds time) {
  std::string text = std::to_string(std::chrono::duration<double>(time).count());
  text.erase(text.find_last_not_of('0') + 1);
  if (text.back() == '.') text.pop_back();
  return text + " s";
}

} // namespace

ProbeResult probe_plugin(const std::filesystem::path& path, std::chrono::milliseconds timeout) {
  using Clock = std::chrono::steady_clock;
  const std::filesystem::path file = std::filesystem::absolute(path);
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) throw Error("the probe can't open a pipe: " + std::string(std::strerror(errno)));
  const pid_t pid = fork();
  if (pid < 0) {
    close(ends[0]), close(ends[1]);
    throw Error("the probe can't start a process: " + std::string(std::strerror(errno)));
  }
  if (pid == 0) {
    close(ends[0]);
    child(file, ends[1]);
  }
  close(ends[1]);

  Child process{pid};
  const auto deadline = Clock::now() + timeout;
  const auto left = [&] {
    return std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
  };
  std::string said;
  bool open_end = true;
  while (left() > 0 && (open_end || !process.has_ended())) {
    if (!open_end) {
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
      continue;
    }
    pollfd ready{ends[0], POLLIN, 0};
    if (poll(&ready, 1, static_cast<int>(std::min<int64_t>(left(), 100))) <= 0) {
      // A grandchild may hold the pipe open after the child's end.
      if (process.has_ended()) break;
      continue;
    }
    char buffer[4096];
    const ssize_t got = read(ends[0], buffer, sizeof(buffer));
    if (got <= 0 || said.size() > 1 << 20)
      open_end = false;
    else
      said.append(buffer, static_cast<size_t>(got));
  }
  close(ends[0]);
  const bool hung = !process.has_ended();
  process.stop();

  ProbeResult result;
  std::string call = "being started";
  for (std::string_view rest = said; !rest.empty();) {
    const size_t end = std::min(rest.find('\n'), rest.size());
    const std::string_view line = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    if (line.starts_with('@'))
      call = line.substr(1);
    else
      result.report += std::string(line) + "\n";
  }
  if (hung)
    result.report +=
        file.string() + ": did not answer within " + seconds_text(timeout) + " in " + call + " and was stopped";
  else if (WIFSIGNALED(process.status))
    result.report += file.string() + ": crashed with signal " + std::to_string(WTERMSIG(process.status)) + " (" +
                     strsignal(WTERMSIG(process.status)) + ") in " + call;
  else if (call != "exit" && WEXITSTATUS(process.status) != exit_broken)
    result.report +=
        file.string() + ": ended the process with code " + std::to_string(WEXITSTATUS(process.status)) + " in " + call;
  else if (WEXITSTATUS(process.status) == exit_ok) {
    result.ok = true;
    result.report += file.string() + ": works";
  } else if (result.report.ends_with('\n')) {
    result.report.pop_back();
  }
  return result;
}

} // namespace quire
