// What bounds one rendering: steps, memory and depth. One thread. Everything here throws Failure when a bound is
// passed; render() turns it into a TemplateError with the line.
#pragma once

#include "text/chat_template.hpp"

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

namespace quire::jinja {

// An error of the template or its input while rendering, without the place.
struct Failure {
  std::string what;
  bool raised = false; // by raise_exception
};

class Runtime {
 public:
  explicit Runtime(const TemplateLimits& limits) : limits_(limits) {}
  Runtime(const Runtime&) = delete;
  Runtime& operator=(const Runtime&) = delete;

  void step(int64_t count = 1) {
    steps_ += count;
    if (steps_ > limits_.max_steps) too_much("takes more than", limits_.max_steps, "steps");
  }
  // Work on that many bytes: 64 count as one step.
  void copying(size_t bytes) { step(1 + static_cast<int64_t>(bytes / 64)); }

  void take(size_t bytes) {
    memory_bytes_ += bytes;
    if (memory_bytes_ > limits_.max_memory_bytes) {
      memory_bytes_ -= bytes;
      too_much("needs more than", static_cast<int64_t>(limits_.max_memory_bytes), "bytes of memory");
    }
  }
  void release(size_t bytes) noexcept { memory_bytes_ -= bytes; }

  void enter() {
    if (++depth_ > limits_.max_depth) {
      --depth_;
      too_much("nests deeper than", limits_.max_depth, "levels");
    }
  }
  void leave() noexcept { --depth_; }

  // For a text that is still growing, before it is a value.
  void check_size(size_t bytes) const {
    if (bytes > limits_.max_memory_bytes)
      too_much("needs more than", static_cast<int64_t>(limits_.max_memory_bytes), "bytes of memory");
  }
  void check_output(size_t bytes) const {
    if (bytes > limits_.max_output_bytes)
      too_much("writes more than", static_cast<int64_t>(limits_.max_output_bytes), "bytes");
  }

 private:
  [[noreturn]] static void too_much(const char* does, int64_t limit, const char* unit) {
    throw Failure{std::string("the template ") + does + " " + std::to_string(limit) + " " + unit, false};
  }
  TemplateLimits limits_;
  int64_t steps_ = 0;
  size_t memory_bytes_ = 0;
  int depth_ = 0;
};

// One level of nesting.
class Level {
 public:
  explicit Level(Runtime& runtime) : runtime_(runtime) { runtime_.enter(); }
  ~Level() { runtime_.leave(); }
  Level(const Level&) = delete;
  Level& operator=(const Level&) = delete;

 private:
  Runtime& runtime_;
};

// Memory that a value holds, until it is destroyed. Without a runtime (constants of a parsed template) it counts
// nothing.
class Charge {
 public:
  Charge(Runtime* runtime, size_t bytes) : runtime_(runtime), bytes_(bytes) {
    if (runtime_) runtime_->take(bytes_);
  }
  ~Charge() {
    if (runtime_) runtime_->release(bytes_);
  }
  Charge(const Charge&) = delete;
  Charge& operator=(const Charge&) = delete;

 private:
  Runtime* runtime_;
  size_t bytes_;
};

} // namespace quire::jinja
