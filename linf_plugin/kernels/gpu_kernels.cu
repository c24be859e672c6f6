// The loops for CUDA GPUs: templates, of which gpu.py compiles the instances it needs.
//
// A block of 16 × 16 threads computes a tile of 16·TM × 16·TN results, each thread TM × TN of them in registers.
// What the threads share goes through two stages of shared memory: while one is read, the next is on its way
// through registers.  An output is computed by one thread, which adds in ascending order, so that results depend
// neither on the tile nor on the GPU.
//
// Nothing is included, every function is one of the device, and a C++ compiler that is told what threads are takes
// this file too.

typedef long long Int;

constexpr int SIDE = 16, THREADS = SIDE * SIDE;
constexpr int DEPTH_VJP = 8;       // rows in a stage of dist_vjp
constexpr int CHUNK = 32;          // coordinates among which locate searches, one a lane of a warp
constexpr int RANGE = 4096;        // coordinates of a block of scatter

// Numbers.

template <class T> struct Limits;
template <> struct Limits<float> {
    static constexpr float NEAR = 0x1p-120f, FAR = 0x1p120f, LARGEST = 0x1.fffffep127f;
};
template <> struct Limits<double> {
    static constexpr double NEAR = 0x1p-1000, FAR = 0x1p1000, LARGEST = 0x1.fffffffffffffp1023;
};

float magnitude(float t) { return fabsf(t); }
double magnitude(double t) { return fabs(t); }
float with_sign_of(float a, float t) { return copysignf(a, t); }
double with_sign_of(double a, double t) { return copysign(a, t); }

// max(m, |t|) that keeps a NaN, m ≥ 0 or NaN.  As integers NaN is above all numbers.
float max_magnitude(float m, float t) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm("max.NaN.f32 %0, %0, %1;" : "+f"(m) : "f"(fabsf(t)));
    return m;
#else
    return __int_as_float(max(__float_as_int(m), __float_as_int(fabsf(t))));
#endif
}
double max_magnitude(double m, double t) {
    return __longlong_as_double(max(__double_as_longlong(m), __double_as_longlong(fabs(t))));
}

// The float32 versions are the hardware's: an absolute error of about 2⁻²² in the logarithm, which the root
// divides by p again.
float log2_of(float t) {
#ifdef __CUDA_ARCH__
    asm("lg2.approx.ftz.f32 %0, %0;" : "+f"(t));
    return t;
#else
    return log2f(t);
#endif
}
float exp2_of(float a) {
#ifdef __CUDA_ARCH__
    asm("ex2.approx.ftz.f32 %0, %0;" : "+f"(a));
    return a;
#else
    return exp2f(a);
#endif
}
double log2_of(double t) { return log2(t); }
double exp2_of(double a) { return exp2(a); }
// Of a ratio that is at most 1 but for rounding, which a large exponent would make an overflow.  NaN stays.
template <class T> T log2_of_ratio(T t) {
    const T a = log2_of(t);
    return a > 0 ? 0 : a;
}

float reciprocal(float a) {
#ifdef __CUDA_ARCH__
    asm("rcp.approx.f32 %0, %0;" : "+f"(a));  // 1 ulp
    return a;
#else
    return 1 / a;
#endif
}
double reciprocal(double a) { return 1 / a; }

// Distances whose reciprocal is no normal number, or nearly: scaled in two steps, by a power of 2 first.  They are
// rare, and done after the others.
template <class T> bool extreme(T y) {
    return (y > 0 && y < Limits<T>::NEAR) || (y > Limits<T>::FAR && y <= Limits<T>::LARGEST);
}
// What scales a number of at most this size to at most 1; 0 where nothing does in one step.  NaN stays.
template <class T> T inverse(T largest) { return largest == 0 || extreme(largest) ? 0 : reciprocal(largest); }
template <class T> T first_step(T y) { return y < Limits<T>::NEAR ? Limits<T>::FAR : Limits<T>::NEAR; }

// Exponents: how a difference t, scaled by s, enters a sum and a gradient.

struct Maximum {
    static constexpr bool SCALED = false;
    static constexpr int UNROLL = 16, RESIDENT = 2;
    template <class T> static T add(T sum, T t, T, T) { return max_magnitude(sum, t); }
};

