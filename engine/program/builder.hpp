// Records a program from a model plugin: the host's side of quire_builder.
//
// Weights are bound by name from a source of the caller's; rope frequencies are worked out here. The first wrong call
// fails the build: all later ones return 0 with the same status. Errors: quire::Error, one sentence. Threads: [load].
#pragma once

#include "program/program.hpp"
#include "quire/plugin.h"

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

namespace quire {

class ModelFiles;

// What a program is built from.
struct ProgramSource {
  std::string name;        // of the program, for listings
  std::string config_name; // «config.json», «model.gguf»: for errors
  quire_config config{};
  uint32_t context = 0; // tokens a sequence that will be served; 0 = all that the model was made for. Chooses
                        // longrope's and dynamic scaling's frequencies
  // Fills format and planes of the weight of this name and shape; false where it is optional and absent; else throws
  // Error.
  std::function<bool(quire_weight& wanted, bool optional)> bind;
  std::shared_ptr<const void> owner; // kept alive by the program, as the planes point into it
};

ProgramSource program_source(std::shared_ptr<ModelFiles> files, uint32_t context = 0);

class ProgramBuilder {
 public:
  explicit ProgramBuilder(ProgramSource source);
  ~ProgramBuilder();
  ProgramBuilder(const ProgramBuilder&) = delete;
  ProgramBuilder& operator=(const ProgramBuilder&) = delete;

  const quire_builder& table() const;
  bool failed() const; // some call was wrong: finish() says which
  // The program, validated; once. Throws the first error of the build, or what validate() finds.
  Program finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Has the plugin build, and validates. Errors name the plugin.
Program build_program(const quire_model& model, const std::string& plugin_id, ProgramSource source);

} // namespace quire
