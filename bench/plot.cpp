#include "bench/plot.hpp"

#include "quire/error.hpp"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <iomanip>
#include <sstream>

namespace quire::bench {

namespace {

void write_file(const std::filesystem::path& file, const std::string& text) {
  std::ofstream out(file, std::ios::binary);
  out << text;
  if (!out.flush()) throw Error("can't write `" + file.string() + "`: is there such a folder, and may it be written?");
}

std::string number(double value, int digits) {
  std::ostringstream out;
  out << std::fixed << std::setprecision(digits) << value;
  return out.str();
}

std::string escaped(const std::string& text) {
  std::string result;
  for (const char c : text) {
    if (c == '<')
      result += "&lt;";
    else if (c == '&')
      result += "&amp;";
    else
      result += c;
  }
  return result;
}

// A step of 1, 2 or 5 times a power of ten that divides `top` into at most six.
double tick_step(double top) {
  const double rough = top / 6, power = std::pow(10, std::floor(std::log10(rough)));
  for (const double factor : {1.0, 2.0, 5.0})
    if (factor * power >= rough) return factor * power;
  return 10 * power;
}

} // namespace

void write_csv(const std::filesystem::path& file, const Table& table) {
  std::ostringstream out;
  out << table.label;
  for (const std::string& column : table.columns) out << ',' << column;
  out << '\n';
  for (std::size_t r = 0; r < table.rows.size(); ++r) {
    out << table.rows[r];
    for (const double cell : table.cells[r]) out << ',' << (std::isnan(cell) ? "" : number(cell, 3));
    out << '\n';
  }
  write_file(file, out.str());
}

void write_bar_chart(const std::filesystem::path& file, const BarChart& chart, const Table& table) {
  constexpr const char* kColours[] = {"#2f6db5", "#e08a2e", "#4f9e5f", "#b5485b", "#7d6bb0", "#8a8a8a"};
  constexpr double kWidth = 720, kHeight = 360, kLeft = 60, kRight = 16, kTop = 64, kBottom = 44;
  double top = 0;
  for (const auto& row : table.cells) {
    double sum = 0;
    for (const double cell : row)
      if (!std::isnan(cell)) sum = chart.stacked ? sum + cell : std::max(sum, cell);
    top = std::max(top, sum);
  }
  const double step = tick_step(top > 0 ? top : 1);
  top = std::ceil(top / step - 1e-9) * step;
  const double plot_width = kWidth - kLeft - kRight, plot_height = kHeight - kTop - kBottom;
  const auto y_of = [&](double value) { return kTop + plot_height * (1 - value / top); };

  std::ostringstream out;
  out << "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 " << kWidth << ' ' << kHeight
      << "\" font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" "
         "fill=\"#ffffff\"/>\n<text x=\""
      << kLeft << "\" y=\"20\" font-size=\"14\" font-weight=\"bold\" fill=\"#222\">" << escaped(chart.title)
      << "</text>\n";
  double legend_x = kLeft;
  for (std::size_t c = 0; c < table.columns.size(); ++c) {
    out << "<rect x=\"" << number(legend_x, 0) << "\" y=\"34\" width=\"11\" height=\"11\" fill=\""
        << kColours[c % std::size(kColours)] << "\"/><text x=\"" << number(legend_x + 16, 0)
        << "\" y=\"44\" fill=\"#222\">" << escaped(table.columns[c]) << "</text>\n";
    legend_x += 34 + 6.6 * static_cast<double>(table.columns[c].size());
  }
  const int digits = step < 1 ? static_cast<int>(std::ceil(-std::log10(step) - 1e-9)) : 0;
  for (double tick = 0; tick <= top + step / 2; tick += step)
    out << "<line x1=\"" << kLeft << "\" x2=\"" << kWidth - kRight << "\" y1=\"" << number(y_of(tick), 1) << "\" y2=\""
        << number(y_of(tick), 1) << "\" stroke=\"#ddd\"/><text x=\"" << kLeft - 6 << "\" y=\""
        << number(y_of(tick) + 4, 1) << "\" text-anchor=\"end\" fill=\"#444\">" << number(tick, digits) << "</text>\n";
  out << "<text x=\"14\" y=\"" << kTop + plot_height / 2 << "\" transform=\"rotate(-90 14 " << kTop + plot_height / 2
      << ")\" text-anchor=\"middle\" fill=\"#444\">" << escaped(chart.unit) << "</text>\n";
  const double slot = plot_width / static_cast<double>(table.rows.size());
  for (std::size_t r = 0; r < table.rows.size(); ++r) {
    const double x0 = kLeft + slot * static_cast<double>(r), gap = slot * 0.15;
    const double bar = chart.stacked ? slot - 2 * gap : (slot - 2 * gap) / static_cast<double>(table.columns.size());
    double below = 0;
    for (std::size_t c = 0; c < table.columns.size(); ++c) {
      const double value = table.cells[r][c];
      if (std::isnan(value)) continue;
      const double x = x0 + gap + (chart.stacked ? 0 : bar * static_cast<double>(c)), from = chart.stacked ? below : 0;
      out << "<rect x=\"" << number(x, 1) << "\" y=\"" << number(y_of(from + value), 1) << "\" width=\""
          << number(chart.stacked ? bar : bar * 0.92, 1) << "\" height=\"" << number(y_of(from) - y_of(from + value), 1)
          << "\" fill=\"" << kColours[c % std::size(kColours)] << "\"><title>"
          << escaped(table.rows[r] + ", " + table.columns[c]) << ": " << number(value, 2) << "</title></rect>\n";
      below += value;
    }
    out << "<text x=\"" << number(x0 + slot / 2, 1) << "\" y=\"" << kHeight - kBottom + 18
        << "\" text-anchor=\"middle\" fill=\"#222\">" << escaped(table.rows[r]) << "</text>\n";
  }
  out << "</svg>\n";
  write_file(file, out.str());
}

} // namespace quire::bench