// t^P in few products: by the binary digits of P or, where that is shorter, by its factors.
constexpr int binary_products(int p) { return p == 1 ? 0 : binary_products(p / 2) + 1 + p % 2; }
constexpr int factor(int p) {
    for (int f = 2; f * f <= p; f++) if (p % f == 0) return f;
    return p;
}
constexpr int products(int p) {
    if (p == 1) return 0;
    const int f = factor(p), others = f < p ? products(f) + products(p / f) : products(p - 1) + 1;
    return others < binary_products(p) ? others : binary_products(p);
}
template <int P, class T> T power(T t) {
    constexpr int F = factor(P);
    if constexpr (P == 1) {
        return t;
    } else if constexpr (P == 2) {
        return t * t;
    } else if constexpr (products(P) == binary_products(P)) {
        if constexpr (P % 2) return power<P / 2>(t * t) * t; else return power<2>(power<P / 2>(t));
    } else if constexpr (F == P) {
        return power<P - 1>(t) * t;
    } else {
        return power<F>(power<P / F>(t));
    }
}

template <int P> struct Whole {
    static constexpr bool SCALED = true;
    static constexpr int UNROLL = 4, RESIDENT = 2;
    template <class T> static T add(T sum, T t, T s, T) { return sum + power<P>(magnitude(t) * s); }
    template <class T> static T slope(T t, T s, T) {
        if constexpr (P == 1) return (T)(t > 0) - (T)(t < 0);
        else if constexpr (P % 2) return with_sign_of(power<P - 1>(t * s), t);
        else return power<P - 1>(t * s);
    }
};

struct Real {
    static constexpr bool SCALED = true;
    static constexpr int UNROLL = 1, RESIDENT = 2;
    template <class T> static T add(T sum, T t, T s, T p) {
        return sum + exp2_of(p * log2_of_ratio(magnitude(t) * s));
    }
    template <class T> static T slope(T t, T s, T p) {
        return with_sign_of(exp2_of((p - 1) * log2_of_ratio(magnitude(t) * s)), t);
    }
};

// Tiles.

// Blocks that a multiprocessor must hold at a time; two leave each thread 128 registers.
template <class T, class Power, bool INDEX> constexpr int RESIDENT = sizeof(T) == 8 || INDEX ? 1 : Power::RESIDENT;

template <class T, int N> struct alignas(N * sizeof(T) < 16 ? N * sizeof(T) : 16) Pack { T v[N]; };

// Where in a tile's side the e-th of a thread's M elements lies: packs of four, a warp's packs side by side.
template <int M> struct Side {
    static constexpr int PACK = M < 4 ? M : 4, SIZE = SIDE * M;
    static int at(int lane, int e) { return e / PACK * SIDE * PACK + lane * PACK + e % PACK; }
    template <class T> static void load(T (&to)[M], const T* from, int lane) {
#pragma unroll
        for (int e = 0; e < M; e += PACK) {
            const Pack<T, PACK> pack = *(const Pack<T, PACK>*)(from + at(lane, e));
#pragma unroll
            for (int f = 0; f < PACK; f++) to[e + f] = pack.v[f];
        }
    }
};

// A warp covers 4 × 8 threads, so that its loads touch few different packs.
int lane_y() { return threadIdx.x / 64 * 4 + threadIdx.x % 32 / 8; }
int lane_x() { return threadIdx.x / 32 % 2 * 8 + threadIdx.x % 8; }

template <class T> Pack<T, 4> four(const T* a, bool there) { return there ? *(const Pack<T, 4>*)a : Pack<T, 4>{}; }

Int parts(Int n, Int step) { return (n + step - 1) / step; }
Int least(Int a, Int b) { return a < b ? a : b; }

