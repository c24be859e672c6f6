// What the C interface (cpu.cpp) and the loops (cpu_kernels.cpp, compiled once per instruction set) share.
#pragma once
#include <cstddef>
#include <cstdint>

namespace linf {

// One call.  Tensors are contiguous, of one floating-point type; what a call does not use is null.
//   forward     a, w → y [index]              box forward     a, b, w → y (nearest), y2 (farthest)
//   backward    g, a, w, y → ga, gw           box backward    g, g2, a, b, w, y, y2 → ga, gb, gw
//   scatter     g, index → ga, gw
struct Call {
    int threads;
    int64_t n, out, features;        // a (n, features), w (out, features), y (n, out)
    double p;                        // ≥ 1; infinity included
    const void *a = nullptr, *b = nullptr, *w = nullptr;  // b: the upper end of a box, a then the lower
    void *y = nullptr, *y2 = nullptr;
    int32_t* index = nullptr;
    const void *g = nullptr, *g2 = nullptr;
    void *ga = nullptr, *gb = nullptr, *gw = nullptr;     // null: not wanted
};

// What one instruction set provides for one type.  May throw std::bad_alloc, nothing else.
using Kernel = void (*)(const Call&);
struct Kernels {
    Kernel forward, backward, scatter, box_forward, box_backward;
    int64_t (*ceiling)(double p, bool backward, int64_t rounds);  // the inner loop of float alone; how many pairs
};
using Types = const Kernels* [2];  // float, double

// Runs body(context, task, slot) for every task in [0, tasks), on at most ``threads`` threads; slot < threads
// names the thread, for its scratch memory.
void parallel(int64_t tasks, int threads, void (*body)(void*, int64_t, int), void* context);

// While it lives, calls of parallel() by this thread run on threads that are not ours: two pools on the same
// cores would slow each other.  spread(owner, count, f, argument) calls f(argument, i) once for every i < count.
class Threads {
  public:
    using Spread = void (*)(void* owner, size_t count, void (*f)(void*, size_t), void* argument);
    Threads(Spread spread, void* owner);
    ~Threads();
    Threads(const Threads&) = delete;

    const Spread spread;
    void* const owner;

  private:
    const Threads* const outer_;
};

// Those of the environment's LINF_CPU_LEVEL, else the best that the processor has; null for another name.
const Types* chosen_kernels();

void* allocate(int64_t bytes);       // aligned for vectors, not cleared; throws std::bad_alloc
void release(void*);
void expect_all_of(void*, int64_t bytes);  // all of this memory will be written: let it come in large pages

}  // namespace linf
