// `quire devices`: what each backend plugin can run on, and why not.
#include <CLI/CLI.hpp>

#include <boost/json.hpp>

#include <cstdio>

#include "commands.hpp"
#include "plugin_host.hpp"
#include "quire/error.hpp"
#include "reference/reference.hpp"

namespace quire::cli {
namespace {

const char* kind_word(uint32_t kind) {
  return kind == QUIRE_DEVICE_DISCRETE ? "discrete GPU" : kind == QUIRE_DEVICE_INTEGRATED ? "integrated GPU" : "CPU";
}

int devices(const std::vector<std::string>& plugins, bool as_json) {
  PluginHost host;
  host.add_builtin(reference_plugin());
  PluginSearch search;
  search.paths.assign(plugins.begin(), plugins.end());
  host.load(search, [](const std::string& line) { std::fprintf(stderr, "%s\n", line.c_str()); });
  boost::json::array list;
  for (const Plugin* plugin : host.backends()) {
    const quire_backend& backend = plugin->backend;
    quire_status status{};
    const uint32_t count = backend.device_count(backend.self, &status);
    if (count == 0 || status.code) {
      list.push_back(
          {{"backend", plugin->id}, {"usable", false}, {"note", status.code ? status.message : "no device"}});
      continue;
    }
    for (uint32_t i = 0; i < count; ++i) {
      quire_device_info info{};
      status = {};
      backend.device_info(backend.self, i, &info, &status);
      list.push_back({{"backend", plugin->id},
                      {"device", i},
                      {"name", info.name},
                      {"kind", kind_word(info.kind)},
                      {"driver", info.driver},
                      {"usable", status.code == 0 && info.usable != 0},
                      {"memory_bytes", info.memory_bytes},
                      {"free_bytes", info.free_bytes},
                      {"note", status.code ? status.message : info.note}});
    }
  }
  if (as_json) {
    std::printf("%s\n", boost::json::serialize(list).c_str());
    return 0;
  }
  for (const auto& value : list) {
    const auto& d = value.as_object();
    std::printf("%-10s", d.at("backend").as_string().c_str());
    if (d.contains("name")) {
      std::printf(" %lld  %s (%s, %s), %.1f GiB, %.1f GiB free",
                  static_cast<long long>(d.at("device").to_number<int64_t>()), d.at("name").as_string().c_str(),
                  d.at("kind").as_string().c_str(), d.at("driver").as_string().c_str(),
                  d.at("memory_bytes").to_number<double>() / 0x1p30, d.at("free_bytes").to_number<double>() / 0x1p30);
      if (!d.at("usable").as_bool()) std::printf("; can't be used");
    } else {
      std::printf(" can't be used");
    }
    if (!d.at("note").as_string().empty()) std::printf(": %s", d.at("note").as_string().c_str());
    std::printf("\n");
  }
  return 0;
}

} // namespace

Command add_devices(CLI::App& app) {
  struct Options {
    std::vector<std::string> plugins;
    bool json = false;
  };
  const auto o = std::make_shared<Options>();
  app.add_option("--plugin", o->plugins, "A plugin file to load, besides the search path");
  app.add_flag("--json", o->json, "As JSON");
  return [o] { return devices(o->plugins, o->json); };
}

} // namespace quire::cli
