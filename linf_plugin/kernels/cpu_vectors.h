// Vectors of the instruction set that this is compiled for, and the memory and threads that loops share.
#pragma once
#include <cstring>
#include <type_traits>

#include "cpu.h"
#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace {

using linf::Call;

#if defined(__AVX512DQ__)
constexpr int BYTES = 64, ROWS = 6, VECTORS = 4, GROUP = 8;
#elif defined(__AVX2__)
constexpr int BYTES = 32, ROWS = 4, VECTORS = 2, GROUP = 4;
#else
constexpr int BYTES = 16, ROWS = 4, VECTORS = 2, GROUP = 4;
#endif

#define INLINE inline __attribute__((always_inline))
#if defined(__AVX512DQ__)
#define LINF_VECTOR_REGISTER "v"
#elif defined(__SSE2__)
#define LINF_VECTOR_REGISTER "x"
#elif defined(__aarch64__)
#define LINF_VECTOR_REGISTER "w"
#else
#define LINF_VECTOR_REGISTER "m"
#endif

template <class T> struct Lanes;
template <> struct Lanes<float> {
    typedef float V __attribute__((vector_size(BYTES)));
    typedef int32_t I __attribute__((vector_size(BYTES)));
    using Int = int32_t;
    using Unsigned = uint32_t;
    static constexpr int MANTISSA = 23, BIAS = 127, INVISIBLE = 36;
    static constexpr float NEAR = 0x1p-120f, FAR = 0x1p120f, LARGEST = 0x1.fffffep127f, ROOM = 0x1p80f;
};
template <> struct Lanes<double> {
    typedef double V __attribute__((vector_size(BYTES)));
    typedef int64_t I __attribute__((vector_size(BYTES)));
    using Int = int64_t;
    using Unsigned = uint64_t;
    static constexpr int MANTISSA = 52, BIAS = 1023, INVISIBLE = 70;
    static constexpr double NEAR = 0x1p-1000, FAR = 0x1p1000, LARGEST = 0x1.fffffffffffffp1023, ROOM = 0x1p800;
};
template <class T> using Vec = typename Lanes<T>::V;
template <class T> using IVec = typename Lanes<T>::I;
template <class T> constexpr int LANES = BYTES / sizeof(T);
template <class T> constexpr int PANEL = VECTORS * LANES<T>;  // rows of a that lie side by side when packed

template <class T> INLINE Vec<T> splat(T s) { return s - Vec<T>{}; }
template <class T> INLINE Vec<T> load(const T* p) { Vec<T> v; memcpy(&v, p, BYTES); return v; }
template <class T> INLINE void store(T* p, Vec<T> v) { memcpy(p, &v, BYTES); }
// splat(*p).  As integers: where vectors of 64 bytes take two steps, a broadcast of floats from memory takes the
// place of an arithmetic instruction, one of integers does not.
#if defined(__AVX512DQ__)
INLINE Vec<float> splat_at(const float* p) { int32_t v; memcpy(&v, p, 4); return (Vec<float>)_mm512_set1_epi32(v); }
INLINE Vec<double> splat_at(const double* p) { int64_t v; memcpy(&v, p, 8); return (Vec<double>)_mm512_set1_epi64(v); }
#else
template <class T> INLINE Vec<T> splat_at(const T* p) { return splat(*p); }
#endif
// The first ``count`` numbers, or all; the rest is 0.
#if defined(__AVX512DQ__)
INLINE unsigned first(int64_t count, int lanes) { return count >= lanes ? ~0u : (1u << count) - 1; }
INLINE Vec<float> load_part(const float* p, int64_t count) { return _mm512_maskz_loadu_ps(first(count, 16), p); }
INLINE Vec<double> load_part(const double* p, int64_t count) { return _mm512_maskz_loadu_pd(first(count, 8), p); }
INLINE void store_part(float* p, Vec<float> v, int64_t count) { _mm512_mask_storeu_ps(p, first(count, 16), v); }
INLINE void store_part(double* p, Vec<double> v, int64_t count) { _mm512_mask_storeu_pd(p, first(count, 8), v); }
#else
template <class T> INLINE Vec<T> load_part(const T* p, int64_t count) {
    if (count >= LANES<T>) return load(p);
    Vec<T> v{};
    for (int64_t i = 0; i < count; i++) v[i] = p[i];
    return v;
}
template <class T, class V> INLINE void store_part(T* p, V v, int64_t count) {
    if (count >= LANES<T>) return store<T>(p, v);
    for (int64_t i = 0; i < count; i++) p[i] = v[i];
}
#endif
template <class T> INLINE IVec<T> bits(Vec<T> v) { return (IVec<T>)v; }
template <class T> INLINE Vec<T> magnitude(Vec<T> v) {
    return (Vec<T>)(bits<T>(v) & ~((typename Lanes<T>::Int)1 << (8 * sizeof(T) - 1)));
}
template <class T> INLINE Vec<T> with_sign_of(Vec<T> v, Vec<T> sign) {  // v ≥ 0
    return (Vec<T>)(bits<T>(v) | (bits<T>(sign) & ((typename Lanes<T>::Int)1 << (8 * sizeof(T) - 1))));
}
// v, as a number that the compiler does not merge into additions: a product that is added twice would be
// computed twice.
template <class T> INLINE Vec<T> rounded(Vec<T> v) {
    asm("" : "+" LINF_VECTOR_REGISTER(v));
    return v;
}
template <class T> INLINE T total(Vec<T> v) {
    T s = 0;
    for (int i = 0; i < LANES<T>; i++) s += v[i];
    return s;
}

