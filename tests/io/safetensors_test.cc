#include "io/safetensors.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "io/read_file.h"
#include "io/safetensors_text.h"
#include "io/temp_dir.h"

namespace mla {
namespace {

using Shape = std::vector<int64_t>;

// Aligned like a mapped file.
struct alignas(64) AlignedText {
  explicit AlignedText(std::string_view text) { std::memcpy(bytes, text.data(), text.size()); }
  char bytes[1024];
};

TEST(Safetensors, GivesTensorsInDataOrder) {
  const std::string file =
      FileWith(R"({"b":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},)"
               R"("a":{"dtype":"BF16","shape":[3],"data_offsets":[16,22]},)"
               R"("s":{"dtype":"U8","shape":[],"data_offsets":[22,23]},)"
               R"("none":{"dtype":"I64","shape":[0,5],"data_offsets":[22,22]},)"
               R"("__metadata__":{"format":"pt"}}   )",
               23);
  const Result<SafetensorsFile> parsed = SafetensorsFile::Parse(Bytes(file), "f");
  ASSERT_TRUE(parsed.ok()) << parsed.message();
  ASSERT_EQ(parsed->tensors().size(), 4u);
  EXPECT_EQ(parsed->tensors()[0].name, "b");
  EXPECT_EQ(parsed->tensors()[1].name, "a");
  EXPECT_EQ(parsed->tensors()[2].name, "none");
  EXPECT_EQ(parsed->tensors()[3].name, "s");
  const StoredTensor& a = *parsed->Find("a");
  EXPECT_EQ(a.dtype, StoredDType::kBF16);
  EXPECT_EQ(a.shape, Shape{3});
  EXPECT_EQ(a.data.size(), 6u);
  EXPECT_EQ(a.data[0], std::byte{16});
  EXPECT_EQ(parsed->Find("none")->shape, (Shape{0, 5}));
  EXPECT_EQ(parsed->Find("c"), nullptr);
  EXPECT_EQ(parsed->metadata().at("format"), "pt");
  EXPECT_EQ(parsed->data_bytes(), 23);
}

TEST(Safetensors, AcceptsNoTensors) {
  const std::string file = FileWith("{}", 0);
  const Result<SafetensorsFile> parsed = SafetensorsFile::Parse(Bytes(file), "f");
  ASSERT_TRUE(parsed.ok()) << parsed.message();
  EXPECT_TRUE(parsed->tensors().empty());
}

TEST(Safetensors, CopiesOnlyWhatIsNotAligned) {
  // Data start at a multiple of 8; the U8 tensor before it puts `x` at an odd address.
  std::string header = R"({"y":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
                       R"("u":{"dtype":"U8","shape":[1],"data_offsets":[4,5]},)"
                       R"("x":{"dtype":"F16","shape":[2],"data_offsets":[5,9]}})";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  const AlignedText text(FileWith(header, 9));
  const std::string_view bytes(text.bytes, 8 + header.size() + 9);
  const Result<SafetensorsFile> parsed = SafetensorsFile::Parse(Bytes(bytes), "f");
  ASSERT_TRUE(parsed.ok()) << parsed.message();
  const auto* data = reinterpret_cast<const std::byte*>(text.bytes) + 8 + header.size();
  EXPECT_EQ(parsed->Find("y")->data.data(), data);
  EXPECT_EQ(parsed->Find("u")->data.data(), data + 4);
  const StoredTensor& x = *parsed->Find("x");
  EXPECT_NE(x.data.data(), data + 5);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(x.data.data()) % 2, 0u);
  EXPECT_EQ(std::vector(x.data.begin(), x.data.end()), std::vector(data + 5, data + 9));
  EXPECT_EQ(parsed->bytes_copied(), 4);
}

struct BadFile {
  const char* what;
  std::string file;
  std::string message;  // whole, or up to a final '*'
};

std::string OneTensor(std::string_view entry, size_t data_bytes) {
  return FileWith("{\"w\":" + std::string(entry) + "}", data_bytes);
}

std::string TwoTensors(int begin, int end) {  // beside w0 in [0, 4), 8 bytes of data
  return FileWith(R"({"w0":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
                  R"("w1":{"dtype":"U8","shape":[)" +
                      std::to_string(end - begin) + R"(],"data_offsets":[)" +
                      std::to_string(begin) + "," + std::to_string(end) + "]}}",
                  8);
}

const char kDTypes[] =
    "F64, F32, F16, BF16, F8_E4M3, F8_E5M2, I64, I32, I16, I8, U64, U32, U16, U8, BOOL";

std::vector<BadFile> BadFiles() {
  std::string over_limit = FileWith("{}", 0);
  const uint64_t length = 100'000'001;
  std::memcpy(over_limit.data(), &length, sizeof(length));
  return {
      {"no length", "1234567", "f has 7 bytes, want at least 8: the header's length"},
      {"header past the file", FileWith("{}", 0).substr(0, 9),
       "f: header of 2 bytes, but only 1 follow"},
      {"header over the limit", over_limit, "f: header of 100000001 bytes, the limit is 100000000"},
      {"length of all ones", std::string(8, '\xff') + "{}",
       "f: header of 18446744073709551615 bytes, the limit is 100000000"},
      {"empty header", FileWith("", 0), "f: header: line 1, column *"},
      {"not JSON", FileWith("hello", 0), "f: header: line 1, column *"},
      {"text after the JSON", FileWith("{}x", 0), "f: header: line 1, column *"},
      {"not an object", FileWith("[1]", 0), "f: header is a list of 1, want an object"},
      {"deep nesting", FileWith(std::string(100000, '['), 0),
       "f: header: line 1, column 9 (byte 9): *"},
      {"duplicate tensor", FileWith(R"({"w":1,"w":2})", 0),
       "f: header: line 1, column 10 (byte 10): duplicate key \"w\""},
      {"metadata not an object", FileWith(R"({"__metadata__":3})", 0),
       "f: __metadata__ is 3, want an object"},
      {"metadata not strings", FileWith(R"({"__metadata__":{"k":3}})", 0),
       "f: __metadata__[\"k\"] is 3, want a string"},
      {"tensor not an object", OneTensor("7", 0), "f: tensor \"w\" is 7, want an object"},
      {"dtype missing", OneTensor(R"({"shape":[1],"data_offsets":[0,4]})", 4),
       std::string("f: tensor \"w\" dtype is missing, want one of ") + kDTypes},
      {"dtype unknown", OneTensor(R"({"dtype":"F31","shape":[1],"data_offsets":[0,4]})", 4),
       std::string("f: tensor \"w\" dtype is \"F31\", want one of ") + kDTypes},
      {"dtype a number", OneTensor(R"({"dtype":4,"shape":[1],"data_offsets":[0,4]})", 4),
       "f: tensor \"w\" dtype is 4, want *"},
      {"shape missing", OneTensor(R"({"dtype":"F32","data_offsets":[0,4]})", 4),
       "f: tensor \"w\" shape is missing, want a list of integers"},
      {"shape not a list", OneTensor(R"({"dtype":"F32","shape":1,"data_offsets":[0,4]})", 4),
       "f: tensor \"w\" shape is 1, want a list of integers"},
      {"negative dim", OneTensor(R"({"dtype":"F32","shape":[2,-1],"data_offsets":[0,4]})", 4),
       "f: tensor \"w\" shape[1] is -1, want an integer from 0 to 9223372036854775807"},
      {"dim not whole", OneTensor(R"({"dtype":"F32","shape":[1.0],"data_offsets":[0,4]})", 4),
       "f: tensor \"w\" shape[0] is 1.0, want *"},
      {"dim a string", OneTensor(R"({"dtype":"F32","shape":["1"],"data_offsets":[0,4]})", 4),
       "f: tensor \"w\" shape[0] is \"1\", want *"},
      {"dim over 63 bits",
       OneTensor(R"({"dtype":"F32","shape":[9223372036854775808],"data_offsets":[0,4]})", 4),
       "f: tensor \"w\" shape[0] is 9223372036854775808, want *"},
      {"size overflows",
       OneTensor(R"({"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]})", 0),
       "f: tensor \"w\" shape [4294967296, 4294967296] of F32 overflows a 64-bit size"},
      {"size overflows by the dtype",
       OneTensor(R"({"dtype":"F64","shape":[2305843009213693952],"data_offsets":[0,0]})", 0),
       "f: tensor \"w\" shape [2305843009213693952] of F64 overflows a 64-bit size"},
      {"strides overflow beside a zero",
       OneTensor(R"({"dtype":"U8","shape":[0,4294967296,4294967296],"data_offsets":[0,0]})", 0),
       "f: tensor \"w\" shape [0, 4294967296, 4294967296] of U8 overflows a 64-bit size"},
      {"size asked for is not there",
       OneTensor(R"({"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]})", 4),
       "f: tensor \"w\" data_offsets are [0, 4398046511104], want 0 <= begin <= end <= 4"},
      {"size not shape x dtype",
       OneTensor(R"({"dtype":"F32","shape":[2],"data_offsets":[0,4]})", 4),
       "f: tensor \"w\" data_offsets are [0, 4], 4 bytes, want 8 for F32 [2]"},
      {"offsets missing", OneTensor(R"({"dtype":"F32","shape":[1]})", 4),
       "f: tensor \"w\" data_offsets is missing, want [begin, end]"},
      {"three offsets", OneTensor(R"({"dtype":"F32","shape":[1],"data_offsets":[0,4,8]})", 4),
       "f: tensor \"w\" data_offsets is a list of 3, want [begin, end]"},
      {"begin > end", OneTensor(R"({"dtype":"F32","shape":[1],"data_offsets":[4,0]})", 4),
       "f: tensor \"w\" data_offsets are [4, 0], want 0 <= begin <= end <= 4"},
      {"negative offset", OneTensor(R"({"dtype":"F32","shape":[1],"data_offsets":[-4,0]})", 4),
       "f: tensor \"w\" data_offsets are [-4, 0], want 0 <= begin <= end <= 4"},
      {"end past the data", OneTensor(R"({"dtype":"F32","shape":[1],"data_offsets":[0,4]})", 3),
       "f: tensor \"w\" data_offsets are [0, 4], want 0 <= begin <= end <= 3"},
      {"overlap", TwoTensors(3, 8),
       "f: tensor \"w1\" begins at 3, overlapping \"w0\", which ends at 4"},
      {"empty tensor within another", TwoTensors(2, 2),
       "f: tensor \"w1\" begins at 2, overlapping \"w0\", which ends at 4"},
      {"hole", TwoTensors(5, 8), "f: tensor \"w1\" begins at 5, leaving a hole from 4"},
      {"bytes after the last tensor", TwoTensors(4, 7), "f: the tensors end at 7, the data at 8"},
  };
}

