/* A made-up libnvidia-ml.so.1 with three GPUs and a MIG instance of the last. The tests steer it through
 * the stub_* functions. With -DOLD it is a driver that lacks the new names. No value is 0. */

#define _POSIX_C_SOURCE 200809L

#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum { NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7, GPU_IS_LOST = 15, VERSION_MISMATCH = 25 };
enum { GPUS = 3, FIELDS = 512, NAMES = 96, PROCESSES = 16 };

static struct device { int index; } devices[GPUS] = {{0}, {1}, {2}}, instance = {9};

/* --- the tests' side ------------------------------------------------------------------------- */

static char names[NAMES][64];
static int codes[NAMES], counts[NAMES], known, calls, field_codes[FIELDS], every, slow_ms, lost_after = -1;
static int types, gpus = GPUS, zero_fields;
static struct { unsigned pid; unsigned long long bytes; } processes[PROCESSES];
static unsigned listed;

static int at(const char *name) {
    int i = 0;
    while (i < known && strcmp(names[i], name)) i++;
    if (i == known) snprintf(names[known++], sizeof names[0], "%s", name);
    return i;
}

void stub_reset(void) {
    memset(codes, 0, sizeof codes);
    memset(counts, 0, sizeof counts);
    memset(field_codes, 0, sizeof field_codes);
    every = calls = slow_ms = types = zero_fields = 0;
    listed = 0;
    lost_after = -1;
    gpus = GPUS;
}
void stub_fail(const char *name, int code) { codes[at(name)] = code; }
void stub_fail_field(int field, int code) { field_codes[field] = code; }
void stub_fail_all(int code) { every = code; }
void stub_zero_field(int field) { zero_fields = field; }
void stub_slow(int ms) { slow_ms = ms; }
void stub_lost_after(int n) { lost_after = calls + n; }
void stub_types(int other) { types = other; }
void stub_gpus(int n) { gpus = n; }
void stub_process(unsigned pid, unsigned long long bytes) {
    processes[listed].pid = pid;
    processes[listed++].bytes = bytes;
}
int stub_calls(void) { return calls; }
int stub_count(const char *name) { return counts[at(name)]; }
/* The functions that were called or made to fail so far. */
const char *stub_name(int i) { return i < known ? names[i] : NULL; }

static int enter(const char *name) {
    int i = at(name);
    calls++;
    counts[i]++;
    if (slow_ms) nanosleep(&(struct timespec){slow_ms / 1000, slow_ms % 1000 * 1000000L}, NULL);
    if (codes[i]) return codes[i];
    if (!strncmp(name, "nvmlDeviceGetHandle", 19) || !strcmp(name, "nvmlInitWithFlags")) return 0;
    if (every) return every;
    return lost_after >= 0 && calls > lost_after ? GPU_IS_LOST : 0;
}

#define ENTER do { int code = enter(__func__); if (code) return code; } while (0)
#define TEXT(function, text) \
    int function(struct device *d, char *out, unsigned size) { ENTER; (void)d; snprintf(out, size, text); return 0; }
#define PLAIN(function, number) \
    int function(struct device *d, unsigned *out) { ENTER; (void)d; *out = (number); return 0; }
#define PAIR(function, first, second) \
    int function(struct device *d, unsigned *a, unsigned *b) { ENTER; (void)d; *a = (first); *b = (second); return 0; }
#define CHOICE(function, number) \
    int function(struct device *d, unsigned which, unsigned *out) { ENTER; (void)d; *out = (number) + which; return 0; }

/* --- the system ------------------------------------------------------------------------------ */

int nvmlInitWithFlags(unsigned flags) { ENTER; (void)flags; return 0; }
int nvmlShutdown(void) { ENTER; return 0; }
const char *nvmlErrorString(int code) { (void)code; return "an error"; }
int nvmlSystemGetDriverVersion(char *out, unsigned size) { ENTER; snprintf(out, size, "580.65.06"); return 0; }
int nvmlSystemGetNVMLVersion(char *out, unsigned size) { ENTER; snprintf(out, size, "13.580.65.06"); return 0; }
int nvmlSystemGetCudaDriverVersion(int *out) { ENTER; *out = 12080; return 0; }
#ifndef OLD
int nvmlSystemGetCudaDriverVersion_v2(int *out) { ENTER; *out = 13000; return 0; }
#endif
int nvmlDeviceGetCount_v2(unsigned *out) { ENTER; *out = (unsigned)gpus; return 0; }

