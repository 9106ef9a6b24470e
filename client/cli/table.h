// A table of text on standard output: a bold heading, columns as wide as their widest cell.
//
//   Table table({{"NAME"}, {"SIZE", Table::Align::kRight}});
//   table.Add({"model/wte", "147MiB"});
//   table.Print();
//
// Threading:  one thread at a time.
// Ownership:  holds its cells until Print.
// Errors:     none; a closed pipe is seen by Invocation::Finish.
// Limits:     Print may be called again after more rows (pages of a long list): widths only grow,
// and the heading is printed once.
#ifndef PENSTOCK_CLIENT_CLI_TABLE_H_
#define PENSTOCK_CLIENT_CLI_TABLE_H_

#include <string>
#include <vector>

namespace penstock::cli {

class Table {
 public:
  enum class Align { kLeft, kRight };
  struct Column {
    std::string heading;
    Align align = Align::kLeft;
  };

  explicit Table(std::vector<Column> columns);

  void Add(std::vector<std::string> cells);
  void Print();  // and forgets the rows

 private:
  void PrintRow(const std::vector<std::string>& cells, bool heading) const;

  const std::vector<Column> columns_;
  std::vector<size_t> widths_;
  std::vector<std::vector<std::string>> rows_;
  bool heading_printed_ = false;
};

// Columns that a person sees `text` take: code points of UTF-8, each counted as one.
size_t DisplayWidth(const std::string& text);

}  // namespace penstock::cli

#endif  // PENSTOCK_CLIENT_CLI_TABLE_H_
