// The C interface of the CPU kernels, their threads, and the choice of the instruction set.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>
#include <thread>
#include <vector>

#include "cpu.h"

extern const linf::Kernels linf_baseline_float, linf_baseline_double;
#if defined(__x86_64__)
extern const linf::Kernels linf_avx2_float, linf_avx2_double, linf_avx512_float, linf_avx512_double;
#endif

namespace {

struct Level {
    const char* name;
    linf::Types kernels;
    bool supported;
};

const std::vector<Level>& levels() {  // the best first
    static const std::vector<Level> all = {
#if defined(__x86_64__)
        {"avx512", {&linf_avx512_float, &linf_avx512_double},
         __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw")
             && __builtin_cpu_supports("avx512vl")},
        {"avx2", {&linf_avx2_float, &linf_avx2_double},
         __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")},
#endif
        {"baseline", {&linf_baseline_float, &linf_baseline_double}, true},
    };
    return all;
}

// Threads that sleep between calls.  A call that finds them at work for another runs on its own thread alone.
class Pool {
  public:
    void run(int64_t tasks, int threads, void (*body)(void*, int64_t, int), void* context) {
        std::unique_lock<std::mutex> busy(busy_, std::try_to_lock);
        if (threads > tasks) threads = (int)tasks;
        if (threads <= 1 || !busy) {
            for (int64_t task = 0; task < tasks; task++) body(context, task, 0);
            return;
        }
        {
            std::lock_guard<std::mutex> lock(mutex_);
            while ((int)workers_.size() < threads - 1) {
                const int slot = (int)workers_.size() + 1;
                try {
                    workers_.emplace_back([this, slot] { work(slot); });
                } catch (...) {  // no more threads to be had: the others do it
                    threads = (int)workers_.size() + 1;
                }
            }
            body_ = body, context_ = context, tasks_ = tasks, next_ = 0;
            wanted_ = running_ = threads - 1;
            generation_++;
        }
        start_.notify_all();
        drain(0);
        std::unique_lock<std::mutex> lock(mutex_);
        done_.wait(lock, [this] { return running_ == 0; });
    }

  private:
    void drain(int slot) {
        for (int64_t task; (task = next_++) < tasks_;) body_(context_, task, slot);
    }

    void work(int slot) {
        uint64_t seen = 0;
        std::unique_lock<std::mutex> lock(mutex_);
        while (true) {
            start_.wait(lock, [&] { return generation_ != seen; });
            seen = generation_;
            if (slot > wanted_) continue;
            lock.unlock();
            drain(slot);
            lock.lock();
            if (--running_ == 0) done_.notify_one();
        }
    }

    std::mutex busy_, mutex_;
    std::condition_variable start_, done_;
    std::vector<std::thread> workers_;
    uint64_t generation_ = 0;
    int wanted_ = 0, running_ = 0;
    std::atomic<int64_t> next_{0};
    int64_t tasks_ = 0;
    void (*body_)(void*, int64_t, int) = nullptr;
    void* context_ = nullptr;
};

// Never destroyed: its threads sleep until the process ends.  A forked child has none of them and gets a new one.
Pool& pool() {
    static std::mutex mutex;
    static Pool* instance = nullptr;
    static pid_t owner = 0;
    std::lock_guard<std::mutex> lock(mutex);
    if (owner != getpid()) instance = new Pool, owner = getpid();
    return *instance;
}

int call(int level, linf::Kernel linf::Kernels::*kernel, int dtype, const linf::Call& c) {
    try {
        (levels()[level].kernels[dtype]->*kernel)(c);
        return 0;
    } catch (const std::bad_alloc&) {
        return 1;
    }
}

}  // namespace

namespace linf {

static thread_local const Threads* lent = nullptr;

Threads::Threads(Spread spread, void* owner) : spread(spread), owner(owner), outer_(lent) { lent = this; }
Threads::~Threads() { lent = outer_; }

void parallel(int64_t tasks, int threads, void (*body)(void*, int64_t, int), void* context) {
    if (threads <= 1 || tasks <= 1) {
        for (int64_t task = 0; task < tasks; task++) body(context, task, 0);
    } else if (lent) {
        std::atomic<int64_t> next{0};
        auto drain = [&](size_t slot) { for (int64_t task; (task = next++) < tasks;) body(context, task, (int)slot); };
        lent->spread(lent->owner, std::min<int64_t>(threads, tasks),
                     [](void* f, size_t slot) { (*(decltype(drain)*)f)(slot); }, &drain);
        drain(0);  // whatever could not be spread
    } else {
        pool().run(tasks, threads, body, context);
    }
}

void* allocate(int64_t bytes) {
    void* p = std::aligned_alloc(64, (bytes + 63) / 64 * 64 + 64);
    if (!p) throw std::bad_alloc();
    return p;
}

void expect_all_of(void* p, int64_t bytes) {
#if defined(MADV_HUGEPAGE)
    constexpr uintptr_t HUGE = 2 << 20;
    const uintptr_t first = ((uintptr_t)p + HUGE - 1) / HUGE * HUGE, last = ((uintptr_t)p + bytes) / HUGE * HUGE;
    if (first < last) madvise((void*)first, last - first, MADV_HUGEPAGE);
#endif
}

void release(void* p) { std::free(p); }

const Types* chosen_kernels() {
    const char* name = std::getenv("LINF_CPU_LEVEL");
    for (const Level& level : levels())
        if (level.supported && (!name || !*name || !strcmp(name, level.name))) return &level.kernels;
    return nullptr;
}

}  // namespace linf

// The interface.  dtype is 0 for float, 1 for double; 0 means success, 1 that there is no memory, 2 that an index
// names no coordinate.
// Pointers are to contiguous tensors; see linf::Call.  Change ABI whenever a signature or the meaning of an
// index changes.

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT int linf_abi() { return 3; }

EXPORT const char* linf_level(int level) {  // null past the last; "" where the processor lacks it
    if (level < 0 || level >= (int)levels().size()) return nullptr;
    return levels()[level].supported ? levels()[level].name : "";
}

EXPORT int linf_dist(int level, int dtype, int threads, int64_t n, int64_t out, int64_t features, double p,
                     const void* x, const void* w, void* y, int32_t* index) {
    linf::Call c{threads, n, out, features, p};
    c.a = x, c.w = w, c.y = y, c.index = index;
    return call(level, &linf::Kernels::forward, dtype, c);
}

EXPORT int linf_dist_vjp(int level, int dtype, int threads, int64_t n, int64_t out, int64_t features, double p,
                         const void* grad, const void* x, const void* w, const void* y, void* gx, void* gw) {
    linf::Call c{threads, n, out, features, p};
    c.g = grad, c.a = x, c.w = w, c.y = const_cast<void*>(y), c.ga = gx, c.gw = gw;
    return call(level, &linf::Kernels::backward, dtype, c);
}

EXPORT int linf_scatter(int level, int dtype, int threads, int64_t n, int64_t out, int64_t features,
                        const void* grad, const int32_t* index, void* gx, void* gw) {
    int32_t largest = -1;
    for (int64_t i = 0; i < n * out; i++) largest = std::max(largest, index[i]);
    if (largest >= 4 * features) return 2;
    linf::Call c{threads, n, out, features, 1};
    c.g = grad, c.index = const_cast<int32_t*>(index), c.ga = gx, c.gw = gw;
    return call(level, &linf::Kernels::scatter, dtype, c);
}

EXPORT int linf_box_dist(int level, int dtype, int threads, int64_t n, int64_t out, int64_t features, double p,
                         const void* lower, const void* upper, const void* w, void* near, void* far) {
    linf::Call c{threads, n, out, features, p};
    c.a = lower, c.b = upper, c.w = w, c.y = near, c.y2 = far;
    return call(level, &linf::Kernels::box_forward, dtype, c);
}

EXPORT int linf_box_dist_vjp(int level, int dtype, int threads, int64_t n, int64_t out, int64_t features, double p,
                             const void* grad_near, const void* grad_far, const void* lower, const void* upper,
                             const void* w, const void* near, const void* far, void* gl, void* gu, void* gw) {
    linf::Call c{threads, n, out, features, p};
    c.g = grad_near, c.g2 = grad_far, c.a = lower, c.b = upper, c.w = w;
    c.y = const_cast<void*>(near), c.y2 = const_cast<void*>(far), c.ga = gl, c.gb = gu, c.gw = gw;
    return call(level, &linf::Kernels::box_backward, dtype, c);
}

// Pairs a second of the inner loop alone, on registers: the best of a few short runs.
EXPORT double linf_ceiling(int level, int threads, double p, int backward) {
    using Clock = std::chrono::steady_clock;
    const auto ceiling = levels()[level].kernels[0]->ceiling;
    double best = 0;
    for (int run = 0; run < 4; run++) {
        std::atomic<int64_t> pairs{0};
        const auto start = Clock::now(), end = start + std::chrono::milliseconds(10);
        const auto work = [&](int64_t) {
            while (Clock::now() < end) pairs += ceiling(p, backward, 1000);
        };
        linf::parallel(threads, threads, [](void* f, int64_t task, int) { (*(decltype(work)*)f)(task); }, (void*)&work);
        best = std::max(best, pairs / std::chrono::duration<double>(Clock::now() - start).count());
    }
    return best;
}
