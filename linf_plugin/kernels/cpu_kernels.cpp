// The loops.  Compiled once per instruction set, with LINF_TABLE naming the table it defines.
//
// Everything here has internal linkage and nothing of the standard library's inline code is used: the linker
// keeps one copy of such code, and it could be one with instructions that the machine lacks.
//
// Results do not depend on the number of threads: an output is computed by one task, which adds in one order.
#include <cstring>
#include <type_traits>

#include "cpu.h"
#if defined(__SSE2__)
#include <immintrin.h>
#endif

using linf::Call;

namespace {

// Vectors.

#if defined(__AVX512DQ__)
constexpr int BYTES = 64, ROWS = 6, VECTORS = 4, GROUP = 8;
#elif defined(__AVX2__)
constexpr int BYTES = 32, ROWS = 4, VECTORS = 2, GROUP = 4;
#else
constexpr int BYTES = 16, ROWS = 4, VECTORS = 2, GROUP = 4;
#endif

#define INLINE inline __attribute__((always_inline))

template <class T> struct Lanes;
template <> struct Lanes<float> {
    typedef float V __attribute__((vector_size(BYTES)));
    typedef int32_t I __attribute__((vector_size(BYTES)));
    using Int = int32_t;
    static constexpr int MANTISSA = 23, BIAS = 127, INVISIBLE = 36;
    static constexpr float LEAST = 0x1p-126f, LARGEST = 0x1.fffffep127f, ROOM = 0x1p100f;
};
template <> struct Lanes<double> {
    typedef double V __attribute__((vector_size(BYTES)));
    typedef int64_t I __attribute__((vector_size(BYTES)));
    using Int = int64_t;
    static constexpr int MANTISSA = 52, BIAS = 1023, INVISIBLE = 70;
    static constexpr double LEAST = 0x1p-1022, LARGEST = 0x1.fffffffffffffp1023, ROOM = 0x1p900;
};
template <class T> using Vec = typename Lanes<T>::V;
template <class T> using IVec = typename Lanes<T>::I;
template <class T> constexpr int LANES = BYTES / sizeof(T);
template <class T> constexpr int PANEL = VECTORS * LANES<T>;  // rows of a that lie side by side when packed

template <class T> INLINE Vec<T> splat(T s) { return s - Vec<T>{}; }
template <class T> INLINE Vec<T> load(const T* p) { Vec<T> v; memcpy(&v, p, BYTES); return v; }
template <class T> INLINE void store(T* p, Vec<T> v) { memcpy(p, &v, BYTES); }
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
template <class T> INLINE T total(Vec<T> v) {
    T s = 0;
    for (int i = 0; i < LANES<T>; i++) s += v[i];
    return s;
}

// max(a, b), and max(a, |d|).  A NaN in d may be dropped: rows that hold one are dealt with apart.
#if defined(__AVX512DQ__)
INLINE Vec<float> max(Vec<float> a, Vec<float> b) { return _mm512_max_ps(a, b); }
INLINE Vec<double> max(Vec<double> a, Vec<double> b) { return _mm512_max_pd(a, b); }
INLINE Vec<float> max_magnitude(Vec<float> a, Vec<float> d) { return _mm512_range_ps(a, d, 0b1011); }
INLINE Vec<double> max_magnitude(Vec<double> a, Vec<double> d) { return _mm512_range_pd(a, d, 0b1011); }
INLINE unsigned at_least(Vec<float> a, Vec<float> b) { return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ); }
INLINE unsigned at_least(Vec<double> a, Vec<double> b) { return _mm512_cmp_pd_mask(a, b, _CMP_GE_OQ); }
#else
#if defined(__AVX2__)
INLINE Vec<float> max(Vec<float> a, Vec<float> b) { return _mm256_max_ps(a, b); }
INLINE Vec<double> max(Vec<double> a, Vec<double> b) { return _mm256_max_pd(a, b); }
INLINE unsigned at_least(Vec<float> a, Vec<float> b) { return _mm256_movemask_ps((Vec<float>)(a >= b)); }
INLINE unsigned at_least(Vec<double> a, Vec<double> b) { return _mm256_movemask_pd((Vec<double>)(a >= b)); }
#elif defined(__SSE2__)
INLINE Vec<float> max(Vec<float> a, Vec<float> b) { return _mm_max_ps(a, b); }
INLINE Vec<double> max(Vec<double> a, Vec<double> b) { return _mm_max_pd(a, b); }
INLINE unsigned at_least(Vec<float> a, Vec<float> b) { return _mm_movemask_ps((Vec<float>)(a >= b)); }
INLINE unsigned at_least(Vec<double> a, Vec<double> b) { return _mm_movemask_pd((Vec<double>)(a >= b)); }
#else
template <class V> INLINE V max(V a, V b) { return a > b ? a : b; }
template <class V> INLINE unsigned at_least(V a, V b) {
    auto m = a >= b;
    unsigned set = 0;
    for (unsigned i = 0; i < sizeof(V) / sizeof(a[0]); i++) set |= (m[i] != 0) << i;
    return set;
}
#endif
INLINE Vec<float> max_magnitude(Vec<float> a, Vec<float> d) { return max(a, magnitude<float>(d)); }
INLINE Vec<double> max_magnitude(Vec<double> a, Vec<double> d) { return max(a, magnitude<double>(d)); }
#endif

// x − w, rounded once.  As a product with 1 it takes another execution unit than the maximum that follows.
#if defined(__AVX512DQ__)
INLINE Vec<float> minus(Vec<float> x, Vec<float> w) { return _mm512_fmsub_ps(x, splat(1.f), w); }
INLINE Vec<double> minus(Vec<double> x, Vec<double> w) { return _mm512_fmsub_pd(x, splat(1.), w); }
#else
template <class V> INLINE V minus(V x, V w) { return x - w; }
#endif

// Powers.

template <class V, class T> INLINE V horner(V, V sum, T last) { return sum + last; }
template <class V, class T, class... More> INLINE V horner(V x, V sum, T next, More... more) {
    return horner(x, (sum + next) * x, more...);
}

