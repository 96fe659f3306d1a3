#include "plugin_host.hpp"

#include "install_paths.hpp"
#include "plugin_elf.hpp"
#include "quire/error.hpp"

#include <boost/dll/library_info.hpp>
#include <boost/dll/runtime_symbol_info.hpp>
#include <boost/dll/shared_library.hpp>

#include <algorithm>
#include <cctype>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <utility>

namespace quire {
namespace {

namespace fs = std::filesystem;

// The table at the size known here; what an older plugin lacks is NULL.
template <class Table> Table known_table(const void* given, const char* kind) {
  size_t size = 0;
  std::memcpy(&size, given, sizeof(size)); // struct_size comes first in each table
  if (size < 2 * sizeof(void*) || size > 1 << 16)
    throw Error("says that its " + std::string(kind) + " table has " + std::to_string(size) + " bytes");
  Table table{};
  std::memcpy(&table, given, std::min(size, sizeof(Table)));
  table.struct_size = sizeof(Table);
  return table;
}

// The first entry among those without which the kind is useless.
void require(std::initializer_list<std::pair<bool, const char*>> entries) {
  for (const auto& [present, name] : entries)
    if (!present) throw Error("lacks the entry `" + std::string(name) + "`");
}

bool is_word(const char* text) {
  const size_t length = strnlen(text, 33);
  return length >= 1 && length <= 32 && std::all_of(text, text + length, [](unsigned char c) {
           return std::islower(c) || std::isdigit(c) || c == '_' || c == '-';
         });
}

bool is_printable(const char* text) {
  const size_t length = strnlen(text, 65);
  return length >= 1 && length <= 64 &&
         std::all_of(text, text + length, [](unsigned char c) { return c > ' ' && c < 127; });
}

// Libraries are never unloaded: other threads and exit handlers may be inside one for as long as the process lives.
// noexcept: an exception of a library's own initialisation would leave the loader locked, and the process hanging
// later; ended at once it says what was thrown, and `quire plugins --probe` says by which file.
boost::dll::shared_library open_to_stay(const fs::path& file, boost::dll::fs::error_code& failed) noexcept {
  constexpr auto stay = static_cast<boost::dll::load_mode::type>(RTLD_NODELETE);
  dlerror(); // forget earlier errors
  return boost::dll::shared_library(file, boost::dll::load_mode::rtld_now | stay, failed);
}

std::string one_line(std::string text) {
  std::replace_if(
      text.begin(), text.end(), [](unsigned char c) { return c < ' '; }, ' ');
  return text;
}

} // namespace

const char* plugin_kind_word(uint32_t kind) {
  switch (kind) {
  case QUIRE_PLUGIN_BACKEND:
    return "backend";
  case QUIRE_PLUGIN_MODEL:
    return "model";
  case QUIRE_PLUGIN_SAMPLER:
    return "sampler";
  default:
    return "unknown";
  }
}

Plugin read_plugin(const quire_plugin& datum, const fs::path& path) {
  // The order matters: each field is only as trustworthy as those before it.
  if (datum.abi_major != QUIRE_ABI_MAJOR)
    throw Error("is made for plugin ABI " + std::to_string(datum.abi_major) + ", this is " +
                std::to_string(QUIRE_ABI_MAJOR) + ": build it against this version's headers");
  if (datum.abi_minor > QUIRE_ABI_MINOR)
    throw Error("needs plugin ABI " + std::to_string(datum.abi_major) + "." + std::to_string(datum.abi_minor) +
                ", this is " + std::to_string(QUIRE_ABI_MAJOR) + "." + std::to_string(QUIRE_ABI_MINOR) +
                ": update Quire, or build it against this version's headers");
  if (datum.struct_size != sizeof(quire_plugin))
    throw Error("describes itself in " + std::to_string(datum.struct_size) + " bytes, expected " +
                std::to_string(sizeof(quire_plugin)));
  if (datum.kind < QUIRE_PLUGIN_BACKEND || datum.kind > QUIRE_PLUGIN_SAMPLER)
    throw Error("is of kind " + std::to_string(datum.kind) + ", expected 1 (backend), 2 (model) or 3 (sampler)");
  if (datum.reserved != 0) throw Error("sets a reserved field");
  if (datum.id == nullptr || !is_word(datum.id))
    throw Error("has no id of 1 to 32 lower-case letters, digits, `_` and `-`");
  if (datum.version == nullptr || !is_printable(datum.version))
    throw Error("has no version of 1 to 64 printable characters");
  if (datum.table == nullptr) throw Error("has no table");

  Plugin plugin;
  plugin.kind = datum.kind;
  plugin.id = datum.id;
  plugin.version = datum.version;
  plugin.path = path;
  if (datum.kind == QUIRE_PLUGIN_BACKEND) {
    const quire_backend& t = plugin.backend = known_table<quire_backend>(datum.table, "backend");
    require({{t.device_count, "device_count"},
             {t.device_info, "device_info"},
             {t.create, "create"},
             {t.destroy, "destroy"},
             {t.memory, "memory"},
             {t.compile, "compile"},
             {t.kv_block_bytes, "kv_block_bytes"},
             {t.kv_create, "kv_create"},
             {t.submit, "submit"},
             {t.sample, "sample"},
             {t.wait, "wait"},
             {t.copy_blocks, "copy_blocks"}});
  } else if (datum.kind == QUIRE_PLUGIN_MODEL) {
    const quire_model& t = plugin.model = known_table<quire_model>(datum.table, "model");
    require({{t.architectures != nullptr && *t.architectures != nullptr, "architectures"}, {t.build, "build"}});
  } else {
    const quire_sampler& t = plugin.sampler = known_table<quire_sampler>(datum.table, "sampler");
    require({{t.open, "open"}, {t.choose, "choose"}, {t.close, "close"}});
  }
  return plugin;
}

void check_plugin_file(const fs::path& file) {
  if (const auto misfit = elf_misfit(file)) throw Error(*misfit);
  std::vector<std::string> symbols;
  try {
    symbols = boost::dll::library_info(file).symbols();
  } catch (const std::exception& error) {
    throw Error("has no list of symbols that can be read: " + one_line(error.what()));
  }
  if (std::find(symbols.begin(), symbols.end(), QUIRE_PLUGIN_SYMBOL) == symbols.end())
    throw Error("is no Quire plugin: it has no symbol " QUIRE_PLUGIN_SYMBOL);
}

Plugin load_plugin(const fs::path& file) {
  check_plugin_file(file);
  boost::dll::fs::error_code failed;
  const boost::dll::shared_library library = open_to_stay(file, failed);
  if (failed || !library.is_loaded()) {
    // Boost keeps only «bad file descriptor»; the loader's own words name what is missing.
    void* again = dlopen(file.c_str(), RTLD_NOW | RTLD_NODELETE);
    const char* words = again == nullptr ? dlerror() : nullptr;
    throw Error("can't be loaded: " + one_line(words != nullptr ? words : failed.message()));
  }
  const auto* datum = static_cast<const quire_plugin*>(dlsym(library.native(), QUIRE_PLUGIN_SYMBOL));
  if (datum == nullptr) throw Error("is no Quire plugin: its symbol " QUIRE_PLUGIN_SYMBOL " is not exported");
  return read_plugin(*datum, file);
}

std::vector<fs::path> installed_plugin_folders() {
  std::vector<fs::path> folders;
  boost::dll::fs::error_code failed;
  const fs::path executable = boost::dll::program_location(failed);
  if (!failed && executable.is_absolute()) {
    const fs::path root = executable.parent_path().parent_path();
    folders.push_back(root / QUIRE_LIBDIR / "quire" / "plugins");
    std::vector<fs::path> libs;
    for (fs::directory_iterator it(root, fs::directory_options::skip_permission_denied, failed), end;
         !failed && it != end; it.increment(failed))
      if (it->path().filename().string().starts_with("lib") && it->is_directory(failed))
        libs.push_back(it->path() / "quire" / "plugins");
    std::sort(libs.begin(), libs.end());
    folders.insert(folders.end(), libs.begin(), libs.end());
  }
  folders.emplace_back(QUIRE_PLUGIN_DIR);
  return folders;
}

void PluginHost::add_builtin(const quire_plugin& datum) {
  Plugin plugin = read_plugin(datum, {});
  if (find(plugin.kind, plugin.id) != nullptr)
    throw Error("there are two built-in " + std::string(plugin_kind_word(plugin.kind)) + "s `" + plugin.id + "`");
  plugins_.push_back(std::move(plugin));
}

void PluginHost::load(const PluginSearch& search, const Log& log) {
  for (const fs::path& path : search.paths) load_path(fs::absolute(path), true, log);
  if (const char* variable = search.environment ? std::getenv("QUIRE_PLUGIN_PATH") : nullptr) {
    std::string_view rest = variable;
    while (!rest.empty()) {
      const size_t colon = std::min(rest.find(':'), rest.size());
      const fs::path path = rest.substr(0, colon);
      rest.remove_prefix(std::min(colon + 1, rest.size()));
      if (path.is_absolute())
        load_path(path, false, log);
      else if (!path.empty() && log)
        log("QUIRE_PLUGIN_PATH: `" + one_line(path.string()) + "` is ignored, as it is not an absolute path");
    }
  }
  if (search.installed)
    for (const fs::path& folder : installed_plugin_folders()) load_path(folder, false, log);
}

void PluginHost::load_path(const fs::path& path, bool by_name, const Log& log) {
  std::error_code failed;
  if (!fs::is_directory(path, failed)) {
    if (by_name || fs::exists(path, failed)) load_file(path, by_name, log);
    return;
  }
  std::vector<fs::path> files;
  for (fs::directory_iterator it(path, failed), end; !failed && it != end; it.increment(failed))
    if (it->path().extension() == ".so") files.push_back(it->path());
  if (failed && log) log(one_line(path.string()) + ": can't be listed: " + failed.message());
  std::sort(files.begin(), files.end());
  for (const fs::path& file : files) load_file(file, false, log);
}

void PluginHost::load_file(const fs::path& path, bool by_name, const Log& log) {
  std::error_code failed;
  const fs::path canonical = fs::canonical(path, failed);
  const fs::path& file = failed ? path : canonical;
  if (std::find(seen_.begin(), seen_.end(), file) != seen_.end()) return;
  seen_.push_back(file);
  try {
    if (failed) throw Error("can't be read: " + failed.message());
    Plugin plugin = load_plugin(file);
    if (const Plugin* first = find(plugin.kind, plugin.id))
      throw Error("is hidden by another " + std::string(plugin_kind_word(plugin.kind)) + " `" + plugin.id + "`, " +
                  (first->path.empty() ? "which is built in" : "found first in " + first->path.string()));
    plugins_.push_back(std::move(plugin));
  } catch (const Error& error) {
    const std::string line = "plugin " + one_line(file.string()) + " " + error.what();
    if (by_name) throw Error(line);
    skipped_.push_back({file, error.what()});
    if (log) log(line + "; skipped");
  }
}

std::vector<const Plugin*> PluginHost::of_kind(uint32_t kind) const {
  std::vector<const Plugin*> found;
  for (const Plugin& plugin : plugins_)
    if (plugin.kind == kind) found.push_back(&plugin);
  return found;
}

const Plugin* PluginHost::find(uint32_t kind, std::string_view id) const {
  const auto found =
      std::find_if(plugins_.begin(), plugins_.end(), [&](const Plugin& p) { return p.kind == kind && p.id == id; });
  return found != plugins_.end() ? &*found : nullptr;
}

const Plugin* PluginHost::find_model(std::string_view architecture) const {
  for (const Plugin& plugin : plugins_) {
    if (plugin.kind != QUIRE_PLUGIN_MODEL) continue;
    for (const char* const* name = plugin.model.architectures; *name != nullptr; ++name)
      if (architecture == *name) return &plugin;
  }
  return nullptr;
}

std::string PluginHost::what_there_is(uint32_t kind, std::string_view id) const {
  std::string text;
  for (const Plugin* plugin : of_kind(kind)) text += (text.empty() ? "" : ", ") + plugin->id;
  text = text.empty() ? "there is no " + std::string(plugin_kind_word(kind)) + " at all" : "there are: " + text;
  for (const SkippedPlugin& skipped : skipped_)
    if (skipped.path.stem() == id)
      text += "; " + one_line(skipped.path.string()) + " was skipped: it " + skipped.reason;
  return text;
}

const Plugin& PluginHost::backend(std::string_view id) const {
  if (const Plugin* plugin = find(QUIRE_PLUGIN_BACKEND, id)) return *plugin;
  throw Error("no backend `" + std::string(id) + "`; " + what_there_is(QUIRE_PLUGIN_BACKEND, id));
}

const Plugin& PluginHost::sampler(std::string_view id) const {
  if (const Plugin* plugin = find(QUIRE_PLUGIN_SAMPLER, id)) return *plugin;
  throw Error("no sampler `" + std::string(id) + "`; " + what_there_is(QUIRE_PLUGIN_SAMPLER, id));
}

const Plugin& PluginHost::model(std::string_view architecture) const {
  if (const Plugin* plugin = find_model(architecture)) return *plugin;
  std::string known;
  for (const Plugin* plugin : models())
    for (const char* const* name = plugin->model.architectures; *name != nullptr; ++name)
      known += (known.empty() ? "" : ", ") + std::string(*name);
  throw Error("no model plugin builds the architecture `" + std::string(architecture) + "`; " +
              (known.empty() ? "there is no model plugin at all: set QUIRE_PLUGIN_PATH to where they are"
                             : "known are: " + known));
}

} // namespace quire
