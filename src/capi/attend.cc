#include "capi/attend.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "base/numeric.h"
#include "base/threads.h"
#include "ops/shape_checks.h"

namespace mla::capi {
namespace {

// Stands for memory that is not touched: of calls that compute nothing.
alignas(64) float no_memory[16];

template <typename Void>
Void* RowOf(const BasicTensor<Void>& t, int64_t token, int64_t head) {
  using Byte = std::conditional_t<std::is_const_v<Void>, const char, char>;
  const int64_t inner = t.dim(1);
  const int64_t element =
      token / inner * t.stride(0) + token % inner * t.stride(1) + head * t.stride(2);
  return static_cast<Byte*>(t.data()) + element * static_cast<int64_t>(SizeOf(t.dtype()));
}

void LoadRow(const void* from, DType dtype, int64_t n, float* to) {
  const auto* bits = static_cast<const uint16_t*>(from);
  switch (dtype) {
    case DType::kBF16:
      for (int64_t i = 0; i < n; ++i) to[i] = Bf16ToF32(bits[i]);
      break;
    case DType::kF16:
      for (int64_t i = 0; i < n; ++i) to[i] = F16ToF32(bits[i]);
      break;
    default: std::memcpy(to, from, n * sizeof(float));
  }
}

void StoreRow(const float* from, int64_t n, DType dtype, void* to) {
  auto* bits = static_cast<uint16_t*>(to);
  switch (dtype) {
    case DType::kBF16:
      for (int64_t i = 0; i < n; ++i) bits[i] = F32ToBf16(from[i]);
      break;
    case DType::kF16:
      for (int64_t i = 0; i < n; ++i) bits[i] = F32ToF16(from[i]);
      break;
    default: std::memcpy(to, from, n * sizeof(float));
  }
}

// f32, with token axes that can be seen as one.
bool TakenAsItIs(const ConstTensor& t) {
  return t.dtype() == DType::kF32 &&
         (t.dim(0) <= 1 || t.dim(1) == 1 || t.stride(0) == t.dim(1) * t.stride(1));
}

// Tokens [first, first + count) of an operand that is taken as it is: [count, heads, n].
Tensor Joined(const Tensor& t, int64_t first, int64_t count) {
  const int64_t token = t.dim(1) == 1 ? t.stride(0) : t.stride(1);
  return {t.as<float>() + first * token,
          DType::kF32,
          {count, t.dim(2), t.dim(3)},
          {token, t.stride(2), 1},
          t.device()};
}

Tensor Writable(const ConstTensor& t) {
  return {const_cast<void*>(t.data()),
          t.dtype(),
          {t.dim(0), t.dim(1), t.dim(2), t.dim(3)},
          {t.stride(0), t.stride(1), t.stride(2), t.stride(3)},
          t.device()};
}

int64_t Tokens(const AttendCall& call) { return call.q.dim(0) * call.q.dim(1); }

// All of the call as the operator takes it, on memory that is never touched.
MlaAbsorbedArgs Shapes(const AttendCall& call) {
  MlaAbsorbedArgs args = call.args;
  const int64_t tokens = Tokens(call), heads = call.q.dim(2);
  args.q = ConstTensor(no_memory, DType::kF32, {tokens, heads, call.q.dim(3)}, call.q.device());
  args.out = Tensor(no_memory, DType::kF32, {tokens, heads, args.kv_lora_rank});
  if (call.lse.present()) args.lse = Tensor(no_memory, DType::kF32, {tokens, heads});
  return args;
}

Status CheckTypes(const AttendCall& call) {
  MLA_RETURN_IF_ERROR(CheckDType(call.q, "mla_absorbed: q", kFloatTypes));
  return CheckDType(call.out, "mla_absorbed: out", kFloatTypes);
}

// The part of a batch that has the query tokens [first, first + count). A token of a sequence of
// which later ones are left out sees as many keys fewer, so that it sees the same ones.
class BatchPart {
 public:
  BatchPart(const MlaAbsorbedArgs& args, int64_t first, int64_t count) : batch_(args.batch) {
    const int32_t* cu_q = args.batch.cu_q;
    const auto begin = static_cast<int32_t>(first), end = static_cast<int32_t>(first + count);
    cu_q_.push_back(0);
    for (int32_t s = 0; s < batch_.num_seqs; ++s) {
      const int32_t last = std::clamp(cu_q[s + 1], begin, end);
      cu_q_.push_back(last - begin);
      const int32_t left_out = args.causal ? cu_q[s + 1] - last : 0;
      // A sequence that has no token here is not to be walked through.
      const bool here = cu_q_[s + 1] > cu_q_[s];
      kv_lens_.push_back(here ? std::max(0, args.batch.kv_lens[s] - left_out) : 0);
    }
    batch_.cu_q = cu_q_.data();
    batch_.kv_lens = kv_lens_.data();
  }
  BatchPart(const BatchPart&) = delete;
  BatchPart& operator=(const BatchPart&) = delete;

