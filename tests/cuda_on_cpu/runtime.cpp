// Runs CUDA kernels on one CPU thread: a fibre for each CUDA thread that waits, barriers between fibres, and the
// runtime calls around a launch. README.md says what is checked and what cannot be seen.
//
// A fibre runs one CUDA thread after another until one has to wait; that one keeps the fibre and its stack. So a kernel
// without barriers costs a function call a thread. Fibres switch to the host, never to each other.
#include <cuda_runtime.h>
#include <sys/mman.h>

#include <cstdlib>
#include <deque>
#include <exception>
#include <list>
#include <map>
#include <mutex>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#if !defined(__x86_64__)
#define CUDA_ON_CPU_UCONTEXT
#endif
#if defined(CUDA_ON_CPU_UCONTEXT)
#include <ucontext.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
extern "C" void __tsan_ignore_thread_begin();
extern "C" void __tsan_ignore_thread_end();
#endif

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace cuda_on_cpu {
namespace {

// ------------------------------------------------------------------------------------------------------- sanitizers

#if defined(__SANITIZE_THREAD__)
constexpr bool kTsan = true;
// ThreadSanitizer sees an order between CUDA threads only where a kernel made one, none in this file's own work.
struct Unseen {
  Unseen() { __tsan_ignore_thread_begin(); }
  ~Unseen() { __tsan_ignore_thread_end(); }
};
void release(char* clock) { __tsan_release(clock); }
void acquire(char* clock) { __tsan_acquire(clock); }
#else
constexpr bool kTsan = false;
struct Unseen {
  ~Unseen() {}
};
void release(char*) {}
void acquire(char*) {}
#endif

// ----------------------------------------------------------------------------------------------------------- fibres

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr size_t kStack = 256 << 10;
#else
constexpr size_t kStack = 64 << 10;
#endif
// ThreadSanitizer knows some thousand threads. Beyond these a fibre, and with it what ThreadSanitizer takes for a
// thread, serves a second CUDA thread of the launch.
constexpr size_t kTsanFibres = 2048;

void run_threads();

struct Fibre {
  char* stack = nullptr;
#if defined(CUDA_ON_CPU_UCONTEXT)
  ucontext_t context;
#else
  void* sp = nullptr;
#endif
  // What the sanitizers know it by.
  const void* bottom = nullptr;
  size_t size = 0;
  void* fake = nullptr;
  void* tsan = nullptr;
};
Fibre host;

#if !defined(CUDA_ON_CPU_UCONTEXT)
// Keeps what a function must keep on the stack it leaves, and takes the like from the one it goes to.
// What it keeps to itself (noipa) the compiler takes for a call like any other, after which nothing else survives.
__attribute__((naked, noipa, no_sanitize("thread", "undefined"))) void swap_stacks(void**, void*) {
  asm("push %rbp; push %rbx; push %r12; push %r13; push %r14; push %r15; mov %rsp, (%rdi); mov %rsi, %rsp;"
      "pop %r15; pop %r14; pop %r13; pop %r12; pop %rbx; pop %rbp; ret");
}
#endif

constexpr size_t kGuard = 4096;

Fibre* make_fibre([[maybe_unused]] size_t number) {
  void* p = mmap(nullptr, kGuard + kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED || mprotect(p, kGuard, PROT_NONE)) throw std::runtime_error("cuda_on_cpu: no memory for a stack");
  Fibre& fibre = *new Fibre;
  fibre.stack = static_cast<char*>(p) + kGuard;
#if defined(CUDA_ON_CPU_UCONTEXT)
  getcontext(&fibre.context);
  fibre.context.uc_stack.ss_sp = fibre.stack;
  fibre.context.uc_stack.ss_size = kStack;
  makecontext(&fibre.context, run_threads, 0);
#else
  // Tops are shifted against each other: else all stacks would share a few sets of the caches. What swap_stacks takes:
  // six registers, where to go on, and a return address of 0, where traces end.
  auto top = reinterpret_cast<void**>(fibre.stack + kStack - 64 - number % 32 * 128);
  *--top = nullptr;
  *--top = reinterpret_cast<void*>(run_threads);
  for (int i = 0; i < 6; i++) *--top = nullptr;
  fibre.sp = top;
#endif
  fibre.bottom = fibre.stack, fibre.size = kStack;
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(fibre.stack, kStack);
#endif
#if defined(__SANITIZE_THREAD__)
  fibre.tsan = __tsan_create_fiber(0);
#endif
  return &fibre;
}

// Of a fibre that never goes on.
void discard(Fibre* fibre) {
  munmap(fibre->stack - kGuard, kGuard + kStack);
  delete fibre;
}

// What every fibre does first after a switch to it; `self` is null in one that begins.
void arrived([[maybe_unused]] Fibre* self) {
#if defined(__SANITIZE_ADDRESS__)
  const void* bottom;
  size_t size;
  __sanitizer_finish_switch_fiber(self ? self->fake : nullptr, &bottom, &size);
  if (self != &host) host.bottom = bottom, host.size = size;
#endif
}

void switch_to(Fibre& to, Fibre& from) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&from.fake, to.bottom, to.size);
#endif
#if defined(__SANITIZE_THREAD__)
  __tsan_switch_to_fiber(to.tsan, __tsan_switch_to_fiber_no_sync);
#endif
#if defined(CUDA_ON_CPU_UCONTEXT)
  swapcontext(&from.context, &to.context);
#else
  swap_stacks(&from.sp, to.sp);
#endif
  arrived(&from);
}