// log₂ of a positive normal number, error about 1 ulp also near 1.  log₂ 0 is very negative.
INLINE Vec<float> log2_mantissa(Vec<float> f) {  // log₂(1 + f), √½ ≤ 1 + f < √2; minimax, relative error 2⁻²⁵
    return f * horner(f, f * 0.12583706f, -0.20726976f, 0.21571560f, -0.23894481f, 0.28791624f, -0.36070368f,
                      0.48091063f, -0.72134733f, 1.44269502f);
}
INLINE Vec<double> log2_mantissa(Vec<double> f) {  // 2/ln 2 · artanh(s), s = f/(2 + f); |s| ≤ 0.172
    const Vec<double> s = f / (f + 2.0), z = s * s;
    return s * 2.8853900817779268 * horner(z, z * (1.0 / 23), 1.0 / 21, 1.0 / 19, 1.0 / 17, 1.0 / 15, 1.0 / 13,
                                           1.0 / 11, 1.0 / 9, 1.0 / 7, 1.0 / 5, 1.0 / 3, 1.0);
}
template <class T> INLINE Vec<T> exponent_and_mantissa(Vec<T> z, Vec<T>& f) {  // z = 2^result · (1 + f)
    using L = Lanes<T>;
    const auto root_half = bits<T>(splat((T)0.70710678118654752));
    const IVec<T> e = (bits<T>(z) - root_half) >> L::MANTISSA;
    f = (Vec<T>)(bits<T>(z) - (e << L::MANTISSA)) - (T)1;
    return __builtin_convertvector(e, Vec<T>);
}
template <class T> INLINE Vec<T> log2(Vec<T> z) {
    Vec<T> f, e = exponent_and_mantissa<T>(z, f);
    return e + log2_mantissa(f);
}

// 2^a, 0 below the least normal number; a < the largest exponent.
template <class T> INLINE Vec<T> exp2_poly(Vec<T> r);
template <> INLINE Vec<float> exp2_poly<float>(Vec<float> r) {  // |r| ≤ ½; minimax, relative error 2⁻²⁹
    return horner(r, r * 0.00015345812f, 0.0013399931f, 0.009618489f, 0.055503286f, 0.24022646f, 0.6931472f, 1.0f);
}
template <> INLINE Vec<double> exp2_poly<double>(Vec<double> r) {  // Taylor: (ln 2)^k / k!, k ≤ 13
    r *= 0.69314718055994531;
    return horner(r, r * (1.0 / 6227020800), 1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880,
                  1.0 / 40320, 1.0 / 5040, 1.0 / 720, 1.0 / 120, 1.0 / 24, 1.0 / 6, 1.0 / 2, 1.0, 1.0);
}
template <class T> INLINE Vec<T> exp2(Vec<T> a) {
    using L = Lanes<T>;
    const T round = (T)1.5 * ((typename L::Int)1 << L::MANTISSA);  // adding it leaves the integer in the low bits
    const Vec<T> clamped = max(a, splat((T)(1 - L::BIAS))), shifted = clamped + round, r = clamped - (shifted - round);
    const Vec<T> y = (Vec<T>)(bits<T>(exp2_poly<T>(r)) + (bits<T>(shifted) << L::MANTISSA));
    return (Vec<T>)(bits<T>(y) & (a >= (T)(1 - L::BIAS)));
}

INLINE Vec<double> root(Vec<double> s, double p) {  // s^{1/p}, s > 0
    // s = 2^(q·p + r)·m: taking q whole leaves a small argument, so that large exponents cost no digits.
    Vec<double> f, e = exponent_and_mantissa<double>(s, f);
    const Vec<double> shifted = e * (1 / p) + 0x1.8p52, q = shifted - 0x1.8p52;
    const Vec<double> y = exp2<double>((e - q * p + log2_mantissa(f)) * (1 / p));
    return (Vec<double>)(bits<double>(y) + (bits<double>(shifted) << 52));
}
// s ← s^{1/p}, garbage where s is not positive; ``count`` is rounded up to whole vectors.
template <class T> void roots(T* s, int64_t count, double p) {
    if (p == 1) return;
    constexpr int D = LANES<double>;
    typedef T Narrow __attribute__((vector_size(D * sizeof(T))));
    for (int64_t i = 0; i < count; i += D) {
        Narrow v;
        memcpy(&v, s + i, sizeof v);
        v = __builtin_convertvector(root(__builtin_convertvector(v, Vec<double>), p), Narrow);
        memcpy(s + i, &v, sizeof v);
    }
}

// Terms that are summed: |t|^p.
template <int S> struct Squarings {  // p = 2^S
    template <class V> INLINE V operator()(V t) const {
        for (int s = 0; s < S; s++) t = t * t;
        return t;
    }
};
template <class T> struct Whole {  // by binary exponentiation
    int p;
    INLINE Vec<T> operator()(Vec<T> t) const { return power(magnitude<T>(t), p); }
    static INLINE Vec<T> power(Vec<T> base, int p) {
        Vec<T> y = splat((T)1);
        while (true) {
            if (p & 1) y *= base;
            if (!(p >>= 1)) return y;
            base *= base;
        }
    }
};
template <class T> struct Real {
    T p;
    INLINE Vec<T> operator()(Vec<T> t) const { return exp2<T>(log2<T>(magnitude<T>(t)) * p); }
};

// Terms of the gradient: sign(t)·|t|^(p−1).
template <int P> struct Odd {  // p a power of two: t^(p−1), from (t^h, t^(h−1)) → (t^2h, t^(2h−1))
    template <class V> INLINE V operator()(V t) const {
        V whole = t * t, less = t;
        for (int h = 2; h < P; h *= 2) less = whole * less, whole = whole * whole;
        return less;
    }
};
template <class T> struct Sign {  // p = 1
    INLINE Vec<T> operator()(Vec<T> t) const {
        return with_sign_of<T>((Vec<T>)(bits<T>(splat((T)1)) & (t != 0)), t);
    }
};
template <class T> struct WholeGradient {
    int p;
    INLINE Vec<T> operator()(Vec<T> t) const { return with_sign_of<T>(Whole<T>::power(magnitude<T>(t), p - 1), t); }
};
template <class T> struct SparseGradient {  // for large p, where few terms are visible
    T p, visible;
    INLINE Vec<T> operator()(Vec<T> t) const {
        if (__builtin_expect(!at_least(magnitude<T>(t), splat(visible)), 1)) return Vec<T>{};
        return with_sign_of<T>(exp2<T>(log2<T>(magnitude<T>(t)) * (p - 1)), t);
    }
};
template <class T> struct RealGradient {
    T p;
    INLINE Vec<T> operator()(Vec<T> t) const {
        const Vec<T> y = exp2<T>(log2<T>(magnitude<T>(t)) * (p - 1));
        return with_sign_of<T>((Vec<T>)(bits<T>(y) & (t != 0)), t);  // near p = 1 the logarithm of 0 is not enough
    }
};

constexpr int MOST_WHOLE = 1024;
bool whole(double p) { return p <= MOST_WHOLE && p == (int)p; }

