// Both graphs of a samus-edge bundle on ONNX Runtime, for C++17: take this file into your product.
//
//   samus_edge::Segmenter segmenter("bundle", 2);
//   segmenter.encode(frame.data(), height, width);           // once for each frame
//   const auto found = segmenter.segment({x1, y1, x2, y2});  // for each box, pixels of the frame
//
// Does not check the graphs' hashes: docs/cpp.md tells who should. Not a medical device.

#pragma once

#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

namespace samus_edge {

namespace fs = std::filesystem;

// A wrong argument; everything else that goes wrong is a std::runtime_error or an Ort::Exception.
struct UsageError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

struct Box {
    double x1, y1, x2, y2;  // pixels of the frame, the centre of the upper left one at (0, 0)
};

struct Prediction {
    std::vector<uint8_t> mask;  // (H, W), 0 or 255
    int64_t area_px = 0;
    float iou_prediction = 0.0F;  // the model's own estimate, may leave [0, 1]
};

struct TensorSpec {
    const char* name;
    ONNXTensorElementDataType type;
    std::vector<int64_t> shape;  // for one frame and one box
};

inline constexpr int64_t kModelSize = 256, kLogitsSize = 128, kAnySize = -1;
inline constexpr float kMaskThreshold = 0.0F;  // the manifest's mask_threshold
inline constexpr auto kUint8 = ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
inline constexpr auto kFloat = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;

// The contract, docs/bundle.md. It names what is bound below, and what a graph must have.
inline const std::vector<TensorSpec> kEncoderInputs{{"image", kUint8, {1, kAnySize, kAnySize}}};
inline const std::vector<TensorSpec> kEncoderOutputs{
    {"image_embeddings", kFloat, {1, 256, 32, 32}}};
inline const std::vector<TensorSpec> kDecoderInputs{
    {"image_embeddings", kFloat, {1, 256, 32, 32}},
    {"point_coords", kFloat, {1, 2, 2}},
    {"point_labels", kFloat, {1, 2}},
    {"mask_input", kFloat, {1, 1, kLogitsSize, kLogitsSize}},
    {"has_mask_input", kFloat, {1, 1}}};
inline const std::vector<TensorSpec> kDecoderOutputs{
    {"low_res_masks", kFloat, {1, 4, kLogitsSize, kLogitsSize}},
    {"iou_predictions", kFloat, {1, 4}}};

inline bool fits(const char* name, const Ort::TypeInfo& type, const TensorSpec& spec) {
    if (name != std::string(spec.name) || type.GetONNXType() != ONNX_TYPE_TENSOR) return false;
    const auto tensor = type.GetTensorTypeAndShapeInfo();
    const std::vector<int64_t> shape = tensor.GetShape();
    return tensor.GetElementType() == spec.type &&
           std::equal(shape.begin(), shape.end(), spec.shape.begin(), spec.shape.end(),
                      [](int64_t a, int64_t b) { return a == b || a < 0 || b == kAnySize; });
}

inline Ort::Env open_environment() {
    // With headers newer than the library every call would go through a null pointer.
    if (OrtGetApiBase()->GetApi(ORT_API_VERSION) == nullptr) {
        const std::string version = OrtGetApiBase()->GetVersionString();
        throw std::runtime_error("ONNX Runtime " + version + " is older than the headers that "
                                 "this program was built with");
    }
    // Official builds send telemetry: on Linux from 1.30 on unless this variable is set before the
    // environment is made, on Windows until they are told not to.
#ifdef _WIN32
    _putenv_s("ORT_DISABLE_TELEMETRY", "1");
#else
    setenv("ORT_DISABLE_TELEMETRY", "1", 0);
#endif
    Ort::Env env(ORT_LOGGING_LEVEL_FATAL, "samus-edge");  // errors come as exceptions
    env.DisableTelemetryEvents();
    return env;
}

inline Ort::Session open_graph(const Ort::Env& env, const fs::path& path, int threads,
                               const std::vector<TensorSpec>& inputs,
                               const std::vector<TensorSpec>& outputs) {
    if (!fs::is_regular_file(path)) throw std::runtime_error("there is no file " + path.string());
    Ort::SessionOptions options;
    options.SetIntraOpNumThreads(threads);     // the default is a thread for each core
    options.SetInterOpNumThreads(1);           // the graphs are chains:
    options.SetExecutionMode(ORT_SEQUENTIAL);  // operators side by side gain nothing
    options.SetDeterministicCompute(true);     // the same mask on every run
    // Threads without work sleep. By default they spin, and take the cores from the other graph's
    // threads and from the rest of the program: docs/cpp.md has what that costs.
    options.AddConfigEntry("session.intra_op.allow_spinning", "0");
    // A file that begins like ONNX Runtime's own format is not taken for one.
    options.AddConfigEntry("session.load_model_format", "ONNX");
    Ort::Session session(env, path.c_str(), options);
    Ort::AllocatorWithDefaultOptions allocator;
    bool same = session.GetInputCount() == inputs.size() &&
                session.GetOutputCount() == outputs.size();
    for (size_t i = 0; same && i < inputs.size(); ++i) {
        same = fits(session.GetInputNameAllocated(i, allocator).get(),
                    session.GetInputTypeInfo(i), inputs[i]);
    }
    for (size_t i = 0; same && i < outputs.size(); ++i) {
        same = fits(session.GetOutputNameAllocated(i, allocator).get(),
                    session.GetOutputTypeInfo(i), outputs[i]);
    }
    if (!same) {
        throw std::runtime_error(path.string() + " has other inputs or outputs than that graph of "
                                 "a samus-edge bundle. Compare it with docs/bundle.md.");
    }
    return session;
}

// Half-pixel centres: the edges of both frames coincide, not the centres of their corner pixels.
inline float to_model_frame(double pixel, int64_t frame_size) {
    const double scale = static_cast<double>(kModelSize) / static_cast<double>(frame_size);
    return static_cast<float>((pixel + 0.5) * scale - 0.5);
}

struct Tap {  // out = in[low] + weight * (in[high] - in[low])
    int64_t low, high;
    float weight;
};

inline std::vector<Tap> bilinear_taps(int64_t size) {
    std::vector<Tap> taps;
    const double scale = static_cast<double>(kLogitsSize) / static_cast<double>(size);
    for (int64_t i = 0; i < size; ++i) {
        const double at = (static_cast<double>(i) + 0.5) * scale - 0.5;
        const double inside = std::clamp(at, 0.0, static_cast<double>(kLogitsSize - 1));
        const auto low = static_cast<int64_t>(inside);
        taps.push_back({low, std::min(low + 1, kLogitsSize - 1),
                        static_cast<float>(inside - static_cast<double>(low))});
    }
    return taps;
}

// Resizes logits, then compares: the other order would give jagged contours.
inline Prediction upsample(const std::vector<float>& logits, int64_t height, int64_t width,
                           float iou) {
    Prediction prediction{{}, 0, iou};
    prediction.mask.reserve(static_cast<size_t>(height * width));
    const std::vector<Tap> columns = bilinear_taps(width);
    for (const Tap& y : bilinear_taps(height)) {
        const float* top = logits.data() + y.low * kLogitsSize;
        const float* bottom = logits.data() + y.high * kLogitsSize;
        for (const Tap& x : columns) {
            const float above = top[x.low] + x.weight * (top[x.high] - top[x.low]);
            const float below = bottom[x.low] + x.weight * (bottom[x.high] - bottom[x.low]);
            const bool inside = above + y.weight * (below - above) > kMaskThreshold;
            prediction.mask.push_back(inside ? 255 : 0);
            prediction.area_px += inside ? 1 : 0;
        }
    }
    return prediction;
}

// A bundle, ready to run. Use one from one thread at a time: its buffers hold the current frame.
class Segmenter {
public:
    Segmenter(const fs::path& bundle, int threads)
        : env_(open_environment()),
          encoder_(open_graph(env_, bundle / "image_encoder.onnx", threads, kEncoderInputs,
                              kEncoderOutputs)),
          decoder_(open_graph(env_, bundle / "mask_decoder.onnx", threads, kDecoderInputs,
                              kDecoderOutputs)) {
        // Bound once: no copy between the graphs and no allocation of results, run after run.
        buffers_["point_labels"] = {2.0F, 3.0F};  // top left and bottom right corner of a box
        for (const auto& spec : kEncoderOutputs) encoding_.BindOutput(spec.name, buffer(spec));
        for (const auto& spec : kDecoderInputs) decoding_.BindInput(spec.name, buffer(spec));
        for (const auto& spec : kDecoderOutputs) decoding_.BindOutput(spec.name, buffer(spec));
    }

