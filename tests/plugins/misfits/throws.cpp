// Plugins whose C++ throws: in the constructor of the one object, or in an entry. The glue makes a status of it.
#include <quire/plugin.hpp>

#include <stdexcept>

namespace {

#if defined(THROWS_IN_CONSTRUCTOR)
class Throws : public quire::Model {
 public:
  Throws() { throw std::runtime_error("thrown in the constructor"); }
  quire::Value build(const quire::ModelConfig&, quire::Builder&) override { return {}; }
};
#else
class Throws : public quire::Model {
 public:
  quire::Value build(const quire::ModelConfig&, quire::Builder&) override { throw 42; }
};
#endif

} // namespace

QUIRE_MODEL_PLUGIN(Throws, "throws", "1.0", "ThrowsForCausalLM");