// Differences.  ``a`` and ``b`` are the ends of a box; a point has the one end a.
// route: what a coordinate's term contributes to the gradients of a and of b; w gets minus their sum.
// direction: the same for one coordinate whose term is not 0, as 2·(the end is b) + (the term counts negatively).

template <class T> struct Point {
    static constexpr bool BOX = false;
    static INLINE Vec<T> difference(Vec<T> a, Vec<T>, Vec<T> w) { return a - w; }
    static INLINE Vec<T> for_maximum(Vec<T> a, Vec<T>, Vec<T> w) { return minus(a, w); }
    static INLINE void route(Vec<T>, Vec<T>, Vec<T>, Vec<T> term, Vec<T>& ga, Vec<T>&) { ga = term; }
    static INLINE int direction(T a, T, T w) { return a < w; }
};
template <class T> struct Nearest {
    static constexpr bool BOX = true;
    static INLINE Vec<T> difference(Vec<T> a, Vec<T> b, Vec<T> w) { return max(max(a - w, w - b), Vec<T>{}); }
    static INLINE Vec<T> for_maximum(Vec<T> a, Vec<T> b, Vec<T> w) { return difference(a, b, w); }
    static INLINE void route(Vec<T> a, Vec<T> b, Vec<T> w, Vec<T> term, Vec<T>& ga, Vec<T>& gb) {
        ga = (Vec<T>)(bits<T>(term) & (a - w > 0));
        gb = (Vec<T>)(bits<T>(-term) & (w - b > 0));
    }
    static INLINE int direction(T a, T, T w) { return a > w ? 0 : 3; }
};
template <class T> struct Farthest {
    static constexpr bool BOX = true;
    static INLINE Vec<T> difference(Vec<T> a, Vec<T> b, Vec<T> w) { return max(w - a, b - w); }
    static INLINE Vec<T> for_maximum(Vec<T> a, Vec<T> b, Vec<T> w) { return difference(a, b, w); }
    static INLINE void route(Vec<T> a, Vec<T> b, Vec<T> w, Vec<T> term, Vec<T>& ga, Vec<T>& gb) {
        const auto upper = b - w >= w - a;  // a weight in the middle: the upper end
        ga = (Vec<T>)(bits<T>(-term) & ~upper);
        gb = (Vec<T>)(bits<T>(term) & upper);
    }
    static INLINE int direction(T a, T b, T w) { return b - w >= w - a ? 2 : 1; }
};

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

INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
INLINE int64_t parts(int64_t n, int64_t step) { return (n + step - 1) / step; }

// Threads are woken only where the work lasts long beside the wake-up (about 20 µs).
int useful_threads(const Call& c, double nanoseconds_per_pair) {
    const double work = (double)c.n * c.out * most(c.features, 16) * nanoseconds_per_pair;
    return work < 60e3 ? 1 : c.threads;
}

// The tile: ROWS rows against VECTORS vectors of packed rows, over ``depth`` coordinates.

// One side is packed: PANEL rows side by side, coordinate after coordinate; the other is read in its rows.
template <class T> void pack(const T* a, int64_t features, int64_t count, T* to) {
    constexpr int P = PANEL<T>;
    if (count < P) memset(to, 0, features * P * sizeof(T));
    for (int64_t i0 = 0; i0 < features; i0 += 16) {
        const int64_t i1 = least(features, i0 + 16);
        for (int64_t lane = 0; lane < count; lane++)
            for (int64_t i = i0; i < i1; i++) to[i * P + lane] = a[lane * features + i];
    }
}

template <class T> bool all_finite(const T* a, int64_t count) {
    Vec<T> sum[4] = {};  // 0·v is NaN for NaN and infinities
    int64_t i = 0;
    for (; i + 4 * LANES<T> <= count; i += 4 * LANES<T>)
        for (int v = 0; v < 4; v++) sum[v] += load(a + i + v * LANES<T>) * (T)0;
    for (; i < count; i += LANES<T>) sum[0] += load_part(a + i, count - i) * (T)0;
    return total<T>(sum[0] + sum[1] + (sum[2] + sum[3])) == 0;
}

template <class T> struct Rows {  // of the side that is not packed; beyond the last, the last again
    const T* first;
    int64_t stride, count;
    INLINE const T* operator[](int64_t r) const { return first + (r < count ? r : count - 1) * stride; }
};

struct Maximum {};

template <class T, class Pair, bool SCALED, int R, int V, class Term>
INLINE void tile(const T* a, const T* b, const Rows<T>& rows, int64_t r0, int64_t k0, int64_t depth, Term term,
                 const T* scale, T* y, bool join) {
    constexpr int P = PANEL<T>, L = LANES<T>;
    constexpr bool MAXIMUM = std::is_same_v<Term, Maximum>;
    const T* w[R];
    for (int r = 0; r < R; r++) w[r] = rows[r0 + r] + k0;
    Vec<T> sum[R][V] = {};
    for (int64_t k = 0; k < depth; k++) {
        Vec<T> lower[V], upper[V];
#pragma GCC unroll 8
        for (int v = 0; v < V; v++) {
            lower[v] = load(a + k * P + v * L);
            if (Pair::BOX) upper[v] = load(b + k * P + v * L);
        }
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
            const Vec<T> wr = splat(w[r][k]);
#pragma GCC unroll 8
            for (int v = 0; v < V; v++) {
                if constexpr (MAXIMUM) {
                    sum[r][v] = max_magnitude(sum[r][v], Pair::for_maximum(lower[v], upper[v], wr));
                } else {
                    Vec<T> t = Pair::difference(lower[v], upper[v], wr);
                    if (SCALED) t *= load(scale + r * P + v * L);
                    sum[r][v] += term(t);
                }
            }
        }
    }
    for (int r = 0; r < R; r++)
        for (int v = 0; v < V; v++) {
            T* to = y + r * P + v * L;
            Vec<T> s = sum[r][v];
            if (join) {
                if constexpr (MAXIMUM) s = max(s, load(to)); else s += load(to);
            }
            store(to, s);
        }
}