    // Once for each frame: (height, width) grey levels, row by row without gaps.
    void encode(const uint8_t* grey, int64_t height, int64_t width) {
        if (height < 1 || width < 1) throw UsageError("the frame must have a pixel at least");
        const std::vector<int64_t> shape{1, height, width};
        const auto size = static_cast<size_t>(height * width);
        // A view, not a copy. ONNX Runtime has no view of constants, but never writes to an input.
        encoding_.BindInput("image", Ort::Value::CreateTensor<uint8_t>(
            memory_, const_cast<uint8_t*>(grey), size, shape.data(), shape.size()));
        height_ = width_ = 0;  // an exception leaves no half-written embeddings in use
        encoder_.Run(Ort::RunOptions{nullptr}, encoding_);
        encoding_.ClearBoundInputs();  // the caller may free the frame
        height_ = height;
        width_ = width;
    }

    // For each prompt on that frame.
    Prediction segment(const Box& box) {
        if (height_ == 0) throw std::logic_error("segment() was called before encode()");
        const double right = static_cast<double>(width_) - 0.5;
        const double bottom = static_cast<double>(height_) - 0.5;
        if (!(box.x1 < box.x2 && box.y1 < box.y2) || !std::isfinite(box.x2 - box.x1) ||
            !std::isfinite(box.y2 - box.y1)) {  // NaN is never less
            throw UsageError("the box must have x1 < x2 and y1 < y2, all finite");
        }
        // What sticks out of the frame is cut off, as in the Python runtime.
        std::vector<float>& coords = buffers_.at("point_coords");
        coords[0] = to_model_frame(std::max(box.x1, -0.5), width_);
        coords[1] = to_model_frame(std::max(box.y1, -0.5), height_);
        coords[2] = to_model_frame(std::min(box.x2, right), width_);
        coords[3] = to_model_frame(std::min(box.y2, bottom), height_);
        if (!(coords[0] < coords[2] && coords[1] < coords[3])) {
            throw UsageError("the box has no area within the frame of " + std::to_string(width_) +
                             " x " + std::to_string(height_) + " pixels");
        }
        decoder_.Run(Ort::RunOptions{nullptr}, decoding_);
        const std::vector<float>& logits = buffers_.at("low_res_masks");
        const float iou = buffers_.at("iou_predictions")[0];
        if (!std::isfinite(iou) || !std::all_of(logits.begin(), logits.end(),
                                                [](float x) { return std::isfinite(x); })) {
            throw std::runtime_error("mask_decoder.onnx gave numbers that are not finite");
        }
        return upsample(logits, height_, width_, iou);  // index 0 answers a clear prompt
    }

private:
    // A view of the buffer of that name, which is made, of zeros, when it is first asked for.
    Ort::Value buffer(const TensorSpec& spec) {
        int64_t size = 1;
        for (int64_t axis : spec.shape) size *= axis;
        std::vector<float>& values = buffers_[spec.name];
        values.resize(static_cast<size_t>(size));
        return Ort::Value::CreateTensor<float>(memory_, values.data(), values.size(),
                                               spec.shape.data(), spec.shape.size());
    }

    // In this order: a session needs its environment, a binding its session and the buffers.
    Ort::Env env_;
    Ort::Session encoder_, decoder_;
    Ort::MemoryInfo memory_ = Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeDefault);
    std::map<std::string, std::vector<float>> buffers_;  // has_mask_input stays 0
    Ort::IoBinding encoding_{encoder_}, decoding_{decoder_};
    int64_t height_ = 0, width_ = 0;  // of the frame that was encoded
};

}  // namespace samus_edge
