// Differences of a pair of rows, and what is done one pair at a time.
#pragma once
#include "cpu_powers.h"

namespace {

// Differences.  ``a`` and ``b`` are the ends of a box; a point has the one end a.
// route: what a coordinate's term contributes to the gradients of a and of b; w gets minus their sum.
// direction: the same for one coordinate whose term is not 0, as 2·(the end is b) + (the term counts negatively).

template <class T> struct Point {
    static constexpr bool BOX = false;
    static INLINE Vec<T> difference(Vec<T> a, Vec<T>, Vec<T> w) { return a - w; }
    static INLINE Vec<T> for_maximum(Vec<T> a, Vec<T>, Vec<T> w) { return minus(a, w); }
    static INLINE void route(Vec<T>, Vec<T>, Vec<T>, Vec<T> term, Vec<T>& ga, Vec<T>&) { ga = term; }
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

// One pair at a time: exact rules, for what the tiles leave aside.

template <class T, class Pair>
INLINE Vec<T> pair_difference(const T* a, const T* b, const T* w, int64_t i, int64_t features) {
    const int64_t m = features - i;
    return Pair::difference(load_part(a + i, m), Pair::BOX ? load_part(b + i, m) : Vec<T>{}, load_part(w + i, m));
}

// Distances whose reciprocal, or which times it, may be no normal number: they are scaled in two steps, by a power of 2
// first.  Infinities are among them, 0 is not.
template <class T> INLINE bool extreme(T y) { return (y > 0 && y < Lanes<T>::NEAR) || y > Lanes<T>::FAR; }
template <class T> INLINE IVec<T> extremes(Vec<T> y) {
    return (IVec<T>)(((y > (T)0) & (y < Lanes<T>::NEAR)) | (y > Lanes<T>::FAR));
}
template <class T> INLINE bool any_of(IVec<T> set) {
    typename Lanes<T>::Int some = 0;
    for (int i = 0; i < LANES<T>; i++) some |= set[i];
    return some != 0;
}
template <class T> bool any_extreme(const T* y, int64_t count) {
    IVec<T> found{};
    for (int64_t j = 0; j < count; j += LANES<T>) found |= extremes<T>(load_part(y + j, count - j));
    return any_of<T>(found);
}
template <class T> T first_step(T y) {
    return y > Lanes<T>::FAR ? Lanes<T>::NEAR : y < Lanes<T>::NEAR ? Lanes<T>::FAR : 1;
}
// What scales to at most about 1; 0 where nothing does in one step.
template <class T> T inverse(T largest) { return largest == 0 || extreme(largest) ? 0 : 1 / largest; }
template <class T> void inverses(const T* largest, int64_t count, T* to) {
    for (int64_t j = 0; j < count; j += LANES<T>) {
        const Vec<T> y = load_part(largest + j, count - j), one = splat((T)1);
        store_part(to + j, (Vec<T>)(bits<T>(one / y) & ~extremes<T>(y) & (IVec<T>)(y != (T)0)), count - j);
    }
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
T pair_norm(const T* a, const T* b, const T* w, int64_t features, double p) {
    const Term term = Term::of(p);
    const T largest = pair_maximum<T, Pair>(a, b, w, features);
    if (largest == 0) return 0;
    if (!(largest <= Lanes<T>::LARGEST)) return (T)__builtin_nan("");  // as the specification: ∞/∞
    const T step = first_step(largest), scale = inverse(largest * step);
    Vec<T> sum{};
    for (int64_t i = 0; i < features; i += LANES<T>)
        sum += term(pair_difference<T, Pair>(a, b, w, i, features) * step * scale);
    T y[LANES<T>] = {total<T>(sum)};
    roots(y, 1, p);
    return largest * y[0];
}

// The index of a pair at p = ∞: 4·i + direction, or NONE.
constexpr int32_t NONE = -1;
constexpr int64_t SEARCHED = 32;  // coordinates that are searched at once: a bit each

// The lowest i in [i0, i1) whose term is y.
template <class T, class Pair>
INLINE int32_t find(const T* a, const T* b, const T* w, int64_t i0, int64_t i1, T y) {
    const Vec<T> bound = splat(y);
    for (int64_t i = i0; i < i1; i += SEARCHED) {
        uint64_t hits = 0, below = 0;
        const auto look = [&](int v, Vec<T> lower, Vec<T> upper, Vec<T> weight) {
            const Vec<T> t = Pair::difference(lower, upper, weight);
            hits |= (uint64_t)at_least(magnitude<T>(t), bound) << (v * LANES<T>);
            if (!Pair::BOX) below |= (uint64_t)negative(t) << (v * LANES<T>);
        };
        if (i + SEARCHED <= i1) {
#pragma GCC unroll 16
            for (int v = 0; v < SEARCHED / LANES<T>; v++) {
                const int64_t at = i + v * LANES<T>;
                look(v, load(a + at), Pair::BOX ? load(b + at) : Vec<T>{}, load(w + at));
            }
        } else {
            for (int64_t at = i; at < i1; at += LANES<T>)
                look((int)(at - i) / LANES<T>, load_part(a + at, i1 - at),
                     Pair::BOX ? load_part(b + at, i1 - at) : Vec<T>{}, load_part(w + at, i1 - at));
        }
        if (!hits || !(y > 0)) continue;
        const int bit = __builtin_ctzll(hits);
        const int64_t at = i + bit;
        if constexpr (Pair::BOX) return (int32_t)(4 * at) + Pair::direction(a[at], b[at], w[at]);
        else return (int32_t)(4 * at) + (int)(below >> bit & 1);
    }
    return NONE;
}

}  // namespace