// Tiles for ``rows`` × a panel of ``lanes`` rows; y and scale are (row, PANEL), rows padded to ROWS.
template <class T, class Pair, bool SCALED = false, class Term>
void sweep(const T* a, const T* b, int lanes, const Rows<T>& rows, int64_t k0, int64_t depth, Term term,
           const T* scale, T* y, bool join) {
    constexpr int P = PANEL<T>, L = LANES<T>;
    // Terms that need many registers leave fewer to the sums.
    constexpr bool LEAN = std::is_same_v<Term, Real<T>> || std::is_same_v<Term, Whole<T>> || Pair::BOX;
    constexpr int R = LEAN ? ROWS / 2 : ROWS, V = LEAN ? VECTORS / 2 : VECTORS;
    a += k0 * P;
    b += k0 * P;
    for (int64_t r = 0; r < rows.count; r += R) {
        int v = 0;
        for (; v + V <= VECTORS && v * L < lanes && (v + V - 1) * L < lanes; v += V)
            tile<T, Pair, SCALED, R, V>(a + v * L, b + v * L, rows, r, k0, depth, term, scale + r * P + v * L,
                                        y + r * P + v * L, join);
        for (; v * L < lanes; v++)
            tile<T, Pair, SCALED, R, 1>(a + v * L, b + v * L, rows, r, k0, depth, term, scale + r * P + v * L,
                                        y + r * P + v * L, join);
    }
}

// One pair at a time: exact rules, for what the tiles leave aside.

template <class T, class Pair> INLINE Vec<T> pair_difference(const T* a, const T* b, const T* w, int64_t i, int64_t features) {
    const int64_t m = features - i;
    return Pair::difference(load_part(a + i, m), Pair::BOX ? load_part(b + i, m) : Vec<T>{}, load_part(w + i, m));
}

template <class T> T inverse(T largest) {  // what scales to at most about 1; 0 is left alone
    return largest == 0 ? 0 : largest < Lanes<T>::LEAST ? Lanes<T>::LARGEST : 1 / largest;
}

template <class T, class Pair> T pair_maximum(const T* a, const T* b, const T* w, int64_t features) {  // NaN if one is
    Vec<T> m{};
    IVec<T> nan{};
    for (int64_t i = 0; i < features; i += LANES<T>) {
        const Vec<T> weight = load_part(w + i, features - i);
        const Vec<T> s = load_part(a + i, features - i) - weight;
        nan |= s != s;
        if (Pair::BOX) {
            const Vec<T> t = load_part(b + i, features - i) - weight;
            nan |= t != t;
        }
        m = max(m, magnitude<T>(pair_difference<T, Pair>(a, b, w, i, features)));
    }
    T y = 0;
    for (int j = 0; j < LANES<T>; j++) y = nan[j] || y != y ? (T)__builtin_nan("") : m[j] > y ? m[j] : y;
    return y;
}

template <class T, class Pair, class Term>
T pair_norm(const T* a, const T* b, const T* w, int64_t features, Term term, double p) {
    const T largest = pair_maximum<T, Pair>(a, b, w, features);
    if (largest == 0) return 0;
    if (!(largest <= Lanes<T>::LARGEST)) return (T)__builtin_nan("");  // as the specification: ∞/∞
    Vec<T> sum{};
    for (int64_t i = 0; i < features; i += LANES<T>)
        sum += term(pair_difference<T, Pair>(a, b, w, i, features) * inverse(largest));
    T y[LANES<T>] = {total<T>(sum)};
    roots(y, 1, p);
    return largest * y[0];
}

// The index of a pair at p = ∞: 4·i + direction, or NONE.
constexpr int32_t NONE = -1;
// The lowest i in [i0, i1) whose term is y.
template <class T, class Pair>
int32_t find(const T* a, const T* b, const T* w, int64_t i0, int64_t i1, T y) {
    if (!(y > 0)) return NONE;
    for (int64_t i = i0; i < i1; i += LANES<T>) {
        const unsigned hit = at_least(magnitude<T>(pair_difference<T, Pair>(a, b, w, i, i1)), splat(y));
        if (!hit) continue;
        const int64_t at = i + __builtin_ctz(hit);
        return (int32_t)(4 * at) + Pair::direction(a[at], b[at], w[at]);
    }
    return NONE;
}

// Forward.

constexpr int64_t DEPTH = 128;             // coordinates of a panel that stay in the first-level cache
constexpr int64_t SLAB_BYTES = 32 << 20;   // packed at a time
constexpr int SUB = 64;                    // coordinates that share a maximum
constexpr int64_t MAXIMA_BYTES = 384 << 10, MOST_ROWS = 192;  // of a task
constexpr double THRESHOLD_FROM = 64;      // from this p on it pays to look which terms are visible,
constexpr double REAL_THRESHOLD_FROM = 24; // and from this where a power costs a logarithm

enum class Plan { MAXIMUM, INDEX, SINGLE, SCALED, SPARSE };

template <class T> struct Work {  // one task: rows × the lanes of a panel
    const T *a, *b;               // the panel
    int lanes;
    Rows<T> rows;
    int64_t features;
    const T *pa, *pb;             // the same rows as in the panel, unpacked
    T *y, *scale, *maxima;        // (rows, PANEL); maxima (subs, rows, PANEL)
    int32_t* index;               // (rows, PANEL)
    bool swapped;                 // the panel holds w
};

template <class T, class Pair, bool SCALED = false, class Term> void sums(const Work<T>& k, Term term, T* y) {
    for (int64_t k0 = 0; k0 < k.features; k0 += DEPTH)
        sweep<T, Pair, SCALED>(k.a, k.b, k.lanes, k.rows, k0, least(DEPTH, k.features - k0), term, k.scale, y, k0 > 0);
}

// Where row r of the work and lane of the panel lie as (end of a box or point, weight).
template <class T> struct Ends { const T *a, *b, *w; };
template <class T> Ends<T> ends(const Work<T>& k, int64_t r, int lane) {
    const T *row = k.rows[r], *packed = k.pa + lane * k.features;
    if (k.swapped) return {row, row, packed};
    return {packed, k.pb + lane * k.features, row};
}

// y ← M·(Σ)^{1/p}; k.y holds M, sum the sums of scaled powers.
template <class T> void finish(const Work<T>& k, T* sum, double p) {
    const int64_t count = k.rows.count * PANEL<T>;
    roots(sum, count, p);
    for (int64_t j = 0; j < count; j++)
        k.y[j] = k.y[j] == 0 ? 0 : k.y[j] <= Lanes<T>::LARGEST ? k.y[j] * sum[j] : (T)__builtin_nan("");
}

template <class T, class Pair, class Term> void scaled(const Work<T>& k, Term term, T* sum, double p) {
    sums<T, Pair>(k, Maximum(), k.y);
    for (int64_t j = 0; j < k.rows.count * PANEL<T>; j++) k.scale[j] = inverse(k.y[j]);
    sums<T, Pair, true>(k, term, sum);
    finish(k, sum, p);
}

