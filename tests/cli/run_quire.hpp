// The built `quire` as a child process.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

namespace quire::test {

struct Ended {
  int code = -1;   // of exit; -1: by a signal
  int signal = 0;  // that ended it
  std::string out; // standard output and error
};

// QUIRE_BUILD names the build folder. Ends with the child, whatever it does.
inline Ended run_quire(const std::vector<std::string>& arguments) {
  const char* build = std::getenv("QUIRE_BUILD");
  const std::string program = (std::filesystem::path(build ? build : "build") / "cli" / "quire").string();
  int ends[2];
  Ended result;
  if (pipe2(ends, O_CLOEXEC) != 0) return result;
  const pid_t child = fork();
  if (child == 0) {
    dup2(ends[1], STDOUT_FILENO);
    dup2(ends[1], STDERR_FILENO);
    std::vector<char*> words{const_cast<char*>(program.c_str())};
    for (const std::string& a : arguments) words.push_back(const_cast<char*>(a.c_str()));
    words.push_back(nullptr);
    execv(program.c_str(), words.data());
    _exit(127);
  }
  close(ends[1]);
  char chunk[4096];
  for (ssize_t n; (n = read(ends[0], chunk, sizeof chunk)) > 0;) result.out.append(chunk, static_cast<size_t>(n));
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  if (WIFEXITED(status)) result.code = WEXITSTATUS(status);
  if (WIFSIGNALED(status)) result.signal = WTERMSIG(status);
  return result;
}

} // namespace quire::test
