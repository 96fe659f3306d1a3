// Plugins that fit are found in the stated order; each that misfits is one clear line, and nothing of it runs.
#include "plugin_host.hpp"

#include "build_paths.hpp"
#include "quire/plugin.hpp"
#include "support/temp_folder.hpp"

#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <optional>

namespace quire {
namespace {

namespace fs = std::filesystem;
using test::misfit_file;
using test::plugin_file;
using test::TempFolder;

PluginSearch only(std::vector<fs::path> paths) { return {std::move(paths), false, false}; }

// The end of the sentence with which a file misfits, or "".
std::string misfit_of(const fs::path& file) {
  try {
    load_plugin(file);
    return "";
  } catch (const Error& error) {
    return error.what();
  }
}

class ScopedVariable {
 public:
  ScopedVariable(const char* name, const std::string& value) : name_(name) {
    if (const char* old = std::getenv(name)) old_ = old;
    setenv(name, value.c_str(), 1);
  }
  ~ScopedVariable() { old_ ? setenv(name_, old_->c_str(), 1) : unsetenv(name_); }

 private:
  const char* name_;
  std::optional<std::string> old_;
};

TEST(PluginHost, LoadsTheModelAndTheSamplerOfTheTree) {
  PluginHost host;
  std::vector<std::string> log;
  host.load(only({plugin_file("llama"), plugin_file("mirostat")}),
            [&](const std::string& line) { log.push_back(line); });
  EXPECT_TRUE(log.empty());
  ASSERT_EQ(host.plugins().size(), 2u);
  EXPECT_EQ(host.plugins()[0].id, "llama");
  EXPECT_EQ(host.plugins()[0].version, QUIRE_VERSION);
  EXPECT_EQ(host.plugins()[0].path, fs::canonical(plugin_file("llama")));
  EXPECT_EQ(host.find_model("Qwen2ForCausalLM"), &host.plugins()[0]);
  EXPECT_EQ(&host.model("GraniteForCausalLM"), &host.plugins()[0]);
  EXPECT_EQ(&host.sampler("mirostat"), &host.plugins()[1]);
  EXPECT_EQ(host.models().size(), 1u);
  EXPECT_EQ(host.samplers().size(), 1u);
  EXPECT_TRUE(host.backends().empty());
}

TEST(PluginHost, SaysInOneLineHowEachMisfits) {
  EXPECT_EQ(misfit_of(misfit_file("wrong_size")), "describes itself in 48 bytes, expected 40");
  EXPECT_EQ(misfit_of(misfit_file("wrong_major")),
            "is made for plugin ABI 2, this is 1: build it against this version's headers");
  EXPECT_EQ(misfit_of(misfit_file("newer_minor")),
            "needs plugin ABI 1.8, this is 1.1: update Quire, or build it against this version's headers");
  EXPECT_EQ(misfit_of(misfit_file("wrong_kind")), "is of kind 9, expected 1 (backend), 2 (model) or 3 (sampler)");
  EXPECT_EQ(misfit_of(misfit_file("reserved")), "sets a reserved field");
  EXPECT_EQ(misfit_of(misfit_file("no_id")), "has no id of 1 to 32 lower-case letters, digits, `_` and `-`");
  EXPECT_EQ(misfit_of(misfit_file("no_version")), "has no version of 1 to 64 printable characters");
  EXPECT_EQ(misfit_of(misfit_file("no_table")), "has no table");
  EXPECT_EQ(misfit_of(misfit_file("small_table")), "says that its sampler table has 8 bytes");
  EXPECT_EQ(misfit_of(misfit_file("missing_entry")), "lacks the entry `choose`");
  EXPECT_EQ(misfit_of(misfit_file("older_table")), "lacks the entry `close`");
  EXPECT_EQ(misfit_of(misfit_file("no_symbol")), "is no Quire plugin: it has no symbol quire_plugin_v1");
  EXPECT_EQ(misfit_of(misfit_file("hidden_symbol")), "is no Quire plugin: it has no symbol quire_plugin_v1");
}

// The first `bytes` of the llama plugin.
fs::path truncated_plugin(const fs::path& folder, uint64_t bytes) {
  const fs::path file = folder / "truncated.so";
  fs::copy_file(plugin_file("llama"), file, fs::copy_options::overwrite_existing);
  fs::resize_file(file, bytes);
  return file;
}

TEST(PluginHost, RefusesWhatIsNoWholeLibrary) {
  const TempFolder folder;
  const fs::path text = folder.path() / "text.so", empty = folder.path() / "empty.so",
                 noise = folder.path() / "noise.so";
  std::ofstream(text) << "not a library";
  std::ofstream(empty).flush();
  std::ofstream(noise) << "\x7f"
                          "ELF"
                       << std::string(60, '\xff');
  EXPECT_EQ(misfit_of(text), "is not an ELF file");
  EXPECT_EQ(misfit_of(empty), "is not an ELF file");
  EXPECT_EQ(misfit_of(noise), "is made for another kind of machine");
  EXPECT_EQ(misfit_of(folder.path()), "is not a regular file");
  EXPECT_EQ(misfit_of(folder.path() / "absent.so"), "can't be read: No such file or directory");
  EXPECT_EQ(misfit_of(test::build_root() / "tests" / "plugins" / "test-plugins.p" / "plugin_host_test.cpp.o"),
            "is an ELF file, but not a shared library");

  const uint64_t whole = fs::file_size(plugin_file("llama"));
  for (const uint64_t bytes :
       {uint64_t{5}, uint64_t{63}, uint64_t{64}, uint64_t{1000}, whole / 4, whole / 2, whole - 1}) {
    const std::string misfit = misfit_of(truncated_plugin(folder.path(), bytes));
    EXPECT_TRUE(misfit.starts_with("is truncated: ")) << bytes << ": " << misfit;
  }
}

TEST(PluginHost, ReadsHeadersThatLieWithoutBelievingThem) {
  const TempFolder folder;
  const fs::path file = folder.path() / "lying.so";
  std::ifstream original(plugin_file("mirostat"), std::ios::binary);
  const std::string whole{std::istreambuf_iterator<char>(original), {}};
  uint64_t sections = 0; // where the table of sections begins
  std::memcpy(&sections, whole.data() + 40, sizeof(sections));
  ASSERT_LT(sections, whole.size());
  // Bytes of the header and of the table of sections take other values: an answer in one line, never a crash.
  const bool full = std::getenv("QUIRE_FULL") != nullptr;
  size_t refused = 0;
  for (uint64_t at = 0; at < 64 + (whole.size() - sections); at += at < 64 || full ? 1 : 13) {
    for (const char value : {'\x00', '\x01', '\x7f', '\xff'}) {
      std::string lying = whole;
      lying[at < 64 ? at : sections + at - 64] = value;
      std::ofstream(file, std::ios::binary).write(lying.data(), static_cast<std::streamsize>(lying.size()));
      try {
        check_plugin_file(file);
      } catch (const Error& error) {
        ++refused;
        EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
      }
    }
  }
  EXPECT_GT(refused, 200u);
}

TEST(PluginHost, SkipsAMisfitInAFolderAndTakesTheRest) {
  const TempFolder folder;
  fs::copy_file(misfit_file("wrong_major"), folder.path() / "a.so");
  fs::copy_file(plugin_file("mirostat"), folder.path() / "b.so");
  std::ofstream(folder.path() / "notes.txt") << "not looked at";
  PluginHost host;
  std::vector<std::string> log;
  host.load(only({folder.path()}), [&](const std::string& line) { log.push_back(line); });
  ASSERT_EQ(host.plugins().size(), 1u);
  EXPECT_EQ(host.plugins()[0].id, "mirostat");
  ASSERT_EQ(host.skipped().size(), 1u);
  EXPECT_EQ(host.skipped()[0].path, folder.path() / "a.so");
  ASSERT_EQ(log.size(), 1u);
  EXPECT_EQ(log[0], "plugin " + (folder.path() / "a.so").string() +
                        " is made for plugin ABI 2, this is 1: build it against this version's headers; skipped");
  try {
    host.sampler("a");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.what(),
              "no sampler `a`; there are: mirostat; " + (folder.path() / "a.so").string() +
                  " was skipped: it is made for plugin ABI 2, this is 1: build it against this version's headers");
  }
}

TEST(PluginHost, AMisfitAskedForByNameIsAnError) {
  PluginHost host;
  try {
    host.load(only({misfit_file("wrong_kind")}));
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.what(), "plugin " + fs::canonical(misfit_file("wrong_kind")).string() +
                                " is of kind 9, expected 1 (backend), 2 (model) or 3 (sampler)");
  }
}

