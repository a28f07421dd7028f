// The division of matrix products: every output is computed once, in blocks that start with a tile
// of rows, and tasks are many and even enough for the threads.
#include "kernels/cpu/linear_plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

namespace mla::cpu {
namespace {

struct Shape {
  int64_t rows, in, out;
};

std::vector<Product> Products(const std::vector<Shape>& shapes) {
  std::vector<Product> products;
  for (const Shape& s : shapes) {
    products.push_back(Product{.rows = s.rows, .in = s.in, .out = s.out});
  }
  return products;
}

int64_t Macs(const ProductBlock& block) {
  return (block.row_end - block.row_begin) * (block.out_end - block.out_begin) * block.product->in;
}

std::vector<int64_t> TaskMacs(const LinearPlan& plan) {
  std::vector<int64_t> macs(plan.num_tasks());
  for (int64_t task = 0; task < plan.num_tasks(); ++task) {
    plan.ForEachBlock(task, [&](const ProductBlock& block) { macs[task] += Macs(block); });
  }
  return macs;
}

TEST(LinearPlanTest, ComputesEveryOutputOnce) {
  std::mt19937 random(1);
  const auto pick = [&](int64_t most) { return std::uniform_int_distribution<>(1, most)(random); };
  for (int trial = 0; trial < 30; ++trial) {
    std::vector<Shape> shapes(pick(6));
    for (Shape& s : shapes) s = {pick(trial % 3 == 0 ? 800 : 40), pick(600), pick(400)};
    if (trial % 5 == 0) shapes[0].out = 0;
    std::vector<Product> products = Products(shapes);
    const int64_t row_bytes = int64_t{16} << pick(14);
    const int threads = pick(20);
    SCOPED_TRACE("trial " + std::to_string(trial));
    const LinearPlan plan(products, row_bytes, threads);

    EXPECT_LE(plan.block_rows(), LinearPlan::kMaxBlockRows);
    EXPECT_TRUE(plan.block_rows() <= LinearPlan::kRowQuantum ||
                plan.block_rows() * row_bytes <= LinearPlan::kXBlockBytes)
        << plan.block_rows() << " rows of " << row_bytes << " bytes";
    std::vector<std::vector<uint8_t>> computed;
    for (const Shape& s : shapes) computed.emplace_back(s.rows * s.out);
    for (int64_t task = 0; task < plan.num_tasks(); ++task) {
      plan.ForEachBlock(task, [&](const ProductBlock& block) {
        const Product& p = *block.product;
        ASSERT_LT(block.row_begin, block.row_end);
        ASSERT_LT(block.out_begin, block.out_end);
        ASSERT_LE(block.row_end, p.rows);
        ASSERT_LE(block.out_end, p.out);
        EXPECT_LE(block.row_end - block.row_begin, plan.block_rows());
        EXPECT_EQ(block.row_begin % LinearPlan::kRowQuantum, 0);
        std::vector<uint8_t>& counts = computed[&p - products.data()];
        for (int64_t row = block.row_begin; row < block.row_end; ++row) {
          for (int64_t out = block.out_begin; out < block.out_end; ++out) {
            ++counts[row * p.out + out];
          }
        }
      });
    }
    for (size_t i = 0; i < computed.size(); ++i) {
      EXPECT_TRUE(std::all_of(computed[i].begin(), computed[i].end(),
                              [](uint8_t count) { return count == 1; }))
          << "product " << i;
    }
  }
}

TEST(LinearPlanTest, NoTasksWithoutOutputs) {
  std::vector<Product> none, empty = Products({{5, 64, 0}});
  EXPECT_EQ(LinearPlan(none, 128, 4).num_tasks(), 0);
  EXPECT_EQ(LinearPlan(empty, 128, 4).num_tasks(), 0);
}

TEST(LinearPlanTest, OneTaskForOneThreadOrLittleWork) {
  std::vector<Product> large = Products({{512, 2048, 4096}}), small = Products({{1, 128, 128}});
  EXPECT_EQ(LinearPlan(large, 4096, 1).num_tasks(), 1);
  EXPECT_EQ(LinearPlan(small, 256, 8).num_tasks(), 1);
}

// One row of weights from memory, a prompt, and experts that differ in their rows: with 2, 8 and 64
// threads that take tasks as they come, nobody has to do much more than its part.
TEST(LinearPlanTest, TasksAreEvenEnoughForTheThreads) {
  for (const std::vector<Shape>& shapes :
       {std::vector<Shape>{{1, 2048, 10944}}, std::vector<Shape>{{512, 7168, 1536}},
        std::vector<Shape>{
            {150, 2048, 1408}, {3, 2048, 1408}, {90, 2048, 1408}, {41, 2048, 1408}}}) {
    for (const int threads : {2, 8, 64}) {
      SCOPED_TRACE(std::to_string(shapes[0].rows) + " rows, " + std::to_string(threads) +
                   " threads");
      std::vector<Product> products = Products(shapes);
      const std::vector<int64_t> macs = TaskMacs(LinearPlan(products, 4096, threads));
      int64_t all = 0;
      for (const int64_t task : macs) all += task;
      EXPECT_GE(static_cast<int64_t>(macs.size()), 2 * threads);
      EXPECT_LE(*std::max_element(macs.begin(), macs.end()), all / threads / 2);
    }
  }
}

}  // namespace
}  // namespace mla::cpu
