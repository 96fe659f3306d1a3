#include "text/shared_files.hpp"

#include "weights/gguf.hpp"
#include "weights/gguf_names.hpp"
#include "weights/mapped_file.hpp"

namespace quire::test {

GgufVocabulary read_vocabulary(const std::filesystem::path& path) {
  return gguf_vocabulary(*GgufFile::open(MappedFile::open(path)));
}

} // namespace quire::test