int nvmlDeviceGetHandleByIndex_v2(unsigned index, struct device **out) {
    ENTER;
    *out = &devices[index];
    return 0;
}
int nvmlDeviceGetHandleByUUID(const char *uuid, struct device **out) {
    ENTER;
    unsigned index;
    if (!strcmp(uuid, "MIG-of-2")) *out = &instance;
    else if (sscanf(uuid, "GPU-%u", &index) == 1 && index < GPUS) *out = &devices[index];
    else return NOT_FOUND;
    return 0;
}
int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(struct device *d, struct device **out) {
    ENTER;
    (void)d;
    *out = &devices[2];
    return 0;
}

/* --- what every tick reads ------------------------------------------------------------------- */

struct field {
    uint32_t id, scope;
    int64_t timestamp, latency;
    unsigned type, code;
    union { double d; unsigned u; unsigned long ul; unsigned long long ull; long long ll; int i; unsigned short us; } value;
};

int nvmlDeviceGetFieldValues(struct device *d, int n, struct field *fields) {
    ENTER;
    if (d == &instance) return NOT_SUPPORTED;
    for (int i = 0; i < n; i++) {
        struct field *f = &fields[i];
        unsigned long long number = 1000000ull + f->id * 1000 + (unsigned)d->index;
        /* What lies behind the value is not cleared. */
        memset(&f->value, 0xA5, sizeof f->value);
        f->code = (unsigned)field_codes[f->id];
#ifdef OLD
        if (f->id == 185 || f->id == 186 || f->id >= 269) f->code = 2;
#endif
        if (f->code) continue;
        if (f->id == 186) number = 250500 + (unsigned)d->index;
        if (f->id == 185) number = 240250;
        if (f->id == 82) number = 55;
        if ((int)f->id == zero_fields) number = 0;
        unsigned kind = types ? (unsigned)types - 1 : f->id == 82 || f->id >= 185 ? 1 : 3;
        f->type = kind;
        switch (kind) {
            case 0: f->value.d = (double)number; break;
            case 1: f->value.u = (unsigned)number; break;
            case 2: f->value.ul = (unsigned long)number; break;
            case 3: f->value.ull = number; break;
            case 4: f->value.ll = (long long)number; break;
            case 5: f->value.i = (int)number; break;
            case 6: f->value.us = (unsigned short)number; break;
            default: break;
        }
    }
    return 0;
}

int nvmlDeviceGetClockInfo(struct device *d, unsigned which, unsigned *out) {
    ENTER;
    *out = (which == 1 ? 1500 : 2600) + (unsigned)d->index;
    return 0;
}
#ifndef OLD
int nvmlDeviceGetCurrentClocksEventReasons(struct device *d, unsigned long long *out) { ENTER; (void)d; *out = 0x24; return 0; }
struct temperature { unsigned version, sensor; int value; };
int nvmlDeviceGetTemperatureV(struct device *d, struct temperature *out) {
    ENTER;
    if (out->version != 0x100000C) return VERSION_MISMATCH;
    out->value = 40 + d->index;
    return 0;
}
struct memory2 { unsigned version; unsigned long long total, reserved, free, used; };
int nvmlDeviceGetMemoryInfo_v2(struct device *d, struct memory2 *out) {
    ENTER;
    if (out->version != 0x2000028) return VERSION_MISMATCH;
    out->total = 80000;
    out->reserved = 500;
    out->used = 3000 + (unsigned)d->index;
    return 0;
}
#endif
int nvmlDeviceGetCurrentClocksThrottleReasons(struct device *d, unsigned long long *out) { ENTER; (void)d; *out = 0x24; return 0; }
CHOICE(nvmlDeviceGetTemperature, 40)
struct memory { unsigned long long total, free, used; };
int nvmlDeviceGetMemoryInfo(struct device *d, struct memory *out) {
    ENTER;
    out->total = 80000;
    out->used = 3500 + (unsigned)d->index;
    return 0;
}
int nvmlDeviceGetUtilizationRates(struct device *d, unsigned *out) { ENTER; (void)d; out[0] = 97; out[1] = 31; return 0; }
PLAIN(nvmlDeviceGetPerformanceState, 2)
PLAIN(nvmlDeviceGetPowerUsage, 230125)
int nvmlDeviceGetTotalEnergyConsumption(struct device *d, unsigned long long *out) { ENTER; (void)d; *out = 777000; return 0; }

