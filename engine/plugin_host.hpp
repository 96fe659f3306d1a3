// Finds, checks and loads plugins: backends, models and samplers in shared libraries, and built-in ones through the
// same table.
//
// Searched in this order: the paths asked for, QUIRE_PLUGIN_PATH (absolute folders or files, separated by colons),
// lib*/quire/plugins beside the folder of the executable, and the folder of the installation. Never the current folder.
// Within a folder, *.so by name. The first of two plugins of one kind and id wins. A plugin is loaded by its absolute
// path with all symbols bound at once; before that its ELF tables and its one symbol are looked for in the file, and
// before any function of it runs, size, ABI version, kind and table are checked. What does not fit is one line in the
// log and in skipped(). A loaded library stays for the life of the process, also when its host goes.
//
// Errors: quire::Error only for what was asked for by name. Threads: add_builtin and load [load]; the const members
// [any] afterwards.
#pragma once

#include "quire/plugin.h"

#include <deque>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace quire {

struct Plugin {
  uint32_t kind = 0; // quire_plugin_kind
  std::string id;    // «llama»
  std::string version;
  std::filesystem::path path; // empty: built in
  // The table of its kind, at the size that this host knows: entries that the plugin is too old to have are NULL.
  quire_backend backend{};
  quire_model model{};
  quire_sampler sampler{};
};

struct SkippedPlugin {
  std::filesystem::path path;
  std::string reason; // the end of a sentence that begins with the file: «is not an ELF file»
};

struct PluginSearch {
  std::vector<std::filesystem::path> paths; // files or folders asked for by name; a file that misfits is an Error
  bool environment = true;                  // QUIRE_PLUGIN_PATH
  bool installed = true;                    // beside the executable, and the installation's folder
};

class PluginHost {
 public:
  using Log = std::function<void(const std::string& line)>;

  PluginHost() = default;
  PluginHost(const PluginHost&) = delete;
  PluginHost& operator=(const PluginHost&) = delete;

  void add_builtin(const quire_plugin& plugin);
  // log gets a line for each plugin that is skipped, hidden by an earlier one, or for a path that is ignored.
  void load(const PluginSearch& search, const Log& log = {});

  const std::deque<Plugin>& plugins() const { return plugins_; } // in the order found
  std::span<const SkippedPlugin> skipped() const { return skipped_; }
  std::vector<const Plugin*> backends() const { return of_kind(QUIRE_PLUGIN_BACKEND); }
  std::vector<const Plugin*> models() const { return of_kind(QUIRE_PLUGIN_MODEL); }
  std::vector<const Plugin*> samplers() const { return of_kind(QUIRE_PLUGIN_SAMPLER); }

  // By id; nullptr if there is none.
  const Plugin* find(uint32_t kind, std::string_view id) const;
  // The first model plugin that builds this architecture; nullptr if none does.
  const Plugin* find_model(std::string_view architecture) const;
  // The same, with an Error that lists what there is and why the one asked for was skipped.
  const Plugin& backend(std::string_view id) const;
  const Plugin& sampler(std::string_view id) const;
  const Plugin& model(std::string_view architecture) const;

 private:
  void load_path(const std::filesystem::path& path, bool by_name, const Log& log);
  void load_file(const std::filesystem::path& file, bool by_name, const Log& log);
  std::vector<const Plugin*> of_kind(uint32_t kind) const;
  std::string what_there_is(uint32_t kind, std::string_view id) const;

  std::deque<Plugin> plugins_; // a deque: growth moves none
  std::vector<SkippedPlugin> skipped_;
  std::vector<std::filesystem::path> seen_; // canonical
};

// What can be known without loading: the file is a whole library of this machine, and has the one symbol. Throws Error.
void check_plugin_file(const std::filesystem::path& file);
// Loads and checks one library, without registering it. Throws Error «FILE: reason». For the host and the probe.
Plugin load_plugin(const std::filesystem::path& absolute_file);
// The checks of a datum alone. Throws Error.
Plugin read_plugin(const quire_plugin& datum, const std::filesystem::path& path);

// «backend», «model», «sampler».
const char* plugin_kind_word(uint32_t kind);
// Folders that are searched without being asked for, in order; they need not exist.
std::vector<std::filesystem::path> installed_plugin_folders();

} // namespace quire
