// Powers: logarithms, roots, and the terms that forward and backward sum.
#pragma once
#include "cpu_vectors.h"

namespace {

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

// t^P with few products: of a prime exponent from P − 1, of another from its factors.
constexpr int least_factor(int n) {
    for (int q = 2; q * q <= n; q++)
        if (n % q == 0) return q;
    return n;
}
template <int P, class V> INLINE V power(V t) {
    constexpr int Q = least_factor(P);
    if constexpr (P == 1) return t;
    else if constexpr (P == 2) return t * t;
    else if constexpr (Q == P) return power<P - 1>(t) * t;
    else return power<P / Q>(power<Q>(t));
}
template <class V> INLINE V power(V base, int p) {  // p ≥ 0
    V y = base - base + 1;
    while (true) {
        if (p & 1) y *= base;
        if (!(p >>= 1)) return y;
        base *= base;
    }
}

// Terms that are summed: |t|^p; and of the gradient: sign(t)·|t|^(p−1).  of(p) makes one.
template <class T, int P> struct Power {
    static constexpr int WHOLE = P;
    static Power of(double) { return {}; }
    INLINE Vec<T> operator()(Vec<T> t) const { return power<P>(P % 2 ? magnitude<T>(t) : t); }
    INLINE Vec<T> gradient(Vec<T> t) const {
        if constexpr (P == 1) return with_sign_of<T>((Vec<T>)(bits<T>(splat((T)1)) & (t != 0)), t);
        else if constexpr (P % 2) return with_sign_of<T>(power<P - 1>(magnitude<T>(t)), t);
        else return power<P - 1>(t);
    }
};
template <class T> struct Whole {
    static constexpr int WHOLE = 0;
    int p;
    static Whole of(double p) { return {(int)p}; }
    INLINE Vec<T> operator()(Vec<T> t) const { return power(magnitude<T>(t), p); }
    INLINE Vec<T> gradient(Vec<T> t) const { return with_sign_of<T>(power(magnitude<T>(t), p - 1), t); }
};
template <class T> struct Real {
    static constexpr int WHOLE = 0;
    T p;
    static Real of(double p) { return {(T)p}; }
    INLINE Vec<T> operator()(Vec<T> t) const { return exp2<T>(log2<T>(magnitude<T>(t)) * p); }
    INLINE Vec<T> gradient(Vec<T> t) const {
        const Vec<T> y = exp2<T>(log2<T>(magnitude<T>(t)) * (p - 1));
        return with_sign_of<T>((Vec<T>)(bits<T>(y) & (t != 0)), t);  // near p = 1 the logarithm of 0 is not enough
    }
};
template <class T> struct Visible {  // for large p, where few terms of the gradient are
    static constexpr int WHOLE = 0;
    T p, least;
    static Visible of(double p) { return {(T)p, (T)__builtin_exp2(-Lanes<T>::INVISIBLE / (p - 1))}; }
    INLINE Vec<T> gradient(Vec<T> t) const {
        if (__builtin_expect(!at_least(magnitude<T>(t), splat(least)), 1)) return Vec<T>{};
        return with_sign_of<T>(exp2<T>(log2<T>(magnitude<T>(t)) * (p - 1)), t);
    }
};

constexpr double THRESHOLD_FROM = 64;      // from this p on it pays to look which terms are visible,
constexpr double REAL_THRESHOLD_FROM = 24; // and from this where a power costs a logarithm
constexpr int MOST_WHOLE = 1024;
bool whole(double p) { return p <= MOST_WHOLE && p == (int)p; }

constexpr int MOST_POWER = 96;

// f(term) for a finite p.  The exponents that a schedule visits have code of their own, for points of float.
// What f calls is compiled once for each exponent: only the loops over coordinates belong there.
template <class T, int... P, class F> INLINE void with_one_of(double p, F f) {
    if (((p == P && (f(Power<T, P>()), true)) || ...)) return;
    if (whole(p)) f(Whole<T>::of(p));
    else f(Real<T>::of(p));
}
template <class T, bool BOX = false, class F> void with_term(double p, F f) {
    if constexpr (sizeof(T) == 4 && !BOX)
        with_one_of<T, 1, 2, 3, 4, 8, 10, 12, 16, 20, 24, 32, 40, 48, 64, 80, MOST_POWER>(p, f);
    else
        with_one_of<T, 1, 2, 4, 8, 16, 32>(p, f);
}

}  // namespace
