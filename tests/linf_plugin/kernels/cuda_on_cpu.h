// What gpu_kernels.cu takes for granted, for a C++ compiler: a block's threads are fibers, one block at a time.
//
// A round runs every thread to its next barrier, in an order that changes from round to round, so that a missing
// barrier shows.  Shared memory is static and keeps what the last block left, as it does on a GPU.
#include <setjmp.h>
#include <ucontext.h>

#include <cmath>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <utility>

#define __global__
#define __shared__ static
#define __launch_bounds__(...)

struct Index {
    unsigned x;
};
static Index threadIdx, blockIdx;

static inline int max(int a, int b) { return a > b ? a : b; }
static inline long long max(long long a, long long b) { return a > b ? a : b; }
template <class To, class From> static To with_bits_of(From a) {
    To b;
    static_assert(sizeof a == sizeof b, "");
    memcpy(&b, &a, sizeof b);
    return b;
}
static inline int __float_as_int(float a) { return with_bits_of<int>(a); }
static inline float __int_as_float(int a) { return with_bits_of<float>(a); }
static inline long long __double_as_longlong(double a) { return with_bits_of<long long>(a); }
static inline double __longlong_as_double(long long a) { return with_bits_of<double>(a); }
static inline int __ffs(unsigned a) { return __builtin_ffs(a); }

namespace block {

constexpr int THREADS = 256, WARP = 32, STACK = 1 << 16;

// A context is made once and only entered by swapcontext, which asks the system to save the signal mask; from then
// on the switches are jumps.
struct Fiber {
    ucontext_t context;
    jmp_buf state;
    bool alive;
};
static Fiber fibers[THREADS];
static std::unique_ptr<char[]> stacks;
static ucontext_t origin;
static jmp_buf scheduler;
static int self, rounds;
static unsigned votes[2][THREADS / WARP];  // of this round and the last
static void (*kernel)(void**);
static void** parameters;

static void wait() {
    if (!_setjmp(fibers[self].state)) _longjmp(scheduler, 1);
}

static void body() {
    for (;;) {
        wait();
        kernel(parameters);
        fibers[self].alive = false;
    }
}

static void make_fibers() {
    stacks.reset(new char[(size_t)THREADS * STACK]);
    for (self = 0; self < THREADS; self++) {
        ucontext_t& context = fibers[self].context;
        getcontext(&context);
        context.uc_stack.ss_sp = stacks.get() + (size_t)self * STACK;
        context.uc_stack.ss_size = STACK;
        makecontext(&context, body, 0);
        if (!_setjmp(scheduler)) swapcontext(&origin, &context);
    }
}

static void resume() {
    if (!_setjmp(scheduler)) _longjmp(fibers[self].state, 1);
}

static void run(unsigned index) {
    if (!stacks) make_fibers();
    blockIdx.x = index;
    for (Fiber& fiber : fibers) fiber.alive = true;
    for (bool any = true; any; rounds++) {
        any = false;
        memset(votes[rounds % 2], 0, sizeof votes[0]);
        for (int step = 0; step < THREADS; step++) {
            self = (step * (2 * (rounds % 97) + 1) + rounds) % THREADS;  // an odd factor: each thread once
            threadIdx.x = self;
            if (!fibers[self].alive) continue;
            resume();
            any |= fibers[self].alive;
        }
    }
}

template <class... Types, size_t... At>
static void call(void (*f)(Types...), void** p, std::index_sequence<At...>) { f(*(Types*)p[At]...); }
template <class... Types> static void call(void (*f)(Types...), void** p) {
    call(f, p, std::index_sequence_for<Types...>());
}

}  // namespace block

static inline void __syncthreads() { block::wait(); }
static inline unsigned __ballot_sync(unsigned, bool vote) {
    unsigned& all = block::votes[block::rounds % 2][block::self / block::WARP];
    all |= (unsigned)vote << block::self % block::WARP;
    block::wait();
    return all;
}

static std::map<std::string, void (*)(void**)> kernels;
#define KERNEL(...) kernels[#__VA_ARGS__] = [](void** p) { block::call(__VA_ARGS__, p); }

// Blocks first … last − 1 of a grid.
extern "C" int launch(const char* name, long long first, long long last, void** parameters) {
    const auto found = kernels.find(name);
    if (found == kernels.end()) return 1;
    block::kernel = found->second;
    block::parameters = parameters;
    block::rounds = 0;
    for (long long b = first; b < last; b++) block::run((unsigned)b);
    return 0;
}
