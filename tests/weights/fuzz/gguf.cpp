// Fuzzes the GGUF parser and everything that reads its metadata. sources: engine/weights/gguf.cpp
// engine/weights/gguf_names.cpp engine/weights/gguf_vocabulary.cpp engine/weights/config.cpp
// engine/weights/mapped_file.cpp libraries: boost_json
#include "weights/gguf.hpp"
#include "quire/error.hpp"
#include "text/gguf_vocabulary.hpp"
#include "weights/gguf_names.hpp"
#include "weights/model_files.hpp"

#include <cstdint>
#include <cstdlib>
#include <vector>

namespace {

template <class Read> void guarded(Read&& read) {
  try {
    read();
  } catch (const quire::Error&) {
  }
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  guarded([&] {
    const auto bytes = std::as_bytes(std::span(data, size));
    const auto file = quire::GgufFile::parse(bytes, "fuzz.gguf");
    uint64_t sum = 0;
    std::vector<const quire::GgufTensor*> tensors;
    for (const quire::GgufTensor& tensor : file->tensors()) {
      for (const std::byte byte : file->data(tensor)) sum += static_cast<uint64_t>(byte);
      const std::string name = quire::hugging_face_name(tensor.name, "llama", true);
      (void)quire::gguf_name(name, "gemma2");
      tensors.push_back(&tensor);
    }
    if (sum == UINT64_MAX) std::abort(); // the reads can't be optimised away
    guarded([&] { (void)quire::gguf_config(*file, tensors).to_json(); });
    guarded([&] { (void)quire::gguf_vocabulary(*file); });
    guarded([&] { (void)quire::gguf_tokenizer_config(*file); });
    guarded([&] { (void)quire::gguf_chat_templates(*file); });
    guarded([&] { (void)quire::gguf_generation_defaults(*file); });
  });
  return 0;
}
