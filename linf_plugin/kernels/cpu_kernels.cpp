// The loops.  Compiled for each instruction set and each of LINF_TYPE float and double; LINF_TABLE names the table.
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
    forward<LINF_TYPE, Point<LINF_TYPE>, Point<LINF_TYPE>>,
    backward<LINF_TYPE>,
    scatter<LINF_TYPE>,
    forward<LINF_TYPE, Nearest<LINF_TYPE>, Farthest<LINF_TYPE>>,
    box_backward<LINF_TYPE>,
    ceiling<LINF_TYPE>(),
};
