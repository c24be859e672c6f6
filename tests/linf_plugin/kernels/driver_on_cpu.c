// A driver library for machines without a GPU: it writes down what cuda-bindings passes, for a test to read.  A launch
// of 99 blocks fails.
#include <stdio.h>
#include <string.h>

typedef int Result;
enum { SUCCESS, NOT_FOUND = 500, LAUNCH_OUT_OF_RESOURCES = 701 };

char recorded[4096];  // a line a call

#define RECORD(...) snprintf(recorded + strlen(recorded), sizeof recorded - strlen(recorded), __VA_ARGS__)

static Result init(unsigned flags) {
    RECORD("init %u\n", flags);
    return SUCCESS;
}
static Result get_device(int* device, int ordinal) {
    *device = ordinal;
    RECORD("device %d\n", ordinal);
    return SUCCESS;
}
static Result retain(void** context, int device) {
    *context = (void*)(0x1000L + device);
    RECORD("retain %d\n", device);
    return SUCCESS;
}
static Result push(void* context) {
    RECORD("push %p\n", context);
    return SUCCESS;
}
static Result pop(void** context) {
    *context = 0;
    RECORD("pop\n");
    return SUCCESS;
}
static Result load(void** module, const void* image) {
    *module = (void*)0x2000;
    RECORD("load %.3s\n", (const char*)image + 1);
    return SUCCESS;
}
static Result function(void** f, void* module, const char* name) {
    *f = (void*)0x3000;
    RECORD("function %p %s\n", module, name);
    return SUCCESS;
}
static Result launch(void* f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                     unsigned shared, void* stream, void** parameters, void** extra) {
    RECORD("launch %p %u %u %u %u %u %u %u %p %d", f, gx, gy, gz, bx, by, bz, shared, stream, extra == 0);
    for (int i = 0; i < 7; i++) RECORD(" %lld", *(long long*)parameters[i]);
    RECORD("\n");
    return gx == 99 ? LAUNCH_OUT_OF_RESOURCES : SUCCESS;
}

static const struct { const char* name; void* entry; } ENTRIES[] = {
    {"cuInit", init}, {"cuDeviceGet", get_device}, {"cuDevicePrimaryCtxRetain", retain},
    {"cuCtxPushCurrent", push}, {"cuCtxPopCurrent", pop}, {"cuModuleLoadData", load},
    {"cuModuleGetFunction", function}, {"cuLaunchKernel", launch},
};

Result cuGetProcAddress_v2(const char* name, void** entry, int version, unsigned long flags, int* status) {
    for (unsigned i = 0; i < sizeof ENTRIES / sizeof *ENTRIES; i++)
        if (!strcmp(name, ENTRIES[i].name)) { *entry = ENTRIES[i].entry; return SUCCESS; }
    *entry = 0;
    return NOT_FOUND;
}
