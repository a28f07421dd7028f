/* Calls libmla.so as a C program does. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mla/mla.h"

static int failures = 0;

#define EXPECT(condition)                                                     \
  do {                                                                        \
    if (!(condition)) {                                                       \
      fprintf(stderr, "%s:%d: %s; mla: %s\n", __FILE__, __LINE__, #condition, \
              mla_error_message());                                           \
      ++failures;                                                             \
    }                                                                         \
  } while (0)

/* The call is refused with this code and a message that holds this text. */
#define EXPECT_REFUSED(call, code, text)                 \
  do {                                                   \
    EXPECT((call) == (code));                            \
    EXPECT(strstr(mla_error_message(), (text)) != NULL); \
  } while (0)

enum { SEQS = 3, S_Q = 2, HEADS = 3, D_K = 24, D_V = 16, PAGE = 4, PAGES = 6, WIDTH = 3 };

static float q[SEQS][S_Q][HEADS][D_K];
static float cache[PAGES][PAGE][D_K];
static const int32_t kv_lens[SEQS] = {9, 0, 1};
static const int32_t page_table[SEQS][WIDTH] = {{4, 1, 5}, {-1, -1, -1}, {2, 2147480000, -7}};
static float out[SEQS][S_Q][HEADS][D_V];
static float lse[SEQS][HEADS][S_Q]; /* not in the order of the axes: by strides */
static const float scale = 0.2F;

static float next_random(void) {
  static uint32_t state = 12345;
  state = state * 1664525U + 1013904223U;
  return (float)(state >> 8) / (float)(1 << 24) - 0.5F;
}

static mla_tensor tensor(void* data, int32_t dtype, int32_t rank, const int64_t* dims) {
  mla_tensor t = {0};
  int64_t stride = 1;
  int32_t i;
  t.size = sizeof(t);
  t.data = data;
  t.dtype = dtype;
  t.rank = rank;
  for (i = rank - 1; i >= 0; --i) {
    t.dims[i] = dims[i];
    t.strides[i] = stride;
    stride *= dims[i];
  }
  return t;
}

/* The tensors of one call, and the call itself. */
typedef struct fixture {
  mla_tensor q, cache, page_table, kv_lens, out, lse;
  mla_decode_args args;
} fixture;

static void set_up(fixture* f) {
  const int64_t q_dims[] = {SEQS, S_Q, HEADS, D_K}, cache_dims[] = {PAGES, PAGE, D_K};
  const int64_t table_dims[] = {SEQS, WIDTH}, lens_dims[] = {SEQS};
  const int64_t out_dims[] = {SEQS, S_Q, HEADS, D_V}, lse_dims[] = {SEQS, S_Q, HEADS};
  memset(f, 0, sizeof(*f));
  f->q = tensor(q, MLA_F32, 4, q_dims);
  f->cache = tensor(cache, MLA_F32, 3, cache_dims);
  f->page_table = tensor((void*)page_table, MLA_I32, 2, table_dims);
  f->kv_lens = tensor((void*)kv_lens, MLA_I32, 1, lens_dims);
  f->out = tensor(out, MLA_F32, 4, out_dims);
  f->lse = tensor(lse, MLA_F32, 3, lse_dims);
  f->lse.strides[0] = (int64_t)HEADS * S_Q;
  f->lse.strides[1] = 1;
  f->lse.strides[2] = S_Q;
  f->args.size = sizeof(f->args);
  f->args.q = &f->q;
  f->args.cache = &f->cache;
  f->args.page_table = &f->page_table;
  f->args.kv_lens = &f->kv_lens;
  f->args.out = &f->out;
  f->args.lse = &f->lse;
  f->args.kv_lora_rank = D_V;
  f->args.scale = scale;
  f->args.causal = 1;
}

