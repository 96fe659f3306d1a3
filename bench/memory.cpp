#include "bench/memory.hpp"

#include "bench/memory_figures.hpp"
#include "bench/plot.hpp"

#include <cmath>
#include <cstdio>
#include <limits>

namespace quire::bench {

namespace {

void print_table(const std::vector<Figure>& figures) {
  std::string study;
  for (const Figure& figure : figures) {
    if (figure.study != study) std::printf("\n%s\n", figure.study.c_str());
    study = figure.study;
    std::printf("  %-58s %9.2f %-12s", figure.what.c_str(), figure.value, figure.unit.c_str());
    if (!std::isnan(figure.paper))
      std::printf(" paper %8.2f  %+6.1f %%", figure.paper, 100 * (figure.value / figure.paper - 1));
    std::printf("\n");
  }
}

void print_json(const std::vector<Figure>& figures) {
  std::printf("[");
  for (std::size_t i = 0; i < figures.size(); ++i) {
    const Figure& f = figures[i];
    std::printf("%s\n {\"study\": \"%s\", \"what\": \"%s\", \"unit\": \"%s\", \"value\": %.6g, \"paper\": ",
                i ? "," : "", f.study.c_str(), f.what.c_str(), f.unit.c_str(), f.value);
    if (std::isnan(f.paper))
      std::printf("null}");
    else
      std::printf("%.6g}", f.paper);
  }
  std::printf("\n]\n");
}

} // namespace

int run_memory_study(const MemoryStudyOptions& options) {
  if (!options.out_dir.empty()) std::filesystem::create_directories(options.out_dir);
  std::vector<Figure> figures;
  for (const auto study : {study_baselines, study_sharing, study_prefix_and_chat, study_block_size, study_preemption})
    study(options, figures);
  if (options.json)
    print_json(figures);
  else
    print_table(figures);
  return 0;
}

} // namespace quire::bench
