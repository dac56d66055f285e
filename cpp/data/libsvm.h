// A strict, fast reader of the libsvm text format: bytes in, rows in CSR form out.
//
//   line     = [ label *( SP id ":" value ) ] [ "#" comment ] [ CR ] LF
//   label    = a decimal number            id    = 0 .. 2^64-1
//   value    = a finite decimal number that fits a float32
//
// Ids may come in any order. An id given twice in a line is legal and counts as two entries, whose
// values therefore add up in every product. Lines without a label and features are skipped.
// Ranking files (`qid:`) are refused.
//
// Pure functions: any thread may call them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace fastps {

enum class LabelRule {
  kBinary,    // -1, 0 or 1
  kAny,       // any finite number
  kNone,      // lines start with their first feature; NaN stands for the label
  kOptional,  // either, line by line
};

struct LibsvmOptions {
  int64_t first_line = 1;       // the number of the first line, for messages
  bool skip_bad_lines = false;  // count bad lines and go on; else the first one ends the parse
  LabelRule labels = LabelRule::kBinary;
};

struct LibsvmRows {
  std::vector<float> labels;    // (n_rows,)
  std::vector<int64_t> indptr;  // (n_rows + 1,); row i has the entries [indptr[i], indptr[i + 1])
  std::vector<uint64_t> ids;    // (n_entries,)
  std::vector<float> values;    // (n_entries,)

  int64_t n_bad = 0;              // bad lines met; at most 1 unless they are skipped
  int64_t first_bad_line = 0;     // 0: none
  std::string first_bad_message;  // what is wrong with it, with the offending token
};

// Reads all lines of `bytes`; the last one need not end with a newline. Memory is at most
// 12 bytes a ':' and 12 a line of the input, whatever the numbers in it say.
LibsvmRows ParseLibsvm(std::string_view bytes, const LibsvmOptions& options);

}  // namespace fastps