/* Row (s, i, h) in double precision: the largest error of its out, and its lse. */
static double row_error(int s, int i, int h, double* row_lse) {
  double sum = 0, acc[D_V] = {0}, worst = 0;
  const int visible = kv_lens[s] - S_Q + i + 1;
  int j, d;
  for (j = 0; j < visible; ++j) {
    const float* key = cache[page_table[s][j / PAGE]][j % PAGE];
    double score = 0, p;
    for (d = 0; d < D_K; ++d) score += (double)q[s][i][h][d] * key[d];
    p = exp(score * scale);
    sum += p;
    for (d = 0; d < D_V; ++d) acc[d] += p * key[d];
  }
  for (d = 0; d < D_V; ++d) {
    const double want = sum > 0 ? acc[d] / sum : 0;
    const double error = fabs(out[s][i][h][d] - want);
    /* Not >, so that NaN counts. */
    if (!(error <= worst)) worst = error;
  }
  *row_lse = log(sum);
  return worst;
}

static void fill(void) {
  int i, j, d;
  float* numbers = &q[0][0][0][0];
  for (i = 0; i < SEQS * S_Q * HEADS * D_K; ++i) numbers[i] = next_random();
  for (i = 0; i < PAGES; ++i) {
    for (j = 0; j < PAGE; ++j) {
      for (d = 0; d < D_K; ++d) cache[i][j][d] = NAN;
    }
  }
  for (i = 0; i < SEQS; ++i) {
    for (j = 0; j < kv_lens[i]; ++j) {
      for (d = 0; d < D_K; ++d) cache[page_table[i][j / PAGE]][j % PAGE][d] = next_random();
    }
  }
}

static void expect_right(void) {
  int s, i, h;
  for (s = 0; s < SEQS; ++s) {
    for (i = 0; i < S_Q; ++i) {
      for (h = 0; h < HEADS; ++h) {
        double want;
        EXPECT(row_error(s, i, h, &want) < 1e-5);
        EXPECT(isinf(want) ? isinf(lse[s][h][i]) && lse[s][h][i] < 0
                           : fabs(lse[s][h][i] - want) < 1e-5);
      }
    }
  }
}

static void test_decode(void) {
  fixture f;
  mla_decode_sizes sizes = {sizeof(sizes), 99, 99};
  set_up(&f);
  memset(out, 0xff, sizeof(out));
  EXPECT(mla_decode_memory(&f.args, &sizes) == MLA_OK);
  EXPECT(sizes.schedule_bytes == 0 && sizes.workspace_bytes == 0);
  EXPECT(mla_decode_schedule(&f.args) == MLA_OK);
  EXPECT(mla_decode(&f.args) == MLA_OK);
  EXPECT(strcmp(mla_error_message(), "") == 0);
  expect_right();
}

/* q and out with the heads outermost: their tokens cannot be seen as one axis. */
static void test_strides(void) {
  static float other_q[HEADS][S_Q][SEQS][D_K], other_out[HEADS][S_Q][SEQS][D_V];
  fixture f;
  int s, i, h;
  set_up(&f);
  for (s = 0; s < SEQS; ++s) {
    for (i = 0; i < S_Q; ++i) {
      for (h = 0; h < HEADS; ++h) memcpy(other_q[h][i][s], q[s][i][h], sizeof(q[s][i][h]));
    }
  }
  f.q.data = other_q;
  f.q.strides[0] = D_K;
  f.q.strides[1] = (int64_t)SEQS * D_K;
  f.q.strides[2] = (int64_t)S_Q * SEQS * D_K;
  f.out.data = other_out;
  f.out.strides[0] = D_V;
  f.out.strides[1] = (int64_t)SEQS * D_V;
  f.out.strides[2] = (int64_t)S_Q * SEQS * D_V;
  memset(out, 0xff, sizeof(out));
  EXPECT(mla_decode(&f.args) == MLA_OK);
  for (s = 0; s < SEQS; ++s) {
    for (i = 0; i < S_Q; ++i) {
      for (h = 0; h < HEADS; ++h) memcpy(out[s][i][h], other_out[h][i][s], sizeof(out[s][i][h]));
    }
  }
  expect_right();
}