TEST(Safetensors, RefusesBadFiles) {
  for (const BadFile& bad : BadFiles()) {
    SCOPED_TRACE(bad.what);
    const Result<SafetensorsFile> parsed = SafetensorsFile::Parse(Bytes(bad.file), "f");
    ASSERT_FALSE(parsed.ok());
    EXPECT_EQ(parsed.error().code, ErrorCode::kCorruptFile);
    std::string got(parsed.message()), want = bad.message;
    if (want.ends_with('*')) {
      want.pop_back();
      got.resize(std::min(got.size(), want.size()));
    }
    EXPECT_EQ(got, want);
  }
}

std::string SmallFile() {
  return FileWith(R"({"__metadata__":{"format":"pt"},)"
                  R"("a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},)"
                  R"("b":{"dtype":"BF16","shape":[3],"data_offsets":[16,22]}})",
                  22);
}

// Every byte of every tensor, so that a sanitizer sees a span that is wrong.
int Sum(const SafetensorsFile& file) {
  int sum = 0;
  for (const StoredTensor& tensor : file.tensors()) {
    for (const std::byte b : tensor.data) sum += std::to_integer<int>(b);
  }
  return sum;
}

TEST(Safetensors, RefusesEveryTruncation) {
  const std::string file = SmallFile();
  ASSERT_TRUE(SafetensorsFile::Parse(Bytes(file), "f").ok());
  for (size_t size = 0; size < file.size(); ++size) {
    // A copy of its own, for the sanitizer to guard its end.
    const std::vector<char> cut(file.begin(), file.begin() + static_cast<std::ptrdiff_t>(size));
    EXPECT_FALSE(SafetensorsFile::Parse(Bytes({cut.data(), cut.size()}), "f").ok()) << size;
  }
}

