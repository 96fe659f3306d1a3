#include "weights/mapped_file.hpp"

#include "quire/error.hpp"

#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <fcntl.h>
#include <mutex>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace quire {
namespace {

// What the SIGBUS handler knows. A signal handler has no argument of its own, so this is the one table of the process.
struct Guarded {
  std::atomic<uintptr_t> begin{0}; // 0: the slot is free
  std::atomic<uintptr_t> end{0};
  std::atomic<bool> damaged{false};
};
std::array<Guarded, 1024> guarded;
std::mutex guarded_mutex; // for taking and freeing slots; the handler doesn't take it
struct sigaction previous_action;
uintptr_t page_bytes;

// Async-signal-safe: reads lock-free atomics and makes a bare system call, which no sanitizer intercepts.
void on_sigbus(int signal, siginfo_t* info, void* context) {
  const auto address = reinterpret_cast<uintptr_t>(info->si_addr);
  for (Guarded& slot : guarded) {
    const uintptr_t begin = slot.begin.load(std::memory_order_acquire);
    if (begin == 0 || address < begin || address >= slot.end.load(std::memory_order_acquire)) continue;
    const int saved_errno = errno;
    void* page = reinterpret_cast<void*>(address & ~(page_bytes - 1));
    const bool replaced =
        syscall(SYS_mmap, page, page_bytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != -1;
    errno = saved_errno;
    if (!replaced) break;
    slot.damaged.store(true, std::memory_order_release);
    return;
  }
  if (previous_action.sa_flags & SA_SIGINFO) {
    previous_action.sa_sigaction(signal, info, context);
  } else if (previous_action.sa_handler != SIG_DFL && previous_action.sa_handler != SIG_IGN) {
    previous_action.sa_handler(signal);
  } else { // the read is repeated and ends the process as it would have without us
    std::signal(SIGBUS, SIG_DFL);
  }
}

void install_handler() {
  static std::once_flag once;
  std::call_once(once, [] {
    page_bytes = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
    struct sigaction action = {};
    action.sa_sigaction = on_sigbus;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    sigemptyset(&action.sa_mask);
    sigaction(SIGBUS, &action, &previous_action);
  });
}

int take_slot(const void* data, uint64_t size) {
  const std::lock_guard lock(guarded_mutex);
  for (size_t i = 0; i < guarded.size(); ++i) {
    if (guarded[i].begin.load() != 0) continue;
    const auto begin = reinterpret_cast<uintptr_t>(data);
    guarded[i].damaged.store(false);
    guarded[i].end.store((begin + size + page_bytes - 1) & ~(page_bytes - 1));
    guarded[i].begin.store(begin, std::memory_order_release);
    return static_cast<int>(i);
  }
  return -1;
}

void free_slot(int slot) {
  if (slot < 0) return;
  const std::lock_guard lock(guarded_mutex);
  guarded[static_cast<size_t>(slot)].begin.store(0, std::memory_order_release);
}

int64_t modified_ns(const struct stat& status) {
  return int64_t(status.st_mtim.tv_sec) * 1'000'000'000 + status.st_mtim.tv_nsec;
}

std::string reason(int error) { return std::strerror(error); }

} // namespace

std::shared_ptr<const MappedFile> MappedFile::open(const std::filesystem::path& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK); // a pipe must not block
  if (descriptor < 0) throw Error(path.string() + " cannot be opened: " + reason(errno));
  return std::shared_ptr<const MappedFile>(new MappedFile(path, descriptor));
}

MappedFile::MappedFile(std::filesystem::path path, int descriptor) : path_(std::move(path)), descriptor_(descriptor) {
  const auto fail = [this](const std::string& why) {
    close(descriptor_);
    throw Error(path_.string() + " cannot be mapped: " + why);
  };
  struct stat status = {};
  if (fstat(descriptor_, &status) != 0) fail(reason(errno));
  if (!S_ISREG(status.st_mode)) fail("it is not a regular file");
  size_ = static_cast<uint64_t>(status.st_size);
  modified_ns_ = modified_ns(status);
  if (size_ == 0) return;
  install_handler();
  void* data = mmap(nullptr, size_, PROT_READ, MAP_SHARED, descriptor_, 0);
  if (data == MAP_FAILED) fail(reason(errno));
  data_ = static_cast<const std::byte*>(data);
  slot_ = take_slot(data, size_);
}

MappedFile::~MappedFile() {
  free_slot(slot_);
  if (data_) munmap(const_cast<std::byte*>(data_), size_);
  close(descriptor_);
}

void MappedFile::will_need(uint64_t offset, uint64_t bytes) const {
  if (offset >= size_ || bytes == 0) return;
  const uint64_t begin = offset & ~uint64_t(page_bytes - 1); // the mapping begins on a page
  const uint64_t end = bytes < size_ - offset ? offset + bytes : size_;
  madvise(const_cast<std::byte*>(data_) + begin, end - begin, MADV_WILLNEED);
}

bool MappedFile::damaged() const {
  return slot_ >= 0 && guarded[static_cast<size_t>(slot_)].damaged.load(std::memory_order_acquire);
}

void MappedFile::check_unchanged() const {
  struct stat status = {};
  const bool known = fstat(descriptor_, &status) == 0;
  const uint64_t now = known ? static_cast<uint64_t>(status.st_size) : 0;
  if (damaged() || now < size_)
    throw Error(file_name() + " shrank from " + std::to_string(size_) + " to " + std::to_string(now) +
                " bytes while it was being read: let nothing write to it, and start again");
  if (!known || now != size_ || modified_ns(status) != modified_ns_)
    throw Error(file_name() + " changed while it was being read: let nothing write to it, and start again");
}

} // namespace quire
