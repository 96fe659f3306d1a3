// A plugin as somebody else writes it: a sampler that takes the most probable token.
#include <quire/plugin.hpp>

#include <algorithm>

namespace {

class Greedy : public quire::Sampler {
 public:
  explicit Greedy(const quire::SamplerRequest&) {}
  int32_t choose(std::span<float> logits, uint32_t) override {
    return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
  }
};

} // namespace

QUIRE_SAMPLER_PLUGIN(Greedy, "greedy", "1.0");
