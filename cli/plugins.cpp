// `quire plugins`: what was found, what was skipped and why; --probe exercises one file in a child process.
#include <CLI/CLI.hpp>

#include <boost/json.hpp>

#include <cstdio>

#include "commands.hpp"
#include "plugin_host.hpp"
#include "plugin_probe.hpp"
#include "quire/error.hpp"
#include "reference/reference.hpp"

namespace quire::cli {
namespace {

struct PluginsOptions {
  std::vector<std::string> plugins;
  std::string probe;
  bool json = false;
};

int list(const PluginsOptions& o) {
  PluginHost host;
  host.add_builtin(reference_plugin());
  PluginSearch search;
  search.paths.assign(o.plugins.begin(), o.plugins.end());
  host.load(search);
  boost::json::array found, skipped;
  for (const Plugin& p : host.plugins())
    found.push_back({{"kind", plugin_kind_word(p.kind)},
                     {"id", p.id},
                     {"version", p.version},
                     {"path", p.path.empty() ? "(built in)" : p.path.string()}});
  for (const SkippedPlugin& s : host.skipped()) skipped.push_back({{"path", s.path.string()}, {"reason", s.reason}});
  if (o.json) {
    std::printf("%s\n", boost::json::serialize(boost::json::object{{"plugins", found}, {"skipped", skipped}}).c_str());
    return 0;
  }
  for (const auto& p : found)
    std::printf("%-8s %-12s %-8s %s\n", p.at("kind").as_string().c_str(), p.at("id").as_string().c_str(),
                p.at("version").as_string().c_str(), p.at("path").as_string().c_str());
  for (const auto& s : skipped)
    std::printf("skipped  %s: %s\n", s.at("path").as_string().c_str(), s.at("reason").as_string().c_str());
  return 0;
}

} // namespace

Command add_plugins(CLI::App& app) {
  const auto o = std::make_shared<PluginsOptions>();
  app.add_option("--plugin", o->plugins, "A plugin file to load, besides the search path");
  app.add_option("--probe", o->probe, "Exercise this plugin file in a child process");
  app.add_flag("--json", o->json, "As JSON");
  return [o] {
    if (o->probe.empty()) return list(*o);
    const ProbeResult result = probe_plugin(o->probe);
    std::printf("%s\n", result.report.c_str());
    return result.ok ? 0 : 1;
  };
}

} // namespace quire::cli