TEST(Safetensors, SurvivesEveryBitFlip) {
  const std::string valid = SmallFile();
  const int data_sum = Sum(*SafetensorsFile::Parse(Bytes(valid), "f"));
  const size_t header_end = valid.size() - 22;
  int refused = 0;
  for (size_t bit = 0; bit < header_end * 8; ++bit) {
    std::string file = valid;
    file[bit / 8] = static_cast<char>(file[bit / 8] ^ (1 << (bit % 8)));
    const Result<SafetensorsFile> parsed = SafetensorsFile::Parse(Bytes(file), "f");
    if (parsed.ok()) {
      EXPECT_EQ(Sum(*parsed), data_sum) << bit;  // a changed name, say
    } else {
      ++refused;
    }
  }
  // Bits of names and metadata, 13 letters, may change unseen; the rest may not.
  EXPECT_GE(refused, static_cast<int>(header_end * 8) * 3 / 4);
}

TEST(Safetensors, OpensRealFiles) {
  const char* kFiles[] = {
      "models/stories-mla-9m/model.safetensors", "tests/golden/deepseek_v3/model.safetensors",
      "tests/golden/deepseek_v3/expected.safetensors", "tests/golden/llama_gqa/model.safetensors"};
  for (const std::string name : kFiles) {
    const Result<SafetensorsFile> file = SafetensorsFile::Open(MLA_SOURCE_DIR "/" + name);
    ASSERT_TRUE(file.ok()) << file.message();
    EXPECT_EQ(file->bytes_copied(), 0) << name;
    EXPECT_GT(file->tensors().size(), 1u);
    EXPECT_LT(file->data_bytes(), static_cast<int64_t>(std::filesystem::file_size(file->path())));
  }
  const Result<SafetensorsFile> file =
      SafetensorsFile::Open(MLA_SOURCE_DIR "/models/stories-mla-9m/model.safetensors");
  const StoredTensor* embedding = file->Find("model.embed_tokens.weight");
  ASSERT_NE(embedding, nullptr);
  EXPECT_EQ(embedding->shape, (Shape{4096, 256}));
  EXPECT_EQ(embedding->dtype, StoredDType::kBF16);
}