static void test_absorbed(void) {
  const int64_t q_dims[] = {(int64_t)SEQS * S_Q, HEADS, D_K}, cu_dims[] = {SEQS + 1};
  const int64_t out_dims[] = {(int64_t)SEQS * S_Q, HEADS, D_V};
  const int64_t lse_dims[] = {(int64_t)SEQS * S_Q, HEADS};
  int32_t cu_q[SEQS + 1] = {0, S_Q, 2 * S_Q, 3 * S_Q};
  float rows_lse[SEQS][S_Q][HEADS];
  fixture f;
  mla_tensor cu;
  mla_absorbed_args args = {0};
  mla_verdicts verdicts = {0};
  int s, i, h;
  set_up(&f);
  f.q = tensor(q, MLA_F32, 3, q_dims);
  f.out = tensor(out, MLA_F32, 3, out_dims);
  f.lse = tensor(rows_lse, MLA_F32, 2, lse_dims);
  cu = tensor(cu_q, MLA_I32, 1, cu_dims);
  args.size = sizeof(args);
  args.q = &f.q;
  args.cache = &f.cache;
  args.cu_q = &cu;
  args.page_table = &f.page_table;
  args.kv_lens = &f.kv_lens;
  args.out = &f.out;
  args.lse = &f.lse;
  args.kv_lora_rank = D_V;
  args.scale = scale;
  args.causal = 1;
  memset(out, 0xff, sizeof(out));
  EXPECT(mla_absorbed(&args) == MLA_OK);
  for (s = 0; s < SEQS; ++s) {
    for (i = 0; i < S_Q; ++i) {
      for (h = 0; h < HEADS; ++h) lse[s][h][i] = rows_lse[s][i][h];
    }
  }
  expect_right();

  verdicts.size = sizeof(verdicts);
  args.kernel = "reference";
  EXPECT(mla_absorbed_explain(&args, &verdicts) == MLA_OK);
  EXPECT(verdicts.count >= 1);
  EXPECT(verdicts.count >= 1 &&
         strcmp(verdicts.items[verdicts.count - 1].kernel, "reference") == 0 &&
         strcmp(verdicts.items[verdicts.count - 1].refusal, "") == 0);
  EXPECT(mla_absorbed(&args) == MLA_OK);
  args.kernel = "no_such";
  EXPECT_REFUSED(mla_absorbed(&args), MLA_INVALID_ARGUMENT, "no kernel is called no_such");
  args.kernel = NULL;
  args.num_threads = 2;
  args.compute = MLA_COMPUTE_BF16;
  EXPECT(mla_absorbed(&args) == MLA_OK);
  args.compute = 7;
  EXPECT_REFUSED(mla_absorbed(&args), MLA_INVALID_ARGUMENT, "compute is 7");
  args.compute = 0;
  args.num_threads = -1;
  EXPECT_REFUSED(mla_absorbed(&args), MLA_INVALID_ARGUMENT, "num_threads is -1");
}

static uint16_t to_bf16(float x) { /* truncates */
  uint32_t bits;
  memcpy(&bits, &x, sizeof(bits));
  return (uint16_t)(bits >> 16);
}

static float from_bf16(uint16_t x) {
  const uint32_t bits = (uint32_t)x << 16;
  float value;
  memcpy(&value, &bits, sizeof(value));
  return value;
}

/* q and out in bf16, of a batch that leaves its first and last token to nobody: the same numbers as
 * in f32, and nothing written beside them. */