// One pass without a scale.  Where sums leave the range in which no visible term over- or underflows, again
// with it: pair by pair if they are few.
template <class T, class Pair, class Term> void single(const Work<T>& k, Term term, T* sum, double p) {
    sums<T, Pair>(k, term, k.y);
    const auto bad = [&](T s) { return !(s >= 1 / Lanes<T>::ROOM && s <= Lanes<T>::ROOM); };
    int64_t count = 0;
    for (int64_t r = 0; r < k.rows.count; r++)
        for (int j = 0; j < k.lanes; j++) count += bad(k.y[r * PANEL<T> + j]);
    if (16 * count > k.rows.count * k.lanes) return scaled<T, Pair>(k, term, sum, p);
    for (int64_t r = 0; count && r < k.rows.count; r++)
        for (int j = 0; j < k.lanes; j++) {
            T& y = k.y[r * PANEL<T> + j];
            if (!bad(y)) continue;
            const auto e = ends(k, r, j);
            y = pair_norm<T, Pair>(e.a, e.b, e.w, k.features, term, p);
            // stored as the power that the root below undoes would lose digits: mark instead
            sum[r * PANEL<T> + j] = y;
            y = -1;
        }
    if (p == 1) {
        for (int64_t j = 0; j < k.rows.count * PANEL<T>; j++)
            if (k.y[j] < 0) k.y[j] = sum[j];
        return;
    }
    for (int64_t r = 0; r < k.rows.count; r++) {
        T* y = k.y + r * PANEL<T>;
        T s[PANEL<T>];
        memcpy(s, y, sizeof s);
        roots(y, k.lanes, p);
        for (int j = 0; j < k.lanes; j++)
            if (s[j] < 0) y[j] = sum[r * PANEL<T> + j];
    }
}

int64_t sub_size(int64_t features) {  // at most 128 of them, so that a task's maxima stay small
    return most(SUB, parts(parts(features, 128), SUB) * SUB);
}

// Maxima of each SUB coordinates, and over all in k.y.
template <class T, class Pair> void maxima(const Work<T>& k) {
    const int64_t sub = sub_size(k.features), size = parts(k.rows.count, ROWS) * ROWS * PANEL<T>;
    for (int64_t s = 0; s * sub < k.features; s++) {
        T* m = k.maxima + s * size;
        sweep<T, Pair>(k.a, k.b, k.lanes, k.rows, s * sub, least(sub, k.features - s * sub), Maximum(), k.scale, m, false);
        for (int64_t j = 0; j < size; j += LANES<T>) store(k.y + j, s ? max(load(k.y + j), load(m + j)) : load(m + j));
    }
}

// The blocks are visited one after the other for all pairs, so that their coordinates stay in the cache.
template <class T, class Pair> void index(const Work<T>& k) {
    maxima<T, Pair>(k);
    const int64_t sub = sub_size(k.features), size = parts(k.rows.count, ROWS) * ROWS * PANEL<T>;
    unsigned left[MOST_ROWS][VECTORS];  // lanes whose coordinate is not found yet
    for (int v = 0; v < VECTORS; v++) {
        const int64_t in = most(0, least(LANES<T>, k.lanes - v * LANES<T>));
        for (int64_t r = 0; r < k.rows.count; r++) left[r][v] = (unsigned)((1ull << in) - 1);
    }
    for (int64_t s = 0; s * sub < k.features; s++)
        for (int64_t r = 0; r < k.rows.count; r++)
            for (int v = 0; v < VECTORS; v++) {
                const int64_t j = r * PANEL<T> + v * LANES<T>;
                unsigned hit = left[r][v] & at_least(load(k.maxima + s * size + j), load(k.y + j));
                left[r][v] &= ~hit;
                for (; hit; hit &= hit - 1) {
                    const int lane = __builtin_ctz(hit);
                    const auto e = ends(k, r, v * LANES<T> + lane);
                    k.index[j + lane] =
                        find<T, Pair>(e.a, e.b, e.w, s * sub, least((s + 1) * sub, k.features), k.y[j + lane]);
                }
            }
}

// Terms of several pairs, raised to the power a vector at a time.
template <class T, class Term> struct Queue {
    Term term;
    T* sum;
    int count = 0;
    int64_t to[2 * LANES<T>];
    T z[2 * LANES<T>];

    INLINE void push(T value, int64_t pair) {
        z[count] = value;
        to[count] = pair;
        if (++count == LANES<T>) flush();
    }
    void flush() {
        T y[LANES<T>];
        store(y, term(load(z)));
        for (int j = 0; j < count; j++) sum[to[j]] += y[j];
        count = 0;
    }
};

// Only coordinates with |t| ≥ M·2^(−INVISIBLE/p) are raised to the power; the others are below half an ulp even
// together.  The maxima of blocks tell where they are.
template <class T, class Pair, class Term> void sparse(const Work<T>& k, Term term, T* sum, double p) {
    maxima<T, Pair>(k);
    const int64_t sub = sub_size(k.features), size = parts(k.rows.count, ROWS) * ROWS * PANEL<T>;
    const T visible = (T)__builtin_exp2(-Lanes<T>::INVISIBLE / p);
    memset(sum, 0, k.rows.count * PANEL<T> * sizeof(T));
    for (int64_t j = 0; j < k.rows.count * PANEL<T>; j++) k.scale[j] = inverse(k.y[j]);
    Queue<T, Term> queue{term, sum, 0, {}, {}};
    for (int64_t s = 0; s * sub < k.features; s++)
        for (int64_t r = 0; r < k.rows.count; r++)
            for (int v = 0; v * LANES<T> < k.lanes; v++) {
                const int64_t j = r * PANEL<T> + v * LANES<T>, in = least(LANES<T>, k.lanes - v * LANES<T>);
                unsigned visit = at_least(load(k.maxima + s * size + j), load(k.y + j) * visible);
                for (visit &= (unsigned)((1ull << in) - 1); visit; visit &= visit - 1) {
                    const int lane = __builtin_ctz(visit);
                    const auto e = ends(k, r, v * LANES<T> + lane);
                    const int64_t end = least((s + 1) * sub, k.features);
                    const Vec<T> bound = splat(k.y[j + lane] * visible);
                    for (int64_t i = s * sub; i < end; i += LANES<T>) {
                        const Vec<T> t = magnitude<T>(pair_difference<T, Pair>(e.a, e.b, e.w, i, end));
                        for (unsigned hit = at_least(t, bound); hit; hit &= hit - 1)
                            queue.push(t[__builtin_ctz(hit)] * k.scale[j + lane], j + lane);
                    }
                }
            }
    queue.flush();
    finish(k, sum, p);
}