// ------------------------------------------------------------------------------------------------- threads and blocks

struct Thread;
struct Block;

enum Scope { kWarp, kBlock, kGrid };

struct Barrier {
  Scope scope;
  unsigned mask = 0;     // of a warp
  Meeting meeting = {};  // of those who wait
  std::vector<Thread*> waiting = {};
  std::vector<void*> brought = {};  // by rank
  unsigned generation = 0;
  char clock[2] = {};  // taken in turns: of one alone, early threads' next release would reach late threads of this one
};

struct Thread {
  uint3 index;
  unsigned rank;
  Block* block;
  Fibre* fibre = nullptr;  // null until it begins
  bool ended = false;
  Barrier* at = nullptr;  // where it waits
};

struct Warp {
  unsigned alive = 0;
  std::list<Barrier> barriers = {};  // one for each mask
};

struct Shared {
  const void* key;
  void* base;
  char* data;
};

struct Block {
  uint3 index;
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  std::vector<Shared> shared;
  size_t shared_size = 0;
  Barrier barrier{kBlock};

  Block(uint3 index, dim3 shape);
  Block(const Block&) = delete;
  ~Block();
  char* allocate(const void* key, size_t size, size_t align);
};

struct Grid {
  const Launch& launch;
  void (*body)(void*);
  void* argument;
  size_t shared_limit;
  std::deque<Block> blocks = {};
  std::deque<Thread*> ready = {};
  size_t threads = 0, alive = 0, idle_turns = 0;
  std::exception_ptr error = {};
  Barrier barrier{kGrid};
  char begin = 0, end = 0;  // clocks: what came before the launch, what comes after it

  void run();
  void add(uint3 index);
  void drain();
  std::string diagnosis() const;
};

Grid* grid;       // the one that runs, null between launches
Thread* current;  // the one that runs, null on the host

// Kept between launches and never destroyed.
struct Kept {
  std::mutex mutex;
  std::deque<Fibre*> idle;
  size_t fibres = 0;
  std::map<std::pair<const void*, size_t>, int> dynamic_limit;  // of cudaFuncSetAttribute, by kernel and device
  std::string seed;
  std::mt19937 random;
};
Kept& kept() {
  static Kept& only = *new Kept;
  return only;
}

bool shuffles;                // the seed is not 0
thread_local bool launching;  // by this host thread

template <class T> void shuffle(std::vector<T>& order) {
  if (shuffles) std::shuffle(order.begin(), order.end(), kept().random);
}

// --------------------------------------------------------------------------------------------------------- messages

std::string text(uint3 v) {
  char s[40];
  return {s, static_cast<size_t>(snprintf(s, sizeof(s), "(%u,%u,%u)", v.x, v.y, v.z))};
}
std::string text(const Thread& t) { return "thread " + text(t.index) + " of block " + text(t.block->index); }
std::string text(const Site& site) { return std::string(site.file_name()) + ":" + std::to_string(site.line()); }
std::string text(const Meeting& m) { return std::string(m.what) + " at " + text(m.site); }
std::string whereabouts(const Thread& t) {
  return text(t) + (t.at ? " waits in " + text(t.at->meeting) : t.ended ? " has ended" : " runs");
}