static void test_absorbed_bf16(void) {
  enum { TOKENS = SEQS * S_Q };
  static uint16_t q16[TOKENS][HEADS][D_K], out16[TOKENS][HEADS][D_V];
  static float rounded[TOKENS][HEADS][D_K], out32[TOKENS][HEADS][D_V];
  const int64_t q_dims[] = {TOKENS, HEADS, D_K}, out_dims[] = {TOKENS, HEADS, D_V};
  const int64_t lse_dims[] = {TOKENS, HEADS}, cu_dims[] = {SEQS + 1};
  int32_t cu_q[SEQS + 1] = {1, 3, 4, 5};
  float lse16[TOKENS][HEADS], lse32[TOKENS][HEADS];
  fixture f;
  mla_tensor cu = tensor(cu_q, MLA_I32, 1, cu_dims);
  mla_absorbed_args args = {0};
  mla_verdicts verdicts = {0};
  int t, h, d;
  for (t = 0; t < TOKENS; ++t) {
    for (h = 0; h < HEADS; ++h) {
      for (d = 0; d < D_K; ++d) {
        q16[t][h][d] = to_bf16((&q[0][0][0][0])[(t * HEADS + h) * D_K + d]);
        rounded[t][h][d] = from_bf16(q16[t][h][d]);
      }
    }
  }
  set_up(&f);
  args.size = sizeof(args);
  args.q = &f.q;
  args.cache = &f.cache;
  args.cu_q = &cu;
  args.page_table = &f.page_table;
  args.kv_lens = &f.kv_lens;
  args.out = &f.out;
  args.lse = &f.lse;
  args.kv_lora_rank = D_V;
  args.scale = scale;
  args.causal = 1;
  args.compute = MLA_COMPUTE_F32;
  memset(out32, 0xab, sizeof(out32));
  memset(lse32, 0xab, sizeof(lse32));
  memset(out16, 0xab, sizeof(out16));
  memset(lse16, 0xab, sizeof(lse16));
  f.q = tensor(rounded, MLA_F32, 3, q_dims);
  f.out = tensor(out32, MLA_F32, 3, out_dims);
  f.lse = tensor(lse32, MLA_F32, 2, lse_dims);
  EXPECT(mla_absorbed(&args) == MLA_OK);
  f.q = tensor(q16, MLA_BF16, 3, q_dims);
  f.out = tensor(out16, MLA_BF16, 3, out_dims);
  f.lse = tensor(lse16, MLA_F32, 2, lse_dims);
  EXPECT(mla_absorbed(&args) == MLA_OK);
  EXPECT(memcmp(lse16, lse32, sizeof(lse32)) == 0);
  for (t = 0; t < TOKENS; ++t) {
    for (h = 0; h < HEADS; ++h) {
      for (d = 0; d < D_V; ++d) {
        if (t == 0 || t == TOKENS - 1) {
          EXPECT(out16[t][h][d] == 0xabab);
        } else {
          const float want = out32[t][h][d];
          EXPECT(fabsf(from_bf16(out16[t][h][d]) - want) <= fabsf(want) / 256);
        }
      }
    }
  }
  /* Such a call is for the kernels of f32. */
  verdicts.size = sizeof(verdicts);
  EXPECT(mla_absorbed_explain(&args, &verdicts) == MLA_OK);
  for (t = 0; t < verdicts.count; ++t) {
    EXPECT(strstr(verdicts.items[t].refusal, "must be f32") == NULL);
  }
  f.out.dtype = MLA_I32;
  EXPECT_REFUSED(mla_absorbed(&args), MLA_INVALID_ARGUMENT, "out is i32");
  args.out = NULL;
  EXPECT_REFUSED(mla_absorbed(&args), MLA_INVALID_ARGUMENT, "mla_absorbed: out is absent");
}

