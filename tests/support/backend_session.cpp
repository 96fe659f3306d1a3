#include "support/backend_session.hpp"

#include "reference/reference.hpp"

#include <cstdlib>
#include <dlfcn.h>
#include <filesystem>

namespace quire::tests {
namespace {

namespace fs = std::filesystem;

// A verb's status; check() throws what it says.
class Verb {
 public:
  explicit Verb(const char* name) : name_(name) {}
  operator quire_status*() { return &status_; }
  void check() const {
    if (status_.code != QUIRE_OK) throw BackendError(name_, status_);
  }

 private:
  const char* name_;
  quire_status status_{};
};

std::vector<fs::path> plugin_folders() {
  std::vector<fs::path> folders;
  if (const char* path = std::getenv("QUIRE_PLUGIN_PATH")) {
    const std::string all = path;
    for (size_t begin = 0; begin <= all.size();) {
      const size_t end = std::min(all.find(':', begin), all.size());
      if (end > begin) folders.emplace_back(all.substr(begin, end - begin));
      begin = end + 1;
    }
  }
  if (const char* build = std::getenv("QUIRE_BUILD")) folders.push_back(fs::path(build) / "backends");
  std::error_code error;
  const fs::path self = fs::read_symlink("/proc/self/exe", error);
  if (!error) folders.push_back(self.parent_path() / ".." / "lib" / "quire" / "plugins");
  return folders;
}

// The library of a backend: any file below the folders whose name has the backend's in it.
fs::path find_library(const std::string& name) {
  std::error_code error;
  for (const fs::path& folder : plugin_folders())
    for (fs::recursive_directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
      const std::string file = it->path().filename().string();
      if (file.ends_with(".so") && file.find(name) != std::string::npos) return it->path();
    }
  return {};
}

} // namespace

const quire_plugin* find_backend(const std::string& name, const std::string& path, std::string* why, bool* absent) {
  if (name == "reference" && path.empty()) return &reference_plugin();
  const fs::path library = path.empty() ? find_library(name) : fs::path(path);
  if (absent) *absent = library.empty();
  if (library.empty()) {
    *why = "no plugin of the backend «" + name + "» was found: build it, or name its file by --plugin";
    return nullptr;
  }
  void* handle = dlopen(fs::absolute(library).c_str(), RTLD_NOW | RTLD_LOCAL);
  const void* symbol = handle ? dlsym(handle, QUIRE_PLUGIN_SYMBOL) : nullptr;
  if (!symbol) {
    *why = library.string() + " can't be loaded as a plugin: " + dlerror();
    return nullptr;
  }
  const auto* plugin = static_cast<const quire_plugin*>(symbol);
  if (plugin->abi_major != QUIRE_ABI_MAJOR || plugin->kind != QUIRE_PLUGIN_BACKEND) {
    *why = library.string() + " is no backend plugin of this ABI";
    return nullptr;
  }
  return plugin;
}

BackendSession::BackendSession(const quire_plugin& plugin, const Options& options)
    : table_(*static_cast<const quire_backend*>(plugin.table)), complaint_(options.complaint) {
  quire_create_options create{};
  create.struct_size = sizeof(create);
  create.device = options.device;
  create.invariant = options.invariant;
  create.num_threads = options.num_threads;
  create.validate = options.validate;
  create.cache_dir = options.cache_dir.empty() ? nullptr : options.cache_dir.c_str();
  create.host = this;
  create.log = [](void* host, int32_t level, const char* message) {
    const auto& complaint = static_cast<BackendSession*>(host)->complaint_;
    if (level >= QUIRE_LOG_WARNING && complaint) complaint(message);
  };
  create.progress = [](void*, uint64_t, uint64_t) {};
  Verb verb("create");
  instance_ = table_.create(table_.self, &create, verb);
  verb.check();
}

BackendSession::~BackendSession() {
  if (instance_) table_.destroy(instance_);
}

quire_memory_info BackendSession::memory() {
  quire_memory_info info{};
  Verb verb("memory");
  table_.memory(instance_, &info, verb);
  verb.check();
  return info;
}

uint32_t BackendSession::compile(const quire_program& program, const quire_limits& limits) {
  Verb verb("compile");
  const uint32_t id = table_.compile(instance_, &program, &limits, verb);
  verb.check();
  return id;
}

uint64_t BackendSession::kv_block_bytes(uint32_t program, uint32_t group) {
  Verb verb("kv_block_bytes");
  const uint64_t bytes = table_.kv_block_bytes(instance_, program, group, verb);
  verb.check();
  return bytes;
}

void BackendSession::kv_create(const quire_kv_config& config) {
  Verb verb("kv_create");
  table_.kv_create(instance_, &config, verb);
  verb.check();
}

uint64_t BackendSession::submit(const quire_step& step) {
  Verb verb("submit");
  const uint64_t ticket = table_.submit(instance_, &step, verb);
  verb.check();
  return ticket;
}

void BackendSession::sample(uint64_t ticket, const std::vector<quire_sampling_row>& rows) {
  quire_sampling sampling{};
  sampling.struct_size = sizeof(sampling);
  sampling.rows = rows.data();
  sampling.num_rows = static_cast<uint32_t>(rows.size());
  sampling.row_size = sizeof(quire_sampling_row);
  Verb verb("sample");
  table_.sample(instance_, ticket, &sampling, verb);
  verb.check();
}

void BackendSession::wait(uint64_t ticket, std::span<quire_sampled_row> rows) {
  Verb verb("wait");
  table_.wait(instance_, ticket, rows.data(), static_cast<uint32_t>(rows.size()), verb);
  verb.check();
}

void BackendSession::copy_blocks(const std::vector<quire_block_copy>& copies) {
  Verb verb("copy_blocks");
  table_.copy_blocks(instance_, copies.data(), static_cast<uint32_t>(copies.size()), verb);
  verb.check();
}

void BackendSession::swap_out(const std::vector<quire_block_copy>& copies) {
  Verb verb("swap_out");
  table_.swap_out(instance_, copies.data(), static_cast<uint32_t>(copies.size()), verb);
  verb.check();
}

void BackendSession::swap_in(const std::vector<quire_block_copy>& copies) {
  Verb verb("swap_in");
  table_.swap_in(instance_, copies.data(), static_cast<uint32_t>(copies.size()), verb);
  verb.check();
}

bool BackendSession::idle(uint32_t microseconds) {
  if (table_.idle == nullptr) return false;
  Verb verb("idle");
  const bool more = table_.idle(instance_, microseconds, verb) != 0;
  verb.check();
  return more;
}

void BackendSession::read_output(uint32_t program, uint32_t index, void* out, uint64_t count) {
  Verb verb("read_output");
  table_.read_output(instance_, program, index, out, count * 4, verb);
  verb.check();
}

} // namespace quire::tests
