// A probe survives whatever a plugin does, and says in one line what it did.
#include "plugin_probe.hpp"

#include "build_paths.hpp"
#include "support/temp_folder.hpp"

#include <gtest/gtest.h>

#include <fstream>

namespace quire {
namespace {

using namespace std::chrono_literals;
using test::misfit_file;
using test::plugin_file;

// The last line of a probe's report, without the file's name.
std::string verdict(const std::filesystem::path& file, std::chrono::milliseconds timeout = 20s) {
  const ProbeResult result = probe_plugin(file, timeout);
  const size_t newline = result.report.rfind('\n');
  const std::string last = newline == std::string::npos ? result.report : result.report.substr(newline + 1);
  EXPECT_TRUE(last.starts_with(file.string() + ": ")) << result.report;
  EXPECT_EQ(result.ok, last == file.string() + ": works") << result.report;
  return last.substr(std::min(last.size(), file.string().size() + 2));
}

TEST(PluginProbe, FindsThatTheTreesPluginsWork) {
  const ProbeResult sampler = probe_plugin(plugin_file("mirostat"));
  EXPECT_TRUE(sampler.ok);
  EXPECT_EQ(sampler.report, "sampler mirostat " QUIRE_VERSION "\n64 tokens chosen, can be forked\n" +
                                plugin_file("mirostat").string() + ": works");
  const ProbeResult model = probe_plugin(plugin_file("llama"));
  EXPECT_TRUE(model.ok);
  EXPECT_NE(model.report.find("LlamaForCausalLM: a made-up configuration gives 26 ops, "), std::string::npos)
      << model.report;
}

TEST(PluginProbe, SurvivesACrash) {
  EXPECT_EQ(verdict(misfit_file("crashes")), "crashed with signal 11 (Segmentation fault) in choose");
}
TEST(PluginProbe, SurvivesAnAbortWhileLoading) {
  EXPECT_EQ(verdict(misfit_file("aborts_while_loading")), "crashed with signal 6 (Aborted) in loading it");
}
TEST(PluginProbe, StopsWhatHangs) {
  EXPECT_EQ(verdict(misfit_file("hangs"), 300ms), "did not answer within 0.3 s in choose and was stopped");
}
TEST(PluginProbe, StopsWhatHangsWhileLoading) {
  EXPECT_EQ(verdict(misfit_file("hangs_while_loading"), 300ms),
            "did not answer within 0.3 s in loading it and was stopped");
}
TEST(PluginProbe, NoticesThatTheProcessWasEnded) {
  EXPECT_EQ(verdict(misfit_file("exits")), "ended the process with code 0 in choose");
}
TEST(PluginProbe, NoticesATokenThatIsNotAllowed) {
  EXPECT_EQ(verdict(misfit_file("banned_token")), "chooses a token that is not allowed");
}
TEST(PluginProbe, NamesAMisfit) {
  EXPECT_EQ(verdict(misfit_file("wrong_kind")), "is of kind 9, expected 1 (backend), 2 (model) or 3 (sampler)");
}

TEST(PluginProbe, ReportsWhatAModelThrows) {
  const ProbeResult result = probe_plugin(misfit_file("throws_in_constructor"));
  EXPECT_NE(result.report.find("ThrowsForCausalLM: model plugin throws: thrown in the constructor\n"),
            std::string::npos)
      << result.report;
}

TEST(PluginProbe, NamesAFileThatIsNoPlugin) {
  const test::TempFolder folder;
  std::ofstream(folder.path() / "text.so") << "not a library";
  EXPECT_EQ(verdict(folder.path() / "text.so"), "is not an ELF file");
  EXPECT_EQ(verdict(folder.path() / "absent.so"), "can't be read: No such file or directory");
}

} // namespace
} // namespace quire