static void test_merge(void) {
  const int64_t part_dims[] = {2, 1, 1, 2}, lse_dims[] = {2, 1, 1};
  const int64_t out_dims[] = {1, 1, 2}, one_dims[] = {1, 1};
  float parts[2][2] = {{1, 2}, {5, 6}}, part_lse[2] = {0, 0}, merged[2] = {-1, -1}, total = -1;
  mla_tensor part_out = tensor(parts, MLA_F32, 4, part_dims);
  mla_tensor lses = tensor(part_lse, MLA_F32, 3, lse_dims);
  mla_tensor result = tensor(merged, MLA_F32, 3, out_dims);
  mla_tensor result_lse = tensor(&total, MLA_F32, 2, one_dims);
  mla_merge_args args = {0};
  args.size = sizeof(args);
  args.part_out = &part_out;
  args.part_lse = &lses;
  args.out = &result;
  args.lse = &result_lse;
  EXPECT(mla_merge(&args) == MLA_OK);
  EXPECT(merged[0] == 3 && merged[1] == 4 && fabsf(total - logf(2)) < 1e-6F);
  args.part_lse = NULL;
  EXPECT_REFUSED(mla_merge(&args), MLA_INVALID_ARGUMENT, "part_lse");
}

/* Two tokens and one that is not cached, turned by half a circle: signs change. */
static void test_append(void) {
  const int64_t c_dims[] = {3, 2}, k_dims[] = {3, 2}, q_dims[] = {3, 1, 2};
  const int64_t slab_dims[] = {2, 2, 4};
  const int32_t positions[3] = {0, 1, 1};
  const int64_t slots[3] = {3, 0, -1}, beyond[3] = {0, 1, 4};
  const float inv_freq[1] = {3.14159265F};
  float c[3][2] = {{1, 2}, {3, 4}, {5, 6}}, k[3][2] = {{7, 8}, {9, 10}, {11, 12}};
  float turned[3][2] = {{1, 2}, {3, 4}, {5, 6}}, slab[2][2][4] = {{{0}}}, before[3][2];
  mla_tensor c_kv = tensor(c, MLA_F32, 2, c_dims), k_pe = tensor(k, MLA_F32, 2, k_dims);
  mla_tensor q_pe = tensor(turned, MLA_F32, 3, q_dims), pages = tensor(slab, MLA_F32, 3, slab_dims);
  mla_append_args args = {0};
  args.size = sizeof(args);
  args.c_kv = &c_kv;
  args.k_pe = &k_pe;
  args.q_pe = &q_pe;
  args.cache = &pages;
  args.positions = positions;
  args.slots = slots;
  args.inv_freq = inv_freq;
  EXPECT(mla_append(&args) == MLA_OK);
  EXPECT(slab[1][1][0] == 1 && slab[1][1][1] == 2 && slab[1][1][2] == 7 && slab[1][1][3] == 8);
  EXPECT(slab[0][0][0] == 3 && fabsf(slab[0][0][2] + 9) < 1e-4F && slab[0][1][0] == 0);
  EXPECT(turned[0][0] == 1 && fabsf(turned[1][0] + 3) < 1e-4F && fabsf(turned[2][1] + 6) < 1e-4F);
  args.magnitude = 2;
  args.pairing = MLA_ROPE_HALVES;
  EXPECT(mla_append(&args) == MLA_OK);
  EXPECT(slab[1][1][2] == 14);
  /* What is refused has written nothing: the last slot is not one of the cache's. */
  memset(slab, 0, sizeof(slab));
  memcpy(before, turned, sizeof(before));
  args.slots = beyond;
  EXPECT_REFUSED(mla_append(&args), MLA_INVALID_ARGUMENT, "slot 4 of a cache of 4");
  EXPECT(memcmp(before, turned, sizeof(before)) == 0 && slab[0][0][0] == 0);
  args.slots = slots;
  pages.dtype = MLA_I32;
  EXPECT_REFUSED(mla_append(&args), MLA_INVALID_ARGUMENT, "cache is i32");
  pages.dtype = MLA_F32;
  q_pe.dtype = MLA_F16;
  EXPECT_REFUSED(mla_append(&args), MLA_INVALID_ARGUMENT, "f16");
  q_pe.dtype = MLA_F32;
  EXPECT(memcmp(before, turned, sizeof(before)) == 0 && slab[0][0][0] == 0);
  args.pairing = 2;
  EXPECT_REFUSED(mla_append(&args), MLA_INVALID_ARGUMENT, "pairing is 2");
  args.pairing = 0;
  args.slots = NULL;
  EXPECT_REFUSED(mla_append(&args), MLA_INVALID_ARGUMENT, "slots");
  args.slots = slots;
  pages.dims[2] = 3;
  EXPECT_REFUSED(mla_append(&args), MLA_INVALID_ARGUMENT, "cache has shape");
  pages.device_type = MLA_CUDA;
  EXPECT_REFUSED(mla_append(&args), MLA_INVALID_ARGUMENT, "is on CUDA device 0");
}

