// A plain driver for compilers without libFuzzer: runs the files of a folder, then random changes
// of them for some seconds. It has no coverage to guide it: use clang to search in earnest.
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

using Input = std::vector<uint8_t>;
constexpr size_t kInputBytesMax = 4096;

// Overwrites, inserts, cuts, repeats and splices.
void Change(Input* input, const std::vector<Input>& corpus, std::mt19937_64& random) {
  const auto place = [&] { return static_cast<std::ptrdiff_t>(random() % (input->size() + 1)); };
  for (size_t n = 1 + random() % 6; n > 0; --n) {
    switch (random() % 5) {
      case 0:
        if (!input->empty()) (*input)[random() % input->size()] = static_cast<uint8_t>(random());
        break;
      case 1:
        if (!input->empty())
          (*input)[random() % input->size()] ^= static_cast<uint8_t>(1u << random() % 8);
        break;
      case 2:
        input->insert(input->begin() + place(), 1 + random() % 8, static_cast<uint8_t>(random()));
        break;
      case 3:
        input->erase(input->begin() + place() / 2 + static_cast<std::ptrdiff_t>(input->size() / 2),
                     input->end());
        break;
      case 4: {
        const Input& other = corpus[random() % corpus.size()];
        input->insert(input->begin() + place(), other.begin(), other.end());
        break;
      }
    }
  }
  if (input->size() > kInputBytesMax) input->resize(kInputBytesMax);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: fastps_fuzz SECONDS CORPUS_FOLDER\n");
    return 2;
  }
  std::vector<Input> corpus;
  for (const auto& entry : std::filesystem::directory_iterator(argv[2])) {
    std::ifstream file(entry.path(), std::ios::binary);
    corpus.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
    LLVMFuzzerTestOneInput(corpus.back().data(), corpus.back().size());
  }
  if (corpus.empty()) {
    std::fprintf(stderr, "fastps_fuzz: %s has no files\n", argv[2]);
    return 2;
  }
  using Clock = std::chrono::steady_clock;
  const Clock::time_point begin = Clock::now();
  const std::chrono::duration<double> wanted(std::atof(argv[1]));
  std::mt19937_64 random(1);
  uint64_t n_runs = corpus.size();
  for (; Clock::now() - begin < wanted; ++n_runs) {
    Input input = corpus[random() % corpus.size()];
    Change(&input, corpus, random);
    LLVMFuzzerTestOneInput(input.data(), input.size());
  }
  const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  std::printf("fuzz: %llu inputs in %.1f s\n", static_cast<unsigned long long>(n_runs), seconds);
  return 0;
}
