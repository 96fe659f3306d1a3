// Checks a whole program once, so that neither backends nor the step loop have to.
//
// Holds afterwards: ids are in range; every root value is written exactly once, before it is read; shapes agree for
// every op; formats and views are legal; every cache layer is stored once, before it is attended; output 0 is the
// logits [R, vocab_size]; nothing is asked for that this version does not know. Errors: quire::Error, one sentence that
// names the op (index, kind, layer), the tensor and the shape. Threads: pure.
#pragma once

#include "quire/plugin.h"

namespace quire {

void validate(const quire_program& program);

} // namespace quire
