// `quire serve`: listens at once, answers /health with 503 while the model loads, drains on SIGTERM.
#include <CLI/CLI.hpp>

#include <spdlog/spdlog.h>

#include <thread>

#include "commands.hpp"
#include "quire/engine.hpp"
#include "server/server.hpp"

namespace quire::cli {
namespace {

struct ServeOptions {
  EngineOptions engine;
  server::ServerOptions server;
  server::ServiceOptions service;
  uint32_t grace_seconds = 30;
};

int serve(ServeOptions& o) {
  install_stop_signals();
  if (o.service.api_key.empty())
    if (const char* key = std::getenv("QUIRE_API_KEY")) o.service.api_key = key;
  o.service.loopback_only = server::is_loopback(o.server.host);
  if (!o.service.loopback_only && o.service.api_key.empty())
    spdlog::warn("listening on {} without a key: anyone who reaches it can use it; set QUIRE_API_KEY to ask for one",
                 o.server.host);
  const auto service = std::make_shared<server::Service>(o.service);
  server::Server listener(o.server, service);
  spdlog::info("listening on http://{}:{} (loading)", o.server.host, listener.port());

  o.engine.progress = progress_bar();
  service->ready(std::make_shared<Engine>(o.engine));
  const Engine* const engine = service->engine();
  spdlog::info("ready: {} on {}; WebSocket at ws://{}:{}/v1/responses, a page at http://{}:{}/", engine->model().name,
               engine->device().device, o.server.host, listener.port(), o.server.host, listener.port());
  wait_for_stop();
  spdlog::info("stopping: {} responses may finish within {} s", service->live_responses.load(), o.grace_seconds);
  listener.stop(std::chrono::seconds(o.grace_seconds));
  return 0;
}

} // namespace

Command add_serve(CLI::App& app) {
  const auto o = std::make_shared<ServeOptions>();
  add_engine_options(app, o->engine);
  app.add_option("--host", o->server.host, "Address to listen on")->capture_default_str();
  app.add_option("--port", o->server.port, "0: any free port")->capture_default_str();
  app.add_option("--server-threads", o->server.num_threads, "Threads that parse, tokenize and write")
      ->capture_default_str();
  app.add_option("--allow-origin", o->service.allowed_origin, "Origin of browser pages that may connect; *: any");
  app.add_option("--grace", o->grace_seconds, "Seconds that running responses get after SIGTERM")
      ->capture_default_str();
  app.footer("QUIRE_API_KEY in the environment makes clients send it as `Authorization: Bearer KEY`.");
  return [o] { return serve(*o); };
}

} // namespace quire::cli
