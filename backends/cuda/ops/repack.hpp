// Moving rows of a weight from the file's layout to the device's (weight.hpp), on the device.
#pragma once

#include "queue.hpp"
#include "weight.hpp"

namespace quire::cuda {

// source: rows [first_row, first_row + count) of the weight as they lie in the file, in device memory, of file_format.
// first_row counts over all experts (expert * N + row). saturated: raised to 1 where an element does not fit fp16.
void repack(const Queue&, uint32_t file_format, const std::byte* source, uint64_t first_row, uint64_t count,
            const Weight& to, uint32_t* saturated);

} // namespace quire::cuda
