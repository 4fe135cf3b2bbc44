/* A made-up libcuda.so.1 with one GPU. Environment variables steer it:
 * CUDA_STUB_FAIL=function=code  that call fails; CUDA_STUB_CRASH=function  that call aborts;
 * CUDA_STUB_HANG=function  that call never returns; CUDA_STUB_VERSION=13000  what the driver knows.
 * Each event's time stamp is one virtual millisecond after the last one; a memset takes two more. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { EVENTS = 8192, BLOCKS = 1024 };

static double now_ms;
static double stamps[EVENTS];
static int events;
static size_t allocated, written;
static struct { void *memory, *captured; size_t size; } blocks[BLOCKS];
static int n_blocks;

static int enter(const char *name) {
    const char *fail = getenv("CUDA_STUB_FAIL"), *crash = getenv("CUDA_STUB_CRASH"), *hang = getenv("CUDA_STUB_HANG");
    if (crash && !strcmp(crash, name)) abort();
    if (hang && !strcmp(hang, name)) pause();
    if (fail && !strncmp(fail, name, strlen(name)) && fail[strlen(name)] == '=') return atoi(fail + strlen(name) + 1);
    return 0;
}
#define ENTER() do { int status = enter(__func__); if (status) return status; } while (0)

size_t stub_allocated(void) { return allocated; }
size_t stub_written(void) { return written; }

int cuInit(unsigned flags) { (void)flags; ENTER(); return 0; }
int cuGetErrorName(int code, const char **name) {
    *name = code == 100 ? "CUDA_ERROR_NO_DEVICE" : code == 803 ? "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH" : NULL;
    return *name ? 0 : 1;
}
int cuDeviceGet(int *device, int ordinal) { ENTER(); *device = ordinal; return 0; }
int cuDeviceGetAttribute(int *value, int which, int device) {
    (void)device;
    ENTER();
    switch (which) {
    case 75: *value = 8; break;
    case 76: *value = 7; break;
    case 16: *value = 14; break;
    case 38: *value = 4 << 20; break;
    case 18: *value = 1; break;
    default: return 1;
    }
    return 0;
}
int cuDeviceGetName(char *name, int size, int device) { (void)device; ENTER(); snprintf(name, size, "Made-up GPU"); return 0; }
int cuDeviceGetUuid_v2(unsigned char *uuid, int device) { (void)device; ENTER(); for (int i = 0; i < 16; i++) uuid[i] = i; return 0; }
int cuDriverGetVersion(int *version) {
    const char *told = getenv("CUDA_STUB_VERSION");
    ENTER();
    *version = told ? atoi(told) : 13000;
    return 0;
}
int cuDeviceTotalMem_v2(size_t *bytes, int device) { (void)device; ENTER(); *bytes = (size_t)8 << 30; return 0; }
int cuDevicePrimaryCtxRetain(void **context, int device) { (void)device; ENTER(); *context = &now_ms; return 0; }
int cuCtxSetCurrent(void *context) { ENTER(); return context == &now_ms ? 0 : 201; }
int cuStreamCreate(void **stream, unsigned flags) { ENTER(); *stream = &stamps; return flags == 1 ? 0 : 1; }
int cuStreamSynchronize(void *stream) { (void)stream; ENTER(); return 0; }
int cuEventCreate(void **event, unsigned flags) { (void)flags; ENTER(); *event = &stamps[events++]; return 0; }
int cuEventRecord(void *event, void *stream) { (void)stream; ENTER(); *(double *)event = now_ms += 1; return 0; }
int cuEventSynchronize(void *event) { (void)event; ENTER(); return 0; }
int cuEventElapsedTime(float *ms, void *first, void *second) {
    ENTER();
    *ms = (float)(*(double *)second - *(double *)first);
    return 0;
}
/* The device's memory is the host's. */
int cuMemAlloc_v2(unsigned long long *pointer, size_t size) {
    ENTER();
    if (n_blocks == BLOCKS) return 2;
    blocks[n_blocks].memory = malloc(size);
    blocks[n_blocks++].size = size;
    *pointer = (unsigned long long)(size_t)blocks[n_blocks - 1].memory;
    allocated += size;
    return 0;
}
static int known(unsigned long long pointer, size_t size) {
    for (int i = 0; i < n_blocks; i++)
        if (blocks[i].memory == (void *)(size_t)pointer) return size <= blocks[i].size;
    return 0;
}
int cuMemcpyHtoD_v2(unsigned long long pointer, const void *data, size_t size) {
    ENTER();
    if (!known(pointer, size)) return 1;
    memcpy((void *)(size_t)pointer, data, size);
    return 0;
}
int cuMemcpyDtoH_v2(void *data, unsigned long long pointer, size_t size) {
    ENTER();
    if (!known(pointer, size)) return 1;
    memcpy(data, (void *)(size_t)pointer, size);
    return 0;
}
int cuMemsetD8Async(unsigned long long pointer, unsigned char value, size_t size, void *stream) {
    (void)value, (void)stream;
    ENTER();
    if (!known(pointer, size)) return 1;
    written += size;
    now_ms += 2;
    return 0;
}

/* A graph is what the memory held when its capture ended; launching it brings that back. */
int cuStreamBeginCapture_v2(void *stream, int mode) { ENTER(); return stream == &stamps && mode == 1 ? 0 : 1; }
int cuStreamEndCapture(void *stream, void **graph) {
    (void)stream;
    ENTER();
    for (int i = 0; i < n_blocks; i++) {
        free(blocks[i].captured);
        blocks[i].captured = malloc(blocks[i].size);
        memcpy(blocks[i].captured, blocks[i].memory, blocks[i].size);
    }
    *graph = &blocks;
    return 0;
}
int cuGraphInstantiateWithFlags(void **launched, void *graph, unsigned long long flags) {
    ENTER();
    *launched = graph;
    return graph == &blocks && flags == 0 ? 0 : 1;
}
int cuGraphLaunch(void *launched, void *stream) {
    ENTER();
    if (launched != &blocks || stream != &stamps) return 1;
    for (int i = 0; i < n_blocks; i++)
        if (blocks[i].captured) memcpy(blocks[i].memory, blocks[i].captured, blocks[i].size);
    return 0;
}
