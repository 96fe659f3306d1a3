#include "text/shared_files.hpp"

#include <cstdint>
#include <functional>
#include <map>
#include <stdexcept>
#include <variant>

namespace quire::test {
namespace {

// One metadata value, as far as tokenizers need it; everything else is read over.
struct Value {
  std::string text;
  int64_t number = 0;
  std::vector<std::string> texts;
  std::vector<double> numbers;
};

class Reader {
 public:
  explicit Reader(const std::filesystem::path& path) : in_(path, std::ios::binary) {
    if (!in_ || take<uint32_t>() != 0x46554747) throw std::runtime_error(path.string() + " is no GGUF file");
    take<uint32_t>(); // version
    take<uint64_t>(); // tensors
    for (auto count = take<uint64_t>(); count > 0; --count) {
      const std::string key = string();
      values[key] = value(take<uint32_t>());
    }
  }
  std::map<std::string, Value> values;

 private:
  template <typename T> T take() {
    T value{};
    in_.read(reinterpret_cast<char*>(&value), sizeof value);
    if (!in_) throw std::runtime_error("truncated GGUF file");
    return value;
  }
  std::string string() {
    std::string text(take<uint64_t>(), '\0');
    in_.read(text.data(), static_cast<std::streamsize>(text.size()));
    return text;
  }
  double number(uint32_t type) {
    switch (type) {
    case 0:
      return take<uint8_t>();
    case 1:
      return take<int8_t>();
    case 2:
      return take<uint16_t>();
    case 3:
      return take<int16_t>();
    case 4:
      return take<uint32_t>();
    case 5:
      return take<int32_t>();
    case 6:
      return take<float>();
    case 7:
      return take<uint8_t>();
    case 10:
      return static_cast<double>(take<uint64_t>());
    case 11:
      return static_cast<double>(take<int64_t>());
    case 12:
      return take<double>();
    default:
      throw std::runtime_error("unknown GGUF type");
    }
  }
  Value value(uint32_t type) {
    Value result;
    if (type == 8) {
      result.text = string();
    } else if (type == 9) {
      const auto element = take<uint32_t>();
      for (auto count = take<uint64_t>(); count > 0; --count) {
        if (element == 8)
          result.texts.push_back(string());
        else
          result.numbers.push_back(number(element));
      }
    } else {
      result.number = static_cast<int64_t>(number(type));
    }
    return result;
  }
  std::ifstream in_;
};

} // namespace

GgufVocabulary read_vocabulary(const std::filesystem::path& path) {
  const Reader reader(path);
  const auto find = [&](const std::string& key) {
    const auto found = reader.values.find("tokenizer.ggml." + key);
    return found == reader.values.end() ? nullptr : &found->second;
  };
  const auto id = [&](const std::string& key) -> std::optional<int32_t> {
    const Value* value = find(key);
    return value ? std::optional(static_cast<int32_t>(value->number)) : std::nullopt;
  };
  const auto flag = [&](const std::string& key) -> std::optional<bool> {
    const Value* value = find(key);
    return value ? std::optional(value->number != 0) : std::nullopt;
  };
  GgufVocabulary vocabulary;
  vocabulary.model = find("model")->text;
  if (find("pre")) vocabulary.pre = find("pre")->text;
  if (const auto name = reader.values.find("general.name"); name != reader.values.end())
    vocabulary.model_name = name->second.text;
  vocabulary.tokens = find("tokens")->texts;
  if (find("merges")) vocabulary.merges = find("merges")->texts;
  if (find("scores")) vocabulary.scores.assign(find("scores")->numbers.begin(), find("scores")->numbers.end());
  if (find("token_type"))
    for (const double type : find("token_type")->numbers) vocabulary.token_types.push_back(static_cast<int32_t>(type));
  vocabulary.bos_id = id("bos_token_id");
  vocabulary.eos_id = id("eos_token_id");
  vocabulary.unk_id = id("unknown_token_id");
  vocabulary.pad_id = id("padding_token_id");
  vocabulary.eot_id = id("eot_token_id");
  vocabulary.eom_id = id("eom_token_id");
  vocabulary.add_bos = flag("add_bos_token");
  vocabulary.add_eos = flag("add_eos_token");
  vocabulary.add_space_prefix = flag("add_space_prefix");
  return vocabulary;
}

std::string read_metadata_string(const std::filesystem::path& path, const std::string& key) {
  const Reader reader(path);
  const auto found = reader.values.find(key);
  return found == reader.values.end() ? "" : found->second.text;
}

} // namespace quire::test