// While it lives, results below the least normal number are 0: sums that they cannot change wait long for them.
struct FlushToZero {
#if defined(__SSE2__)
    const unsigned before = _mm_getcsr();
    explicit FlushToZero(bool wanted = true) { _mm_setcsr(before | (wanted ? _MM_FLUSH_ZERO_ON : 0)); }
    ~FlushToZero() { _mm_setcsr(before); }
#else
    explicit FlushToZero(bool = true) {}
    ~FlushToZero() {}
#endif
    FlushToZero(const FlushToZero&) = delete;
};

// max(a, b) and min(a, b), b where neither is the larger; and max(a, |d|).  A NaN in d may be dropped: rows that
// hold one are dealt with apart.
// Comparisons give a bit a lane; negative is for numbers other than −0.
#if defined(__AVX512DQ__)
INLINE Vec<float> max(Vec<float> a, Vec<float> b) { return _mm512_max_ps(a, b); }
INLINE Vec<double> max(Vec<double> a, Vec<double> b) { return _mm512_max_pd(a, b); }
INLINE Vec<float> min(Vec<float> a, Vec<float> b) { return _mm512_min_ps(a, b); }
INLINE Vec<double> min(Vec<double> a, Vec<double> b) { return _mm512_min_pd(a, b); }
INLINE Vec<float> max_magnitude(Vec<float> a, Vec<float> d) { return _mm512_range_ps(a, d, 0b1011); }
INLINE Vec<double> max_magnitude(Vec<double> a, Vec<double> d) { return _mm512_range_pd(a, d, 0b1011); }
INLINE unsigned negative(Vec<float> a) { return _mm512_movepi32_mask((__m512i)a); }
INLINE unsigned negative(Vec<double> a) { return _mm512_movepi64_mask((__m512i)a); }
INLINE unsigned at_least(Vec<float> a, Vec<float> b) { return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ); }
INLINE unsigned at_least(Vec<double> a, Vec<double> b) { return _mm512_cmp_pd_mask(a, b, _CMP_GE_OQ); }
#else
#if defined(__AVX2__)
INLINE Vec<float> max(Vec<float> a, Vec<float> b) { return _mm256_max_ps(a, b); }
INLINE Vec<double> max(Vec<double> a, Vec<double> b) { return _mm256_max_pd(a, b); }
INLINE Vec<float> min(Vec<float> a, Vec<float> b) { return _mm256_min_ps(a, b); }
INLINE Vec<double> min(Vec<double> a, Vec<double> b) { return _mm256_min_pd(a, b); }
INLINE unsigned negative(Vec<float> a) { return _mm256_movemask_ps(a); }
INLINE unsigned negative(Vec<double> a) { return _mm256_movemask_pd(a); }
INLINE unsigned at_least(Vec<float> a, Vec<float> b) { return _mm256_movemask_ps((Vec<float>)(a >= b)); }
INLINE unsigned at_least(Vec<double> a, Vec<double> b) { return _mm256_movemask_pd((Vec<double>)(a >= b)); }
#elif defined(__SSE2__)
INLINE Vec<float> max(Vec<float> a, Vec<float> b) { return _mm_max_ps(a, b); }
INLINE Vec<double> max(Vec<double> a, Vec<double> b) { return _mm_max_pd(a, b); }
INLINE Vec<float> min(Vec<float> a, Vec<float> b) { return _mm_min_ps(a, b); }
INLINE Vec<double> min(Vec<double> a, Vec<double> b) { return _mm_min_pd(a, b); }
INLINE unsigned negative(Vec<float> a) { return _mm_movemask_ps(a); }
INLINE unsigned negative(Vec<double> a) { return _mm_movemask_pd(a); }
INLINE unsigned at_least(Vec<float> a, Vec<float> b) { return _mm_movemask_ps((Vec<float>)(a >= b)); }
INLINE unsigned at_least(Vec<double> a, Vec<double> b) { return _mm_movemask_pd((Vec<double>)(a >= b)); }
#else
template <class V> INLINE V max(V a, V b) { return a > b ? a : b; }
template <class V> INLINE V min(V a, V b) { return a < b ? a : b; }
template <class M> INLINE unsigned set_lanes(M m) {
    unsigned set = 0;
    for (unsigned i = 0; i < sizeof(M) / sizeof(m[0]); i++) set |= (m[i] != 0) << i;
    return set;
}
template <class V> INLINE unsigned at_least(V a, V b) { return set_lanes(a >= b); }
template <class V> INLINE unsigned negative(V a) { return set_lanes(a < 0); }
#endif
INLINE Vec<float> max_magnitude(Vec<float> a, Vec<float> d) { return max(a, magnitude<float>(d)); }
INLINE Vec<double> max_magnitude(Vec<double> a, Vec<double> d) { return max(a, magnitude<double>(d)); }
#endif

