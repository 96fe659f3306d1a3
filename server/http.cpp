#include "http.hpp"

#include <openssl/crypto.h>

#include "page.hpp"

namespace quire::server {

namespace http = boost::beast::http;

HttpResponse text_response(http::status status, std::string body, std::string_view content_type) {
  HttpResponse response{status, 11};
  response.set(http::field::server, "quire");
  response.set(http::field::content_type, boost::beast::string_view(content_type.data(), content_type.size()));
  response.set("X-Content-Type-Options", "nosniff");
  response.keep_alive(false);
  response.body() = std::move(body);
  response.prepare_payload();
  return response;
}

namespace {

HttpResponse error_response(http::status status, std::string_view message) {
  json::object body{
      {"error", {{"message", json::string_view(message.data(), message.size())}, {"type", "invalid_request_error"}}}};
  return text_response(status, json::serialize(body) + "\n", "application/json");
}

// «host:port», «[::1]:port» or «host» without its port.
std::string_view host_name(std::string_view host) {
  if (host.starts_with('[')) return host.substr(0, host.find(']') + 1);
  return host.substr(0, host.find(':'));
}

bool is_loopback_name(std::string_view name) {
  return name == "localhost" || name == "[::1]" || name.starts_with("127.");
}

std::string_view view(boost::beast::string_view s) { return {s.data(), s.size()}; }

bool same_key(std::string_view given, std::string_view wanted) {
  return given.size() == wanted.size() && CRYPTO_memcmp(given.data(), wanted.data(), wanted.size()) == 0;
}

} // namespace

std::optional<HttpResponse> refuse(const HttpRequest& request, const Service& service) {
  if (request.count(http::field::host) != 1)
    return error_response(http::status::bad_request, "A request needs exactly one Host header");
  if (request.count(http::field::transfer_encoding) || request.count(http::field::content_length) > 1 ||
      (request.count(http::field::content_length) && request[http::field::content_length] != "0"))
    return error_response(http::status::payload_too_large,
                          "This server reads no request bodies: open a WebSocket on /v1/responses");
  const std::string_view host = view(request[http::field::host]);
  if (service.options.loopback_only && !is_loopback_name(host_name(host)))
    return error_response(
        http::status::forbidden,
        "The Host header must name this machine, since the server listens on a loopback address only");
  if (const auto origin = request.find(http::field::origin);
      origin != request.end() && service.options.allowed_origin != "*") {
    const std::string_view o = view(origin->value());
    const size_t slashes = o.find("://");
    const bool own = slashes != std::string_view::npos && o.substr(slashes + 3) == host;
    if (!own && o != service.options.allowed_origin)
      return error_response(
          http::status::forbidden,
          "Pages of another origin may not connect: start the server with --allow-origin to let them");
  }
  if (!service.options.api_key.empty() && request.target() != "/health") {
    const std::string_view given = view(request[http::field::authorization]);
    if (!given.starts_with("Bearer ") || !same_key(given.substr(7), service.options.api_key))
      return error_response(http::status::unauthorized, "Send the server's key as `Authorization: Bearer KEY`");
  }
  return std::nullopt;
}

HttpResponse answer(const HttpRequest& request, const Service& service) {
  if (request.method() != http::verb::get && request.method() != http::verb::head)
    return error_response(http::status::method_not_allowed, "Use GET, or a WebSocket on /v1/responses");
  std::string_view path = view(request.target());
  path = path.substr(0, path.find('?'));
  Engine* engine = service.engine();
  if (path == "/health") {
    if (!engine)
      return text_response(http::status::service_unavailable, "{\"status\":\"loading\"}\n", "application/json");
    if (service.draining)
      return text_response(http::status::service_unavailable, "{\"status\":\"draining\"}\n", "application/json");
    return text_response(http::status::ok, "{\"status\":\"ok\"}\n", "application/json");
  }
  if (path == "/metrics") {
    std::optional<Stats> stats;
    if (engine) stats = engine->stats();
    return text_response(http::status::ok, service.metrics.prometheus(stats ? &*stats : nullptr),
                         "text/plain; version=0.0.4; charset=utf-8");
  }
  if (path == "/v1/models") {
    if (!engine) return error_response(http::status::service_unavailable, "The model is still loading");
    json::object model{{"id", engine->model().name},
                       {"object", "model"},
                       {"owned_by", "quire"},
                       {"max_model_len", engine->model().max_context}};
    json::object body{{"object", "list"}, {"data", json::array{std::move(model)}}};
    return text_response(http::status::ok, json::serialize(body) + "\n", "application/json");
  }
  if (path == "/v1/responses") {
    HttpResponse response = error_response(http::status::upgrade_required, "This route speaks WebSocket only");
    response.set(http::field::upgrade, "websocket");
    return response;
  }
  if (path == "/") return text_response(http::status::ok, std::string(page_html), "text/html; charset=utf-8");
  return error_response(http::status::not_found,
                        "There is no such route: try /health, /metrics, /v1/models or a WebSocket on /v1/responses");
}

} // namespace quire::server
