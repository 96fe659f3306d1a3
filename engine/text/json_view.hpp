// Reading a JSON document of which every field may be missing or of the wrong type: a value that knows its path, for
// errors like «tokenizer.json: model.merges[3] is not a string». Private to engine/text.
#pragma once

#include <quire/error.hpp>

#include <boost/json/parse.hpp>
#include <boost/json/value.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace quire {

class JsonView {
 public:
  JsonView(const boost::json::value& value, std::string path) : value_(&value), path_(std::move(path)) {}

  // Parses; the document lives in `storage`.
  static JsonView parse(std::string_view text, const std::string& name, boost::json::value& storage) {
    boost::json::error_code error;
    boost::json::parse_options options;
    options.max_depth = 64;
    storage = boost::json::parse(boost::json::string_view(text.data(), text.size()), error, {}, options);
    if (error) throw Error(name + " is not valid JSON: " + error.message());
    return {storage, name + ": "};
  }

  // The member; a null or missing one is «absent». Throws if this is not an object.
  JsonView operator[](std::string_view key) const {
    static const boost::json::value null;
    const auto& object = expect(value_->if_object(), "an object");
    const auto* member = object.if_contains(boost::json::string_view(key.data(), key.size()));
    const bool root = path_.ends_with(": ");
    return {member ? *member : null, path_ + (root ? "" : ".") + std::string(key)};
  }
  bool absent() const { return value_->is_null(); }
  const boost::json::value& value() const { return *value_; }
  const std::string& path() const { return path_; }

  bool is_string() const { return value_->is_string(); }
  bool is_object() const { return value_->is_object(); }
  bool is_array() const { return value_->is_array(); }
  std::string_view string() const {
    const auto& text = expect(value_->if_string(), "a string");
    return {text.data(), text.size()};
  }
  std::string_view string_or(std::string_view otherwise) const { return absent() ? otherwise : string(); }
  bool boolean_or(bool otherwise) const { return absent() ? otherwise : expect(value_->if_bool(), "true or false"); }
  int64_t integer() const { return expect(value_->if_int64(), "a whole number"); }
  size_t array_size() const { return expect(value_->if_array(), "an array").size(); }
  JsonView at(size_t index) const { return {(*value_->if_array())[index], path_ + "[" + std::to_string(index) + "]"}; }

  [[noreturn]] void fail(const std::string& what) const {
    throw Error((path_.ends_with(": ") ? path_.substr(0, path_.size() - 2) : path_) + " " + what);
  }

 private:
  template <typename T> const T& expect(const T* found, const char* type) const {
    if (!found) fail(std::string(absent() ? "is missing; it must be " : "is not ") + type);
    return *found;
  }
  const boost::json::value* value_;
  std::string path_; // begins with the file's name and ": "
};

} // namespace quire
