// Runs a whole program in float64 over logical steps: the oracle of the conformance suite. It knows sequences and
// positions, never blocks.
//
// Errors: none; programs are the tests' own. Threads: one.
#pragma once

#include "program/program.hpp"
#include "support/float64_ops.hpp"
#include "support/logical_step.hpp"

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

namespace quire::tests {

class Float64Machine {
 public:
  // program must outlive the machine.
  Float64Machine(const Program& program, const Precision& precision);

  // The ids [T, k] that the backend's route chose for this value: near ties can go either way, so the machine checks
  // the choice and then follows it.
  using ChosenIds = std::function<std::vector<int32_t>(uint32_t value)>;
  // Runs one step; afterwards value() gives any of its values. An unchecked one fills the caches, as far as that needs
  // no attention.
  void run(const LogicalStep& step, const ChosenIds& chosen);

  const Tensor64& value(uint32_t id) const { return values_.at(id); }
  // A choice of experts that no rounding explains; empty if all were right.
  const std::string& wrong_choice() const { return wrong_choice_; }

 private:
  struct Row { // one position of one layer of one sequence
    std::vector<double> k, v, ke, ve;
  };
  struct Sequence {
    uint32_t length = 0;
    std::map<uint32_t, std::vector<Row>> layers; // by kv layer; [positions]
  };

  const Matrix64& matrix(uint32_t weight);
  Matrix64 rows_of(uint32_t weight, const std::vector<uint64_t>& rows) const;
  Tensor64 in(const quire_op& op, int i) const;
  void run_op(const quire_op& op, const LogicalStep& step, const ChosenIds& chosen);
  void embed(const quire_op& op);
  void linear(const quire_op& op);
  void store(const quire_op& op);
  void attend(const quire_op& op);
  void route(const quire_op& op, const ChosenIds& chosen);
  void check_choice(const quire_op& op, const RouteScores& scores, const std::vector<int32_t>& ids);
  bool keep_best_groups(const quire_route& op, double* choosing, const double* errors, size_t experts);

  const Program& program_;
  Precision precision_;
  std::map<uint32_t, Matrix64> matrices_; // small ones, decoded once
  std::map<uint32_t, Tensor64> values_;
  std::map<uint32_t, Sequence> sequences_;
  std::vector<int32_t> tokens_;     // [T] of the running step
  std::vector<uint32_t> positions_; // [T]
  std::vector<uint32_t> owners_;    // [T]
  std::string wrong_choice_;
};

} // namespace quire::tests