struct process { unsigned pid; unsigned long long bytes; unsigned gpu_instance, compute_instance; };
static int list(struct device *d, unsigned *count, struct process *out) {
    unsigned room = *count;
    (void)d;
    *count = listed;
    if (room < listed) return INSUFFICIENT_SIZE;
    for (unsigned i = 0; i < listed; i++) out[i] = (struct process){processes[i].pid, processes[i].bytes, 0, 0};
    return 0;
}
#ifndef OLD
int nvmlDeviceGetComputeRunningProcesses_v3(struct device *d, unsigned *n, struct process *out) { ENTER; return list(d, n, out); }
#endif
int nvmlDeviceGetComputeRunningProcesses_v2(struct device *d, unsigned *n, struct process *out) { ENTER; return list(d, n, out); }

/* --- what is read once ----------------------------------------------------------------------- */

TEXT(nvmlDeviceGetName, "NVIDIA Made-up GPU")
TEXT(nvmlDeviceGetVbiosVersion, "96.00.74")
TEXT(nvmlDeviceGetInforomImageVersion, "G520.0200")
TEXT(nvmlDeviceGetBoardPartNumber, "692-2G520")
TEXT(nvmlDeviceGetSerial, "1650000000000")
int nvmlDeviceGetUUID(struct device *d, char *out, unsigned size) {
    ENTER;
    if (d == &instance) snprintf(out, size, "MIG-of-2");
    else snprintf(out, size, "GPU-%d", d->index);
    return 0;
}
struct pci { char legacy[16]; unsigned domain, bus, device, id, subsystem; char bus_id[32]; };
int nvmlDeviceGetPciInfo_v3(struct device *d, struct pci *out) {
    ENTER;
    snprintf(out->bus_id, sizeof out->bus_id, "00000000:%02X:00.0", (unsigned)(d->index + 1) & 0xFFu);
    return 0;
}
PLAIN(nvmlDeviceGetBoardId, 0x1a00)
PLAIN(nvmlDeviceGetArchitecture, 9)
PLAIN(nvmlDeviceGetNumGpuCores, 16896)
PLAIN(nvmlDeviceGetMemoryBusWidth, 6144)
PAIR(nvmlDeviceGetCudaComputeCapability, 9, 1)
PAIR(nvmlDeviceGetEccMode, 1, 1)
PAIR(nvmlDeviceGetMigMode, 1, 1)
PLAIN(nvmlDeviceGetPersistenceMode, 1)
PLAIN(nvmlDeviceGetComputeMode, 3)
CHOICE(nvmlDeviceGetMaxClockInfo, 1980)
CHOICE(nvmlDeviceGetApplicationsClock, 1755)
PLAIN(nvmlDeviceGetEnforcedPowerLimit, 650000)
PLAIN(nvmlDeviceGetPowerManagementDefaultLimit, 700000)
PAIR(nvmlDeviceGetPowerManagementLimitConstraints, 200000, 700500)
CHOICE(nvmlDeviceGetTemperatureThreshold, 90)
PLAIN(nvmlDeviceGetCurrPcieLinkGeneration, 4)
PLAIN(nvmlDeviceGetMaxPcieLinkGeneration, 5)
PLAIN(nvmlDeviceGetCurrPcieLinkWidth, 8)
PLAIN(nvmlDeviceGetMaxPcieLinkWidth, 16)

int nvmlDeviceGetTotalEccErrors(struct device *d, unsigned kind, unsigned since, unsigned long long *out) {
    ENTER;
    (void)d;
    *out = (since ? 1000 : 7) + kind;
    return 0;
}
PLAIN(nvmlDeviceGetPcieReplayCounter, 13)
