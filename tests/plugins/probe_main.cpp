// probe-plugin FILE…: probes each, prints the reports; exit code 0 if all work.
#include "plugin_probe.hpp"

#include <cstdio>

int main(int count, char** files) {
  int failed = 0;
  for (int i = 1; i < count; ++i) {
    const quire::ProbeResult result = quire::probe_plugin(files[i]);
    std::puts(result.report.c_str());
    if (!result.ok) failed = 1;
  }
  return failed;
}
