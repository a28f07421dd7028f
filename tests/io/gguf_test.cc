// The GGUF reader: right files in full, and every kind of wrong one refused with one clear error.
#include "io/gguf.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "base/numeric.h"
#include "io/temp_dir.h"
#include "support/gguf_bytes.h"

namespace mla::test {
namespace {

Result<GgufFile> Parse(const std::string& bytes) {
  return GgufFile::Parse(std::as_bytes(std::span(bytes)), "test.gguf");
}

// A small file with every kind of thing in it.
GgufBytes Sample() {
  GgufBytes file;
  file.Str("general.architecture", "llama").U32("n", 7).F32("eps", 0.5F).Bool("yes", true);
  file.Raw("i8", 1, Le<int8_t>(-3)).Raw("u64", 10, Le<uint64_t>(uint64_t{1} << 40));
  file.Raw("f64", 12, Le(2.5)).Strs("words", {"a", "", "bcd"}).I32s("ints", {1, -2});
  file.F32s("floats", {0.25F}).Raw("empty", 9, Le<uint32_t>(4) + Le<uint64_t>(0));
  file.Tensor("f", {3, 2}, 0, Le(1.F) + Le(2.F) + Le(3.F) + Le(4.F) + Le(5.F) + Le(6.F));
  file.Tensor("q", {32, 2}, 8, std::string(68, '\1'));
  return file;
}

TEST(Gguf, ReadsMetadata) {
  const std::string bytes = Sample().Build();
  const auto file = Parse(bytes);
  ASSERT_TRUE(file.ok()) << file.message();
  EXPECT_EQ(file->metadata().size(), 11u);
  EXPECT_EQ(*file->GetString("general.architecture"), "llama");
  EXPECT_EQ(*file->GetInt("n", 0, 10), 7);
  EXPECT_EQ(*file->GetInt("i8", -10, 10), -3);
  EXPECT_EQ(*file->GetInt("u64", 0, INT64_MAX), int64_t{1} << 40);
  EXPECT_EQ(*file->GetFloat("eps", 0, 1), 0.5);
  EXPECT_EQ(*file->GetFloat("f64", 0, 10), 2.5);
  EXPECT_EQ(*file->GetFloat("n", 0, 10), 7);
  EXPECT_TRUE(*file->GetBoolOr("yes", false));
  EXPECT_TRUE(*file->GetBoolOr("absent", true));
  EXPECT_EQ(*file->GetStrings("words"), (std::vector<std::string_view>{"a", "", "bcd"}));
  EXPECT_EQ(*file->GetInts("ints"), (std::vector<int32_t>{1, -2}));
  EXPECT_EQ(*file->GetFloats("floats"), std::vector<float>{0.25F});
  EXPECT_EQ(file->Find("empty")->count, 0u);
}

TEST(Gguf, TypedAccessRefusesWithKeyAndValue) {
  const std::string bytes = Sample().Build();
  const auto file = Parse(bytes);
  ASSERT_TRUE(file.ok());
  EXPECT_EQ(file->GetInt("n", 0, 6).message(), "test.gguf: n is 7, want an integer from 0 to 6");
  EXPECT_EQ(file->GetInt("x", 0, 6).message(),
            "test.gguf: x is missing, want an integer from 0 to 6");
  EXPECT_EQ(file->GetString("n").message(), "test.gguf: n is 7, want a string");
  EXPECT_EQ(file->GetInt("words", 0, 6).message(),
            "test.gguf: words is an array of 3 str, want an integer from 0 to 6");
  EXPECT_FALSE(file->GetInt("eps", 0, 6).ok());
  EXPECT_FALSE(file->GetInts("words").ok());
  EXPECT_FALSE(file->GetBoolOr("n", true).ok());
}

TEST(Gguf, ReadsTensorsInBothVersions) {
  for (const uint32_t version : {2u, 3u}) {
    GgufBytes builder = Sample();
    builder.version = version;
    const std::string bytes = builder.Build();
    const auto file = Parse(bytes);
    ASSERT_TRUE(file.ok()) << file.message();
    ASSERT_EQ(file->tensors().size(), 2u);
    const GgufTensor* f = file->FindTensor("f");
    ASSERT_NE(f, nullptr);
    EXPECT_EQ(f->shape, (std::vector<int64_t>{2, 3}));  // the file has the fastest first
    std::vector<float> row(3);
    DecodeGgufRow(*f->type, f->data.data() + 12, 3, row.data());
    EXPECT_EQ(row, (std::vector<float>{4, 5, 6}));
    EXPECT_EQ(file->FindTensor("q")->data.size(), 68u);
    EXPECT_EQ(file->data_bytes(), 24 + 68);
    EXPECT_EQ(file->FindTensor("g"), nullptr);
  }
}

// The types without a kernel: d * code + m, with a fifth bit in Q5_1.
TEST(Gguf, DecodesTypesWithMinimum) {
  std::string q4_1 = Le(F32ToF16(0.5F)) + Le(F32ToF16(-1.F)) + std::string(16, '\0');
  q4_1[4] = '\x21';   // elements 0 and 16
  q4_1[19] = '\xf3';  // elements 15 and 31
  std::vector<float> values(32);
  DecodeGgufRow(*FindGgufTensorType(3), q4_1.data(), 32, values.data());
  EXPECT_EQ(values[0], -0.5F);
  EXPECT_EQ(values[16], 0.F);
  EXPECT_EQ(values[15], 0.5F);
  EXPECT_EQ(values[31], 6.5F);
  EXPECT_EQ(values[1], -1.F);
  std::string q5_1 = q4_1;
  q5_1.insert(4, Le<uint32_t>(1u | 1u << 31));
  DecodeGgufRow(*FindGgufTensorType(7), q5_1.data(), 32, values.data());
  EXPECT_EQ(values[0], 7.5F);
  EXPECT_EQ(values[16], 0.F);
  EXPECT_EQ(values[31], 14.5F);
}

// The same types against values from the format's own library (tools/make_quant_fixtures.py).
TEST(Gguf, TypesWithMinimumDecodeAsGgmlDoes) {
  struct Known {
    uint32_t type;
    std::vector<float> values;  // at 0, 1, 15, 16, 17, 31, 19, 31, 32, 37, 63
    double sum, ramp_sum;
  };
  const Known cases[] = {
      {3,
       {0.0960845947265625F, 0.0591888427734375F, 0.0345916748046875F, 0.1575775146484375F,
        0.1329803466796875F, 0.0960845947265625F, 0.2067718505859375F, 0.0960845947265625F,
        0.32977294921875F, 0.28057861328125F, 0.206787109375F},
       11.622772216796875,
       430.404296875},
      {7,
       {0.3051605224609375F, 0.0837860107421875F, 0.3051605224609375F, 0.1575775146484375F,
        0.2067718505859375F, 0.4035491943359375F, 0.0468902587890625F, 0.4035491943359375F,
        0.7479248046875F, 0.57574462890625F, 0.501953125F},
       21.805999755859375,
       843.6859130859375},
  };
  for (const Known& known : cases) {
    const GgufTensorType& type = *FindGgufTensorType(known.type);
    SCOPED_TRACE(type.name);
    std::string bytes;
    auto state = static_cast<uint32_t>(type.block_bytes);
    for (int64_t i = 0; i < 2 * type.block_bytes; ++i) {
      state = state * 1664525u + 1013904223u;
      bytes += static_cast<char>(state >> 24);
    }
    for (int block = 0; block < 2; ++block) {
      const float d = 0.0123F * static_cast<float>(1 + block);
      bytes.replace(block * type.block_bytes, 4, Le(F32ToF16(d)) + Le(F32ToF16(d + 0.01F)));
    }
    std::vector<float> values(64);
    DecodeGgufRow(type, bytes.data(), 64, values.data());
    const size_t places[] = {0, 1, 15, 16, 17, 31, 19, 31, 32, 37, 63};
    for (size_t i = 0; i < std::size(places); ++i) {
      EXPECT_EQ(values[places[i]], known.values[i]) << "element " << places[i];
    }
    double sum = 0, ramp_sum = 0;
    for (size_t i = 0; i < values.size(); ++i) {
      sum += values[i];
      ramp_sum += static_cast<double>(i + 1) * values[i];
    }
    EXPECT_NEAR(sum, known.sum, 1e-4);
    EXPECT_NEAR(ramp_sum, known.ramp_sum, 1e-2);
  }
}

struct BadCase {
  const char* name;
  std::function<std::string()> bytes;
  const char* message;  // a part of it
};

std::string WithEntry(uint32_t type, const std::string& payload) {
  return GgufBytes().Raw("k", type, payload).Build();
}
std::string WithTensor(const std::vector<uint64_t>& dims, uint32_t type, uint64_t offset) {
  return GgufBytes()
      .Tensor("pad", {256}, 0, std::string(1024, '\0'))
      .Info("t", dims, type, offset)
      .Build();
}
std::string WithAlignment(uint32_t alignment) {
  return GgufBytes().U32("general.alignment", alignment).Build();
}
std::string WithHeader(const std::string& magic, uint32_t version, uint64_t tensors,
                       uint64_t entries) {
  GgufBytes file;
  file.magic = magic;
  file.version = version;
  file.num_tensors = tensors;
  file.num_entries = entries;
  return file.Build();
}

constexpr uint64_t kHuge = ~uint64_t{0};

const std::vector<BadCase>& BadCases() {
  static const std::vector<BadCase> cases = {
      {"magic", [] { return WithHeader("GGUX", 3, 0, 0); }, "begin with \"GGUF\""},
      {"version 0", [] { return WithHeader("GGUF", 0, 0, 0); }, "version 0, want 2 or 3"},
      {"version 1", [] { return WithHeader("GGUF", 1, 0, 0); }, "version 1, want 2 or 3"},
      {"version 4", [] { return WithHeader("GGUF", 4, 0, 0); }, "version 4, want 2 or 3"},
      {"big-endian", [] { return WithHeader("GGUF", 3u << 24, 0, 0); }, "is big-endian (version 3"},
      {"n_tensors -1", [] { return WithHeader("GGUF", 3, kHuge, 0); }, "claims 18446744073709551"},
      {"n_kv -1", [] { return WithHeader("GGUF", 3, 0, kHuge); }, "18446744073709551615 metadata"},
      {"n_kv 1 of 0", [] { return WithHeader("GGUF", 3, 0, 1); }, "1 metadata entries in 24"},
      {"key length -1",
       [] {
         GgufBytes file;
         file.num_entries = 1;
         return file.Build() + Le(kHuge) + std::string(64, 'x');
       },
       "metadata key 0 takes 18446744073709551615 bytes"},
      {"empty key", [] { return GgufBytes().U32("", 1).Build(); }, "has 0 bytes, want 1 to"},
      {"long key", [] { return GgufBytes().U32(std::string(65536, 'k'), 1).Build(); },
       "65536 byte"},
      {"key not UTF-8", [] { return GgufBytes().U32("\xff", 1).Build(); }, "is not UTF-8"},
      {"duplicate key", [] { return GgufBytes().U32("k", 1).U32("k", 2).Build(); }, "two entries"},
      {"value type", [] { return WithEntry(13, Le(1)); }, "value type 13, want 0 to 12"},
      {"boolean 2", [] { return WithEntry(7, "\2"); }, "boolean 2"},
      {"boolean in array", [] { return WithEntry(9, Le(7) + Le<uint64_t>(2) + "\1\xff"); }, "255"},
      {"string past end", [] { return WithEntry(8, Le<uint64_t>(9) + "12345678"); },
       "takes 9 byte"},
      {"string length -1", [] { return WithEntry(8, Le(kHuge) + "x"); }, "takes 1844674407370955"},
      {"nested array", [] { return WithEntry(9, Le(9) + Le<uint64_t>(1)); }, "array of arrays"},
      {"array type", [] { return WithEntry(9, Le(99) + Le<uint64_t>(1)); }, "value type 99"},
      {"huge array", [] { return WithEntry(9, Le(4) + Le(uint64_t{1} << 40)); },
       "claims 109951162"},
      {"wrapping array", [] { return WithEntry(9, Le(10) + Le((uint64_t{1} << 61) + 1)); },
       "claims"},
      {"huge string array", [] { return WithEntry(9, Le(8) + Le(uint64_t{1} << 40)); }, "strings"},
      {"string in array past end",
       [] { return WithEntry(9, Le(8) + Le<uint64_t>(1) + Le(uint64_t{1} << 63)); },
       "\"k\"[0] take"},
      {"alignment 0", [] { return WithAlignment(0); }, "general.alignment is 0, want a u32"},
      {"alignment 13", [] { return WithAlignment(13); }, "alignment is 13"},
      {"alignment 4", [] { return WithAlignment(4); }, "alignment is 4"},
      {"alignment 2^31", [] { return WithAlignment(1u << 31); }, "alignment is 2147483648"},
      {"alignment u64", [] { return GgufBytes().Raw("general.alignment", 10, Le(kHuge)).Build(); },
       "is 18446744073709551615"},
      {"alignment array", [] { return GgufBytes().I32s("general.alignment", {32}).Build(); },
       "is an array of 1 i32"},
      {"empty name", [] { return GgufBytes().Tensor("", {1}, 0, "1234").Build(); }, "has 0 bytes"},
      {"long name", [] { return GgufBytes().Tensor(std::string(65, 'n'), {1}, 0, "1234").Build(); },
       "has 65 bytes, want 1 to 64"},
      {"duplicate name",
       [] { return GgufBytes().Tensor("t", {1}, 0, "1234").Tensor("t", {1}, 0, "1234").Build(); },
       "two tensors \"t\""},
      {"n_dims 0", [] { return WithTensor({}, 0, 1024); }, "has 0 dimensions"},
      {"n_dims 5",
       [] {
         return WithTensor({1, 1, 1, 1, 1}, 0, 1024);
       },
       "has 5 dimensions"},
      {"zero dimension",
       [] {
         return WithTensor({4, 0}, 0, 0);
       },
       "has dimension 1 of 0"},
      {"negative dimension", [] { return WithTensor({kHuge}, 0, 0); }, "has dimension 0 of 1844"},
      {"product wraps",
       [] {
         return WithTensor({uint64_t{1} << 32, uint64_t{1} << 32}, 0, 0);
       },
       "overflows"},
      {"product wraps to fit",
       [] {
         return WithTensor({uint64_t{1} << 62, 4, 4}, 0, 0);
       },
       "overflows a 64-bit size"},
      {"bytes wrap", [] { return WithTensor({uint64_t{1} << 62}, 0, 0); }, "overflows"},
      {"tensor type", [] { return WithTensor({32}, 77, 0); }, "\"t\" has type 77, want one of F32"},
      {"unsupported type", [] { return WithTensor({256}, 10, 0); }, "\"t\" has type Q2_K"},
      {"removed type", [] { return WithTensor({32}, 4, 0); }, "\"t\" has type 4"},
      {"partial block", [] { return WithTensor({33}, 8, 0); },
       "rows of 33 elements, want a multip"},
      {"partial super-block",
       [] {
         return WithTensor({32, 8}, 12, 0);
       },
       "multiple of 256 for Q4_K"},
      {"unaligned offset", [] { return WithTensor({1}, 0, 8); }, "lies at 8, want a multiple of"},
      {"offset past end", [] { return WithTensor({1}, 0, 4096); }, "at 4096, but the data end at"},
      {"offset wraps", [] { return WithTensor({8}, 0, kHuge - 31); }, "at 18446744073709551584"},
      {"end past end", [] { return WithTensor({257}, 0, 0); }, "takes 1028 bytes at 0, but"},
      {"overlap", [] { return WithTensor({4}, 0, 32); }, "\"pad\" and \"t\" overlap"},
      // Each has a size of its own; together, or padded, they wrap.
      {"sum of sizes wraps",
       [] {
         return GgufBytes()
             .Info("a", {uint64_t{1} << 60}, 0, 0)
             .Info("b", {uint64_t{1} << 60}, 0, uint64_t{1} << 62)
             .Info("c", {uint64_t{1} << 60}, 0, uint64_t{1} << 63)
             .Info("d", {uint64_t{1} << 60}, 0, (uint64_t{1} << 63) + (uint64_t{1} << 62))
             .Build();
       },
       "tensor \"a\" takes 4611686018427387904 bytes at 0, but the data end at 0"},
      {"padding wraps",
       [] {
         return GgufBytes().Info("a", {0x1fffffffffffffff}, 0, 0).Info("b", {8}, 0, 0).Build();
       },
       "tensor \"a\" takes 9223372036854775804 bytes at 0"},
      {"half of it beyond the end", [] { return WithTensor({32}, 0, 960); },
       "takes 128 bytes at 960, but the data end at 1024"},
  };
  return cases;
}

TEST(Gguf, RefusesEveryKindOfDamage) {
  for (const BadCase& bad : BadCases()) {
    const std::string bytes = bad.bytes();
    const auto file = Parse(bytes);
    ASSERT_FALSE(file.ok()) << bad.name;
    EXPECT_NE(file.message().find(bad.message), std::string::npos)
        << bad.name << ": " << file.message();
    EXPECT_EQ(file.message().find("test.gguf: "), 0u) << bad.name;
    EXPECT_EQ(file.message().find('\n'), std::string::npos) << bad.name;
    const bool known_type = std::string_view(bad.message).find("has type") == std::string::npos;
    EXPECT_EQ(file.error().code, known_type ? ErrorCode::kCorruptFile : ErrorCode::kUnsupported)
        << bad.name;
  }
}

TEST(Gguf, RefusesTruncationAtEveryByte) {
  const std::string bytes = Sample().Build();
  const size_t end = bytes.size() - 28;  // the last tensor ends here, then comes padding
  ASSERT_TRUE(Parse(bytes.substr(0, end)).ok());
  for (size_t size = 0; size < end; ++size) {
    const std::string part = bytes.substr(0, size);  // its own memory: reads past it are seen
    EXPECT_FALSE(Parse(part).ok()) << size;
  }
}

TEST(Gguf, FlippedBitsNeverLeadOutside) {
  const std::string bytes = Sample().Build();
  for (size_t i = 0; i < bytes.size() * 8; ++i) {
    std::string flipped = bytes;
    flipped[i / 8] = static_cast<char>(flipped[i / 8] ^ (1 << i % 8));
    const auto file = Parse(flipped);
    if (!file.ok()) continue;
    const auto* begin = reinterpret_cast<const std::byte*>(flipped.data());
    for (const GgufTensor& tensor : file->tensors()) {
      EXPECT_GE(tensor.data.data(), begin);
      EXPECT_LE(tensor.data.data() + tensor.data.size(), begin + flipped.size());
    }
    (void)file->GetStrings("words");
    for (const GgufEntry& entry : file->metadata()) EXPECT_FALSE(DescribeGguf(entry.value).empty());
  }
}

// Offsets and counts of numbers have 64 bits: beyond 2 GiB, and beyond 2^31 numbers.
TEST(Gguf, ReadsTensorsBeyond31Bits) {
  constexpr uint64_t kRows = (uint64_t{1} << 31) / 32 + 3;  // of 32 numbers in Q4_0
  const TempDir dir;
  GgufBytes header;
  header.Info("first", {32, kRows}, 2, 0);
  const uint64_t second = (kRows * 18 + 31) / 32 * 32;
  header.Info("second", {uint64_t{1} << 28}, 0, second);
  std::string bytes = header.Build();
  bytes.resize((bytes.size() + 31) / 32 * 32);
  const uint64_t begin = bytes.size();
  const std::string path = dir.Write("x.gguf", bytes);
  std::error_code error;  // the file has holes: it takes next to nothing
  std::filesystem::resize_file(path, begin + second + (uint64_t{4} << 28), error);
  if (error) GTEST_SKIP() << "no file of 2.3 GB here: " << error.message();
  {
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(static_cast<std::streamoff>(begin + (kRows - 1) * 18));
    file << Le(F32ToF16(0.5F)) << std::string(16, '\xff');
    file.seekp(static_cast<std::streamoff>(begin + second + (uint64_t{4} << 28) - 4));
    file << Le(-3.F);
  }
  const auto file = GgufFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.message();
  const GgufTensor& codes = file->tensors()[0];
  EXPECT_EQ(codes.data.size(), kRows * 18);
  std::vector<float> row(32);
  DecodeGgufRow(*codes.type, codes.data.data() + (kRows - 1) * 18, 32, row.data());
  EXPECT_EQ(row, std::vector<float>(32, 3.5F));
  const GgufTensor& floats = file->tensors()[1];
  DecodeGgufRow(*floats.type, floats.data.data() + floats.data.size() - 4, 1, row.data());
  EXPECT_EQ(row[0], -3.F);
}

TEST(Gguf, OpenNamesTheFile) {
  const auto none = GgufFile::Open("/nonexistent/x.gguf");
  ASSERT_FALSE(none.ok());
  EXPECT_EQ(none.error().code, ErrorCode::kNotFound);
  const auto other = GgufFile::Open(MLA_SOURCE_DIR "/CMakeLists.txt");
  ASSERT_FALSE(other.ok());
  EXPECT_NE(other.message().find("CMakeLists.txt: is no GGUF file"), std::string::npos);
}

}  // namespace
}  // namespace mla::test
