#include "plugin_elf.hpp"

#include <cstdint>
#include <cstring>
#include <elf.h>
#include <fstream>
#include <vector>

namespace quire {
namespace {

#if defined(__x86_64__)
constexpr uint16_t native_machine = EM_X86_64;
#elif defined(__aarch64__)
constexpr uint16_t native_machine = EM_AARCH64;
#else
#error "plugin_elf.cpp: name this machine's ELF type here"
#endif

// True if count records of `size` bytes at `offset` lie within the file.
bool lies_within(uint64_t offset, uint64_t count, uint64_t size, uint64_t file_bytes) {
  uint64_t bytes = 0;
  return !__builtin_mul_overflow(count, size, &bytes) && offset <= file_bytes && bytes <= file_bytes - offset;
}

template <class Record> bool read_records(std::ifstream& file, uint64_t offset, std::vector<Record>& records) {
  file.seekg(static_cast<std::streamoff>(offset));
  file.read(reinterpret_cast<char*>(records.data()), static_cast<std::streamsize>(records.size() * sizeof(Record)));
  return static_cast<bool>(file);
}

} // namespace

std::optional<std::string> elf_misfit(const std::filesystem::path& path) {
  std::error_code failed;
  if (!std::filesystem::is_regular_file(path, failed))
    return failed ? "can't be read: " + failed.message() : "is not a regular file";
  const uint64_t file_bytes = std::filesystem::file_size(path, failed);
  std::ifstream file(path, std::ios::binary);
  if (failed || !file) return "can't be opened for reading";

  Elf64_Ehdr header{};
  file.read(reinterpret_cast<char*>(&header), sizeof(header));
  const auto got = static_cast<size_t>(file.gcount());
  if (got < SELFMAG || std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0) return "is not an ELF file";
  if (got < sizeof(header)) return "is truncated: it ends within the ELF header";
  if (header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_ident[EI_DATA] != ELFDATA2LSB ||
      header.e_machine != native_machine)
    return "is made for another kind of machine";
  if (header.e_type != ET_DYN) return "is an ELF file, but not a shared library";
  if (header.e_phentsize != sizeof(Elf64_Phdr) || header.e_shentsize != sizeof(Elf64_Shdr) || header.e_phnum == 0 ||
      header.e_shnum == 0 || header.e_shstrndx >= header.e_shnum)
    return "has no table of segments and sections that can be read";
  if (!lies_within(header.e_phoff, header.e_phnum, sizeof(Elf64_Phdr), file_bytes) ||
      !lies_within(header.e_shoff, header.e_shnum, sizeof(Elf64_Shdr), file_bytes))
    return "is truncated: its tables lie past its end, at " + std::to_string(file_bytes) + " bytes";

  std::vector<Elf64_Phdr> segments(header.e_phnum);
  std::vector<Elf64_Shdr> sections(header.e_shnum);
  if (!read_records(file, header.e_phoff, segments) || !read_records(file, header.e_shoff, sections))
    return "can't be read";
  for (const Elf64_Phdr& segment : segments)
    if (!lies_within(segment.p_offset, 1, segment.p_filesz, file_bytes))
      return "is truncated: a segment reaches past its end, at " + std::to_string(file_bytes) + " bytes";
  for (const Elf64_Shdr& section : sections)
    if (section.sh_type != SHT_NOBITS && section.sh_type != SHT_NULL &&
        !lies_within(section.sh_offset, 1, section.sh_size, file_bytes))
      return "is truncated: a section reaches past its end, at " + std::to_string(file_bytes) + " bytes";
  return std::nullopt;
}

} // namespace quire