// max(a, d) for a ≥ +0, which stays.  As integers: it takes another execution unit than max and min.
#if defined(__AVX512DQ__)
INLINE Vec<float> raised(Vec<float> a, Vec<float> d) { return (Vec<float>)_mm512_max_epi32((__m512i)a, (__m512i)d); }
INLINE Vec<double> raised(Vec<double> a, Vec<double> d) {
    return (Vec<double>)_mm512_max_epi64((__m512i)a, (__m512i)d);
}
#else
template <class V> INLINE V raised(V a, V d) { return max(d, a); }  // where both are 0, a
#endif

// to ← value in the lanes in which a > b.
#if defined(__AVX512DQ__)
INLINE void store_where_above(int32_t* to, Vec<float> a, Vec<float> b, IVec<float> value) {
    _mm512_mask_storeu_epi32(to, _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ), (__m512i)value);
}
INLINE void store_where_above(int32_t* to, Vec<double> a, Vec<double> b, IVec<double> value) {
    _mm512_mask_cvtepi64_storeu_epi32(to, _mm512_cmp_pd_mask(a, b, _CMP_GT_OQ), (__m512i)value);
}
#else
template <class V, class I> INLINE void store_where_above(int32_t* to, V a, V b, I value) {
    typedef int32_t Narrow __attribute__((vector_size(sizeof(V) / sizeof(a[0]) * 4)));
    const Narrow above = __builtin_convertvector(a > b, Narrow), narrow = __builtin_convertvector(value, Narrow);
    Narrow old;
    memcpy(&old, to, sizeof old);
    old = (old & ~above) | (narrow & above);
    memcpy(to, &old, sizeof old);
}
#endif

// x − w, rounded once.  As a product with 1 it takes another execution unit than the maximum that follows.
#if defined(__AVX512DQ__)
INLINE Vec<float> minus(Vec<float> x, Vec<float> w) { return _mm512_fmsub_ps(x, splat(1.f), w); }
INLINE Vec<double> minus(Vec<double> x, Vec<double> w) { return _mm512_fmsub_pd(x, splat(1.), w); }
#else
template <class V> INLINE V minus(V x, V w) { return x - w; }
#endif

// Memory and threads.

template <class T> struct Buffer {
    T* data;
    explicit Buffer(int64_t count) : data((T*)linf::allocate(count * sizeof(T))) {}
    Buffer(const Buffer&) = delete;
    ~Buffer() { linf::release(data); }
    operator T*() const { return data; }
};

template <class F> void parallel(int64_t tasks, int threads, F f) {
    linf::parallel(tasks, threads, [](void* g, int64_t task, int slot) { (*(F*)g)(task, slot); }, &f);
}

INLINE void prefetch(const void* p) { __builtin_prefetch(p); }

INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
INLINE int64_t parts(int64_t n, int64_t step) { return (n + step - 1) / step; }

template <class T> bool within(const T* a, int64_t count, T most) {  // every |a| ≤ most; NaN may be
    Vec<T> largest{};
    for (int64_t i = 0; i < count; i += LANES<T>) largest = max_magnitude(largest, load_part(a + i, count - i));
    return !at_least(largest, splat(most));
}

// Threads are woken only where the work lasts long beside the wake-up (20 to 100 µs).
int useful_threads(const Call& c, double nanoseconds_per_pair) {
    const double work = (double)c.n * c.out * most(c.features, 16) * nanoseconds_per_pair;
    return work < 250e3 ? 1 : c.threads;
}

}  // namespace