// Ends the launch: from a kernel's frames the fibre catches it and hands it to the host.
[[noreturn]] void give_up(const std::string& what) {
  auto& l = grid->launch;
  throw std::runtime_error(std::string("cuda_on_cpu: ") + l.name + ", launched at " + text(l.site) + ": " +
                           (current ? text(*current) + ": " : "") + what);
}

// Nobody can run: names one who waits and one whom it waits for.
std::string Grid::diagnosis() const {
  for (auto& block : blocks) {
    for (auto& one : block.threads) {
      if (!one.at) continue;
      auto& b = *one.at;
      for (auto& others : blocks) {
        if (b.scope != kGrid && &others != &block) continue;
        for (auto& other : others.threads) {
          bool wanted = b.scope != kWarp || (other.rank / 32 == one.rank / 32 && b.mask >> other.rank % 32 & 1);
          if (wanted && other.at != &b)
            return std::string("divergent ") + b.meeting.what + ": " + whereabouts(one) + ", " + whereabouts(other);
        }
      }
    }
  }
  return "nobody can run";
}

// --------------------------------------------------------------------------------------------------- blocks' storage

Block::Block(uint3 index, dim3 shape) : index(index) {
  unsigned rank = 0;
  threads.reserve(shape.x * shape.y * shape.z);
  for (unsigned z = 0; z < shape.z; z++)
    for (unsigned y = 0; y < shape.y; y++)
      for (unsigned x = 0; x < shape.x; x++) threads.push_back({{x, y, z}, rank++, this});
  warps.resize((rank + 31) / 32);
  for (unsigned i = 0; i < rank; i++) warps[i / 32].alive |= 1u << i % 32;
}

Block::~Block() {
  for (auto& s : shared) free(s.base);
}

// Each variable is an allocation of its own, so that AddressSanitizer knows its ends, and aligned to `align` and no
// more, so that UBSan sees what only happens to be aligned.
char* Block::allocate(const void* key, size_t size, size_t align) {
  size_t offset = std::max<size_t>(align, 8);
  void* base;
  if (posix_memalign(&base, 2 * offset, offset + size)) throw std::bad_alloc();
  auto data = static_cast<char*>(base) + offset;
  memset(data, 0xFF, size);
#if defined(__SANITIZE_ADDRESS__)
  __asan_poison_memory_region(base, offset);
#endif
  shared.push_back({key, base, data});
  return data;
}

// -------------------------------------------------------------------------------------------------------- scheduling

void enter(Thread* t) {
  current = t;
  threadIdx = t->index;
  blockIdx = t->block->index;
}

// Everyone is there: they go on, in any order, before those who could run already or after them.
void open(Barrier& b) {
  if (auto work = b.meeting.work) work(b.brought.data(), b.brought.size());
  b.generation++;
  std::fill(b.brought.begin(), b.brought.end(), nullptr);
  shuffle(b.waiting);
  for (auto t : b.waiting) t->at = nullptr;
  bool first = shuffles && kept().random() % 2;
  grid->ready.insert(first ? grid->ready.begin() : grid->ready.end(), b.waiting.begin(), b.waiting.end());
  b.waiting.clear();
  grid->idle_turns = 0;
}

bool is_complete(const Warp& warp, const Barrier& b) {
  return b.waiting.size() == static_cast<size_t>(std::popcount(b.mask & warp.alive));
}

void end_thread() {
  Thread* t = current;
  release(&grid->end);
  t->ended = true;
  grid->alive--;
  grid->idle_turns = 0;
  auto& warp = t->block->warps[t->rank / 32];
  warp.alive &= ~(1u << t->rank % 32);
  for (auto& b : warp.barriers) {  // they wait only for lanes that are left
    if (!b.waiting.empty() && is_complete(warp, b)) open(b);
  }
}