template <class T, class Pair, class Term> void norm(const Work<T>& k, Plan plan, Term term, T* sum, double p) {
    if (plan == Plan::SINGLE) single<T, Pair>(k, term, sum, p);
    else if (plan == Plan::SCALED) scaled<T, Pair>(k, term, sum, p);
    else sparse<T, Pair>(k, term, sum, p);
}

template <class T, class Pair> void run(const Work<T>& k, Plan plan, T* sum, double p) {
    if (plan == Plan::MAXIMUM) return sums<T, Pair>(k, Maximum(), k.y);
    if (plan == Plan::INDEX) return index<T, Pair>(k);
    if (plan == Plan::SINGLE && p == 2) return single<T, Pair>(k, Squarings<1>(), sum, p);
    if (plan == Plan::SINGLE && p == 4) return single<T, Pair>(k, Squarings<2>(), sum, p);
    if (plan == Plan::SINGLE && p == 8) return single<T, Pair>(k, Squarings<3>(), sum, p);
    if (plan == Plan::SINGLE && p == 16) return single<T, Pair>(k, Squarings<4>(), sum, p);
    if (plan == Plan::SINGLE && p == 32) return single<T, Pair>(k, Squarings<5>(), sum, p);
    if (whole(p)) return norm<T, Pair>(k, plan, Whole<T>{(int)p}, sum, p);
    norm<T, Pair>(k, plan, Real<T>{(T)p}, sum, p);
}

// What maxima may have dropped: rows that hold NaN or infinities.
template <class T, class Pair>
void mend(const Call& c, const bool* odd_a, const bool* odd_w, T* y, int32_t* index) {
    const T *a = (const T*)c.a, *b = (const T*)c.b, *w = (const T*)c.w;
    for (int64_t n = 0; n < c.n; n++)
        for (int64_t k = 0; k < c.out; k++) {
            if (!odd_a[n] && !odd_w[k]) continue;
            const int64_t i = n * c.features, j = k * c.features;
            const T* upper = b ? b + i : a;
            const T v = c.p == __builtin_inf() ? pair_maximum<T, Pair>(a + i, upper, w + j, c.features)
                : whole(c.p) ? pair_norm<T, Pair>(a + i, upper, w + j, c.features, Whole<T>{(int)c.p}, c.p)
                : pair_norm<T, Pair>(a + i, upper, w + j, c.features, Real<T>{(T)c.p}, c.p);
            y[n * c.out + k] = v;
            if (index) index[n * c.out + k] = find<T, Pair>(a + i, upper, w + j, 0, c.features, v);
        }
}

template <class T, class First, class Second> void forward(const Call& c) {
    constexpr int P = PANEL<T>;
    constexpr bool BOX = First::BOX;
    const bool infinite = c.p == __builtin_inf();
    const Plan plan = infinite ? (c.index ? Plan::INDEX : Plan::MAXIMUM)
        : c.p >= (whole(c.p) ? THRESHOLD_FROM : REAL_THRESHOLD_FROM) ? Plan::SPARSE
        : whole(c.p) && c.p <= 32 ? Plan::SINGLE : Plan::SCALED;
    const bool blocks = plan == Plan::INDEX || plan == Plan::SPARSE;
    if (c.n == 0 || c.out == 0) return;

    // Pack x or w: whichever costs less.  Lanes beyond the last row are wasted; packing takes about as long as
    // 16 coordinate pairs a number, and results of a packed x are stored transposed.
    const auto cost = [&](int64_t packed, int64_t rows, bool transposed) {
        return (double)parts(packed, LANES<T>) * LANES<T> * rows * most(c.features, 1) + 16.0 * packed * c.features
            + (transposed ? 16.0 * packed * rows : 0);
    };
    const bool swapped = !BOX && cost(c.out, c.n, false) < cost(c.n, c.out, true);
    const int64_t packed = swapped ? c.out : c.n, others = swapped ? c.n : c.out;
    const T *side = (const T*)(swapped ? c.w : c.a), *other = (const T*)(swapped ? c.a : c.w);
    const T* upper = BOX ? (const T*)c.b : side;

    const int threads = useful_threads(c, infinite ? 0.03 : 0.1);
    const int64_t panel_size = most(c.features, 1) * P;
    const int64_t panels = most(1, least(parts(packed, P), SLAB_BYTES / (panel_size * (int64_t)sizeof(T))));
    const int64_t subs = parts(c.features, sub_size(c.features));
    int64_t step = blocks ? MAXIMA_BYTES / (most(subs, 1) * P * (int64_t)sizeof(T)) : MOST_ROWS;
    step = least(step, parts(others, parts(4 * threads, panels)));
    step = least(MOST_ROWS, most(1, parts(step, ROWS)) * ROWS);

    Buffer<T> store_a(panels * panel_size), store_b(BOX ? panels * panel_size : 0);
    Buffer<bool> odd(c.n + c.out);
    bool *odd_a = odd, *odd_w = odd + c.n;
    const int64_t scratch = step * P * (3 + (blocks ? subs : 0));
    Buffer<T> scratches(threads * scratch);
    Buffer<int32_t> indices(plan == Plan::INDEX ? threads * step * P : 0);
    bool any = false;

    for (int64_t p0 = 0; p0 < packed; p0 += panels * P) {
        const int64_t here = least(panels, parts(packed - p0, P));
        parallel(here, threads, [&](int64_t q, int) {
            const int64_t first = p0 + q * P, count = least(P, packed - first);
            pack(side + first * c.features, c.features, count, store_a + q * panel_size);
            if (BOX) pack(upper + first * c.features, c.features, count, store_b + q * panel_size);
            for (int64_t n = first; n < first + count; n++)
                (swapped ? odd_w : odd_a)[n] = !all_finite(side + n * c.features, c.features)
                    || (BOX && !all_finite(upper + n * c.features, c.features));
        });
        parallel(here * parts(others, step), threads, [&](int64_t task, int slot) {
            const int64_t q = task % here, r0 = task / here * step, first = p0 + q * P;
            Work<T> k;
            k.a = store_a + q * panel_size;
            k.b = BOX ? store_b + q * panel_size : k.a;
            k.lanes = (int)least(P, packed - first);
            k.rows = {other + r0 * c.features, c.features, least(step, others - r0)};
            k.features = c.features;
            k.pa = side + first * c.features;
            k.pb = upper + first * c.features;
            k.y = scratches + slot * scratch;
            k.scale = k.y + step * P;
            T* sum = k.scale + step * P;
            k.maxima = sum + step * P;
            k.index = plan == Plan::INDEX ? indices + slot * step * P : nullptr;
            k.swapped = swapped;
            if (p0 == 0 && q == 0)  // they come to the cache for the tiles
                for (int64_t r = 0; r < k.rows.count; r++)
                    (swapped ? odd_a : odd_w)[r0 + r] = !all_finite(k.rows[r], c.features);
            for (int which = 0; which < (BOX ? 2 : 1); which++) {
                T* y = (T*)(which ? c.y2 : c.y);
                if (c.features == 0) {
                    memset(k.y, 0, step * P * sizeof(T));
                    if (k.index) memset(k.index, NONE, step * P * sizeof(int32_t));
                } else if (which) {
                    run<T, Second>(k, plan, sum, c.p);
                } else {
                    run<T, First>(k, plan, sum, c.p);
                }
                if (swapped) {
                    for (int64_t r = 0; r < k.rows.count; r++) {
                        memcpy(y + (r0 + r) * c.out + first, k.y + r * P, k.lanes * sizeof(T));
                        if (c.index) memcpy(c.index + (r0 + r) * c.out + first, k.index + r * P, k.lanes * sizeof(int32_t));
                    }
                } else {
                    for (int64_t lane = 0; lane < k.lanes; lane++)
                        for (int64_t r = 0; r < k.rows.count; r++) {
                            y[(first + lane) * c.out + r0 + r] = k.y[r * P + lane];
                            if (c.index) c.index[(first + lane) * c.out + r0 + r] = k.index[r * P + lane];
                        }
                }
            }
        });
    }
    for (int64_t n = 0; n < c.n + c.out; n++) any |= odd[n];
    if (!any) return;
    mend<T, First>(c, odd_a, odd_w, (T*)c.y, c.index);
    if (BOX) mend<T, Second>(c, odd_a, odd_w, (T*)c.y2, nullptr);
}

