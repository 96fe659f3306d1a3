// What «auto» measures where there is no GPU: the start of a network, on a real backend.
#include "decode_rate.hpp"
#include "quire/error.hpp"
#include "reference/reference.hpp"
#include "support/small_model.hpp"

#include <gtest/gtest.h>

namespace quire::tests {
namespace {

const quire_backend& reference() { return *static_cast<const quire_backend*>(reference_plugin().table); }

} // namespace

TEST(DecodeRate, ALargeNetworkIsMeasuredByItsStart) {
  Random random(3);
  SmallModel shape;
  shape.vocab = 4096, shape.dim = 1024, shape.inner = 2048, shape.layers = 2;
  const TestProgram program = small_model(shape, random);
  const ProgramStart start(program.view());
  EXPECT_GT(start.share, 0.2);
  EXPECT_LT(start.share, 0.9);
  EXPECT_LT(start.program.num_ops, program.view().num_ops);
  const double rate = measure_decode_rate(reference(), program.view(), {});
  EXPECT_GT(rate, 0.01);
  EXPECT_LT(rate, 1e6);
}

TEST(DecodeRate, ASmallOneNearlyWhole) {
  Random random(4);
  const TestProgram program = small_model({}, random);
  EXPECT_GT(ProgramStart(program.view()).share, 0.3);
  EXPECT_GT(measure_decode_rate(reference(), program.view(), {}), 0.0);
}

TEST(DecodeRate, WhatCannotBeMeasuredIsASentence) {
  Random random(5);
  const TestProgram program = small_model({}, random);
  quire_program nothing = program.view();
  nothing.num_ops = 1; // the embedding alone
  EXPECT_THROW(measure_decode_rate(reference(), nothing, {}), Error);
  quire_backend broken = reference();
  broken.create = [](void*, const quire_create_options*, quire_status* status) -> void* {
    *status = {QUIRE_OUT_OF_MEMORY, "no memory today"};
    return nullptr;
  };
  try {
    measure_decode_rate(broken, program.view(), {});
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "no memory today");
  }
}

} // namespace quire::tests