// Leaves the thread that runs until someone makes it ready.
void wait() {
  Thread* me = current;
  current = nullptr;
  release(&grid->end);  // should the launch end here
  switch_to(host, *me->fibre);
}

// Where a fibre begins.
void run_threads() {
  arrived(nullptr);
  Unseen unseen;
  for (;;) {
    Fibre* fibre = current->fibre;
    for (;;) {
      acquire(&grid->begin);
#if defined(__SANITIZE_THREAD__)
      __tsan_ignore_thread_end();
#endif
      auto failed = [] {
        grid->error = std::current_exception();
        current->ended = true;
        release(&grid->end);
      };
      try {
        grid->body(grid->argument);
      } catch (...) {
        failed();
      }
#if defined(__SANITIZE_THREAD__)
      __tsan_ignore_thread_begin();
#endif
      try {
        if (!current->ended) end_thread();
      } catch (...) {
        failed();
      }
      auto& ready = grid->ready;
      if (kTsan || grid->error || ready.empty() || ready.front()->fibre) break;
      ready.front()->fibre = fibre;
      enter(ready.front());
      ready.pop_front();
    }
    current = nullptr;
    kept().idle.push_back(fibre);
    switch_to(host, *fibre);
  }
}

Fibre* take_fibre() {
  auto& k = kept();
  if (k.idle.empty() || (kTsan && k.fibres < kTsanFibres)) return make_fibre(k.fibres++);
  // The last that was used is the warmest; ThreadSanitizer needs the one that was not used for longest.
  Fibre* fibre = kTsan ? k.idle.front() : k.idle.back();
  kTsan ? k.idle.pop_front() : k.idle.pop_back();
  return fibre;
}

void Grid::add(uint3 index) {
  auto& block = blocks.emplace_back(index, launch.block);
  std::vector<Thread*> order;
  for (auto& t : block.threads) order.push_back(&t);
  shuffle(order);
  ready.insert(ready.end(), order.begin(), order.end());
  threads += order.size(), alive += order.size();
}

// Runs until all blocks have ended.
void Grid::drain() {
  while (alive) {
    if (ready.empty()) give_up(diagnosis());
    Thread* next = ready.front();
    ready.pop_front();
    if (!next->fibre) next->fibre = take_fibre();
    enter(next);
    switch_to(*next->fibre, host);
    if (error) std::rethrow_exception(error);
  }
  blocks.clear();
  threads = 0;
}

void Grid::run() {
  std::vector<uint3> order;
  for (unsigned z = 0; z < launch.grid.z; z++)
    for (unsigned y = 0; y < launch.grid.y; y++)
      for (unsigned x = 0; x < launch.grid.x; x++) order.push_back({x, y, z});
  shuffle(order);
  release(&begin);
  for (auto index : order) {
    add(index);
    if (!launch.cooperative) drain();
  }
  drain();
  acquire(&end);
}

bool operator==(const Site& a, const Site& b) {
  return a.line() == b.line() && a.column() == b.column() &&
         (a.file_name() == b.file_name() || !strcmp(a.file_name(), b.file_name()));
}

// Waits for the others of a barrier; the last to come opens it.
void meet(Barrier& b, const Meeting& meeting, size_t rank, size_t ranks, void* mine) {
  Thread* me = current;
  if (b.waiting.empty())
    b.meeting = meeting;
  else if (!(b.meeting.site == meeting.site))
    give_up("divergent " + text(meeting) + ", where " + whereabouts(*b.waiting[0]));
  int turn = b.generation & 1;
  if (meeting.orders) release(&b.clock[turn]);
  if (mine) b.brought.resize(ranks), b.brought[rank] = mine;
  b.waiting.push_back(me);
  me->at = &b;
  auto& block = *me->block;
  if (b.scope == kWarp    ? is_complete(block.warps[me->rank / 32], b)
      : b.scope == kBlock ? b.waiting.size() == block.threads.size()
                          : b.waiting.size() == grid->threads)
    open(b);
  wait();
  if (meeting.orders) acquire(&b.clock[turn]);
}

void only_in_kernels(const char* what) {
  if (!current) throw std::logic_error(std::string("cuda_on_cpu: ") + what + " outside of a kernel");
}

}  // namespace

