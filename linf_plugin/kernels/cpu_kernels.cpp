// The loops.  Compiled once per instruction set, with LINF_TABLE naming the table it defines.
//
// Everything here has internal linkage and nothing of the standard library's inline code is used: the linker
// keeps one copy of such code, and it could be one with instructions that the machine lacks.
//
// Results do not depend on the number of threads: an output is computed by one task, which adds in one order.
#include "cpu_backward.h"
#include "cpu_ceiling.h"
#include "cpu_forward.h"

extern const linf::Kernels LINF_TABLE;
const linf::Kernels LINF_TABLE = {
    {forward<float, Point<float>, Point<float>>, forward<double, Point<double>, Point<double>>},
    {backward<float>, backward<double>},
    {scatter<float>, scatter<double>},
    {forward<float, Nearest<float>, Farthest<float>>, forward<double, Nearest<double>, Farthest<double>>},
    {box_backward<float>, box_backward<double>},
    ceiling,
};