static void test_head_linear(void) {
  const int64_t x_dims[] = {2, 2, 3}, w_dims[] = {2, 1, 3}, y_dims[] = {2, 2, 1};
  float xs[2][2][3] = {{{1, 2, 3}, {4, 5, 6}}, {{1, 0, 0}, {0, 1, 0}}};
  float ws[2][1][3] = {{{1, 1, 1}}, {{1, 10, 100}}}, ys[2][2][1] = {{{0}}};
  mla_tensor x = tensor(xs, MLA_F32, 3, x_dims), w = tensor(ws, MLA_F32, 3, w_dims);
  mla_tensor y = tensor(ys, MLA_F32, 3, y_dims);
  mla_head_linear_args args = {0};
  mla_verdicts verdicts = {0};
  args.size = sizeof(args);
  args.x = &x;
  args.w = &w;
  args.y = &y;
  EXPECT(mla_head_linear(&args) == MLA_OK);
  EXPECT(ys[0][0][0] == 6 && ys[0][1][0] == 654 && ys[1][0][0] == 1 && ys[1][1][0] == 10);
  verdicts.size = sizeof(verdicts);
  EXPECT(mla_head_linear_explain(&args, &verdicts) == MLA_OK);
  EXPECT(verdicts.count >= 1 && verdicts.items[verdicts.count - 1].refusal[0] == '\0');
  args.kernel = "no_such";
  EXPECT_REFUSED(mla_head_linear(&args), MLA_INVALID_ARGUMENT, "no kernel is called no_such");
  args.kernel = NULL;
  w.dims[0] = 1;
  EXPECT_REFUSED(mla_head_linear(&args), MLA_INVALID_ARGUMENT, "w has shape");
}

static void test_explain(void) {
  fixture f;
  mla_verdicts verdicts = {0};
  int i, accepts = 0;
  set_up(&f);
  f.args.out = NULL;
  verdicts.size = sizeof(verdicts);
  EXPECT(mla_decode_explain(&f.args, &verdicts) == MLA_OK);
  for (i = 0; i < verdicts.count; ++i) accepts += verdicts.items[i].refusal[0] == '\0';
  EXPECT(verdicts.count >= 1 && accepts >= 1);
  verdicts.size = 0;
  EXPECT_REFUSED(mla_decode_explain(&f.args, &verdicts), MLA_INVALID_ARGUMENT, "size field");
}