void meet_block(const Meeting& meeting, void* mine) {
  Unseen unseen;
  only_in_kernels(meeting.what);
  auto& block = *current->block;
  meet(block.barrier, meeting, current->rank, block.threads.size(), mine);
}

void meet_warp(const Meeting& meeting, unsigned mask, void* mine) {
  Unseen unseen;
  only_in_kernels(meeting.what);
  unsigned lane = current->rank % 32;
  if (!(mask >> lane & 1)) give_up(text(meeting) + " by a lane outside of its own mask");
  auto& barriers = current->block->warps[current->rank / 32].barriers;
  auto b = std::find_if(barriers.begin(), barriers.end(), [&](auto& b) { return b.mask == mask; });
  meet(b == barriers.end() ? barriers.emplace_back(kWarp, mask) : *b, meeting, lane, 32, mine);
}

void meet_grid(const Meeting& meeting) {
  Unseen unseen;
  only_in_kernels(meeting.what);
  if (!grid->launch.cooperative) give_up(text(meeting) + " in a launch that is not cooperative");
  meet(grid->barrier, meeting, 0, 0, nullptr);
}

bool is_cooperative() {
  Unseen unseen;
  return grid && grid->launch.cooperative;
}

void yield() {
  Unseen unseen;
  if (!launching) return;
  // Others count as progress; a million turns without are more than anyone waits for.
  if (grid->idle_turns++ > 1'000'000) give_up("waits for ever for what no thread writes");
  grid->ready.push_back(current);
  wait();
}

__attribute__((no_sanitize("thread"))) void breathe() {
  static unsigned count;
  if (++count % 64 == 0) yield();
}

void fail(const char* what, Site site) {
  Unseen unseen;
  only_in_kernels(what);
  give_up(what + (" at " + text(site)));
}

void* shared_storage(const void* key, size_t size, size_t align) {
  Unseen unseen;
  only_in_kernels("__shared__");
  Block& block = *current->block;
  for (auto& s : block.shared) {
    if (s.key == key) return s.data;
  }
  block.shared_size = (block.shared_size + align - 1) / align * align + size;
  if (block.shared_size > 48 << 10) give_up("more than 48 KiB of static shared memory");
  if (block.shared_size + grid->launch.shared > grid->shared_limit)
    give_up("static and dynamic shared memory are more than a block may have");
  return block.allocate(key, size, align);
}

void* dynamic_storage(size_t align) {
  Unseen unseen;
  only_in_kernels("extern __shared__");
  Block& block = *current->block;
  for (auto& s : block.shared) {
    if (!s.key) return s.data;
  }
  return block.allocate(nullptr, grid->launch.shared, std::max<size_t>(align, 16));
}

// ------------------------------------------------------------------------------------------------ the pretended device

