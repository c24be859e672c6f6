// Backward.
#pragma once
#include "cpu_pairs.h"

namespace {

// Backward, p = ∞: one coordinate a pair.

constexpr int64_t CODES = 16;  // a cache line of them

// What a line of pairs adds where: nothing for NONE, and nothing beyond ``count``.
template <class T> struct Additions {
    T value[CODES];
    int32_t at[CODES], end[CODES];

    INLINE Additions(const T* g, const int32_t* index, int64_t count) {
        if (count >= CODES) {
            read(g, index);
            return;
        }
        T some_g[CODES];
        int32_t some_index[CODES];
        for (int64_t j = 0; j < CODES; j++) {
            some_g[j] = j < count ? g[j] : 0;
            some_index[j] = j < count ? index[j] : NONE;
        }
        read(some_g, some_index);
    }
    INLINE void read(const T* g, const int32_t* index) {  // without a branch, so that it becomes vectors
        typename Lanes<T>::Unsigned bits[CODES];
        memcpy(bits, g, sizeof bits);
        for (int64_t j = 0; j < CODES; j++) {
            const int32_t code = index[j], some = ~(code >> 31);
            bits[j] ^= (typename Lanes<T>::Unsigned)code << (8 * sizeof(T) - 1);
            bits[j] &= (typename Lanes<T>::Unsigned)(typename Lanes<T>::Int)some;
            at[j] = (code & some) >> 2;
            end[j] = code & some & 2;
        }
        memcpy(value, bits, sizeof bits);
    }
};

// Rows of a and b belong to one task each, then rows of w; each adds in ascending order.
template <class T, bool BOX = false>
void scatter_codes(const Call& c, const T* g, const int32_t* index, bool cleared, int threads) {
    const int64_t features = c.features, row = features * (int64_t)sizeof(T);
    T *ga = (T*)c.ga, *gb = (T*)c.gb, *gw = (T*)c.gw;
    if (!cleared) {
        if (ga) linf::expect_all_of(ga, c.n * row);
        if (gw) linf::expect_all_of(gw, c.out * row);
    }
    if (ga || gb) parallel(c.n, threads, [&](int64_t n, int) {
        T *to = ga + n * features, *to_b = gb + n * features;
        if (ga && !cleared) memset(to, 0, row);
        if (gb && !cleared) memset(to_b, 0, row);
        for (int64_t k = 0; k < c.out; k += CODES) {
            const Additions<T> add(g + n * c.out + k, index + n * c.out + k, c.out - k);
#pragma GCC unroll 16
            for (int64_t j = 0; j < CODES; j++) {
                if constexpr (BOX) {
                    if (add.end[j] ? gb : ga) (add.end[j] ? to_b : to)[add.at[j]] += add.value[j];
                } else {
                    to[add.at[j]] += add.value[j];
                }
            }
        }
    });
    if (gw) parallel(parts(c.out, CODES), threads, [&](int64_t block, int) {
        const int64_t k = block * CODES, count = least(CODES, c.out - k);
        T* to = gw + k * features;
        if (!cleared) memset(to, 0, count * row);
        for (int64_t n = 0; n < c.n; n++) {
            const int64_t ahead = least(n + 8, c.n - 1) * c.out + k;
            prefetch(index + ahead);
            prefetch(g + ahead);
            const Additions<T> add(g + n * c.out + k, index + n * c.out + k, count);
            for (int64_t j = 0; j < count; j++) to[j * features + add.at[j]] -= add.value[j];
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
    if (c.features == 0) return;
    const int threads = (double)c.n * c.out * 4 + (double)(c.n + c.out) * c.features < 100e3 ? 1 : c.threads;
    scatter_codes<T>(c, (const T*)c.g, c.index, false, threads);
}

// Searches the coordinate of every pair that has a gradient, then scatters.  At p = ∞ few have one: behind a worst
// margin a sample's gradient reaches one neuron of a layer for each end of a box.
template <class T, class Pair> void backward_infinite(const Call& c, const T* g, const T* y, int threads) {
    Buffer<int32_t> index(c.n * c.out);
    const T *a = (const T*)c.a, *b = (const T*)(Pair::BOX ? c.b : c.a), *w = (const T*)c.w;
    parallel(c.n, threads, [&](int64_t n, int) {
        for (int64_t k = 0; k < c.out; k++) {
            const int64_t j = n * c.out + k;
            index[j] = g[j] == 0 ? NONE : find<T, Pair>(a + n * c.features, b + n * c.features, w + k * c.features,
                                                        0, c.features, y[j]);
        }
    });
    scatter_codes<T, Pair::BOX>(c, g, index, true, threads);
}

// Backward, finite p: lanes along the coordinates, so that no two tasks write to one place.

constexpr int64_t BLOCK = 128;  // rows of w at a time; with their gradients half of the first-level cache

// The loops over one vector of coordinates [i, i + LANES), rows n0…n1 of a and all rows of w.
template <class T, class Pair, bool SCALED, class Term>
void backward_lanes(const Call& c, T unit, const T* factor, const T* inverse_y, int64_t i, int64_t n0, int64_t n1,
                    T* gw_to) {
    const Term term = Term::of(c.p);
    constexpr int L = LANES<T>, G = Pair::BOX ? GROUP / 2 : GROUP;
    const T *a = (const T*)c.a, *b = (const T*)c.b, *w = (const T*)c.w;
    const int64_t features = c.features, m = features - i;
    alignas(BYTES) T ws[BLOCK * L], gws[BLOCK * L];
    for (int64_t k0 = 0; k0 < c.out; k0 += BLOCK) {
        const int64_t rows = least(BLOCK, c.out - k0);
        for (int64_t k = 0; k < rows; k++) {
            store(ws + k * L, load_part(w + (k0 + k) * features + i, m) * unit);
            store(gws + k * L, Vec<T>{});
        }
        for (int64_t n = n0; n < n1; n += G) {
            Vec<T> av[G], bv[G], ga[G], gb[G];
            const T *f[G], *s[G];
            const int64_t count = least(G, n1 - n);
            for (int r = 0; r < G; r++) {  // rows beyond the last have a factor of 0
                const int64_t at = n + (r < count ? r : 0);
                av[r] = load_part(a + at * features + i, m) * unit;
                if (Pair::BOX) bv[r] = load_part(b + at * features + i, m) * unit;
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
                        if (SCALED) t *= splat_at(s[r] + k);
                        const Vec<T> v = rounded<T>(term.gradient(t) * splat_at(f[r] + k));
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

// The same for the pairs whose distance is extreme, one at a time; added to what is there.
template <class T, class Pair, class Term>
void backward_extreme(const Call& c, const T* g, const T* y, int threads) {
    const Term term = Term::of(c.p);
    constexpr int L = LANES<T>;
    const T *a = (const T*)c.a, *b = (const T*)(Pair::BOX ? c.b : c.a), *w = (const T*)c.w;
    parallel(parts(c.features, L), threads, [&](int64_t lanes, int) {
        const int64_t i = lanes * L, m = c.features - i;
        const auto add = [&](void* to, int64_t row, Vec<T> v) {
            T* at = (T*)to + row * c.features + i;
            if (to) store_part(at, load_part(at, m) + v, m);
        };
        for (int64_t n = 0; n < c.n; n++)
            for (int64_t k = 0; k < c.out; k++) {
                const int64_t j = n * c.out + k;
                if (!extreme(y[j])) continue;
                const T step = first_step(y[j]), scale = inverse(y[j] * step);
                const Vec<T> av = load_part(a + n * c.features + i, m), bv = load_part(b + n * c.features + i, m);
                const Vec<T> wv = load_part(w + k * c.features + i, m);
                const Vec<T> v = term.gradient(Pair::difference(av, bv, wv) * step * scale) * g[j];
                Vec<T> va, vb{};
                Pair::route(av, bv, wv, v, va, vb);
                add(c.ga, n, va);
                if (Pair::BOX) add(c.gb, n, vb);
                add(c.gw, k, -(va + vb));
            }
    });
}

// What is compiled for each exponent; the code that calls it is compiled once.
template <class T> struct Gradients {
    decltype(&backward_lanes<T, Point<T>, false, Real<T>>) lanes;
    decltype(&backward_extreme<T, Point<T>, Real<T>>) extreme;  // null: distances are not scaled
    bool subnormals;                                            // may be visible
};
template <class T, class Pair, bool SCALED, class Term> Gradients<T> gradients() {
    if constexpr (SCALED) return {backward_lanes<T, Pair, true, Term>, backward_extreme<T, Pair, Term>, true};
    else return {backward_lanes<T, Pair, false, Term>, nullptr, Term::WHOLE == 1};
}

// factor = g·(unit·y)^(1−p) unscaled, g scaled; both 0 where y = 0, NaN where y is.  Scaled, extreme distances are left
// to the end.
template <class T>
void backward_dense(const Call& c, const Gradients<T>& gradients, T unit, const T* g, const T* y, int threads) {
    const bool scaled = gradients.extreme;
    Buffer<T> factor(c.n * c.out), inverse_y(scaled ? c.n * c.out : 0);
    parallel(c.n, threads, [&](int64_t n, int) {
        if (scaled) inverses(y + n * c.out, c.out, inverse_y + n * c.out);
        for (int64_t j = n * c.out; j < (n + 1) * c.out; j++) {
            factor[j] = (scaled ? inverse_y[j] : y[j]) == 0 ? 0 : y[j] == y[j] ? g[j] : y[j];
            if (!scaled && c.p > 1) {
                if (y[j] != 0) factor[j] /= power(y[j] * unit, (int)c.p - 1);
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
        const FlushToZero flush(!gradients.subnormals);
        gradients.lanes(c, unit, factor, inverse_y, i, s * slice, least(c.n, (s + 1) * slice), gw);
    });
    for (int64_t s = 1; c.gw && s < slices; s++)
        for (int64_t j = 0; j < size; j++) ((T*)c.gw)[j] += extra[(s - 1) * size + j];
    if (scaled && any_extreme(y, c.n * c.out)) gradients.extreme(c, g, y, threads);
}

// A power of 2 that distances can be multiplied by, so that t^(p−1)·y^(1−p) stays in range unscaled; 0 if none.
template <class T, class Pair> T backward_unit(const Call& c, const T* y) {
    T low = Lanes<T>::LARGEST, high = 0;
    for (int64_t j = 0; j < c.n * c.out; j++) {
        if (y[j] != y[j]) return 0;
        if (y[j] != 0 && y[j] < low) low = y[j];
        if (y[j] > high) high = y[j];
    }
    if (high == 0) return 1;
    if (high > Lanes<T>::LARGEST) return 0;
    const double room = (sizeof(T) == 4 ? 80 : 400) / c.p, from = __builtin_log2(low), to = __builtin_log2(high);
    if (from > -room && to < room) return 1;
    const double shift = -__builtin_floor((from + to) / 2 + 0.5);
    const bool in_range = from + shift > -room && to + shift < room && __builtin_fabs(shift) < Lanes<T>::BIAS;
    if (Pair::BOX || !in_range) return 0;
    const T unit = (T)__builtin_exp2(shift), most = Lanes<T>::LARGEST / 4 / unit;
    const bool fits = unit < 1 || (within((const T*)c.a, c.n * c.features, most)
                                   && within((const T*)c.w, c.out * c.features, most));
    return fits ? unit : 0;
}

template <class T, class Pair> void backward_one(const Call& c, const T* g, const T* y) {
    const int threads = useful_threads(c, 0.15);
    if (c.p == __builtin_inf()) return backward_infinite<T, Pair>(c, g, y, threads);
    Gradients<T> chosen = gradients<T, Pair, true, Visible<T>>();
    T unit = 0;
    if (c.p < THRESHOLD_FROM || (whole(c.p) && c.p <= MOST_POWER)) with_term<T, Pair::BOX>(c.p, [&](auto term) {
        using Term = decltype(term);
        if constexpr (Term::WHOLE) {
            unit = Term::WHOLE == 1 ? 1 : backward_unit<T, Pair>(c, y);
            if (unit != 0) chosen = gradients<T, Pair, false, Term>();
        }
        if constexpr (Term::WHOLE < THRESHOLD_FROM)
            if (unit == 0 && c.p < THRESHOLD_FROM) chosen = gradients<T, Pair, true, Term>();
    });
    backward_dense(c, chosen, unit == 0 ? (T)1 : unit, g, y, threads);
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