// Backward, p = ∞: one coordinate a pair.

// Rows of a and b belong to one task each, then rows of w; each adds in ascending order.
template <class T> void scatter_codes(const Call& c, const T* g, const int32_t* index, T* ga, T* gb, T* gw, int threads) {
    if (ga || gb) parallel(c.n, threads, [&](int64_t n, int) {
        for (int64_t k = 0; k < c.out; k++) {
            const int32_t at = index[n * c.out + k];
            if (at == NONE) continue;
            T* to = at & 2 ? gb : ga;
            const T v = g[n * c.out + k];
            if (to) to[n * c.features + (at >> 2)] += at & 1 ? -v : v;
        }
    });
    constexpr int64_t STEP = 16;  // a cache line of codes
    if (gw) parallel(parts(c.out, STEP), threads, [&](int64_t block, int) {
        for (int64_t n = 0; n < c.n; n++)
            for (int64_t k = block * STEP; k < least(c.out, block * STEP + STEP); k++) {
                const int32_t at = index[n * c.out + k];
                if (at == NONE) continue;
                const T v = g[n * c.out + k];
                gw[k * c.features + (at >> 2)] -= at & 1 ? -v : v;
            }
    });
}

template <class T> void clear(const Call& c, int threads) {
    const int64_t row = c.features * sizeof(T);
    parallel(c.n, threads, [&](int64_t n, int) {
        if (c.ga) memset((char*)c.ga + n * row, 0, row);
        if (c.gb) memset((char*)c.gb + n * row, 0, row);
    });
    parallel(c.out, threads, [&](int64_t k, int) { if (c.gw) memset((char*)c.gw + k * row, 0, row); });
}

template <class T> void scatter(const Call& c) {
    const int threads = (double)c.n * c.out * 10 + (double)(c.n + c.out) * c.features < 100e3 ? 1 : c.threads;
    clear<T>(c, threads);
    scatter_codes<T>(c, (const T*)c.g, c.index, (T*)c.ga, nullptr, (T*)c.gw, threads);
}

// Searches the coordinate of every pair, then scatters.
template <class T, class Pair> void backward_infinite(const Call& c, const T* g, const T* y, int threads) {
    Buffer<int32_t> index(c.n * c.out);
    const T *a = (const T*)c.a, *b = (const T*)(Pair::BOX ? c.b : c.a), *w = (const T*)c.w;
    parallel(c.n, threads, [&](int64_t n, int) {
        for (int64_t k = 0; k < c.out; k++)
            index[n * c.out + k] = find<T, Pair>(a + n * c.features, b + n * c.features, w + k * c.features, 0,
                                                 c.features, y[n * c.out + k]);
    });
    scatter_codes<T>(c, g, index, (T*)c.ga, (T*)c.gb, (T*)c.gw, threads);
}

// Backward, finite p: lanes along the coordinates, so that no two tasks write to one place.

constexpr int64_t BLOCK = 128;  // rows of w at a time; with their gradients half of the first-level cache

// The loops over one vector of coordinates [i, i + LANES), rows n0…n1 of a and all rows of w.
template <class T, class Pair, bool SCALED, class Term>
void backward_lanes(const Call& c, Term term, const T* factor, const T* inverse_y, int64_t i, int64_t n0, int64_t n1,
                    T* gw_to) {
    constexpr int L = LANES<T>, G = Pair::BOX ? GROUP / 2 : GROUP;
    const T *a = (const T*)c.a, *b = (const T*)c.b, *w = (const T*)c.w;
    const int64_t features = c.features, m = features - i;
    alignas(BYTES) T ws[BLOCK * L], gws[BLOCK * L];
    for (int64_t k0 = 0; k0 < c.out; k0 += BLOCK) {
        const int64_t rows = least(BLOCK, c.out - k0);
        for (int64_t k = 0; k < rows; k++) {
            store(ws + k * L, load_part(w + (k0 + k) * features + i, m));
            store(gws + k * L, Vec<T>{});
        }
        for (int64_t n = n0; n < n1; n += G) {
            Vec<T> av[G], bv[G], ga[G], gb[G];
            const T *f[G], *s[G];
            const int64_t count = least(G, n1 - n);
            for (int r = 0; r < G; r++) {  // rows beyond the last have a factor of 0
                const int64_t at = n + (r < count ? r : 0);
                av[r] = load_part(a + at * features + i, m);
                if (Pair::BOX) bv[r] = load_part(b + at * features + i, m);
                ga[r] = gb[r] = Vec<T>{};
                f[r] = factor + at * c.out + k0;
                s[r] = inverse_y + at * c.out + k0;
            }
            const auto rows_of = [&](auto full) {
                for (int64_t k = 0; k < rows; k++) {
                    const Vec<T> wv = load(ws + k * L);
                    Vec<T> sum = load(gws + k * L);
#pragma GCC unroll 8
                    for (int r = 0; r < G; r++) {
                        if (!full && r >= count) break;
                        Vec<T> t = Pair::difference(av[r], bv[r], wv);
                        if (SCALED) t *= s[r][k];
                        const Vec<T> v = term(t) * f[r][k];
                        if constexpr (Pair::BOX) {
                            Vec<T> va, vb;
                            Pair::route(av[r], bv[r], wv, v, va, vb);
                            ga[r] += va;
                            gb[r] += vb;
                            sum -= va + vb;
                        } else {
                            ga[r] += v;
                            sum -= v;
                        }
                    }
                    store(gws + k * L, sum);
                }
            };
            struct Yes { constexpr operator bool() const { return true; } };
            if (count == G) rows_of(Yes()); else rows_of(false);
            for (int r = 0; r < count; r++) {
                T *pa = (T*)c.ga + (n + r) * features + i, *pb = (T*)c.gb + (n + r) * features + i;
                if (c.ga) store_part(pa, load_part(pa, m) + ga[r], m);
                if (Pair::BOX && c.gb) store_part(pb, load_part(pb, m) + gb[r], m);
            }
        }
        if (gw_to)
            for (int64_t k = 0; k < rows; k++) {
                T* to = gw_to + (k0 + k) * features + i;
                store_part(to, load_part(to, m) + load(gws + k * L), m);
            }
    }
}

