// A file mapped read-only.
//
// If the file shrinks while mapped, the kernel answers a read behind its new end with SIGBUS (hazard 31). The first
// MappedFile installs a process-wide SIGBUS handler that knows all mappings: it puts a page of zeros where the fault
// was, marks the mapping as damaged and lets the read go on; a fault elsewhere goes to the handler that was there
// before. So the process survives, and check_unchanged() tells. Policy: parsers call it when they are done, loaders
// when the last weight is on its device. Backends that read weights in place while serving (the reference interpreter)
// compute with zeros from then on; damaged() is cheap enough to ask once a step.
//
// Errors: quire::Error, one sentence that names the file and the fix. Threads: [any]; the file is mapped until the last
// owner goes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>

namespace quire {

class MappedFile {
 public:
  // Errors: not there, not a regular file, not readable, no address space. An empty file is an empty span.
  static std::shared_ptr<const MappedFile> open(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::string file_name() const { return path_.filename().string(); }
  std::span<const std::byte> bytes() const { return {data_, size_}; }
  uint64_t size() const { return size_; }

  // Hints; a range beyond the file is cut, failures are ignored. will_need starts reading ahead and returns once the
  // reads are queued.
  void will_need(uint64_t offset, uint64_t bytes) const;

  // A read behind the file's end was answered with zeros.
  bool damaged() const;
  // Throws if damaged, or if the file's size or modification time is no longer what it was at open.
  void check_unchanged() const;

 private:
  MappedFile(std::filesystem::path path, int descriptor);
  std::filesystem::path path_;
  int descriptor_ = -1;
  const std::byte* data_ = nullptr;
  uint64_t size_ = 0;
  int64_t modified_ns_ = 0;
  int slot_ = -1; // in the SIGBUS handler's table; -1: the table was full
};

} // namespace quire
