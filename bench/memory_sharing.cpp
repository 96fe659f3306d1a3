// The part of the memory study about what sharing saves.
#include "bench/memory_figures.hpp"
#include "bench/plot.hpp"
#include "bench/sharing.hpp"

namespace quire::bench {

void study_sharing(const MemoryStudyOptions& options, std::vector<Figure>& figures) {
  constexpr double kNone = std::nan("");
  const std::vector<BeamTrace> traces = read_beam_traces(options.beam_traces);
  const struct {
    Lengths lengths;
    double parallel[3], beam[3];
  } sets[] = {{alpaca(), {6.09, 8.53, 9.79}, {37.56, 53.13, 55.16}},
              {sharegpt(), {16.2, kNone, 30.5}, {44.3, kNone, 66.3}}};
  constexpr std::uint32_t kWidths[] = {2, 4, 6};
  Table table{"sequences a request", {}, {"parallel 2", "parallel 4", "parallel 6", "beam 2", "beam 4", "beam 6"}, {}};
  table.cells.assign(6, {});
  for (const auto& set : sets) {
    const auto requests = make_requests(set.lengths, 1, 400, options.seed);
    table.columns.push_back(set.lengths.name);
    table.columns.push_back(set.lengths.name + " paper");
    for (std::size_t i = 0; i < 3; ++i) {
      const std::string width = std::to_string(kWidths[i]);
      const double parallel = 100 * parallel_saving(requests, kWidths[i]).saved;
      const double beam = 100 * beam_saving(requests, kWidths[i], traces).saved;
      figures.push_back({"blocks saved by sharing", set.lengths.name + ", parallel sampling " + width, "%", parallel,
                         set.parallel[i]});
      figures.push_back(
          {"blocks saved by sharing", set.lengths.name + ", beam search " + width, "%", beam, set.beam[i]});
      table.cells[i].insert(table.cells[i].end(), {parallel, set.parallel[i]});
      table.cells[3 + i].insert(table.cells[3 + i].end(), {beam, set.beam[i]});
    }
  }
  if (options.out_dir.empty()) return;
  write_csv(options.out_dir / "sharing.csv", table);
  write_bar_chart(options.out_dir / "sharing.svg",
                  {"Blocks saved by sharing", "% of the blocks without sharing", false}, table);
}

} // namespace quire::bench
