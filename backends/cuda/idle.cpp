// The verb idle, and what it remembers from run to run.
#include "instance.hpp"

namespace quire::cuda {

bool CudaInstance::tunes() const { return options_.invariant == 0 && library_->available() && tuning_wanted(); }

void CudaInstance::load_choices() {
  if (!tunes() || cache_dir_.empty()) return;
  const LinearChoiceFile file = choices_of(device_, *library_);
  if (const std::string wrong = file.load(file.path(cache_dir_), choices_); !wrong.empty())
    log(QUIRE_LOG_DEBUG, "CUDA: " + wrong);
  else if (choices_.size() != 0)
    log(QUIRE_LOG_DEBUG, "CUDA: kernels of " + std::to_string(choices_.size()) + " linears as timed by an earlier run");
}

bool CudaInstance::idle(uint32_t microseconds) {
  return verb([&] {
    if (last_ticket_ != last_waited_) throw Failure(QUIRE_INVALID, "CUDA: idle, and a ticket is unwaited");
    if (!tunes()) return false;
    if (!tuning_) {
      std::vector<const CompiledProgram*> programs;
      for (const Loaded& loaded : programs_) programs.push_back(loaded.program.get());
      LinearTuning::Hooks hooks;
      hooks.settled = [this](uint32_t rows) {
        for (Loaded& loaded : programs_)
          loaded.graphs.capture_again(rows, *loaded.program, loaded.fetch(), sampler_, queue());
      };
      hooks.log = [this](int32_t level, const std::string& message) { log(level, message); };
      const LinearChoiceFile file = choices_of(device_, *library_);
      const std::string path = cache_dir_.empty() ? std::string() : file.path(cache_dir_);
      tuning_ = std::make_unique<LinearTuning>(std::move(programs), *library_, choices_, device_, stream_.get(), file,
                                               path, std::move(hooks));
    }
    return tuning_->slice(microseconds);
  });
}

} // namespace quire::cuda
