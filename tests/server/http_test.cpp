// The plain routes and the refusals that hold for all of them.
#include "server/http.hpp"

#include <gtest/gtest.h>

namespace quire::server {
namespace {

namespace http = boost::beast::http;

HttpRequest get(const char* target) {
  HttpRequest request{http::verb::get, target, 11};
  request.set(http::field::host, "127.0.0.1:8000");
  return request;
}

std::optional<int> refusal(const HttpRequest& request, ServiceOptions options = {}) {
  const Service service(std::move(options));
  const auto response = refuse(request, service);
  return response ? std::optional<int>(static_cast<int>(response->result_int())) : std::nullopt;
}

TEST(Http, HealthIs503WhileLoading) {
  const Service service{ServiceOptions{}};
  EXPECT_EQ(answer(get("/health"), service).result_int(), 503u);
  EXPECT_EQ(answer(get("/metrics"), service).result_int(), 200u);
  EXPECT_NE(answer(get("/metrics"), service).body().find("quire_ready 0"), std::string::npos);
  EXPECT_EQ(answer(get("/nothing"), service).result_int(), 404u);
  EXPECT_EQ(answer(get("/v1/responses"), service).result_int(), 426u);
}

TEST(Http, APlainRequestIsNotRefused) { EXPECT_EQ(refusal(get("/health")), std::nullopt); }

TEST(Http, SmugglingIsRefused) {
  HttpRequest both = get("/health");
  both.set(http::field::transfer_encoding, "chunked");
  both.set(http::field::content_length, "5");
  EXPECT_EQ(refusal(both), 413);
  HttpRequest two_hosts = get("/health");
  two_hosts.insert(http::field::host, "127.0.0.1:9");
  EXPECT_EQ(refusal(two_hosts), 400);
  HttpRequest no_host = get("/health");
  no_host.erase(http::field::host);
  EXPECT_EQ(refusal(no_host), 400);
}

TEST(Http, AForeignHostIsRefusedOnALoopbackListener) {
  HttpRequest rebound = get("/metrics");
  rebound.set(http::field::host, "evil.example:8000");
  EXPECT_EQ(refusal(rebound), 403);
  ServiceOptions open;
  open.loopback_only = false;
  EXPECT_EQ(refusal(rebound, open), std::nullopt);
}

TEST(Http, AForeignOriginIsRefusedUnlessAllowed) {
  HttpRequest page = get("/v1/responses");
  page.set(http::field::origin, "https://evil.example");
  EXPECT_EQ(refusal(page), 403);
  ServiceOptions options;
  options.allowed_origin = "https://evil.example";
  EXPECT_EQ(refusal(page, options), std::nullopt);
  page.set(http::field::origin, "http://127.0.0.1:8000");
  EXPECT_EQ(refusal(page), std::nullopt);
}

TEST(Http, EveryRouteButHealthNeedsTheKey) {
  ServiceOptions options;
  options.api_key = "secret";
  EXPECT_EQ(refusal(get("/health"), options), std::nullopt);
  for (const char* route : {"/metrics", "/v1/models", "/v1/responses", "/", "/health?x", "//health"})
    EXPECT_EQ(refusal(get(route), options), 401) << route;
  HttpRequest with_key = get("/metrics");
  with_key.set(http::field::authorization, "Bearer secret");
  EXPECT_EQ(refusal(with_key, options), std::nullopt);
  with_key.set(http::field::authorization, "Bearer secreT");
  EXPECT_EQ(refusal(with_key, options), 401);
}

TEST(Metrics, HistogramBucketsAreCumulative) {
  Histogram h;
  h.observe(0.0005);
  h.observe(0.3);
  h.observe(1000);
  std::string out;
  h.write(out, "x", "help");
  EXPECT_NE(out.find("x_bucket{le=\"0.001\"} 1\n"), std::string::npos);
  EXPECT_NE(out.find("x_bucket{le=\"0.5\"} 2\n"), std::string::npos);
  EXPECT_NE(out.find("x_bucket{le=\"+Inf\"} 3\n"), std::string::npos);
  EXPECT_NE(out.find("x_count 3\n"), std::string::npos);
}

} // namespace
} // namespace quire::server