namespace {

thread_local cudaError_t last_error;

cudaError_t leave(cudaError_t error) {
  if (error) last_error = error;
  return error;
}

int setting(const char* name, int otherwise) {
  const char* value = getenv(name);
  return value && *value ? atoi(value) : otherwise;
}

cudaDeviceProp device() {
  cudaDeviceProp d{};
  snprintf(d.name, sizeof(d.name), "a CPU");
  d.multiProcessorCount = setting("CUDA_ON_CPU_SMS", 4);
  d.sharedMemPerBlock = 48 << 10;
  d.sharedMemPerBlockOptin = setting("CUDA_ON_CPU_SHARED_OPTIN", 99 << 10);
  d.reservedSharedMemPerBlock = 1 << 10;
  d.sharedMemPerMultiprocessor = d.sharedMemPerBlockOptin + d.reservedSharedMemPerBlock;
  d.maxThreadsPerBlock = 1024;
  d.maxThreadsPerMultiProcessor = setting("CUDA_ON_CPU_THREADS_PER_SM", 1536);
  d.maxBlocksPerMultiProcessor = setting("CUDA_ON_CPU_BLOCKS_PER_SM", 16);
  d.regsPerBlock = d.regsPerMultiprocessor = setting("CUDA_ON_CPU_REGISTERS", 65536);
  int capability = setting("CUDA_ON_CPU_CAPABILITY", 86);
  d.major = capability / 10, d.minor = capability % 10;
  d.cooperativeLaunch = setting("CUDA_ON_CPU_COOPERATIVE", 1);
  d.warpSize = 32;
  d.l2CacheSize = setting("CUDA_ON_CPU_L2", 4 << 20);
  return d;
}

int blocks_per_sm(const cudaDeviceProp& d, size_t threads, size_t shared) {
  size_t rounded = std::max<size_t>((threads + 31) / 32 * 32, 1);
  size_t registers = setting("CUDA_ON_CPU_THREAD_REGISTERS", 32) * rounded;
  return static_cast<int>(std::min({static_cast<size_t>(d.maxBlocksPerMultiProcessor),
                                    d.maxThreadsPerMultiProcessor / rounded, d.regsPerMultiprocessor / registers,
                                    d.sharedMemPerMultiprocessor / (shared + d.reservedSharedMemPerBlock)}));
}

int dynamic_limit(const void* kernel) {
  auto& limits = kept().dynamic_limit;
  auto found = limits.find({kernel, device().sharedMemPerBlockOptin});
  return found == limits.end() ? 48 << 10 : std::max(found->second, 48 << 10);
}

cudaError_t refusal(const Launch& c) {
  auto d = device();
  size_t threads = static_cast<size_t>(c.block.x) * c.block.y * c.block.z;
  size_t blocks = static_cast<size_t>(c.grid.x) * c.grid.y * c.grid.z;
  if (!threads || threads > 1024 || c.block.z > 64 || !blocks || c.grid.x > 0x7FFFFFFF || c.grid.y > 65535 ||
      c.grid.z > 65535)
    return cudaErrorInvalidConfiguration;
  if (c.shared > static_cast<size_t>(dynamic_limit(c.kernel))) return cudaErrorInvalidValue;
  if (!blocks_per_sm(d, threads, c.shared)) return cudaErrorLaunchOutOfResources;
  if (c.cooperative && !d.cooperativeLaunch) return cudaErrorNotSupported;
  if (c.cooperative && blocks > static_cast<size_t>(blocks_per_sm(d, threads, c.shared)) * d.multiProcessorCount)
    return cudaErrorCooperativeLaunchTooLarge;
  return cudaSuccess;
}

}  // namespace

cudaError_t run(const Launch& launch, void (*body)(void*), void* argument) {
  if (launching) throw std::logic_error("cuda_on_cpu: a kernel that launches a kernel");
  auto& k = kept();
  std::lock_guard lock(k.mutex);
  if (auto error = refusal(launch)) return leave(error);
  Unseen unseen;
  const char* seed = getenv("CUDA_ON_CPU_SEED");
  if (!seed || !*seed) seed = "1";
  if (k.seed != seed) {  // launches go on where the last one stopped: two of a kernel run in different orders
    k.seed = seed;
    k.random.seed(static_cast<unsigned>(atol(seed)));
    shuffles = atol(seed) != 0;
  }
#if defined(__SANITIZE_THREAD__)
  host.tsan = __tsan_get_current_fiber();
#endif
  Grid running{launch, body, argument, device().sharedMemPerBlockOptin};
  grid = &running, gridDim = launch.grid, blockDim = launch.block, launching = true;
  std::exception_ptr error;
  try {
    running.run();
  } catch (...) {
    error = std::current_exception();
    acquire(&running.end);
    for (auto& block : running.blocks) {
      for (auto& t : block.threads) {
        if (t.fibre && !t.ended) discard(t.fibre);
      }
    }
  }
  grid = nullptr, current = nullptr, launching = false;
  if (error) std::rethrow_exception(error);
  return cudaSuccess;
}

}  // namespace cuda_on_cpu

// ------------------------------------------------------------------------------------------------------- the runtime

