#include "data/libsvm.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>

namespace fastps {
namespace {

constexpr size_t kTokenBytesShownMax = 40;

bool IsBlank(char c) { return c == ' ' || c == '\t' || c == '\r'; }

// True where a token may end: at the end of the line, a blank or a comment.
bool IsTokenEnd(const char* p, const char* end) { return p == end || IsBlank(*p) || *p == '#'; }

const char* SkipBlanks(const char* p, const char* end) {
  while (p != end && IsBlank(*p)) ++p;
  return p;
}

// The token at `p` for a message: quoted, shortened, bytes outside printable ASCII escaped.
std::string Quoted(const char* p, const char* end) {
  std::string text = "'";
  for (size_t n = 0; !IsTokenEnd(p, end); ++p, ++n) {
    if (n == kTokenBytesShownMax) {
      text += "...";
      break;
    }
    if (*p >= 0x20 && *p < 0x7f) {
      text += *p;
    } else {
      char escaped[5];
      std::snprintf(escaped, sizeof escaped, "\\x%02x", static_cast<unsigned char>(*p));
      text += escaped;
    }
  }
  return text + "'";
}

enum class Number { kOk, kNotANumber, kNotFinite, kTooLarge };

// Whether the decimal number [p, end), which is not 0, is below 1: from the place of its first
// digit that is not 0, and its exponent, which may have any number of digits itself.
bool IsBelowOne(const char* p, const char* end) {
  constexpr int64_t kPlacesMax = int64_t{1} << 60;
  int64_t place = 0;  // of the first such digit: 1 for units, 0 for tenths
  bool is_found = false, is_past_point = false;
  for (; p != end && *p != 'e' && *p != 'E'; ++p) {
    if (*p == '.') {
      is_past_point = true;
    } else if (*p >= '0' && *p <= '9') {
      is_found = is_found || *p != '0';
      if (is_found && !is_past_point) ++place;
      if (!is_found && is_past_point) --place;
    }
  }
  if (p == end) return place <= 0;
  ++p;
  const bool is_negative = p != end && *p == '-';
  if (p != end && (*p == '-' || *p == '+')) ++p;
  int64_t exponent = 0;
  for (; p != end; ++p) exponent = std::min(kPlacesMax, exponent * 10 + (*p - '0'));
  return place + (is_negative ? -exponent : exponent) <= 0;
}

// Reads the float that fills the token at `*p` and moves `*p` behind it.
Number ReadFloat(const char** p, const char* end, float* out) {
  const char* start = *p;
  // Most values and labels of sparse data are one digit.
  if (start != end && *start >= '0' && *start <= '9' && IsTokenEnd(start + 1, end)) {
    *out = static_cast<float>(*start - '0');
    *p = start + 1;
    return Number::kOk;
  }
  // from_chars knows no plus sign.
  if (start != end && *start == '+') {
    ++start;
    if (start != end && *start == '-') return Number::kNotANumber;
  }
  std::from_chars_result result = std::from_chars(start, end, *out);
  if (result.ec == std::errc::result_out_of_range) {
    // Too large is an error, too small is a zero (or the nearest subnormal), as strtod has it.
    double wide = 0;
    const std::from_chars_result as_double = std::from_chars(start, end, wide);
    if (as_double.ec == std::errc::result_out_of_range) {
      if (!IsBelowOne(start, result.ptr)) return Number::kTooLarge;
      wide = *start == '-' ? -0.0 : 0.0;
    } else if (std::abs(wide) >= 1) {
      return Number::kTooLarge;
    }
    *out = static_cast<float>(wide);
    result.ec = {};
  }
  if (result.ec != std::errc() || !IsTokenEnd(result.ptr, end)) return Number::kNotANumber;
  if (!std::isfinite(*out)) return Number::kNotFinite;
  *p = result.ptr;
  return Number::kOk;
}

std::string NumberMessage(Number outcome, const std::string& what) {
  switch (outcome) {
    case Number::kNotFinite:
      return what + " is not finite";
    case Number::kTooLarge:
      return what + " does not fit a float32";
    default:
      return what + " is not a number";
  }
}

// Says what is wrong with the feature token at `p`. Only called on bad lines.
std::string FeatureMessage(const char* p, const char* end) {
  const std::string token = Quoted(p, end);
  if (end - p >= 4 && std::memcmp(p, "qid:", 4) == 0) {
    return token + " marks a ranking file; only examples without qid are read";
  }
  const char* colon = p;
  while (!IsTokenEnd(colon, end) && *colon != ':') ++colon;
  if (IsTokenEnd(colon, end)) return "feature " + token + " is not <id>:<value>, ':' is missing";
  uint64_t id = 0;
  const std::from_chars_result result = std::from_chars(p, colon, id);
  if (result.ec == std::errc::result_out_of_range) {
    return "the id of feature " + token + " is larger than 2^64-1";
  }
  if (result.ec != std::errc() || result.ptr != colon) {
    return "the id of feature " + token + " is not a whole number from 0 to 2^64-1";
  }
  const char* value_start = colon + 1;
  float value = 0;
  return NumberMessage(ReadFloat(&value_start, end, &value), "the value of feature " + token);
}

enum class Line { kRow, kEmpty, kBad };

// Appends the line [p, end) to `rows`. A bad line may leave entries behind its row's start, which
// the caller drops.
Line ParseLine(const char* p, const char* end, LabelRule rule, LibsvmRows* rows,
               std::string* message) {
  p = SkipBlanks(p, end);
  if (IsTokenEnd(p, end)) return Line::kEmpty;

  const char* label_start = p;
  float label = std::numeric_limits<float>::quiet_NaN();
  const Number outcome = rule == LabelRule::kNone ? Number::kOk : ReadFloat(&p, end, &label);
  if (outcome != Number::kOk) {
    const char* colon = label_start;
    while (!IsTokenEnd(colon, end) && *colon != ':') ++colon;
    const bool starts_with_feature = !IsTokenEnd(colon, end);
    if (starts_with_feature && rule == LabelRule::kOptional) {
      label = std::numeric_limits<float>::quiet_NaN();
    } else if (starts_with_feature) {
      *message = "the label is missing, the line starts with " + Quoted(label_start, end);
      return Line::kBad;
    } else {
      *message = NumberMessage(outcome, "label " + Quoted(label_start, end));
      return Line::kBad;
    }
  } else if (rule == LabelRule::kBinary && label != 1 && label != -1 && label != 0) {
    *message = "label " + Quoted(label_start, end) + " is not -1, 0 or 1";
    return Line::kBad;
  }

  for (;;) {
    p = SkipBlanks(p, end);
    if (IsTokenEnd(p, end)) break;
    const char* token = p;
    uint64_t id = 0;
    const std::from_chars_result result = std::from_chars(p, end, id);
    float value = 0;
    const bool has_colon = result.ec == std::errc() && result.ptr != end && *result.ptr == ':';
    p = result.ptr + (has_colon ? 1 : 0);
    if (!has_colon || ReadFloat(&p, end, &value) != Number::kOk) [[unlikely]] {
      *message = FeatureMessage(token, end);
      return Line::kBad;
    }
    rows->ids.push_back(id);
    rows->values.push_back(value);
  }
  rows->labels.push_back(label);
  rows->indptr.push_back(static_cast<int64_t>(rows->ids.size()));
  return Line::kRow;
}

}  // namespace

LibsvmRows ParseLibsvm(std::string_view bytes, const LibsvmOptions& options) {
  LibsvmRows rows;
  // An entry has a colon and a row has a line, so that no vector grows twice.
  const size_t n_entries_max = static_cast<size_t>(std::count(bytes.begin(), bytes.end(), ':'));
  const size_t n_rows_max = static_cast<size_t>(std::count(bytes.begin(), bytes.end(), '\n')) + 1;
  rows.ids.reserve(n_entries_max);
  rows.values.reserve(n_entries_max);
  rows.labels.reserve(n_rows_max);
  rows.indptr.reserve(n_rows_max + 1);
  rows.indptr.push_back(0);

  std::string message;
  const char* p = bytes.data();
  const char* const end = p + bytes.size();
  for (int64_t line = options.first_line; p != end; ++line) {
    const void* newline = std::memchr(p, '\n', static_cast<size_t>(end - p));
    const char* line_end = newline != nullptr ? static_cast<const char*>(newline) : end;
    if (ParseLine(p, line_end, options.labels, &rows, &message) == Line::kBad) [[unlikely]] {
      rows.ids.resize(static_cast<size_t>(rows.indptr.back()));
      rows.values.resize(rows.ids.size());
      if (rows.n_bad++ == 0) {
        rows.first_bad_line = line;
        rows.first_bad_message = message;
      }
      if (!options.skip_bad_lines) break;
    }
    p = newline != nullptr ? line_end + 1 : end;
  }
  return rows;
}

}  // namespace fastps
