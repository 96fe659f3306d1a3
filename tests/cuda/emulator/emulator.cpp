#include "emulator/device.hpp"

#include <algorithm>
#include <cassert>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>

#if !defined(__x86_64__)
#error "the emulator switches fibers in x86-64 assembly"
#endif

// Saves the callee-saved registers on the stack, swaps stacks, restores (System V ABI).
extern "C" void quire_emulator_switch(void** save_stack, void* load_stack);
asm(R"(
.text
.globl quire_emulator_switch
.type quire_emulator_switch,@function
quire_emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size quire_emulator_switch,.-quire_emulator_switch
)");

namespace quire::cuda::emulator {

thread_local Thread* thread = nullptr;
thread_local Block* block = nullptr;

namespace {

constexpr size_t kStackBytes = 128 << 10;

struct Fiber {
  Thread thread;
  Block* block = nullptr;
  std::unique_ptr<std::byte[]> stack;
  void* stack_pointer = nullptr;
  const uint32_t* waits_for = nullptr; // runs again when this differs from `seen`
  uint32_t seen = 0;
  bool spins = false; // all that it did when it last ran was to look for something
  bool done = false;
};

struct Scheduler {
  std::vector<Fiber> fibers;
  void* main_stack = nullptr;
  Fiber* current = nullptr;
  const std::function<void()>* body = nullptr;
  std::vector<std::byte> shared;
  std::mt19937 random{1};
  bool running = false;
};

thread_local Scheduler scheduler;

void fiber_main() {
  (*scheduler.body)();
  scheduler.current->done = true;
  quire_emulator_switch(&scheduler.current->stack_pointer, scheduler.main_stack);
  std::abort();
}

void prepare(Fiber& fiber) {
  if (!fiber.stack) fiber.stack = std::make_unique_for_overwrite<std::byte[]>(kStackBytes);
  auto top = (reinterpret_cast<uintptr_t>(fiber.stack.get()) + kStackBytes) / 16 * 16;
  auto* words =
      reinterpret_cast<void**>(top) - 2; // after the return address is popped, the stack is 16 n + 8, as after a call
  words[0] = reinterpret_cast<void*>(&fiber_main);
  fiber.stack_pointer = words - 6;
  fiber.done = false;
  fiber.waits_for = nullptr;
}

// The blocks of a cluster; most have one.
void run_blocks(std::vector<Block>& blocks, dim3 block_dim, const std::function<void()>& body) {
  const uint32_t threads = block_dim.x * block_dim.y * block_dim.z;
  const auto count = threads * static_cast<uint32_t>(blocks.size());
  if (scheduler.fibers.size() < count) scheduler.fibers.resize(count);
  uint32_t arrived = 0;
  for (Block& b : blocks) {
    b.warps.assign((threads + 31) / 32, {});
    for (uint32_t w = 0; w < b.warps.size(); ++w) b.warps[w].expected = std::min(32u, threads - 32 * w);
    b.all = {};
    b.all.expected = threads, b.live = threads;
    for (auto& named : b.named) named = {};
    b.cluster_arrived = &arrived;
    b.cluster_threads = count;
  }
  scheduler.body = &body;
  std::vector<uint32_t> order(count);
  for (uint32_t i = 0; i < count; ++i) {
    Fiber& fiber = scheduler.fibers[i];
    prepare(fiber);
    fiber.thread = {};
    fiber.block = &blocks[i / threads];
    const uint32_t rank = i % threads;
    fiber.thread.rank = rank, fiber.thread.lane = rank % 32, fiber.thread.warp = rank / 32;
    fiber.thread.thread_idx = {rank % block_dim.x, rank / block_dim.x % block_dim.y,
                               rank / (block_dim.x * block_dim.y)};
    order[i] = i;
  }
  uint32_t left = count, idle_rounds = 0;
  while (left != 0) {
    std::shuffle(order.begin(), order.end(), scheduler.random);
    bool progress = false;
    for (const uint32_t i : order) {
      Fiber& fiber = scheduler.fibers[i];
      if (fiber.done || (fiber.waits_for != nullptr && *fiber.waits_for == fiber.seen)) continue;
      fiber.waits_for = nullptr, fiber.spins = false;
      thread = &fiber.thread;
      block = fiber.block;
      scheduler.current = &fiber;
      quire_emulator_switch(&scheduler.main_stack, fiber.stack_pointer);
      progress = progress || !fiber.spins;
      if (fiber.done) {
        --left, --fiber.block->live;
        if (!fiber.thread.copies.empty()) {
          for (const PendingCopy& copy : fiber.thread.copies)
            if (copy.valid_bytes != 0) {
              std::fprintf(stderr, "emulator: a thread ended with copies that nothing waited for\n");
              std::abort();
            }
        }
      }
    }
    idle_rounds = progress ? 0 : idle_rounds + 1;
    if (idle_rounds > 1) {
      std::fprintf(stderr, "emulator: deadlock: %u of %u threads wait for what the others don't do\n", left, count);
      std::abort();
    }
  }
  thread = nullptr;
  block = nullptr;
}

void yield() {
  Fiber* fiber = scheduler.current;
  quire_emulator_switch(&fiber->stack_pointer, scheduler.main_stack);
}

} // namespace

void spin() {
  scheduler.current->spins = true;
  yield();
}

uint32_t nanoseconds() {
  return static_cast<uint32_t>(std::chrono::nanoseconds(std::chrono::steady_clock::now().time_since_epoch()).count());
}

void check_alive(const Block& to) {
  if (to.live != 0) return;
  std::fprintf(stderr, "emulator: a block sends to one of its cluster that has ended\n");
  std::abort();
}

const std::vector<std::array<uint64_t, 8>>& exchange(Exchange& barrier, uint32_t slot, const uint64_t* words,
                                                     uint32_t count) {
  assert(count <= 8);
  auto& slots = barrier.slots[barrier.generation % 2];
  if (slots.size() < barrier.expected) slots.resize(barrier.expected);
  if (count != 0) std::copy_n(words, count, slots[slot].begin());
  if (++barrier.arrived == barrier.expected) {
    barrier.arrived = 0;
    ++barrier.generation;
  } else {
    Fiber* fiber = scheduler.current;
    fiber->waits_for = &barrier.generation;
    fiber->seen = barrier.generation;
    yield();
  }
  return slots;
}

void run_grid(uint32_t cluster, dim3 grid, dim3 block_dim, size_t shared_bytes, const std::function<void()>& body) {
  assert(!scheduler.running && grid.x % cluster == 0);
  scheduler.running = true;
  const size_t pitch = (shared_bytes + 1023) / 1024 * 1024;
  scheduler.shared.resize(cluster * pitch + 1024);
  auto base = (reinterpret_cast<uintptr_t>(scheduler.shared.data()) + 1023) / 1024 * 1024;
  std::vector<Block> blocks(cluster);
  for (uint32_t rank = 0; rank < cluster; ++rank) {
    blocks[rank].block_dim = block_dim;
    blocks[rank].grid_dim = grid;
    blocks[rank].shared = reinterpret_cast<std::byte*>(base + rank * pitch);
    blocks[rank].cluster_rank = rank;
  }
  std::vector<uint32_t> order(size_t{grid.x} / cluster * grid.y * grid.z);
  for (uint32_t i = 0; i < order.size(); ++i) order[i] = i * cluster;
  std::shuffle(order.begin(), order.end(), scheduler.random);
  for (const uint32_t first : order) {
    for (uint32_t i = first; i < first + cluster; ++i)
      blocks[i - first].block_idx = {i % grid.x, i / grid.x % grid.y, i / (grid.x * grid.y)};
    std::memset(scheduler.shared.data(), 0xff, scheduler.shared.size());
    run_blocks(blocks, block_dim, body);
  }
  scheduler.running = false;
}

void copy_async(void* to, const void* from, uint32_t bytes, uint32_t valid_bytes) {
  thread->copies.push_back({to, from, bytes, valid_bytes, thread->copy_group});
}

void copy_async_commit() { ++thread->copy_group; }

void copy_async_wait(uint32_t groups_left) {
  auto& copies = thread->copies;
  size_t kept = 0;
  for (size_t i = 0; i < copies.size(); ++i) {
    const PendingCopy& copy = copies[i];
    if (copy.group + groups_left >= thread->copy_group && !(groups_left == 0)) {
      copies[kept++] = copy;
      continue;
    }
    if (copy.valid_bytes != 0) std::memcpy(copy.to, copy.from, copy.valid_bytes);
    std::memset(static_cast<std::byte*>(copy.to) + copy.valid_bytes, 0, copy.bytes - copy.valid_bytes);
  }
  copies.resize(kept);
}

} // namespace quire::cuda::emulator