TEST(Safetensors, OpenNamesTheFile) {
  const TempDir dir;
  EXPECT_EQ(SafetensorsFile::Open(dir / "none").error().code, ErrorCode::kNotFound);
  const std::string path = dir.Write("x.safetensors", "abc");
  EXPECT_EQ(SafetensorsFile::Open(path).message(),
            path + " has 3 bytes, want at least 8: the header's length");
}

TEST(StoredTensor, ConvertsToTensor) {
  alignas(4) const std::byte data[24]{};
  StoredTensor stored{"w", StoredDType::kF32, {2, 3}, data};
  const Result<ConstTensor> tensor = ToTensor(stored);
  ASSERT_TRUE(tensor.ok());
  EXPECT_EQ(tensor->data(), data);
  EXPECT_EQ(tensor->dtype(), DType::kF32);
  EXPECT_EQ(tensor->ShapeString(), "[2, 3]");
  EXPECT_EQ(tensor->stride(0), 3);
  stored.dtype = StoredDType::kF8E5M2;
  EXPECT_EQ(ToTensor(stored).message(),
            "tensor \"w\" is F8_E5M2, want F32, F16, BF16, F8_E4M3 or I32");
  stored = {"w", StoredDType::kF32, {1, 1, 2, 1, 3}, data};
  EXPECT_EQ(ToTensor(stored).message(),
            "tensor \"w\" has 5 dimensions [1, 1, 2, 1, 3], want at most 4");
  stored.shape = {};
  EXPECT_EQ(ToTensor(stored)->rank(), 0);
}

TEST(StoredTensor, NamesAndSizesOfDTypes) {
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16, DType::kI32}) {
    EXPECT_EQ(SizeOf(ToStoredDType(dtype)), SizeOf(dtype));
  }
  for (int i = 0; i <= static_cast<int>(StoredDType::kBool); ++i) {
    const auto dtype = static_cast<StoredDType>(i);
    EXPECT_EQ(ParseStoredDType(StoredDTypeName(dtype)), dtype);
  }
  EXPECT_EQ(ParseStoredDType("f32"), std::nullopt);
  EXPECT_EQ(ByteSize(StoredDType::kF64, Shape{3, 5}), 120);
  EXPECT_EQ(ByteSize(StoredDType::kF64, {}), 8);
  EXPECT_EQ(ByteSize(StoredDType::kF64, Shape{-1}), std::nullopt);
  EXPECT_EQ(ShapeString(Shape(20, 1)), "[1, 1, 1, 1, 1, 1, 1, 1, ... 20 dimensions]");
}

}  // namespace
}  // namespace mla
