// Looks at a shared library's headers before it is loaded: the dynamic loader maps a truncated one and dies of SIGBUS,
// and readers of its symbols believe its sizes.
//
// Errors: none; the result says. Threads: pure but for reading the file.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

namespace quire {

// Why the file can't be a shared library of this machine, as the end of a sentence («is not an ELF file»); nothing if
// it may be one.
std::optional<std::string> elf_misfit(const std::filesystem::path& file);

} // namespace quire