static void test_refusals(void) {
  fixture f;
  struct {
    mla_decode_args args;
    int64_t later_field;
  } newer;
  set_up(&f);
  EXPECT_REFUSED(mla_decode(NULL), MLA_INVALID_ARGUMENT, "args is null");
  f.args.size = 0;
  EXPECT_REFUSED(mla_decode(&f.args), MLA_INVALID_ARGUMENT, "the size field is 0");

  /* Of a later library, with a field that this one does not know. */
  set_up(&f);
  newer.args = f.args;
  newer.args.size = sizeof(newer);
  newer.later_field = 0;
  EXPECT(mla_decode(&newer.args) == MLA_OK);
  newer.later_field = 1;
  EXPECT_REFUSED(mla_decode(&newer.args), MLA_INVALID_ARGUMENT, "must be 0");
  /* Of an earlier one, that did not have the last fields. */
  f.args.compute = 7;
  f.args.size = offsetof(mla_decode_args, num_threads);
  EXPECT(mla_decode(&f.args) == MLA_OK);

  set_up(&f);
  f.args.out = NULL;
  EXPECT_REFUSED(mla_decode(&f.args), MLA_INVALID_ARGUMENT, "mla_decode: out is absent");
  set_up(&f);
  f.args.q = NULL;
  EXPECT_REFUSED(mla_decode(&f.args), MLA_INVALID_ARGUMENT, "q is absent");
  set_up(&f);
  f.q.dtype = 77;
  EXPECT_REFUSED(mla_decode(&f.args), MLA_INVALID_ARGUMENT, "q: dtype is 77");
  set_up(&f);
  f.q.rank = 5;
  EXPECT_REFUSED(mla_decode(&f.args), MLA_INVALID_ARGUMENT, "rank is 5");
  set_up(&f);
  f.cache.device_type = MLA_CUDA;
  EXPECT_REFUSED(mla_decode(&f.args), MLA_INVALID_ARGUMENT, "cache of shape [6, 4, 24] is on CUDA");
  set_up(&f);
  f.page_table.strides[0] = 2;
  EXPECT_REFUSED(mla_decode(&f.args), MLA_INVALID_ARGUMENT, "page_table has stride 2 on axis 0");
  set_up(&f);
  f.kv_lens.dims[0] = 2;
  EXPECT_REFUSED(mla_decode(&f.args), MLA_INVALID_ARGUMENT, "kv_lens has shape [2], want [3]");
  set_up(&f);
  f.args.scale = -1;
  EXPECT_REFUSED(mla_decode(&f.args), MLA_INVALID_ARGUMENT, "mla_decode: scale is -1");
  set_up(&f);
  f.out.dims[3] = D_V + 1;
  EXPECT_REFUSED(mla_decode(&f.args), MLA_INVALID_ARGUMENT, "out has shape");
  set_up(&f);
  f.lse.dtype = MLA_F16;
  EXPECT_REFUSED(mla_decode(&f.args), MLA_INVALID_ARGUMENT, "lse");
}

static void test_library(void) {
  mla_build_info info = {0};
  mla_device_info device = {0};
  int32_t count = -1;
  info.size = sizeof(info);
  device.size = sizeof(device);
  EXPECT(mla_get_build_info(&info) == MLA_OK);
  EXPECT(info.version != NULL && strchr(info.version, '.') != NULL);
  EXPECT(info.isas != NULL && info.isas[0] != '\0');
  EXPECT((info.cuda == 1) == (info.cuda_architectures != NULL && info.cuda_architectures[0] != 0));
  if (mla_device_count(&count) == MLA_OK && count > 0) {
    EXPECT(info.cuda == 1);
    EXPECT(mla_get_device_info(0, &device) == MLA_OK);
    EXPECT(device.name[0] != '\0' && device.num_sms > 0 && device.memory_bytes > 0);
    EXPECT(mla_stream_synchronize(0, NULL) == MLA_OK);
    EXPECT_REFUSED(mla_get_device_info(count, &device), MLA_INVALID_ARGUMENT, "index is");
    printf("capi: %s, device 0 is %s\n", info.version, device.name);
  } else {
    EXPECT(count == 0);
    EXPECT(mla_get_device_info(0, &device) != MLA_OK);
    printf("capi: %s, no CUDA device: its functions are not called here\n", info.version);
  }
}

int main(void) {
  fill();
  test_library();
  test_decode();
  test_strides();
  test_absorbed();
  test_absorbed_bf16();
  test_merge();
  test_append();
  test_head_linear();
  test_explain();
  test_refusals();
  if (failures == 0) printf("capi: passed\n");
  return failures == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