TEST(PluginHost, TheFirstOfTwoWithOneIdWins) {
  const TempFolder first, second;
  fs::copy_file(plugin_file("mirostat"), first.path() / "m.so");
  fs::copy_file(plugin_file("mirostat"), second.path() / "m.so");
  fs::create_symlink(first.path() / "m.so", second.path() / "again.so"); // the same file is not a second plugin
  PluginHost host;
  std::vector<std::string> log;
  host.load(only({first.path(), second.path()}), [&](const std::string& line) { log.push_back(line); });
  ASSERT_EQ(host.plugins().size(), 1u);
  EXPECT_EQ(host.plugins()[0].path, first.path() / "m.so");
  ASSERT_EQ(log.size(), 1u);
  EXPECT_EQ(log[0], "plugin " + (second.path() / "m.so").string() +
                        " is hidden by another sampler `mirostat`, found first in " + (first.path() / "m.so").string() +
                        "; skipped");
}

TEST(PluginHost, SearchesTheEnvironmentButNeverTheCurrentFolder) {
  const TempFolder folder, current;
  fs::copy_file(plugin_file("mirostat"), folder.path() / "m.so");
  fs::copy_file(plugin_file("llama"), current.path() / "llama.so");
  const fs::path before = fs::current_path();
  fs::current_path(current.path());
  const ScopedVariable variable("QUIRE_PLUGIN_PATH", "::.:" + folder.path().string() + ":/nowhere/at/all");
  PluginHost host;
  std::vector<std::string> log;
  host.load({{}, true, false}, [&](const std::string& line) { log.push_back(line); });
  fs::current_path(before);
  ASSERT_EQ(host.plugins().size(), 1u);
  EXPECT_EQ(host.plugins()[0].id, "mirostat");
  ASSERT_EQ(log.size(), 1u);
  EXPECT_EQ(log[0], "QUIRE_PLUGIN_PATH: `.` is ignored, as it is not an absolute path");
}

