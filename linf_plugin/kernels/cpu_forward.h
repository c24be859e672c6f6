// Forward: tiles of pairs.
#pragma once
#include "cpu_pairs.h"

namespace {

// The tile: ROWS rows against VECTORS vectors of packed rows, over ``depth`` coordinates.

// One side is packed: PANEL rows side by side, coordinate after coordinate; the other is read in its rows.
template <class T> void pack(const T* a, int64_t features, int64_t count, T unit, T* to) {
    constexpr int P = PANEL<T>;
    if (count < P) memset(to, 0, features * P * sizeof(T));
    for (int64_t i0 = 0; i0 < features; i0 += 16) {
        const int64_t i1 = least(features, i0 + 16);
        for (int64_t lane = 0; lane < count; lane++)
            for (int64_t i = i0; i < i1; i++) to[i * P + lane] = a[lane * features + i] * unit;
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
    Rows from(int64_t k) const { return {first + k, stride, count}; }
};

constexpr int64_t DEPTH = 128;  // coordinates of a panel that stay in the first-level cache

struct Maximum {};
// Terms that need many registers leave fewer to the sums.
template <class T, class Term> constexpr bool lean = std::is_same_v<Term, Real<T>> || std::is_same_v<Term, Whole<T>>;

// The maximum, and in ``block`` which SEARCHED coordinates attain it first; laid out as y.
template <class T> struct Located {
    const T* y;
    int32_t* block;
};

template <class T, class Pair, bool SCALED, int R, int V, class Term>
INLINE void tile(const T* a, const T* b, const Rows<T>& rows, int64_t r0, int64_t k0, int64_t depth, Term term,
                 const T* scale, T* y) {
    constexpr int P = PANEL<T>, L = LANES<T>;
    constexpr bool LOCATED = std::is_same_v<Term, Located<T>>, MAXIMUM = LOCATED || std::is_same_v<Term, Maximum>;
    const T* w[R];
    for (int r = 0; r < R; r++) w[r] = rows[r0 + r];
    Vec<T> sum[R][V] = {}, until[LOCATED ? DEPTH / SEARCHED : 1][R][V];  // the maxima before each next SEARCHED
    for (int64_t start = 0; start < depth; start += SEARCHED) {
        const int64_t end = LOCATED ? least(start + SEARCHED, depth) : depth;
        if (LOCATED) memcpy(until[start / SEARCHED], sum, sizeof sum);
        for (int64_t k = start; k < end; k++) {
            Vec<T> lower[V], upper[V];
#pragma GCC unroll 8
            for (int v = 0; v < V; v++) {
                lower[v] = load(a + k * P + v * L);
                if (Pair::BOX) upper[v] = load(b + k * P + v * L);
            }
#pragma GCC unroll 8
            for (int r = 0; r < R; r++) {
                const Vec<T> wr = splat_at(w[r] + k);
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
        if (!LOCATED) break;
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 8
        for (int v = 0; v < V; v++) {
            T* to = y + r * P + v * L;
            Vec<T> s = sum[r][v];
            if constexpr (LOCATED) {
                const Vec<T> before = k0 ? load(to) : splat((T)-1);
                IVec<T> at = (typename Lanes<T>::Int)(k0 / SEARCHED) - IVec<T>{};
                for (int64_t j = 1; j * SEARCHED < depth; j++) at -= until[j][r][v] < s;
                store_where_above(term.block + (to - term.y), s, before, at);
                s = max(s, before);
            } else if (k0) {
                s = MAXIMUM ? max(s, load(to)) : s + load(to);
            }
            store(to, s);
        }
}

// Tiles for ``rows`` × a panel of ``lanes`` rows and the coordinates from k0 on, where a, b and rows point to;
// joined to those before unless k0 is 0.  y and scale are (row, PANEL), rows padded to ROWS.
template <class T, class Pair, bool SCALED = false, class Term>
void sweep(const T* a, const T* b, int lanes, const Rows<T>& rows, int64_t k0, int64_t depth, Term term,
           const T* scale, T* y) {
    constexpr int P = PANEL<T>, L = LANES<T>;
    constexpr bool LEAN = lean<T, Term> || Pair::BOX;
    constexpr int R = LEAN ? ROWS / 2 : ROWS, V = LEAN ? VECTORS / 2 : VECTORS;
    for (int64_t r = 0; r < rows.count; r += R) {
        int v = 0;
        for (; v + V <= VECTORS && (v + V - 1) * L < lanes; v += V)
            tile<T, Pair, SCALED, R, V>(a + v * L, b + v * L, rows, r, k0, depth, term, scale + r * P + v * L,
                                        y + r * P + v * L);
        for (; v * L < lanes; v++)
            tile<T, Pair, SCALED, R, 1>(a + v * L, b + v * L, rows, r, k0, depth, term, scale + r * P + v * L,
                                        y + r * P + v * L);
    }
}

constexpr int64_t SLAB_BYTES = 32 << 20;   // packed at a time
constexpr int64_t SUB = 64;                // coordinates that share a maximum
constexpr int64_t MAXIMA_BYTES = 384 << 10, MOST_ROWS = 192;  // of a task
constexpr int64_t MOST_TRACKED = 320;

enum class Plan { MAXIMUM, INDEX, SINGLE, SCALED, SPARSE };

template <class T> struct Work {  // one task: rows × the lanes of a panel
    const T *a, *b;               // the panel
    int lanes;
    Rows<T> rows, uppers;         // uppers: where rows are the lower ends of boxes
    int64_t features;
    const T *pa, *pb;             // the same rows as in the panel, unpacked
    T *y, *scale, *maxima;        // (rows, PANEL); maxima (subs, rows, PANEL)
    int32_t* index;               // (rows, PANEL)
    bool swapped;                 // the panel holds w
    T unit;                       // a power of 2 that the panel is multiplied by, and the rows are to be,
    T* copy;                      // here (rows, DEPTH)
};

template <class T, class Pair, bool SCALED = false, class Term> void sums(const Work<T>& k, Term term, T* y) {
    for (int64_t k0 = 0; k0 < k.features; k0 += DEPTH) {
        const int64_t depth = least(DEPTH, k.features - k0);
        Rows<T> rows = k.rows.from(k0);
        if (k.unit != 1) {
            for (int64_t r = 0; r < rows.count; r++)
                for (int64_t i = 0; i < depth; i += LANES<T>)
                    store(k.copy + r * DEPTH + i, load_part(rows[r] + i, depth - i) * k.unit);
            rows = {k.copy, DEPTH, rows.count};
        }
        sweep<T, Pair, SCALED>(k.a + k0 * PANEL<T>, k.b + k0 * PANEL<T>, k.lanes, rows, k0, depth, term, k.scale, y);
    }
}

// Where row r of the work and lane of the panel lie as (end of a box or point, weight).
template <class T> struct Ends { const T *a, *b, *w; };
template <class T> Ends<T> ends(const Work<T>& k, int64_t r, int lane) {
    const T *row = k.rows[r], *packed = k.pa + lane * k.features;
    if (k.swapped) return {row, row, packed};
    return {packed, k.pb + lane * k.features, row};
}

// What is compiled for each exponent; the code that calls it is compiled once.
template <class T> struct Exponent {
    double p;
    void (*sums)(const Work<T>&, double p, T* y);         // null where no plan asks for it
    void (*scaled_sums)(const Work<T>&, double p, T* y);  // of terms times k.scale
    T (*norm)(const T* a, const T* b, const T* w, int64_t features, double p);  // of one pair
};
template <class T, class Pair, bool SCALED, class Term> void sums_for(const Work<T>& k, double p, T* y) {
    sums<T, Pair, SCALED>(k, Term::of(p), y);
}
template <class T, class Pair, class Term> Exponent<T> exponent(double p) {
    Exponent<T> e{p, nullptr, sums_for<T, Pair, true, Term>, pair_norm<T, Pair, Term>};
    if constexpr (!std::is_same_v<Term, Real<T>>) e.sums = sums_for<T, Pair, false, Term>;
    return e;
}

// y ← M·(Σ)^{1/p}; k.y holds M, sum the sums of scaled powers.  Where M is extreme, pair by pair.
template <class T> void finish(const Work<T>& k, const Exponent<T>& exponent, T* sum) {
    const int64_t count = k.rows.count * PANEL<T>;
    roots(sum, count, exponent.p);
    IVec<T> found{};
    for (int64_t j = 0; j < count; j += LANES<T>) {
        const Vec<T> y = load(k.y + j);
        const IVec<T> bad = extremes<T>(y);
        found |= bad;
        const Vec<T> root = (Vec<T>)(bits<T>(y * load(sum + j)) & (IVec<T>)(y != (T)0));
        store(k.y + j, (Vec<T>)((bits<T>(y) & bad) | (bits<T>(root) & ~bad)));
    }
    const bool any = any_of<T>(found);
    for (int64_t r = 0; any && r < k.rows.count; r++)
        for (int lane = 0; lane < k.lanes; lane++) {
            T& y = k.y[r * PANEL<T> + lane];
            if (!extreme(y)) continue;
            const auto e = ends(k, r, lane);
            y = exponent.norm(e.a, e.b, e.w, k.features, exponent.p);
        }
}

template <class T, class Pair> void scaled(const Work<T>& k, const Exponent<T>& exponent, T* sum) {
    sums<T, Pair>(k, Maximum(), k.y);
    inverses(k.y, k.rows.count * PANEL<T>, k.scale);
    exponent.scaled_sums(k, exponent.p, sum);
    finish(k, exponent, sum);
}

// One pass without a scale.  Where sums leave the range in which no visible term over- or underflows, again
// with it: pair by pair if they are few.  In that range terms that are 0 for being subnormal are not visible.
template <class T, class Pair> void single(const Work<T>& k, const Exponent<T>& exponent, T* sum) {
    {
        const FlushToZero flush;
        exponent.sums(k, exponent.p, k.y);
    }
    const auto bad = [&](T s) { return !(s >= 1 / Lanes<T>::ROOM && s <= Lanes<T>::ROOM); };
    int64_t count = 0;
    for (int64_t r = 0; r < k.rows.count; r++)
        for (int j = 0; j < k.lanes; j++) count += bad(k.y[r * PANEL<T> + j]);
    if (k.unit == 1 && 16 * count > k.rows.count * k.lanes) return scaled<T, Pair>(k, exponent, sum);
    for (int64_t r = 0; count && r < k.rows.count; r++)
        for (int j = 0; j < k.lanes; j++) {
            T& y = k.y[r * PANEL<T> + j];
            if (!bad(y)) continue;
            const auto e = ends(k, r, j);
            y = exponent.norm(e.a, e.b, e.w, k.features, exponent.p);
            // stored as the power that the root below undoes would lose digits: mark instead
            sum[r * PANEL<T> + j] = y;
            y = -1;
        }
    for (int64_t r = 0; r < k.rows.count; r++) {
        T *y = k.y + r * PANEL<T>, s[PANEL<T>];
        memcpy(s, y, sizeof s);
        roots(y, k.lanes, exponent.p);
        for (int j = 0; j < k.lanes; j++) y[j] = s[j] < 0 ? sum[r * PANEL<T> + j] : y[j] / k.unit;
    }
}

// Which power of 2 to multiply by, so that most distances to the power p are in range; 0 if there is none.
// A few pairs tell.
template <class T, class Pair> T unit_of(const Call& c) {
    constexpr int PAIRS = 64;
    const T *a = (const T*)c.a, *w = (const T*)c.w;
    double logarithm[PAIRS], sum = 0;
    int count = 0, outside = 0;
    for (int j = 0; j < PAIRS; j++) {
        const T *row = a + j * c.n / PAIRS * c.features, *weight = w + j * 29 % PAIRS * c.out / PAIRS * c.features;
        const T m = pair_maximum<T, Pair>(row, row, weight, c.features);
        if (m > 0 && m <= Lanes<T>::LARGEST) sum += logarithm[count++] = __builtin_log2((double)m);
    }
    if (count == 0) return 1;
    const double room = __builtin_log2((double)Lanes<T>::ROOM) / c.p, shift = -__builtin_floor(sum / count + 0.5);
    const bool needed = __builtin_fabs(shift) > 0.4 * room;
    for (int j = 0; j < count; j++) outside += __builtin_fabs(logarithm[j] + needed * shift) > 0.9 * room;
    if (8 * outside > count || __builtin_fabs(shift) > Lanes<T>::BIAS - 1) return 0;
    const T unit = needed ? (T)__builtin_exp2(shift) : 1, most = Lanes<T>::LARGEST / 4 / unit;
    return unit <= 1 || (within(a, c.n * c.features, most) && within(w, c.out * c.features, most)) ? unit : 0;
}

int64_t sub_size(int64_t features) {  // at most 128 of them, so that a task's maxima stay small
    return most(SUB, parts(parts(features, 128), SUB) * SUB);
}

// Maxima of each SUB coordinates, and over all in k.y.
template <class T, class Pair> void maxima(const Work<T>& k) {
    const int64_t sub = sub_size(k.features), size = parts(k.rows.count, ROWS) * ROWS * PANEL<T>;
    for (int64_t s = 0; s * sub < k.features; s++) {
        T* m = k.maxima + s * size;
        const int64_t k0 = s * sub, depth = least(sub, k.features - k0);
        sweep<T, Pair>(k.a + k0 * PANEL<T>, k.b + k0 * PANEL<T>, k.lanes, k.rows.from(k0), 0, depth, Maximum(),
                       k.scale, m);
        for (int64_t j = 0; j < size; j += LANES<T>) store(k.y + j, s ? max(load(k.y + j), load(m + j)) : load(m + j));
    }
}

// The index kept along with the maximum, for points of few coordinates.
template <class T, int R>
INLINE void tracking_tile(const T* a, const Rows<T>& rows, int64_t r0, int64_t depth, bool swapped, T* y,
                          int32_t* index) {
    constexpr int P = PANEL<T>;
    typedef int32_t Narrow __attribute__((vector_size(LANES<T> * sizeof(int32_t))));
    const T* w[R];
    for (int r = 0; r < R; r++) w[r] = rows[r0 + r];
    Vec<T> largest[R] = {}, signed_[R] = {};
    IVec<T> at[R] = {};
    for (int64_t k = 0; k < depth; k++) {
        const Vec<T> lower = load(a + k * P);
        const IVec<T> here = (typename Lanes<T>::Int)k - IVec<T>{};
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
            const Vec<T> t = Point<T>::for_maximum(lower, lower, splat_at(w[r] + k));
            const Vec<T> now = max_magnitude(largest[r], t);
            const auto more = now > largest[r];
            signed_[r] = more ? t : signed_[r];
            at[r] = more ? here : at[r];
            largest[r] = now;
        }
    }
    for (int r = 0; r < R; r++) {
        store(y + r * P, largest[r]);
        const IVec<T> code = 4 * at[r] - ((swapped ? -signed_[r] : signed_[r]) < 0);
        const Narrow narrow = __builtin_convertvector(largest[r] > 0 ? code : NONE - IVec<T>{}, Narrow);
        memcpy(index + r * P, &narrow, sizeof narrow);
    }
}

// Which block holds the first maximum is noted on the way; then the coordinate is looked for there alone.
template <class T, class Pair> void index(const Work<T>& k) {
    constexpr int P = PANEL<T>;
    if (k.features <= MOST_TRACKED) {
        for (int64_t r = 0; r < k.rows.count; r += ROWS)
            for (int lane = 0; lane < k.lanes; lane += LANES<T>)
                tracking_tile<T, ROWS>(k.a + lane, k.rows, r, k.features, k.swapped, k.y + r * P + lane,
                                       k.index + r * P + lane);
        return;
    }
    sums<T, Pair>(k, Located<T>{k.y, k.index}, k.y);
    for (int64_t r = 0; r < k.rows.count; r++)
        for (int lane = 0; lane < k.lanes; lane++) {
            const int ahead = lane + 8 < k.lanes ? lane + 8 : lane;
            const auto later = ends(k, r, ahead);
            for (int64_t i = 0; i < SEARCHED; i += 64 / (int64_t)sizeof(T)) {
                prefetch(later.a + k.index[r * P + ahead] * SEARCHED + i);
                prefetch(later.w + k.index[r * P + ahead] * SEARCHED + i);
            }
            const auto e = ends(k, r, lane);
            int32_t& found = k.index[r * P + lane];
            const int64_t i0 = found * SEARCHED, i1 = least(i0 + SEARCHED, k.features);
            found = find<T, Pair>(e.a, e.b, e.w, i0, i1, k.y[r * P + lane]);
        }
}

// Both ends of boxes at p = ∞, for the coordinates from k0 on; joined to those before unless k0 is 0.
template <class T, bool SWAPPED, int R, int V>
INLINE void range_tile(const Work<T>& k, int64_t r0, int lane, int64_t k0, T* far) {
    constexpr int P = PANEL<T>, L = LANES<T>;
    const T *rows[R], *uppers[R];
    for (int r = 0; r < R; r++) rows[r] = k.rows[r0 + r], uppers[r] = k.uppers[r0 + r];
    T *y = k.y + r0 * P + lane, *y2 = far + r0 * P + lane;
    Vec<T> nearest[R][V] = {}, farthest[R][V] = {};
    for (int r = 0; k0 && r < R; r++)
        for (int v = 0; v < V; v++)
            nearest[r][v] = load(y + r * P + v * L), farthest[r][v] = load(y2 + r * P + v * L);
    const int64_t end = least(k0 + DEPTH, k.features);
    for (int64_t i = k0; i < end; i++) {
        Vec<T> a[V], b[V];
#pragma GCC unroll 8
        for (int v = 0; v < V; v++) {
            a[v] = load(k.a + i * P + lane + v * L);
            if (!SWAPPED) b[v] = load(k.b + i * P + lane + v * L);
        }
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
            const Vec<T> row = splat_at(rows[r] + i), upper = SWAPPED ? splat_at(uppers[r] + i) : row;
#pragma GCC unroll 8
            for (int v = 0; v < V; v++) {
                const Vec<T> above = SWAPPED ? minus(row, a[v]) : minus(a[v], row);    // l − w
                const Vec<T> below = SWAPPED ? minus(a[v], upper) : minus(row, b[v]);  // w − u
                nearest[r][v] = raised(nearest[r][v], max(above, below));
                farthest[r][v] = max_magnitude(farthest[r][v], min(above, below));
            }
        }
    }
    for (int r = 0; r < R; r++)
        for (int v = 0; v < V; v++)
            store(y + r * P + v * L, nearest[r][v]), store(y2 + r * P + v * L, farthest[r][v]);
}

// far gets the farthest, k.y the nearest.  A pair holds two sums, and its panel has two ends in registers: tiles
// are smaller than those of points.
template <class T, bool SWAPPED> void ranges(const Work<T>& k, T* far) {
    for (int64_t k0 = 0; k0 < k.features; k0 += DEPTH)
        if (k.lanes > PANEL<T> - LANES<T>)
            for (int64_t r = 0; r < k.rows.count; r += 2) range_tile<T, SWAPPED, 2, VECTORS>(k, r, 0, k0, far);
        else
            for (int lane = 0; lane < k.lanes; lane += LANES<T>)
                for (int64_t r = 0; r < k.rows.count; r += ROWS) range_tile<T, SWAPPED, ROWS, 1>(k, r, lane, k0, far);
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
template <class T, class Pair, class Term> void sparse(const Work<T>& k, T* sum, double p) {
    maxima<T, Pair>(k);
    const int64_t sub = sub_size(k.features), size = parts(k.rows.count, ROWS) * ROWS * PANEL<T>;
    const T visible = (T)__builtin_exp2(-Lanes<T>::INVISIBLE / p);
    memset(sum, 0, k.rows.count * PANEL<T> * sizeof(T));
    inverses(k.y, k.rows.count * PANEL<T>, k.scale);
    Queue<T, Term> queue{Term::of(p), sum, 0, {}, {}};
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
    finish(k, exponent<T, Pair, Term>(p), sum);
}

template <class T, class Pair> void run(const Work<T>& k, Plan plan, T* sum, double p) {
    if constexpr (!Pair::BOX) {  // of boxes: ranges
        if (plan == Plan::MAXIMUM) return sums<T, Pair>(k, Maximum(), k.y);
        if (plan == Plan::INDEX) return index<T, Pair>(k);
    }
    if (plan == Plan::SPARSE && whole(p)) return sparse<T, Pair, Whole<T>>(k, sum, p);
    if (plan == Plan::SPARSE) return sparse<T, Pair, Real<T>>(k, sum, p);
    Exponent<T> e;
    with_term<T, Pair::BOX>(p, [&](auto term) { e = exponent<T, Pair, decltype(term)>(p); });
    if (plan == Plan::SINGLE) single<T, Pair>(k, e, sum);
    else scaled<T, Pair>(k, e, sum);
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
                : whole(c.p) ? pair_norm<T, Pair, Whole<T>>(a + i, upper, w + j, c.features, c.p)
                : pair_norm<T, Pair, Real<T>>(a + i, upper, w + j, c.features, c.p);
            y[n * c.out + k] = v;
            if (index) index[n * c.out + k] = find<T, Pair>(a + i, upper, w + j, 0, c.features, v);
        }
}

template <class T, class First, class Second> void forward(const Call& c) {
    constexpr int P = PANEL<T>;
    constexpr bool BOX = First::BOX;
    const bool infinite = c.p == __builtin_inf();
    const double single_up_to = BOX || sizeof(T) == 8 ? 32 : MOST_POWER;
    Plan plan = infinite ? (c.index ? Plan::INDEX : Plan::MAXIMUM)
        : whole(c.p) && c.p <= single_up_to ? Plan::SINGLE
        : c.p >= (whole(c.p) ? THRESHOLD_FROM : REAL_THRESHOLD_FROM) ? Plan::SPARSE : Plan::SCALED;
    if (c.n == 0 || c.out == 0) return;
    T unit = !BOX && plan == Plan::SINGLE ? unit_of<T, First>(c) : 1;
    if (unit == 0) plan = c.p >= THRESHOLD_FROM ? Plan::SPARSE : Plan::SCALED, unit = 1;
    const bool blocks = plan == Plan::SPARSE;

    // Pack x or w: whichever costs less.  Lanes beyond the last row are wasted; packing takes about as long as
    // 16 coordinate pairs a number, and results of a packed x are stored transposed.  A pair of boxes takes as
    // long as 3 of points; x has two ends then, and so have results.
    const auto cost = [&](int64_t packed, int64_t rows, int ends, bool transposed) {
        return (BOX ? 3.0 : 1.0) * parts(packed, LANES<T>) * LANES<T> * rows * most(c.features, 1)
            + 16.0 * ends * packed * c.features + (transposed ? 16.0 * ends * packed * rows : 0);
    };
    const bool swapped = (!BOX || infinite) && cost(c.out, c.n, 1, false) < cost(c.n, c.out, BOX ? 2 : 1, true);
    const int64_t packed = swapped ? c.out : c.n, others = swapped ? c.n : c.out;
    const T *side = (const T*)(swapped ? c.w : c.a), *other = (const T*)(swapped ? c.a : c.w);
    const T *upper = BOX && !swapped ? (const T*)c.b : side, *uppers = BOX && swapped ? (const T*)c.b : other;

    const int threads = useful_threads(c, infinite ? 0.03 : 0.1);
    const int64_t panel_size = most(c.features, 1) * P;
    const int64_t panels = most(1, least(parts(packed, P), SLAB_BYTES / (panel_size * (int64_t)sizeof(T))));
    const int64_t subs = parts(c.features, sub_size(c.features));
    int64_t step = blocks ? MAXIMA_BYTES / (most(subs, 1) * P * (int64_t)sizeof(T)) : MOST_ROWS;
    step = least(step, parts(others, parts(4 * threads, panels)));
    step = least(MOST_ROWS, most(1, parts(step, ROWS)) * ROWS);

    Buffer<T> store_a(panels * panel_size), store_b(upper != side ? panels * panel_size : 0);
    Buffer<bool> odd(c.n + c.out);
    bool *odd_a = odd, *odd_w = odd + c.n;
    const int64_t scratch = step * P * (3 + (blocks ? subs : 0)) + (unit != 1 ? step * DEPTH : 0);
    Buffer<T> scratches(threads * scratch);
    Buffer<int32_t> indices(plan == Plan::INDEX ? threads * step * P : 0);
    bool any = false;

    for (int64_t p0 = 0; p0 < packed; p0 += panels * P) {
        const int64_t here = least(panels, parts(packed - p0, P));
        parallel(here, threads, [&](int64_t q, int) {
            const int64_t first = p0 + q * P, count = least(P, packed - first);
            pack(side + first * c.features, c.features, count, unit, store_a + q * panel_size);
            if (upper != side) pack(upper + first * c.features, c.features, count, unit, store_b + q * panel_size);
            for (int64_t n = first; n < first + count; n++)
                (swapped ? odd_w : odd_a)[n] = !all_finite(side + n * c.features, c.features)
                    || (upper != side && !all_finite(upper + n * c.features, c.features));
        });
        parallel(here * parts(others, step), threads, [&](int64_t task, int slot) {
            const int64_t q = task % here, r0 = task / here * step, first = p0 + q * P;
            Work<T> k;
            k.a = store_a + q * panel_size;
            k.b = upper != side ? store_b + q * panel_size : k.a;
            k.lanes = (int)least(P, packed - first);
            k.rows = {other + r0 * c.features, c.features, least(step, others - r0)};
            k.uppers = {uppers + r0 * c.features, c.features, k.rows.count};
            k.features = c.features;
            k.pa = side + first * c.features;
            k.pb = upper + first * c.features;
            k.y = scratches + slot * scratch;
            k.scale = k.y + step * P;
            T* sum = k.scale + step * P;
            k.maxima = k.copy = sum + step * P;
            k.unit = unit;
            k.index = plan == Plan::INDEX ? indices + slot * step * P : nullptr;
            k.swapped = swapped;
            if (p0 == 0 && q == 0)  // they come to the cache for the tiles
                for (int64_t r = 0; r < k.rows.count; r++)
                    (swapped ? odd_a : odd_w)[r0 + r] = !all_finite(k.rows[r], c.features)
                        || (uppers != other && !all_finite(k.uppers[r], c.features));
            for (int which = 0; which < (BOX ? 2 : 1); which++) {
                T* y = (T*)(which ? c.y2 : c.y);
                if (c.features == 0) {
                    memset(k.y, 0, step * P * sizeof(T));
                    if (k.index) memset(k.index, NONE, step * P * sizeof(int32_t));
                } else if (BOX && infinite) {
                    if (which) k.y = k.scale;  // the first pass has done both
                    else if (swapped) ranges<T, true>(k, k.scale);
                    else ranges<T, false>(k, k.scale);
                } else if (which) {
                    run<T, Second>(k, plan, sum, c.p);
                } else {
                    run<T, First>(k, plan, sum, c.p);
                }
                if (swapped) {
                    for (int64_t r = 0; r < k.rows.count; r++) {
                        memcpy(y + (r0 + r) * c.out + first, k.y + r * P, k.lanes * sizeof(T));
                        if (c.index)
                            memcpy(c.index + (r0 + r) * c.out + first, k.index + r * P, k.lanes * sizeof(int32_t));
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

}  // namespace
