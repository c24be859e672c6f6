// The windows of images as rows of a matrix, and back: copies and sums, the same on every instruction set.
#include <cstring>

#include "cpu.h"

namespace {

struct Geometry {  // as windows.py passes it
    int64_t images, channels, height, width, groups;
    int64_t out_width, first, last;                              // output rows first ≤ i < last
    int64_t kernel[2], stride[2], padding[2], dilation[2];

    int64_t per_group() const { return channels / groups; }
    int64_t features() const { return per_group() * kernel[0] * kernel[1]; }
    // Where the window at (i, j) of an image lies in the matrix: all images of the first group, then the second, ….
    int64_t row(int64_t group, int64_t image, int64_t i, int64_t j) const {
        return ((group * images + image) * (last - first) + i - first) * out_width + j;
    }
};

// Calls f(pixels, entry, count, step) for each run of pixels inside the image that the window at (i, j) of a group
// sees, ``entry`` counting the window's coordinates; outside(entry) for a coordinate in the padding.
template <class T, class F, class G>
inline void visit(const Geometry& g, T* image, int64_t group, int64_t i, int64_t j, F inside, G outside) {
    const int64_t left = j * g.stride[1] - g.padding[1], width = g.kernel[1];
    const bool whole = left >= 0 && left + (width - 1) * g.dilation[1] < g.width;
    int64_t entry = 0;
    for (int64_t c = group * g.per_group(); c < (group + 1) * g.per_group(); c++)
        for (int64_t a = 0; a < g.kernel[0]; a++, entry += width) {
            const int64_t y = i * g.stride[0] + a * g.dilation[0] - g.padding[0];
            T* line = image + (c * g.height + y) * g.width;
            if (y < 0 || y >= g.height) {
                for (int64_t b = 0; b < width; b++) outside(entry + b);
            } else if (whole) {
                inside(line + left, entry, width, g.dilation[1]);
            } else {
                for (int64_t b = 0; b < width; b++) {
                    const int64_t x = left + b * g.dilation[1];
                    if (x < 0 || x >= g.width) outside(entry + b);
                    else inside(line + x, entry + b, 1, 1);
                }
            }
        }
}

template <class F> void parallel(int64_t tasks, int threads, F f) {
    linf::parallel(tasks, threads, [](void* g, int64_t task, int) { (*(F*)g)(task); }, &f);
}

template <class T> void unfold(const Geometry& g, int threads, const T* x, T* rows) {
    const int64_t lines = g.last - g.first, features = g.features();
    parallel(g.images * lines, threads, [&](int64_t task) {
        const int64_t image = task / lines, i = g.first + task % lines;
        for (int64_t group = 0; group < g.groups; group++)
            for (int64_t j = 0; j < g.out_width; j++) {
                T* to = rows + g.row(group, image, i, j) * features;
                const auto copy = [to](const T* from, int64_t entry, int64_t count, int64_t step) {
                    if (count == 3 && step == 1) memcpy(to + entry, from, 3 * sizeof(T));
                    else for (int64_t b = 0; b < count; b++) to[entry + b] = from[b * step];
                };
                visit(g, x + image * g.channels * g.height * g.width, group, i, j, copy,
                      [to](int64_t entry) { to[entry] = 0; });
            }
    });
}

// One task an image and group: no two add to one pixel, and the order of additions is fixed.
template <class T> void fold(const Geometry& g, int threads, const T* rows, T* x) {
    const int64_t features = g.features();
    parallel(g.images * g.groups, threads, [&](int64_t task) {
        const int64_t image = task / g.groups, group = task % g.groups;
        for (int64_t i = g.first; i < g.last; i++)
            for (int64_t j = 0; j < g.out_width; j++) {
                const T* from = rows + g.row(group, image, i, j) * features;
                const auto add = [from](T* to, int64_t entry, int64_t count, int64_t step) {
                    for (int64_t b = 0; b < count; b++) to[b * step] += from[entry + b];
                };
                visit(g, x + image * g.channels * g.height * g.width, group, i, j, add, [](int64_t) {});
            }
    });
}

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

// x is (images, channels, height, width), rows (groups, images·(last − first)·out_width, features), both contiguous.
EXPORT void linf_unfold(int dtype, int threads, const int64_t* geometry, const void* x, void* rows) {
    Geometry g;
    memcpy(&g, geometry, sizeof g);
    if (dtype == 0) unfold(g, threads, (const float*)x, (float*)rows);
    else unfold(g, threads, (const double*)x, (double*)rows);
}

EXPORT void linf_add_folded(int dtype, int threads, const int64_t* geometry, const void* rows, void* x) {
    Geometry g;
    memcpy(&g, geometry, sizeof g);
    if (dtype == 0) fold(g, threads, (const float*)rows, (float*)x);
    else fold(g, threads, (const double*)rows, (double*)x);
}
