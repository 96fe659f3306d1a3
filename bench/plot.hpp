// Small tables as CSV files and as SVG bar charts, for the pages in docs/.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace quire::bench {

// Rows of named numbers. A cell that is NaN is left empty.
struct Table {
  std::string label;                      // of the first column
  std::vector<std::string> columns;       // of the numbers
  std::vector<std::string> rows;          // names
  std::vector<std::vector<double>> cells; // [rows][columns]
};

// Throws Error where the file can't be written.
void write_csv(const std::filesystem::path& file, const Table& table);

struct BarChart {
  std::string title, unit;
  bool stacked = false; // columns on top of each other; else side by side
};
// One group of bars a row, one colour a column.
void write_bar_chart(const std::filesystem::path& file, const BarChart& chart, const Table& table);

} // namespace quire::bench
