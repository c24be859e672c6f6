// How fast the inner loops could run: the same instructions, on registers alone.
#pragma once
#include "cpu_forward.h"

namespace {

template <class V> INLINE void unknown(V& v) { asm volatile("" : "+" LINF_VECTOR_REGISTER(v)); }

// tile's loop; returns the number of pairs.
template <bool SCALED, class Term> int64_t forward_rounds(Term term, int64_t rounds) {
    using T = float;
    constexpr bool LEAN = lean<T, Term>;
    constexpr int R = LEAN ? ROWS / 2 : ROWS, V = LEAN ? VECTORS / 2 : VECTORS;
    Vec<T> a[V], w = splat((T)0.75), scale = splat((T)0.5), sum[R][V] = {};
    for (int v = 0; v < V; v++) a[v] = splat((T)(0.5 + v));
    for (int64_t k = 0; k < rounds; k++) {
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
            unknown(w);
#pragma GCC unroll 8
            for (int v = 0; v < V; v++) {
                if constexpr (std::is_same_v<Term, Maximum>) {
                    sum[r][v] = max_magnitude(sum[r][v], Point<T>::for_maximum(a[v], a[v], w));
                } else {
                    Vec<T> t = Point<T>::difference(a[v], a[v], w);
                    if (SCALED) t *= scale;
                    sum[r][v] += term(t);
                }
            }
        }
    }
    for (int r = 0; r < R; r++)
        for (int v = 0; v < V; v++) unknown(sum[r][v]);
    return rounds * R * V * LANES<T>;
}

// backward_lanes' loop.
template <bool SCALED, class Term> int64_t backward_rounds(Term term, int64_t rounds) {
    using T = float;
    Vec<T> a[GROUP], ga[GROUP] = {}, w = splat((T)0.75), f = splat((T)0.5), scale = f, sum{};
    for (int r = 0; r < GROUP; r++) a[r] = splat((T)(0.5 + r));
    for (int64_t k = 0; k < rounds; k++) {
        unknown(w);
#pragma GCC unroll 8
        for (int r = 0; r < GROUP; r++) {
            Vec<T> t = Point<T>::difference(a[r], a[r], w);
            if (SCALED) t *= scale;
            const Vec<T> v = rounded<T>(term.gradient(t) * f);
            ga[r] += v;
            sum -= v;
        }
    }
    unknown(sum);
    for (int r = 0; r < GROUP; r++) unknown(ga[r]);
    return rounds * GROUP * LANES<T>;
}

template <class T> int64_t rounds_of(double p, bool backward, int64_t rounds) {
    int64_t pairs = 0;
    if (p == __builtin_inf()) return forward_rounds<false>(Maximum(), rounds);
    with_term<T>(p, [&](auto term) {
        constexpr bool SCALED = !decltype(term)::WHOLE;
        pairs = backward ? backward_rounds<SCALED>(term, rounds) : forward_rounds<SCALED>(term, rounds);
    });
    return pairs;
}

// Only float has one.
template <class T> constexpr decltype(linf::Kernels::ceiling) ceiling() {
    if constexpr (sizeof(T) == 4) return rounds_of<T>;
    else return nullptr;
}

}  // namespace