  const PagedBatch& batch() const { return batch_; }

 private:
  PagedBatch batch_;
  std::vector<int32_t> cu_q_, kv_lens_;
};

// The memory that a tile's operands go through.
struct Staging {
  std::unique_ptr<float[]> q, out, lse;  // null: taken as it is, or absent
};

// Calls move(token, head, row) for the rows of a tile, which follow each other by token.
template <typename Move>
void ForRows(const Context& context, int64_t tokens, int64_t heads, const Move& move) {
  constexpr int64_t kRowsPerTask = 16;
  const int64_t rows = tokens * heads;
  ParallelFor(context.threads, CeilDiv(rows, kRowsPerTask), [&](int64_t task, int) {
    const int64_t end = std::min(rows, (task + 1) * kRowsPerTask);
    for (int64_t row = task * kRowsPerTask; row < end; ++row) move(row / heads, row % heads, row);
  });
}

Status AttendTile(const AttendCall& call, const Staging& staging, int64_t first, int64_t count,
                  const Context& context) {
  const int64_t heads = call.q.dim(2), d_k = call.q.dim(3), d_v = call.args.kv_lora_rank;
  const BatchPart part(call.args, first, count);
  MlaAbsorbedArgs args = call.args;
  args.batch = part.batch();
  if (staging.q != nullptr) {
    args.q = ConstTensor(staging.q.get(), DType::kF32, {count, heads, d_k});
    ForRows(context, count, heads, [&](int64_t token, int64_t head, int64_t row) {
      LoadRow(RowOf(call.q, first + token, head), call.q.dtype(), d_k, staging.q.get() + row * d_k);
    });
  } else {
    args.q = Joined(Writable(call.q), first, count);
  }
  args.out = staging.out != nullptr ? Tensor(staging.out.get(), DType::kF32, {count, heads, d_v})
                                    : Joined(call.out, first, count);
  if (staging.lse != nullptr) args.lse = Tensor(staging.lse.get(), DType::kF32, {count, heads});
  MLA_RETURN_IF_ERROR(MlaAbsorbed(args, context));
  if (staging.out != nullptr) {
    ForRows(context, count, heads, [&](int64_t token, int64_t head, int64_t row) {
      StoreRow(staging.out.get() + row * d_v, d_v, call.out.dtype(),
               RowOf(call.out, first + token, head));
    });
  }
  if (staging.lse != nullptr) {
    ForRows(context, count, heads, [&](int64_t token, int64_t head, int64_t row) {
      *static_cast<float*>(RowOf(call.lse, first + token, head)) = staging.lse[row];
    });
  }
  return {};
}

}  // namespace

Status Attend(const AttendCall& call, const Context& context) {
  MLA_RETURN_IF_ERROR(ExplainAttend(call, context));
  const PagedBatch& batch = call.args.batch;
  if (batch.num_seqs == 0) return {};
  // Tokens that no sequence owns are left alone.
  const int64_t begin = batch.cu_q[0], end = batch.cu_q[batch.num_seqs], heads = call.q.dim(2);
  const bool q_as_is = TakenAsItIs(call.q), out_as_is = TakenAsItIs(call.out);
  const int64_t q_row = q_as_is ? 0 : heads * call.q.dim(3);
  const int64_t out_row = out_as_is ? 0 : heads * call.args.kv_lora_rank;
  const int64_t lse_row = call.lse.present() ? heads : 0;
  const auto bytes = static_cast<int64_t>(sizeof(float)) * (q_row + out_row + lse_row);
  const int64_t tile = std::clamp<int64_t>(kAttendBytes / std::max<int64_t>(bytes, 1), 1,
                                           std::max<int64_t>(end - begin, 1));
  const auto make = [&](int64_t row) {
    return row > 0 ? std::make_unique_for_overwrite<float[]>(tile * row) : nullptr;
  };
  const Staging staging{make(q_row), make(out_row), make(lse_row)};
  for (int64_t first = begin; first < end; first += tile) {
    MLA_RETURN_IF_ERROR(AttendTile(call, staging, first, std::min(tile, end - first), context));
  }
  return {};
}

Result<KernelVerdicts> ExplainAttend(const AttendCall& call, const Context& context) {
  MLA_RETURN_IF_ERROR(CheckTypes(call));
  return ExplainMlaAbsorbed(Shapes(call), context);
}

ComputeMode AutomaticCompute(const ConstTensor& q, const ConstTensor& cache) {
  const bool both = q.dtype() == DType::kBF16 && cache.dtype() == DType::kBF16;
  return both ? ComputeMode::kBF16 : ComputeMode::kF32;
}

}  // namespace mla::capi
