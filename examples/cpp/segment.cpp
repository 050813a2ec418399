// Segment one ultrasound frame: the command line around segmenter.hpp.
//
//   segment BUNDLE FRAME.pgm x1,y1,x2,y2 MASK.pgm [THREADS [RUNS]]
//
// Prints one line of JSON; the times are medians of RUNS. Exit code 1: the job failed; 2: an
// argument is wrong; one line on stderr says why.

#include "segmenter.hpp"

#include <chrono>
#include <cstdio>
#include <fstream>
#include <locale>
#include <sstream>
#include <system_error>

namespace {

namespace fs = std::filesystem;
using samus_edge::UsageError;

constexpr int64_t kMaxPixels = int64_t{1} << 26;  // as the Python runtime; bounds memory

struct Frame {
    int64_t height, width;
    std::vector<uint8_t> grey;  // (H, W), row by row
};

// The next number of a PGM header, or 0. A comment goes from # to the end of its line.
int64_t header_number(std::istream& file) {
    while ((file >> std::ws).peek() == '#') file.ignore(1 << 16, '\n');
    int64_t number = 0;
    return file >> number ? number : 0;
}

Frame read_pgm(const fs::path& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error("cannot read " + path.string());
    std::string magic(2, ' ');
    file.read(magic.data(), 2);
    const int64_t width = header_number(file), height = header_number(file);
    const int64_t most = header_number(file);
    if (magic != "P5" || width < 1 || height < 1 || most != 255) {
        throw std::runtime_error(path.string() + " is not a binary PGM (P5) with 255 as maximum");
    }
    if (width > kMaxPixels / height) {
        throw std::runtime_error(path.string() + " has more than " + std::to_string(kMaxPixels) +
                                 " pixels");
    }
    Frame frame{height, width, std::vector<uint8_t>(static_cast<size_t>(height * width))};
    file.get();  // the one white space before the pixels
    file.read(reinterpret_cast<char*>(frame.grey.data()), height * width);
    if (file.gcount() != height * width) {
        throw std::runtime_error(path.string() + " ends after " + std::to_string(file.gcount()) +
                                 " of " + std::to_string(height * width) + " pixels");
    }
    return frame;
}

// Under a name of its own first: nothing half-written is left under the final one.
void write_pgm(const fs::path& path, const std::vector<uint8_t>& grey, const Frame& size) {
    fs::path part = path;
    part += ".part";
    std::ofstream file(part, std::ios::binary);
    file << "P5\n" << size.width << ' ' << size.height << "\n255\n";
    file.write(reinterpret_cast<const char*>(grey.data()),
               static_cast<std::streamsize>(grey.size()));
    file.close();
    std::error_code problem = std::make_error_code(std::errc::io_error);
    if (file) fs::rename(part, path, problem);
    if (problem) {
        std::error_code ignored;
        fs::remove(part, ignored);
        throw std::runtime_error("cannot write " + path.string());
    }
}

samus_edge::Box parse_box(const std::string& text) {
    std::istringstream in(text + ',');
    in.imbue(std::locale::classic());  // a point for decimals, wherever we are
    samus_edge::Box box{};
    for (double* value : {&box.x1, &box.y1, &box.x2, &box.y2}) {
        char comma = 0;
        if (!(in >> *value >> comma) || comma != ',') in.setstate(std::ios::failbit);
    }
    if (!in || in.peek() != std::istringstream::traits_type::eof()) {
        throw UsageError("the box must be x1,y1,x2,y2, four numbers in pixels, got " + text);
    }
    return box;
}

int parse_count(const std::string& name, const std::string& text, int most) {
    if (text.empty() || text.size() > 4 || text.find_first_not_of("0123456789") != text.npos ||
        std::stoi(text) < 1 || std::stoi(text) > most) {
        throw UsageError(name + " must be 1 to " + std::to_string(most) + ", got " + text);
    }
    return std::stoi(text);
}

double median(std::vector<double> values) {
    const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
    std::nth_element(values.begin(), middle, values.end());
    return *middle;
}

int run(const std::vector<std::string>& arguments) {
    if (arguments.size() < 4 || arguments.size() > 6) {
        throw UsageError("segment BUNDLE FRAME.pgm x1,y1,x2,y2 MASK.pgm [THREADS [RUNS]]");
    }
    const samus_edge::Box box = parse_box(arguments[2]);
    const int threads = arguments.size() > 4 ? parse_count("THREADS", arguments[4], 64) : 2;
    const int runs = arguments.size() > 5 ? parse_count("RUNS", arguments[5], 1000) : 1;
    const Frame frame = read_pgm(arguments[1]);
    samus_edge::Segmenter segmenter(arguments[0], threads);

    using Clock = std::chrono::steady_clock;
    using Milliseconds = std::chrono::duration<double, std::milli>;
    std::vector<double> encode_ms, decode_ms;
    samus_edge::Prediction prediction;
    for (int i = 0; i < runs; ++i) {
        const auto start = Clock::now();
        segmenter.encode(frame.grey.data(), frame.height, frame.width);
        const auto encoded = Clock::now();
        prediction = segmenter.segment(box);
        encode_ms.push_back(Milliseconds(encoded - start).count());
        decode_ms.push_back(Milliseconds(Clock::now() - encoded).count());
    }
    write_pgm(arguments[3], prediction.mask, frame);
    std::printf("{\"area_px\": %lld, \"iou_prediction\": %.6f, \"encode_ms\": %.2f, "
                "\"decode_ms\": %.2f, \"threads\": %d, \"onnxruntime\": \"%s\"}\n",
                static_cast<long long>(prediction.area_px),
                static_cast<double>(prediction.iou_prediction), median(encode_ms),
                median(decode_ms), threads, OrtGetApiBase()->GetVersionString());
    return 0;
}

void say(const std::string& kind, std::string message) {
    std::replace(message.begin(), message.end(), '\n', ' ');  // ONNX Runtime's have several lines
    std::fprintf(stderr, "%s: %s\n", kind.c_str(), message.c_str());
}

}  // namespace

int main(int argc, char** argv) {
    try {
        return run({argv + 1, argv + argc});
    } catch (const UsageError& error) {
        say("usage", error.what());
        return 2;
    } catch (const std::exception& error) {
        say("error", error.what());
        return 1;
    }
}
