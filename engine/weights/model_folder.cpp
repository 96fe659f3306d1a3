// A Hugging Face folder: which files it has, its configuration, templates and shards.
#include "quire/error.hpp"
#include "weights/gguf_names.hpp"
#include "weights/model_state.hpp"
#include "weights/safetensors.hpp"
#include "weights/sentence.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <set>

namespace quire {
namespace {

namespace fs = std::filesystem;

// File names in the folder that end so, sorted.
std::vector<std::string> names_ending(const fs::path& folder, std::initializer_list<const char*> endings) {
  std::vector<std::string> names;
  std::error_code code;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, code)) {
    const std::string name = entry.path().filename().string();
    for (const char* ending : endings)
      if (name.ends_with(ending)) names.push_back(name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::string listed(const std::vector<std::string>& names) {
  std::string text;
  for (size_t i = 0; i < names.size() && i < 8; ++i) text += (i ? ", " : "") + names[i];
  return names.size() > 8 ? text + " …" : text;
}

bool is_pickle_name(std::string_view name) {
  for (const std::string_view ending : {".bin", ".pt", ".pth", ".ckpt", ".pkl"})
    if (name.ends_with(ending)) return true;
  return false;
}

[[noreturn]] void refuse_pickle(const std::string& names) {
  throw Error(names +
              ": pickle files can run code when they are read, so Quire refuses them; convert the model to safetensors "
              "(transformers: model.save_pretrained(DIR, safe_serialization=True))");
}

// What newer and older checkpoints call the same tensor: multimodal ones wrap their language model, base models lack
// «model.», Mixtral has its own word for the router.
std::string canonical_name(const std::string& stored, bool bare) {
  const auto without = [&](std::string_view prefix) { return stored.substr(prefix.size()); };
  std::string name = stored;
  if (stored.starts_with("language_model."))
    name = without("language_model.");
  else if (stored.starts_with("model.language_model."))
    name = "model." + without("model.language_model.");
  else if (bare && stored != "lm_head.weight")
    name = "model." + stored;
  constexpr std::string_view router = ".block_sparse_moe.gate.weight";
  if (name.ends_with(router)) name.replace(name.size() - router.size(), router.size(), ".mlp.gate.weight");
  return name;
}

// `bos_token` is a string or an object with `content`.
void flatten_token(Config& config, const std::string& key) {
  const std::string* content = config.string(key + ".content");
  if (content && !config.string(key)) config.set(key, std::string(*content));
}

void add_eos(const Config& config, std::vector<int32_t>& ids) {
  const auto add = [&](std::optional<int64_t> id) {
    if (!id || *id < 0 || *id > INT32_MAX) return;
    if (std::find(ids.begin(), ids.end(), static_cast<int32_t>(*id)) == ids.end())
      ids.push_back(static_cast<int32_t>(*id));
  };
  add(config.integer("eos_token_id"));
  for (uint64_t i = 0, n = config.length("eos_token_id").value_or(0); i < n; ++i)
    add(config.integer("eos_token_id." + std::to_string(i)));
}

} // namespace

uint64_t available_memory_bytes() {
  std::ifstream file("/proc/meminfo");
  std::string word;
  uint64_t kib = 0;
  while (file >> word)
    if (word == "MemAvailable:" && file >> kib) return kib << 10;
  return UINT64_MAX;
}

std::string read_text(const fs::path& path, uint64_t max_bytes) {
  std::error_code code;
  const auto size = fs::file_size(path, code);
  if (code) throw Error(path.string() + " cannot be read: " + code.message());
  if (size > max_bytes)
    throw Error(path.string() + " has " + std::to_string(size) + " bytes, more than the " + std::to_string(max_bytes) +
                " allowed for such a file");
  std::ifstream file(path, std::ios::binary);
  std::string text(size, '\0');
  file.read(text.data(), static_cast<std::streamsize>(size));
  if (!file) throw Error(path.string() + " cannot be read: " + std::strerror(errno));
  return text;
}

void ModelFiles::State::read_configuration(const fs::path& path) {
  folder = path.parent_path();
  if (!fs::exists(path))
    throw Error(path.string() + " is missing: a model's folder holds config.json beside its weights; fetch it too");
  config = Config::from_json(read_text(path), path.filename().string());
  if (fs::exists(folder / "tokenizer.json")) tokenizer_json = folder / "tokenizer.json";

  if (const fs::path file = folder / "tokenizer_config.json"; fs::exists(file))
    tokenizer_config = Config::from_json(read_text(file), "tokenizer_config.json");
  for (const char* key : {"bos_token", "eos_token", "unk_token", "pad_token"}) flatten_token(tokenizer_config, key);

  // Templates: one string, or a list of named ones, of which «default» is the default; files count for more.
  if (const std::string* text = tokenizer_config.string("chat_template")) chat_templates.emplace("", *text);
  for (uint64_t i = 0, n = tokenizer_config.length("chat_template").value_or(0); i < n; ++i) {
    const std::string key = "chat_template." + std::to_string(i);
    const std::string* name_of = tokenizer_config.string(key + ".name");
    const std::string* text = tokenizer_config.string(key + ".template");
    if (name_of && text) chat_templates.insert_or_assign(*name_of == "default" ? "" : *name_of, *text);
  }
  if (const fs::path file = folder / "chat_template.json"; fs::exists(file))
    if (const std::string* text = Config::from_json(read_text(file), "chat_template.json").string("chat_template"))
      chat_templates.insert_or_assign("", *text);
  if (const fs::path file = folder / "chat_template.jinja"; fs::exists(file))
    chat_templates.insert_or_assign("", read_text(file, 16u << 20));
  const fs::path more = folder / "additional_chat_templates";
  for (const std::string& file : names_ending(more, {".jinja"}))
    chat_templates.insert_or_assign(file.substr(0, file.size() - 6), read_text(more / file, 16u << 20));

  if (const fs::path file = folder / "generation_config.json"; fs::exists(file)) {
    const Config generation = Config::from_json(read_text(file), "generation_config.json");
    add_eos(generation, defaults.eos_token_ids);
    defaults.do_sample = generation.boolean("do_sample");
    defaults.temperature = generation.real("temperature");
    defaults.top_p = generation.real("top_p");
    defaults.min_p = generation.real("min_p");
    defaults.repetition_penalty = generation.real("repetition_penalty");
    defaults.top_k = generation.integer("top_k");
  }
  if (defaults.eos_token_ids.empty()) add_eos(config, defaults.eos_token_ids);
}

void ModelFiles::State::open_file(const fs::path& path) {
  const std::string extension = path.extension().string();
  if (extension == ".json") {
    if (!options.dummy)
      throw Error(path.string() +
                  " is a configuration without weights: give --model the model's folder, or add --load-format dummy");
    return read_configuration(path);
  }
  if (extension == ".safetensors") {
    read_configuration(path.parent_path() / "config.json");
    if (!options.dummy) open_safetensors(path);
    return;
  }
  if (!fs::is_regular_file(path))
    throw Error(path.string() + " is not a regular file: give --model a .gguf file or a folder");
  char magic[4] = {};
  std::ifstream(path, std::ios::binary).read(magic, sizeof magic);
  const std::string_view start(magic, sizeof magic);
  if (start.starts_with("PK\3\4") || start.starts_with("\x80") || is_pickle_name(path.filename().string()))
    refuse_pickle(path.filename().string());
  open_gguf(path);
}

void ModelFiles::State::open_folder(const fs::path& path) {
  const bool has_config = fs::exists(path / "config.json");
  const std::vector<std::string> shards = names_ending(path, {".safetensors"});
  if (has_config && (options.dummy || !shards.empty())) {
    read_configuration(path / "config.json");
    if (options.dummy) return;
    if (fs::exists(path / "model.safetensors.index.json") || !fs::exists(path / "model.safetensors"))
      return open_safetensors(path);
    return open_safetensors(path / "model.safetensors");
  }
  // GGUF files; a split model counts once, and the projectors of multimodal models don't.
  std::set<std::string> models;
  for (const std::string& name_of : names_ending(path, {".gguf"})) {
    if (name_of.starts_with("mmproj")) continue;
    const auto split = gguf_split(name_of);
    models.insert(split ? gguf_part_name(*split, 1) : name_of);
  }
  if (models.size() == 1) return open_gguf(path / *models.begin());
  if (models.size() > 1)
    throw Error(path.string() + " holds several models (" + listed({models.begin(), models.end()}) +
                "): give --model one of these files");
  if (!shards.empty()) return read_configuration(path / "config.json"); // throws: it is missing
  const std::vector<std::string> pickles = names_ending(path, {".bin", ".pt", ".pth", ".ckpt", ".pkl"});
  if (!pickles.empty()) refuse_pickle(listed(pickles));
  throw Error(path.string() + " holds no model: expected config.json with *.safetensors, or a .gguf file" +
              (has_config ? " (it has config.json: --load-format dummy makes up the weights)" : ""));
}

void ModelFiles::State::open_safetensors(const fs::path& path) {
  const bool is_folder = fs::is_directory(path);
  const fs::path index_file = path / "model.safetensors.index.json";
  std::map<std::string, std::string> shard_of;
  std::set<std::string> names;
  if (is_folder && fs::exists(index_file)) {
    shard_of = parse_safetensors_index(read_text(index_file), "model.safetensors.index.json");
    for (const auto& [tensor, shard] : shard_of) names.insert(shard);
    if (names.empty()) throw Error("model.safetensors.index.json: `weight_map` is empty: fetch it again");
  } else if (is_folder) {
    const std::vector<std::string> found = names_ending(path, {".safetensors"});
    for (const std::string& name_of : found)
      if (found.size() == 1 || name_of.starts_with("model")) names.insert(name_of);
    if (names.empty())
      throw Error(path.string() + " holds several files (" + listed(found) +
                  ") and no model.safetensors.index.json that says which belong together: fetch it too");
  } else {
    names.insert(path.filename().string());
  }

  std::vector<std::vector<SafetensorsTensor>> parsed;
  bool bare = false, wrapped = false; // «embed_tokens.weight» without «model.»
  for (const std::string& name_of : names) {
    const fs::path file = (is_folder ? path : path.parent_path()) / name_of;
    if (!fs::exists(file))
      throw Error(file.string() + " is missing: model.safetensors.index.json names it as a shard; fetch it too");
    files.push_back(MappedFile::open(file));
    try {
      parsed.push_back(parse_safetensors(files.back()->bytes(), name_of));
    } catch (const Error&) {
      files.back()->check_unchanged();
      throw;
    }
    files.back()->check_unchanged();
    for (const SafetensorsTensor& tensor : parsed.back()) {
      bare |= tensor.name == "embed_tokens.weight";
      wrapped |= tensor.name.starts_with("model.");
    }
  }
  std::set<std::string> seen;
  for (uint32_t file = 0; file < parsed.size(); ++file)
    for (SafetensorsTensor& tensor : parsed[file]) {
      const std::string label_of = files[file]->file_name();
      if (!shard_of.empty()) { // what the index does not place here is not part of the model
        const auto place = shard_of.find(tensor.name);
        if (place == shard_of.end() || place->second != label_of) continue;
        seen.insert(tensor.name);
      }
      std::string canonical = canonical_name(tensor.name, bare && !wrapped);
      if (!tensor.format) {
        unreadable.emplace(std::move(canonical),
                           label_of + ": tensor " + in_quotes(tensor.name) + " has the dtype " + tensor.dtype);
        continue;
      }
      if (tensor.shape.empty()) tensor.shape = {1};
      add({std::move(canonical), tensor.name, *tensor.format, tensor.shape, files[file]->bytes().data() + tensor.offset,
           tensor.bytes, file, tensor.offset});
    }
  for (const auto& [tensor, shard] : shard_of)
    if (!seen.contains(tensor))
      throw Error("model.safetensors.index.json: tensor " + in_quotes(tensor) + " is not in its shard " +
                  in_quotes(shard) + ": the index and the shards are of different versions; fetch them again");
}

} // namespace quire
