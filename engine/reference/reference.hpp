// The reference backend: a CPU interpreter of a program in float32, one plain function an op. It is the oracle of the
// other backends and runs where there is no GPU.
//
// Always invariant: a row's result is the same bit for bit whatever the batch, the chunking, the number of threads or
// the CPU. Threads and errors: as plugin.h says of a backend.
#pragma once

#include "quire/plugin.h"

namespace quire {

// The datum that a shared library would export as quire_plugin_v1: id «reference», table quire_backend.
const quire_plugin& reference_plugin();

} // namespace quire
