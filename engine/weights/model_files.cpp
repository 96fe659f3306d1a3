#include "weights/model_files.hpp"

#include "quire/error.hpp"
#include "weights/formats.hpp"
#include "weights/gguf_names.hpp"
#include "weights/model_state.hpp"
#include "weights/sentence.hpp"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstring>

namespace quire {
namespace {

namespace fs = std::filesystem;

// Without leading ones: what counts when shapes are compared.
std::span<const uint64_t> significant(std::span<const uint64_t> shape) {
  while (shape.size() > 1 && shape.front() == 1) shape = shape.subspan(1);
  return shape;
}

bool same_shape(std::span<const uint64_t> a, std::span<const uint64_t> b) {
  return std::ranges::equal(significant(a), significant(b));
}

uint64_t alignment_of(uint32_t format) { return format == QUIRE_F32 ? 4 : 2; }

} // namespace

LoadOptions parse_load_format(std::string_view word) {
  LoadOptions options;
  if (word == "auto") return options;
  options.dummy = true;
  if (word == "dummy") return options;
  if (word.starts_with("dummy:"))
    if (const auto format = format_from_name(word.substr(6))) {
      options.dummy_format = *format;
      return options;
    }
  throw Error("--load-format " + in_quotes(word) +
              " is unknown: choose auto, dummy or dummy:FORMAT with FORMAT one of " + format_names());
}

std::string wrong_shape_sentence(std::string_view file, std::string_view tensor, std::span<const uint64_t> is,
                                 std::span<const uint64_t> expected, std::string_view config_source,
                                 std::string_view reason) {
  std::string sentence = std::string(file) + ": tensor " + in_quotes(tensor) + " is " + shape_text(is) + ", expected " +
                         shape_text(expected) + " from " + std::string(config_source);
  if (!reason.empty()) sentence += " (" + std::string(reason) + ")";
  return sentence;
}

ModelFiles::ModelFiles(std::unique_ptr<State> state) : state_(std::move(state)) {}
ModelFiles::~ModelFiles() = default;

std::unique_ptr<ModelFiles> ModelFiles::open(const fs::path& path, const LoadOptions& options) {
  auto state = std::make_unique<State>();
  state->options = options;
  std::error_code code;
  const fs::file_status status = fs::status(path, code);
  if (!fs::exists(status))
    throw Error(path.string() + " does not exist: give --model a .gguf file or a model's folder");
  fs::path absolute = fs::absolute(path, code).lexically_normal();
  if (!absolute.has_filename()) absolute = absolute.parent_path(); // «folder/»
  state->label = state->model_name = absolute.filename().string();
  if (fs::is_directory(status))
    state->open_folder(absolute);
  else
    state->open_file(absolute);
  state->finish();
  if (options.dummy) {
    state->from_gguf = false;
    if (state->config.has("gguf.rope_interleaved")) state->config.set("gguf.rope_interleaved", false);
    state->dummy = std::make_unique<DummyWeights>(state->config, options.dummy_format, options.dummy_seed,
                                                  options.dummy_in_memory);
  }
  if (!state->config.string("architectures.0"))
    throw Error(state->config.source() + ": `architectures` is missing: without it nobody knows what network this is");
  return std::unique_ptr<ModelFiles>(new ModelFiles(std::move(state)));
}

void ModelFiles::State::open_gguf(const fs::path& path) {
  std::vector<fs::path> parts = {path};
  const auto split = gguf_split(path.filename().string());
  if (split && split->parts > 1) {
    if (split->parts > 1000)
      throw Error(path.filename().string() + " claims to be one of " + std::to_string(split->parts) +
                  " parts: rename it");
    parts.clear();
    for (uint32_t part = 1; part <= split->parts; ++part)
      parts.push_back(path.parent_path() / gguf_part_name(*split, part));
    for (const fs::path& part : parts)
      if (!fs::exists(part))
        throw Error(part.string() + " is missing: the model is split into " + std::to_string(split->parts) +
                    " parts, which belong in one folder");
  }
  for (const fs::path& part : parts) {
    files.push_back(MappedFile::open(part));
    ggufs.push_back(GgufFile::open(files.back()));
  }
  const GgufFile& first = *ggufs.front();
  const int64_t count = first.integer("split.count").value_or(1);
  for (uint32_t part = 0; part < ggufs.size(); ++part) {
    if (ggufs[part]->integer("split.count").value_or(count) == static_cast<int64_t>(ggufs.size()) &&
        ggufs[part]->integer("split.no").value_or(part) == part)
      continue;
    throw Error(ggufs[part]->name() + " is part " + std::to_string(ggufs[part]->integer("split.no").value_or(0) + 1) +
                " of " + std::to_string(count) +
                " by its metadata, and its name says otherwise: give the parts their names back " +
                "(NAME-00001-of-00003.gguf)");
  }
  std::vector<const GgufTensor*> all;
  for (const auto& file : ggufs)
    for (const GgufTensor& tensor : file->tensors()) all.push_back(&tensor);
  from_gguf = true;
  config = gguf_config(first, all);
  tokenizer_config = gguf_tokenizer_config(first);
  chat_templates = gguf_chat_templates(first);
  defaults = gguf_generation_defaults(first);
  if (const auto given = first.string("general.name"); given && !given->empty()) model_name = *given;
  if (options.dummy) return;
  if (all.empty())
    throw Error(first.name() +
                " holds a vocabulary and no weights: give --model a file with weights, or add --load-format dummy");

  const std::string architecture(gguf_architecture(first));
  const bool experts = config.integer("num_local_experts").value_or(0) > 0;
  for (uint32_t file = 0; file < ggufs.size(); ++file)
    for (const GgufTensor& tensor : ggufs[file]->tensors()) {
      std::string hf = hugging_face_name(tensor.name, architecture, experts);
      if (!tensor.format) {
        unreadable.emplace(std::move(hf), files[file]->file_name() + ": tensor " + in_quotes(tensor.name) +
                                              " is of type " + ggml_type_name(tensor.ggml_type));
        continue;
      }
      add({std::move(hf), std::string(tensor.name), *tensor.format, tensor.shape, ggufs[file]->data(tensor).data(),
           tensor.bytes, file, tensor.offset});
    }
}

void ModelFiles::State::finish() {
  std::stable_sort(tensors.begin(), tensors.end(), [](const TensorEntry& a, const TensorEntry& b) {
    return a.file != b.file ? a.file < b.file : a.offset < b.offset;
  });
  for (const TensorEntry& tensor : tensors)
    if (!index.emplace(tensor.name, &tensor).second || unreadable.contains(tensor.name))
      throw Error(files[tensor.file]->file_name() + ": tensor " + in_quotes(tensor.stored_name) +
                  " is in the model twice: remove the files that do not belong to it");
}

const Config& ModelFiles::config() const { return state_->config; }
bool ModelFiles::from_gguf() const { return state_->from_gguf; }
bool ModelFiles::dummy() const { return state_->dummy != nullptr; }
bool ModelFiles::made_up() const { return dummy() || state_->config.boolean("quire.dummy").value_or(false); }
quire_config ModelFiles::quire_configuration() const { return as_quire_config(state_->config, state_->from_gguf); }
const std::string& ModelFiles::architecture() const { return *state_->config.string("architectures.0"); }
const std::string& ModelFiles::name() const { return state_->model_name; }
std::span<const TensorEntry> ModelFiles::tensors() const { return state_->tensors; }
std::span<const std::shared_ptr<const MappedFile>> ModelFiles::files() const { return state_->files; }
const std::optional<fs::path>& ModelFiles::tokenizer_json() const { return state_->tokenizer_json; }
const GgufFile* ModelFiles::gguf() const { return state_->ggufs.empty() ? nullptr : state_->ggufs.front().get(); }
const Config& ModelFiles::tokenizer_config() const { return state_->tokenizer_config; }
const GenerationDefaults& ModelFiles::generation_defaults() const { return state_->defaults; }

bool ModelFiles::has_tokenizer() const {
  return state_->tokenizer_json || (gguf() && gguf()->array("tokenizer.ggml.tokens"));
}

const std::string* ModelFiles::chat_template(std::string_view kind) const {
  const auto found = state_->chat_templates.find(kind);
  return found == state_->chat_templates.end() ? nullptr : &found->second;
}

uint64_t ModelFiles::total_bytes() const {
  if (state_->dummy) return state_->dummy->total_bytes();
  uint64_t total = 0;
  for (const TensorEntry& tensor : state_->tensors) total += tensor.bytes;
  return total;
}

const TensorEntry* ModelFiles::find(std::string_view name) const {
  const auto found = state_->index.find(name);
  if (found != state_->index.end()) return found->second;
  const auto refused = state_->unreadable.find(name);
  if (refused != state_->unreadable.end())
    throw Error(refused->second + ", which Quire can't compute with: convert it to one of " + format_names());
  return nullptr;
}

const TensorEntry* ModelFiles::weight(std::string_view name, std::span<const uint64_t> shape, bool optional,
                                      std::string_view reason) {
  assert(!shape.empty());
  if (state_->dummy) return state_->dummy->weight(name, significant(shape), optional);
  const TensorEntry* found = find(name);
  if (!found && shape.size() == 3) found = state_->stacked(name, shape[0]);
  if (!found && optional) return nullptr;
  if (!found)
    throw Error(state_->label + ": tensor " + in_quotes(name) +
                " is missing: the checkpoint is incomplete or its architecture is not what its configuration says");
  if (!same_shape(found->shape, shape)) {
    const std::string file =
        found->file < state_->files.size() ? state_->files[found->file]->file_name() : state_->label;
    throw Error(wrong_shape_sentence(file, name, found->shape, shape, state_->config.source(), reason));
  }
  if (reinterpret_cast<uintptr_t>(found->data) % alignment_of(found->format) != 0) found = state_->realigned(*found);
  return found;
}

const TensorEntry* ModelFiles::State::realigned(const TensorEntry& entry) {
  std::unique_ptr<Built>& made = built[entry.name];
  if (!made) {
    made = std::make_unique<Built>();
    made->entry = entry;
    made->memory.resize((entry.bytes + 7) / 8);
    std::memcpy(made->memory.data(), entry.data, entry.bytes);
    made->entry.data = reinterpret_cast<const std::byte*>(made->memory.data());
    made->entry.file = UINT32_MAX;
  }
  return &made->entry;
}

// «….mlp.experts.gate_proj.weight» from «….mlp.experts.E.gate_proj.weight» or Mixtral's
// «….block_sparse_moe.experts.E.w1.weight».
const TensorEntry* ModelFiles::State::stacked(std::string_view name, uint64_t experts) {
  constexpr std::string_view middle = ".mlp.experts.";
  const size_t at = name.find(middle);
  if (at == std::string_view::npos) return nullptr;
  if (const auto found = built.find(name); found != built.end()) return &found->second->entry;
  const std::string prefix(name.substr(0, at));
  const std::string_view rest = name.substr(at + middle.size());
  const std::string_view mixtral = rest == "gate_proj.weight"   ? "w1.weight"
                                   : rest == "down_proj.weight" ? "w2.weight"
                                   : rest == "up_proj.weight"   ? "w3.weight"
                                                                : "";
  std::vector<const TensorEntry*> pieces;
  for (uint64_t e = 0; e < experts; ++e) {
    auto found = index.find(prefix + ".mlp.experts." + std::to_string(e) + "." + std::string(rest));
    if (found == index.end() && !mixtral.empty())
      found = index.find(prefix + ".block_sparse_moe.experts." + std::to_string(e) + "." + std::string(mixtral));
    if (found == index.end()) {
      if (e == 0) return nullptr;
      throw Error(label + ": expert " + std::to_string(e) + " of " + in_quotes(name) +
                  " is missing: the checkpoint is incomplete or has fewer than the " + std::to_string(experts) +
                  " experts of " + config.source());
    }
    pieces.push_back(found->second);
    if (pieces[e]->format != pieces[0]->format || pieces[e]->shape != pieces[0]->shape)
      throw Error(files[pieces[e]->file]->file_name() + ": tensor " + in_quotes(pieces[e]->stored_name) +
                  " has another shape or type than expert 0: the checkpoint is damaged");
  }
  auto made = std::make_unique<Built>();
  made->entry = *pieces[0];
  made->entry.name = name;
  made->entry.shape.insert(made->entry.shape.begin(), experts);
  made->entry.bytes = pieces[0]->bytes * experts;
  made->entry.file = UINT32_MAX;
  made->memory.resize((made->entry.bytes + 7) / 8);
  auto* out = reinterpret_cast<std::byte*>(made->memory.data());
  made->entry.data = out;
  for (const TensorEntry* piece : pieces) {
    std::memcpy(out, piece->data, piece->bytes);
    out += piece->bytes;
  }
  return &built.emplace(std::string(name), std::move(made)).first->second->entry;
}

void ModelFiles::start_read_ahead() {
  uint64_t total = 0;
  for (const auto& file : state_->files) total += file->size();
  if (state_->dummy || total > available_memory_bytes() / 10 * 8) return;
  state_->read_ahead = std::jthread([files = state_->files](const std::stop_token& stop) {
    constexpr uint64_t stretch = 32 << 20;
    for (const auto& file : files)
      for (uint64_t at = 0; at < file->size() && !stop.stop_requested(); at += stretch) file->will_need(at, stretch);
  });
}

bool ModelFiles::damaged() const {
  for (const auto& file : state_->files)
    if (file->damaged()) return true;
  return false;
}

void ModelFiles::check_unchanged() const {
  for (const auto& file : state_->files) file->check_unchanged();
}

} // namespace quire