// factor = g·y^(1−p) unscaled (p a power of two), g scaled; both 0 where y = 0, NaN where y is.
template <class T, class Pair, bool SCALED, class Term>
void backward_dense(const Call& c, Term term, const T* g, const T* y, int threads) {
    Buffer<T> factor(c.n * c.out), inverse_y(SCALED ? c.n * c.out : 0);
    parallel(c.n, threads, [&](int64_t n, int) {
        for (int64_t j = n * c.out; j < (n + 1) * c.out; j++) {
            if (SCALED) inverse_y[j] = inverse(y[j]);
            factor[j] = y[j] == 0 ? 0 : y[j] == y[j] ? g[j] : y[j];
            if (!SCALED && c.p > 1) {
                T power = y[j];
                for (int s = (int)c.p; s > 1; s /= 2) power *= power;
                if (y[j] != 0) factor[j] *= y[j] / power;
            }
        }
    });
    // Few coordinates leave threads idle: then slices of n too, each with a gradient of w of its own.
    // Their number depends on the problem alone, as the order of additions must.
    const int64_t vectors = parts(c.features, LANES<T>);
    const int64_t slices = vectors >= 16 ? 1 : least(parts(16, vectors), parts(c.n, 256));
    const int64_t slice = parts(parts(c.n, slices), GROUP) * GROUP, size = c.out * c.features;
    Buffer<T> extra(c.gw ? (slices - 1) * size : 0);
    if (c.gw && slices > 1) memset(extra, 0, (slices - 1) * size * sizeof(T));
    parallel(vectors * slices, threads, [&](int64_t task, int) {
        const int64_t i = task % vectors * LANES<T>, s = task / vectors;
        T* gw = !c.gw ? nullptr : s ? extra + (s - 1) * size : (T*)c.gw;
        backward_lanes<T, Pair, SCALED>(c, term, factor, inverse_y, i, s * slice, least(c.n, (s + 1) * slice), gw);
    });
    for (int64_t s = 1; c.gw && s < slices; s++)
        for (int64_t j = 0; j < size; j++) ((T*)c.gw)[j] += extra[(s - 1) * size + j];
}

// Whether t^(p−1)·y^(1−p) stays in range unscaled.
template <class T> bool tame(const T* y, int64_t count, double p) {
    T low = Lanes<T>::LARGEST, high = 0;
    for (int64_t j = 0; j < count; j++) {
        if (y[j] != y[j]) return false;
        if (y[j] != 0 && y[j] < low) low = y[j];
        if (y[j] > high) high = y[j];
    }
    const double room = sizeof(T) == 4 ? 60 : 400;
    return p * __builtin_log2(high > 0 ? high : 1) < room && p * __builtin_log2(low) > -room;
}

template <class T, class Pair, int P> void backward_power(const Call& c, const T* g, const T* y, int threads) {
    if (tame(y, c.n * c.out, P)) backward_dense<T, Pair, false>(c, Odd<P>(), g, y, threads);
    else backward_dense<T, Pair, true>(c, Odd<P>(), g, y, threads);
}

template <class T, class Pair> void backward_one(const Call& c, const T* g, const T* y) {
    const int threads = useful_threads(c, 0.15);
    if (c.p == __builtin_inf()) backward_infinite<T, Pair>(c, g, y, threads);
    else if (c.p == 1) backward_dense<T, Pair, false>(c, Sign<T>(), g, y, threads);
    else if (c.p == 2) backward_power<T, Pair, 2>(c, g, y, threads);
    else if (c.p == 4) backward_power<T, Pair, 4>(c, g, y, threads);
    else if (c.p == 8) backward_power<T, Pair, 8>(c, g, y, threads);
    else if (c.p == 16) backward_power<T, Pair, 16>(c, g, y, threads);
    else if (c.p >= THRESHOLD_FROM)
        backward_dense<T, Pair, true>(
            c, SparseGradient<T>{(T)c.p, (T)__builtin_exp2(-Lanes<T>::INVISIBLE / (c.p - 1))}, g, y, threads);
    else if (whole(c.p)) backward_dense<T, Pair, true>(c, WholeGradient<T>{(int)c.p}, g, y, threads);
    else backward_dense<T, Pair, true>(c, RealGradient<T>{(T)c.p}, g, y, threads);
}

template <class T> void backward(const Call& c) {
    clear<T>(c, useful_threads(c, 0.15));
    if (c.n && c.out && c.features) backward_one<T, Point<T>>(c, (const T*)c.g, (const T*)c.y);
}

template <class T> void box_backward(const Call& c) {
    clear<T>(c, useful_threads(c, 0.15));
    if (c.n == 0 || c.out == 0 || c.features == 0) return;
    backward_one<T, Nearest<T>>(c, (const T*)c.g, (const T*)c.y);
    backward_one<T, Farthest<T>>(c, (const T*)c.g2, (const T*)c.y2);
}

}  // namespace

extern const linf::Kernels LINF_TABLE;
const linf::Kernels LINF_TABLE = {
    {forward<float, Point<float>, Point<float>>, forward<double, Point<double>, Point<double>>},
    {backward<float>, backward<double>},
    {scatter<float>, scatter<double>},
    {forward<float, Nearest<float>, Farthest<float>>, forward<double, Nearest<double>, Farthest<double>>},
    {box_backward<float>, box_backward<double>},
};
