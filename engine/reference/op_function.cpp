#include "reference/ops.hpp"

#include <array>

namespace quire::reference {

OpFunction op_function(uint32_t kind) {
  static constexpr std::array<OpFunction, QUIRE_OP_KIND_COUNT> functions = {
      nullptr, embed, norm, linear,      rope,  kv_store,      attend,
      glu,     add,   mul,  gather_rows, route, expert_linear, collective};
  return functions[kind];
}

} // namespace quire::reference