// y[n, k] = ‖x[n] − w[k]‖_p.  Finite p: y holds the distances for p = ∞ before, by which all is scaled.
// INDEX: also the chunk of coordinates in which each maximum is first attained.
template <class T, class Power, int TM, int TN, bool INDEX>
__global__ void __launch_bounds__(THREADS, RESIDENT<T, Power, INDEX>)
dist(const T* x, const T* w, T* y, int* index, Int n, Int out, Int width, double exponent) {
    using M = Side<TM>;
    using N = Side<TN>;
    constexpr int DEPTH = TM * TN == 64 ? 8 : 16, QUADS = DEPTH / 4;  // coordinates in a stage; packs of a row
    constexpr int ROWS = M::SIZE + N::SIZE, FETCH = ROWS * QUADS / THREADS;
    // Coordinate after coordinate; each four are shifted by SKEW more: stores of a warp meet no bank twice.
    constexpr int SKEW = 32 / QUADS;
    alignas(16) __shared__ T stages[2][DEPTH * ROWS + 32];
    const Int n0 = blockIdx.x % parts(n, M::SIZE) * M::SIZE, k0 = blockIdx.x / parts(n, M::SIZE) * N::SIZE;
    const int lane_m = lane_y(), lane_n = lane_x(), quad = threadIdx.x % QUADS;
    const int features = (int)width;
    const T p = (T)exponent, inverse_p = (T)(1 / exponent);

    const T* rows[FETCH];  // where this thread reads; beyond the last row, the last again
    Pack<T, 4> coming[FETCH];
#pragma unroll
    for (int j = 0; j < FETCH; j++) {
        const int row = (threadIdx.x + j * THREADS) / QUADS;
        rows[j] = 4 * quad + (row < M::SIZE ? x + least(n0 + row, n - 1) * width
                                            : w + least(k0 + row - M::SIZE, out - 1) * width);
    }
    const auto fetch = [&](int i) {
#pragma unroll
        for (int j = 0; j < FETCH; j++) coming[j] = four(rows[j] + i, i + 4 * quad < features);
    };
    const auto put = [&](T* stage) {
#pragma unroll
        for (int j = 0; j < FETCH; j++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                stage[(4 * quad + e) * ROWS + SKEW * quad + (threadIdx.x + j * THREADS) / QUADS] = coming[j].v[e];
    };
    const auto each = [&](auto f) {
#pragma unroll
        for (int a = 0; a < TM; a++)
#pragma unroll
            for (int b = 0; b < TN; b++) f(a, b, n0 + M::at(lane_m, a), k0 + N::at(lane_n, b));
    };

    T sum[TM][TN] = {}, scale[TM][TN], best[TM][TN] = {};
    int chunk[TM][TN] = {};
    if constexpr (Power::SCALED)
        each([&](int a, int b, Int row, Int column) {
            scale[a][b] = row < n && column < out ? inverse(y[row * out + column]) : (T)0;
        });
    fetch(0);
    put(stages[0]);
    __syncthreads();
    for (int i = 0; i < features; i += DEPTH) {
        const T* stage = stages[i / DEPTH % 2];
        const bool more = i + DEPTH < features;
        if (more) fetch(i + DEPTH);
#pragma unroll Power::UNROLL
        for (int d = 0; d < DEPTH; d++) {
            T xs[TM], ws[TN];
            M::load(xs, stage + d * ROWS + d / 4 * SKEW, lane_m);
            N::load(ws, stage + d * ROWS + d / 4 * SKEW + M::SIZE, lane_n);
#pragma unroll
            for (int a = 0; a < TM; a++)
#pragma unroll
                for (int b = 0; b < TN; b++) sum[a][b] = Power::add(sum[a][b], xs[a] - ws[b], scale[a][b], p);
        }
        if (INDEX && (!more || (i + DEPTH) % CHUNK == 0))
            each([&](int a, int b, Int, Int) {
                if (sum[a][b] > best[a][b]) chunk[a][b] = i / CHUNK;
                best[a][b] = max_magnitude(best[a][b], sum[a][b]);
                sum[a][b] = 0;
            });
        if (more) put(stages[(i / DEPTH + 1) % 2]);
        __syncthreads();
    }
    each([&](int a, int b, Int row, Int column) {
        if (row >= n || column >= out) return;
        T value = INDEX ? best[a][b] : sum[a][b];
        if constexpr (Power::SCALED) {  // one term is 1, but for rounding, or all are 0; not finite: NaN
            const T largest = y[row * out + column];
            const T root = exp2_of(log2_of(value > 1 ? value : (T)1) * inverse_p);
            value = largest <= Limits<T>::LARGEST ? largest * root : largest - largest;
        }
        y[row * out + column] = value;
        if (INDEX) index[row * out + column] = chunk[a][b];
    });
}

// Distances that are extreme, again; a thread a pair, most of which have nothing to do.
template <class T, class Power>
__global__ void __launch_bounds__(THREADS)
again(const T* x, const T* w, T* y, Int n, Int out, Int width, double exponent) {
    const Int pair = (Int)blockIdx.x * THREADS + threadIdx.x;
    if (pair >= n * out || !extreme(y[pair])) return;
    const T *row = x + pair / out * width, *weight = w + pair % out * width;
    T largest = 0, sum = 0;
#pragma unroll 1
    for (Int i = 0; i < width; i++) largest = max_magnitude(largest, row[i] - weight[i]);
    const T step = first_step(largest), rest = inverse(largest * step);
#pragma unroll 1
    for (Int i = 0; i < width; i++) sum = Power::add(sum, (row[i] - weight[i]) * step, rest, (T)exponent);
    y[pair] = largest * exp2_of(log2_of(sum > 1 ? sum : (T)1) * (T)(1 / exponent));
}

// From a chunk to the coordinate: 4·i + (x_i < w_i) for the first that attains y, −1 where y is 0 or NaN.
// A warp a pair.
template <class T>
__global__ void __launch_bounds__(THREADS)
locate(const T* x, const T* w, const T* y, int* index, Int n, Int out, Int features) {
    const Int pair = (Int)blockIdx.x * (THREADS / 32) + threadIdx.x / 32;
    const int lane = threadIdx.x % 32;
    if (pair >= n * out) return;
    const Int i = (Int)index[pair] * CHUNK + lane;
    const T t = i < features ? x[pair / out * features + i] - w[pair % out * features + i] : (T)0;
    const bool found = y[pair] > 0 && magnitude(t) == y[pair];
    const unsigned all = __ballot_sync(~0u, found);
    if (lane == (all ? __ffs(all) - 1 : 0)) index[pair] = all ? (int)(4 * i + (t < 0)) : -1;
}

// The gradient at p = ∞ for the rows of one side: to[r, i] = Σ ±g[r, k] over the k whose index names i.
// A block a row and a range of coordinates; a thread adds what goes to its own.
template <class T>
__global__ void __launch_bounds__(THREADS)
scatter(const T* g, const int* index, T* to, Int rows, Int count, Int features, double sign) {
    __shared__ T sum[RANGE], grads[THREADS];
    alignas(16) __shared__ int codes[THREADS];
    const Int row = blockIdx.x % rows;
    const int first = (int)(blockIdx.x / rows * RANGE), size = (int)least(RANGE, features - first), self = threadIdx.x;
    for (int i = self; i < size; i += THREADS) sum[i] = 0;
    for (Int k0 = 0; k0 < count; k0 += THREADS) {
        const bool there = k0 + self < count;
        codes[self] = there ? index[row * count + k0 + self] : -1;
        grads[self] = there ? g[row * count + k0 + self] : (T)0;
        __syncthreads();
#pragma unroll 8
        for (int k = 0; k < THREADS; k++) {
            const int i = codes[k] >> 2;
            if ((i ^ self) % THREADS == 0 && (unsigned)(i - first) < (unsigned)size)
                sum[i - first] += codes[k] & 1 ? -grads[k] : grads[k];
        }
        __syncthreads();
    }
    for (int i = self; i < size; i += THREADS) to[row * features + first + i] = (T)sign * sum[i];
}

// The gradient at a finite p for one side: to[r, i] = Σ_k g[k, r]·sign(t)·(|t|/y[k, r])^(p−1) with
// t = self[r, i] − other[k, i].  The sum over k may be split: the s-th part goes to to[s].
template <class T, class Power, int TM, int TN>
__global__ void __launch_bounds__(THREADS, RESIDENT<T, Power, false>)
dist_vjp(const T* self, const T* other, const T* g, const T* y, T* to, Int rows, Int count, Int width, Int stride,
         Int splits, double exponent) {
    using M = Side<TM>;
    using N = Side<TN>;
    constexpr int PACKS_M = M::SIZE / 4, PACKS_N = N::SIZE / 4;
    static_assert(DEPTH_VJP * PACKS_M <= THREADS && DEPTH_VJP * PACKS_N <= THREADS, "a pack a thread");
    struct alignas(16) Stage {
        T others[DEPTH_VJP][N::SIZE], scales[DEPTH_VJP][M::SIZE], grads[DEPTH_VJP][M::SIZE];
    };
    __shared__ Stage stages[2];
    __shared__ int some;  // whether a distance is extreme
    const Int tiles_m = parts(rows, M::SIZE), tiles = tiles_m * parts(width, N::SIZE), split = blockIdx.x / tiles;
    const Int r0 = blockIdx.x % tiles_m * M::SIZE, i0 = blockIdx.x % tiles / tiles_m * N::SIZE;
    const Int length = parts(count, splits), begin = split * length, end = least(count, begin + length);
    const int lane_m = lane_y(), lane_n = lane_x(), me = threadIdx.x;
    const T p = (T)exponent;

    Pack<T, 4> others, grads, ys;
    const auto fetch = [&](Int k0) {
        if (me < DEPTH_VJP * PACKS_M) {
            const Int k = k0 + me / PACKS_M, r = r0 + me % PACKS_M * 4;
            grads = four(g + k * stride + r, k < end && r < stride);
            ys = four(y + k * stride + r, k < end && r < stride);
        }
        if (me < DEPTH_VJP * PACKS_N) {
            const Int k = k0 + me / PACKS_N, i = i0 + me % PACKS_N * 4;
            others = four(other + k * width + i, k < end && i < width);
        }
    };
    const auto put = [&](Stage& stage) {
        if (me < DEPTH_VJP * PACKS_M) {
#pragma unroll
            for (int e = 0; e < 4; e++) {
                if (extreme(ys.v[e])) some = 1;
                if (ys.v[e] == 0 || extreme(ys.v[e])) grads.v[e] = 0;
                ys.v[e] = inverse(ys.v[e]);
            }
            *(Pack<T, 4>*)&stage.scales[me / PACKS_M][me % PACKS_M * 4] = ys;
            *(Pack<T, 4>*)&stage.grads[me / PACKS_M][me % PACKS_M * 4] = grads;
        }
        if (me < DEPTH_VJP * PACKS_N) *(Pack<T, 4>*)&stage.others[me / PACKS_N][me % PACKS_N * 4] = others;
    };
    const auto each = [&](auto f) {
#pragma unroll
        for (int a = 0; a < TM; a++)
#pragma unroll
            for (int b = 0; b < TN; b++) f(a, b, r0 + M::at(lane_m, a), i0 + N::at(lane_n, b));
    };

    T sum[TM][TN] = {}, own[TM][TN];
    each([&](int a, int b, Int row, Int i) {
        own[a][b] = row < rows && i < width ? self[row * width + i] : (T)0;
    });
    if (me == 0) some = 0;
    fetch(begin);
    __syncthreads();
    put(stages[0]);
    __syncthreads();
    for (Int k = begin; k < end; k += DEPTH_VJP) {
        const Stage& stage = stages[(k - begin) / DEPTH_VJP % 2];
        const bool more = k + DEPTH_VJP < end;
        if (more) fetch(k + DEPTH_VJP);
#pragma unroll Power::UNROLL
        for (int d = 0; d < DEPTH_VJP; d++) {
            T os[TN], ss[TM], gs[TM];
            N::load(os, stage.others[d], lane_n);
            M::load(ss, stage.scales[d], lane_m);
            M::load(gs, stage.grads[d], lane_m);
#pragma unroll
            for (int a = 0; a < TM; a++)
#pragma unroll
                for (int b = 0; b < TN; b++) sum[a][b] += Power::slope(own[a][b] - os[b], ss[a], p) * gs[a];
        }
        if (more) put(stages[((k - begin) / DEPTH_VJP + 1) % 2]);
        __syncthreads();
    }
    if (some) {
#pragma unroll 1
        for (Int k = begin; k < end; k++)
            each([&](int a, int b, Int row, Int i) {
                const T distance = row < rows && i < width ? y[k * stride + row] : (T)0;
                if (!extreme(distance)) return;
                const T step = first_step(distance), t = (own[a][b] - other[k * width + i]) * step;
                sum[a][b] += Power::slope(t, inverse(distance * step), p) * g[k * stride + row];
            });
    }
    each([&](int a, int b, Int row, Int i) {
        if (row < rows && i < width) to[(split * rows + row) * width + i] = sum[a][b];
    });
}

// The arithmetic alone, of 16 × 4 × steps pairs a thread, on numbers that ``to`` holds: what dist and dist_vjp could
// reach at most.  ``shift`` is 0, which the compiler must not know; adding it is one instruction in 33 at p = ∞.
template <class T, class Power, bool BACKWARD>
__global__ void __launch_bounds__(THREADS, 1)
ceiling(T* to, Int steps, double shift, double exponent) {
    constexpr int M = 16, N = 4;
    const T p = (T)exponent;
    T sum[M][N] = {}, own[M][N], xs[M], ws[N];
    const T* from = to + threadIdx.x;
#pragma unroll
    for (int a = 0; a < M; a++) {
        xs[a] = from[a];
#pragma unroll
        for (int b = 0; b < N; b++) own[a][b] = from[M + N + a * N + b];
    }
#pragma unroll
    for (int b = 0; b < N; b++) ws[b] = from[M + b];
    for (Int step = 0; step < steps; step++) {
#pragma unroll
        for (int b = 0; b < N; b++) ws[b] += (T)shift;
#pragma unroll
        for (int a = 0; a < M; a++)
#pragma unroll
            for (int b = 0; b < N; b++) {
                if constexpr (BACKWARD) sum[a][b] += Power::slope(own[a][b] - ws[b], xs[a], p) * xs[a];
                else sum[a][b] = Power::add(sum[a][b], xs[a] - ws[b], own[a][b], p);
            }
    }
    T total = 0;
#pragma unroll
    for (int a = 0; a < M; a++)
#pragma unroll
        for (int b = 0; b < N; b++) total += sum[a][b];
    if (total < 0) to[blockIdx.x] = total;
}
