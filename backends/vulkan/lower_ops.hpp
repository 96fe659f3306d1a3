// The second phase of lowering: each unit's dispatches, a function a kind of op (lower_ops.cpp and lower_linear.cpp).
#pragma once

#include "lower.hpp"

#include <string>
#include <utility>
#include <vector>

namespace quire::vulkan {

class Lowering {
 public:
  explicit Lowering(const LowerContext& context) : c_(context) {}
  void derive();
  void unit(const Unit& unit);
  std::vector<Dispatch> take() && { return std::move(dispatches_); }

 private:
  // A value where it lies: element (row, i) at data + (row * stride + i) * 4.
  struct At {
    address data = 0;
    uint32_t stride = 0;
    uint32_t count = 0; // count_*
    uint32_t heads = 1;
    uint32_t dim = 0;
    uint32_t columns() const { return heads * dim; }
  };
  const quire_op& op(uint32_t index) const { return c_.program.ops[index]; }
  At value(uint32_t id) const;
  address vector(uint32_t weight) const { return weight == 0 ? 0 : c_.store.vector(c_.handles.vectors[weight - 1]); }
  const Matrix& matrix(uint32_t weight) const { return c_.store.matrix(c_.handles.matrices[weight - 1]); }

  Dispatch& add(std::string shader, uint32_t workgroup, std::vector<uint32_t> constants, const Unit& unit);
  void reads(Dispatch& dispatch, uint32_t id) const;
  void writes(Dispatch& dispatch, uint32_t id) const;
  Access access(uint32_t id, bool write) const;
  static GridSide rows_of(uint32_t count) { return {GridSide::Kind::count, count, 1, 1}; }
  GridSide columns_of(uint32_t columns) const;

  void embed(const Unit& unit);
  void norm(const Unit& unit);
  void linear(const Unit& unit);
  int32_t through_texels(LinearParams& params, std::vector<WeightPart>& parts) const;
  void rope_store(const Unit& unit);
  void attend(const Unit& unit);
  void element(const Unit& unit);
  void gather_rows(const Unit& unit);
  void route(const Unit& unit);
  void expert_linear(const Unit& unit);

  const LowerContext& c_;
  std::vector<Dispatch> dispatches_;
};

// `linear_q4_1`
std::string format_shader(const char* op, uint32_t format);

} // namespace quire::vulkan
