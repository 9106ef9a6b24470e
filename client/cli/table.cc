#include "client/cli/table.h"

#include <algorithm>
#include <cstdio>

#include "client/cli/terminal.h"

namespace penstock::cli {

size_t DisplayWidth(const std::string& text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  }));
}

Table::Table(std::vector<Column> columns) : columns_(std::move(columns)) {
  for (const Column& column : columns_) widths_.push_back(column.heading.size());
}

void Table::Add(std::vector<std::string> cells) {
  for (size_t i = 0; i < cells.size(); ++i)
    widths_[i] = std::max(widths_[i], DisplayWidth(cells[i]));
  rows_.push_back(std::move(cells));
}

void Table::Print() {
  if (!heading_printed_) {
    std::vector<std::string> headings;
    for (const Column& column : columns_) headings.push_back(column.heading);
    PrintRow(headings, true);
    heading_printed_ = true;
  }
  for (const auto& row : rows_) PrintRow(row, false);
  rows_.clear();
}

void Table::PrintRow(const std::vector<std::string>& cells, bool heading) const {
  std::string line;
  for (size_t i = 0; i < cells.size(); ++i) {
    const std::string padding(widths_[i] - std::min(widths_[i], DisplayWidth(cells[i])), ' ');
    if (i > 0) line += "  ";
    if (columns_[i].align == Align::kRight) line += padding;
    line += cells[i];
    if (columns_[i].align == Align::kLeft && i + 1 < cells.size()) line += padding;
  }
  if (heading) line = Styled(Style::kBold, line);
  line += '\n';
  std::fwrite(line.data(), 1, line.size(), stdout);
}

}  // namespace penstock::cli
