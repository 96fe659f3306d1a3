// The plain HTTP routes: /health, /metrics, /v1/models and the page. Pure functions of the request and the service.
#pragma once

#include <boost/beast/http.hpp>

#include <optional>

#include "service.hpp"

namespace quire::server {

using HttpRequest = boost::beast::http::request<boost::beast::http::empty_body>;
using HttpResponse = boost::beast::http::response<boost::beast::http::string_body>;

// A refusal that holds for every route, the upgrade included: a malformed or smuggling request, a foreign Host or
// Origin, a missing key.
std::optional<HttpResponse> refuse(const HttpRequest& request, const Service& service);

// Always `Connection: close`.
HttpResponse answer(const HttpRequest& request, const Service& service);

HttpResponse text_response(boost::beast::http::status status, std::string body,
                           std::string_view content_type = "text/plain; charset=utf-8");

} // namespace quire::server