TEST(PluginHost, LooksBesideTheExecutableAndInTheInstallation) {
  const std::vector<fs::path> folders = installed_plugin_folders();
  ASSERT_FALSE(folders.empty());
  for (const fs::path& folder : folders) {
    EXPECT_TRUE(folder.is_absolute()) << folder;
    EXPECT_TRUE(folder.string().ends_with("quire/plugins")) << folder;
  }
  EXPECT_EQ(folders.front().string().rfind((test::build_root() / "tests").string(), 0), 0u) << folders.front();
}

TEST(PluginHost, WithoutModelsItSaysWhereToLook) {
  const PluginHost host;
  try {
    host.model("LlamaForCausalLM");
    FAIL();
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "no model plugin builds the architecture `LlamaForCausalLM`; there is no model plugin "
                               "at all: set QUIRE_PLUGIN_PATH to where they are");
  }
}

class OneDevice : public Backend {
 public:
  uint32_t device_count() override { return 1; }
  quire_device_info device_info(uint32_t) override { throw Failure(QUIRE_DEVICE_LOST, "gone"); }
  std::unique_ptr<Instance> create(const quire_create_options&) override { throw std::bad_alloc(); }
};

TEST(PluginHost, ABuiltInBackendGoesThroughTheSameTable) {
  PluginHost host;
  host.add_builtin(backend_plugin<OneDevice>("builtin", "1.0"));
  const quire_backend& backend = host.backend("builtin").backend;
  EXPECT_TRUE(host.backend("builtin").path.empty());
  CallStatus status;
  EXPECT_EQ(backend.device_count(backend.self, status), 1u);
  quire_device_info info{};
  backend.device_info(backend.self, 0, &info, status);
  EXPECT_EQ(status.code(), QUIRE_DEVICE_LOST);
  EXPECT_STREQ(status.message(), "gone");
  quire_create_options options{};
  options.struct_size = sizeof(options);
  EXPECT_EQ(backend.create(backend.self, &options, status), nullptr);
  EXPECT_EQ(status.code(), QUIRE_OUT_OF_MEMORY);
  // A field that this backend can't know must not be ignored.
  struct {
    quire_create_options known;
    uint64_t unknown = 1;
  } newer{};
  newer.known.struct_size = sizeof(newer);
  EXPECT_EQ(backend.create(backend.self, &newer.known, status), nullptr);
  EXPECT_EQ(status.code(), QUIRE_UNSUPPORTED);
  EXPECT_STREQ(status.message(),
               "the create options uses a field that plugin ABI 1.1 does not have: update what reads it");
  EXPECT_THROW(host.add_builtin(backend_plugin<OneDevice>("builtin", "1.0")), Error);
}

TEST(PluginGlue, WhatThrowsBecomesAStatus) {
  PluginHost host;
  for (const auto& [file, sentence] : {std::pair{"throws_in_constructor", "thrown in the constructor"},
                                       {"throws_in_entry", "an exception that is no std::exception"}}) {
    const Plugin plugin = load_plugin(misfit_file(file));
    quire_config config{};
    quire_builder builder{};
    for (int time = 0; time < 2; ++time) {
      CallStatus status;
      plugin.model.build(plugin.model.self, &config, &builder, status);
      EXPECT_EQ(status.code(), QUIRE_FAILED);
      EXPECT_STREQ(status.message(), sentence);
    }
  }
}

TEST(PluginGlue, ALongSentenceIsCutBeforeACharacter) {
  quire_status status{};
  set_status(&status, QUIRE_FAILED, (std::string(250, 'x') + "\xC3\xA4").c_str()); // 252 bytes and the end
  EXPECT_EQ(std::string(status.message), std::string(250, 'x'));
  set_status(&status, QUIRE_FAILED, (std::string(249, 'x') + "\xC3\xA4").c_str());
  EXPECT_EQ(std::string(status.message), std::string(249, 'x') + "\xC3\xA4");
}

} // namespace
} // namespace quire