using cuda_on_cpu::device;
using cuda_on_cpu::leave;

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidValue:
      return "invalid argument";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorInvalidConfiguration:
      return "invalid configuration argument";
    case cudaErrorInvalidDevice:
      return "invalid device ordinal";
    case cudaErrorLaunchOutOfResources:
      return "too many resources requested for launch";
    case cudaErrorCooperativeLaunchTooLarge:
      return "too many blocks in cooperative launch";
    case cudaErrorNotSupported:
      return "operation not supported";
  }
  return "unrecognized error code";
}
const char* cudaGetErrorName(cudaError_t error) { return cudaGetErrorString(error); }
cudaError_t cudaGetLastError() { return std::exchange(cuda_on_cpu::last_error, cudaSuccess); }
cudaError_t cudaPeekAtLastError() { return cuda_on_cpu::last_error; }

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
  if (value < 0 || static_cast<size_t>(value) > device().sharedMemPerBlockOptin) return leave(cudaErrorInvalidValue);
  std::lock_guard lock(cuda_on_cpu::kept().mutex);
  auto [limit, first] = cuda_on_cpu::kept().dynamic_limit.try_emplace({kernel, device().sharedMemPerBlockOptin}, value);
  if (!first && value != limit->second)  // set by what each call needs: another host thread's need may be another
    throw std::logic_error("cuda_on_cpu: a kernel's limit of shared memory is changed from " +
                           std::to_string(limit->second) + " to " + std::to_string(value) + " bytes");
  return cudaSuccess;
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void*) { return *attributes = {}, cudaSuccess; }

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void* kernel, int threads, size_t shared) {
  std::lock_guard lock(cuda_on_cpu::kept().mutex);
  bool fits = threads <= 1024 && shared <= static_cast<size_t>(cuda_on_cpu::dynamic_limit(kernel));
  *blocks = fits ? cuda_on_cpu::blocks_per_sm(device(), threads, shared) : 0;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int* count) { return *count = 1, cudaSuccess; }
cudaError_t cudaGetDevice(int* number) { return *number = 0, cudaSuccess; }
cudaError_t cudaSetDevice(int number) { return number ? leave(cudaErrorInvalidDevice) : cudaSuccess; }
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int number) {
  return *properties = device(), cudaSetDevice(number);
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int number) {
  auto d = device();
  auto of = [&]() -> size_t {
    switch (attribute) {
      case cudaDevAttrMaxThreadsPerBlock:
        return d.maxThreadsPerBlock;
      case cudaDevAttrMaxSharedMemoryPerBlock:
        return d.sharedMemPerBlock;
      case cudaDevAttrMaxSharedMemoryPerBlockOptin:
        return d.sharedMemPerBlockOptin;
      case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
        return d.sharedMemPerMultiprocessor;
      case cudaDevAttrReservedSharedMemoryPerBlock:
        return d.reservedSharedMemPerBlock;
      case cudaDevAttrMaxThreadsPerMultiProcessor:
        return d.maxThreadsPerMultiProcessor;
      case cudaDevAttrMaxBlocksPerMultiprocessor:
        return d.maxBlocksPerMultiProcessor;
      case cudaDevAttrMaxRegistersPerBlock:
        return d.regsPerBlock;
      case cudaDevAttrMaxRegistersPerMultiprocessor:
        return d.regsPerMultiprocessor;
      case cudaDevAttrMultiProcessorCount:
        return d.multiProcessorCount;
      case cudaDevAttrComputeCapabilityMajor:
        return d.major;
      case cudaDevAttrComputeCapabilityMinor:
        return d.minor;
      case cudaDevAttrCooperativeLaunch:
        return d.cooperativeLaunch;
      case cudaDevAttrWarpSize:
        return d.warpSize;
      case cudaDevAttrL2CacheSize:
        return d.l2CacheSize;
    }
    return 0;
  };
  *value = static_cast<int>(of());
  return cudaSetDevice(number);
}

cudaError_t cudaMalloc(void** p, size_t size) {
  *p = malloc(size);
  if (!*p && size) return leave(cudaErrorMemoryAllocation);
  if (size) memset(*p, 0xFF, size);
  return cudaSuccess;
}
cudaError_t cudaFree(void* p) { return free(p), cudaSuccess; }
cudaError_t cudaMemset(void* p, int value, size_t size) { return memset(p, value, size), cudaSuccess; }
cudaError_t cudaMemsetAsync(void* p, int value, size_t size, cudaStream_t) { return cudaMemset(p, value, size); }
cudaError_t cudaMemcpy(void* to, const void* from, size_t size, cudaMemcpyKind) {
  return memcpy(to, from, size), cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t size, cudaMemcpyKind kind, cudaStream_t) {
  return cudaMemcpy(to, from, size, kind);
}
cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }
