/* A stand-in for libnvidia-ml.so.1, built by tests/nvml_rig.py; with -DOLD it lacks what older drivers lack.
   State is read at every call from the file named by FAKE_NVML, one `key value` a line. Lines above the first `gpu`
   are the machine's: init CODE, driver TEXT, cuda NUMBER, pair A B LEVEL NVLINK(0|1) P2P(0|1), hang FUNCTION,
   crash FUNCTION, fail FUNCTION CODE, say TEXT (printed by nvmlInit). `gpu NAME` begins a GPU; its lines follow:
   total, free, used (MiB), use, capability MAJOR MINOR, links ACTIVE DOWN, to INDEX COUNT, fabric STATE, mig 0|1,
   instance TOTAL FREE NAME, process PID MIB, and values by name; hang, crash and fail here are for that GPU. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX 400
typedef unsigned int uint;
typedef unsigned long long ull;
typedef struct { int gpu; char key[24]; char value[104]; } Line;
static Line lines[MAX];
static int count, gpus;

static void load(void) {
    char row[160];
    FILE *file = fopen(getenv("FAKE_NVML"), "r");
    if (!file) exit(3);
    count = gpus = 0;
    while (count < MAX && fgets(row, sizeof row, file)) {
        Line *line = &lines[count];
        line->value[0] = 0;
        if (sscanf(row, "%23s %103[^\n]", line->key, line->value) < 1) continue;
        if (!strcmp(line->key, "gpu")) gpus++;
        line->gpu = gpus - 1;
        count++;
    }
    fclose(file);
}
static Line *find(int gpu, const char *key, int nth) {
    for (int i = 0; i < count; i++)
        if (lines[i].gpu == gpu && !strcmp(lines[i].key, key) && nth-- == 0) return &lines[i];
    return NULL;
}
/* A MIG instance's handle is 1000 * (gpu + 1) + its number + 1. */
static int index_of(void *handle) { size_t h = (size_t)handle; return (int)(h >= 1000 ? h / 1000 - 1 : h - 1); }
static int instance_of(void *handle) { size_t h = (size_t)handle; return h >= 1000 ? (int)(h % 1000) - 1 : -1; }

static int faults(int gpu, const char *function) {
    Line *line;
    char name[80];
    for (int nth = 0; (line = find(gpu, "hang", nth)); nth++)
        if (!strcmp(line->value, function)) for (;;) pause();
    for (int nth = 0; (line = find(gpu, "crash", nth)); nth++)
        if (!strcmp(line->value, function)) raise(SIGSEGV);
    for (int nth = 0; (line = find(gpu, "fail", nth)); nth++) {
        int code = 0;
        if (sscanf(line->value, "%79s %d", name, &code) == 2 && !strcmp(name, function)) return code;
    }
    return 0;
}
static int enter(void *handle, const char *function) {
    load();
    int code = faults(-1, function);
    return code || !handle ? code : faults(index_of(handle), function);
}
#define ENTER(handle) { int code_ = enter(handle, __func__); if (code_) return code_; }
static int number(void *handle, const char *key, uint *out) {
    Line *line = find(handle ? index_of(handle) : -1, key, 0);
    if (!line) return 3; /* not supported */
    *out = (uint)atoi(line->value);
    return 0;
}
#define NUMBER(function, key) int function(void *handle, uint *out) { ENTER(handle) return number(handle, key, out); }

int nvmlInitWithFlags(uint flags) {
    uint code = 0;
    (void)flags;
    ENTER(NULL)
    Line *say = find(-1, "say", 0);
    if (say) { printf("%s\n", say->value); fflush(stdout); }
    number(NULL, "init", &code);
    return (int)code;
}
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(int code) { return code == 9 ? "Driver Not Loaded" : "Fake Failure"; }
int nvmlSystemGetDriverVersion(char *out, uint size) {
    ENTER(NULL)
    Line *line = find(-1, "driver", 0);
    if (line) snprintf(out, size, "%s", line->value);
    return line ? 0 : 999;
}
int nvmlSystemGetCudaDriverVersion(int *out) { ENTER(NULL) return number(NULL, "cuda", (uint *)out); }
int nvmlSystemGetProcessName(uint pid, char *out, uint size) {
    ENTER(NULL)
    if (pid >= 90000) return 6; /* another container's */
    snprintf(out, size, "/usr/bin/program-%u", pid);
    return 0;
}
int nvmlDeviceGetCount_v2(uint *out) { ENTER(NULL) *out = (uint)gpus; return 0; }
int nvmlDeviceGetHandleByIndex_v2(uint index, void **handle) {
    *handle = (void *)(size_t)(index + 1);
    ENTER(*handle)
    return (int)index < gpus && !find((int)index, "lost", 0) ? 0 : 15;
}
int nvmlDeviceGetName(void *handle, char *out, uint size) {
    ENTER(handle)
    int instance = instance_of(handle);
    Line *line = find(index_of(handle), instance < 0 ? "gpu" : "instance", instance < 0 ? 0 : instance);
    char name[104] = "";
    if (instance < 0) snprintf(name, sizeof name, "%s", line->value);
    else sscanf(line->value, "%*d %*d %103[^\n]", name);
    snprintf(out, size, "%s", name);
    return 0;
}
int nvmlDeviceGetUUID(void *handle, char *out, uint size) {
    ENTER(handle)
    if (instance_of(handle) < 0) snprintf(out, size, "GPU-fake-%d", index_of(handle));
    else snprintf(out, size, "MIG-fake-%d-%d", index_of(handle), instance_of(handle));
    return 0;
}
typedef struct { ull total, free, used; } Memory;
int nvmlDeviceGetMemoryInfo(void *handle, Memory *out) {
    ENTER(handle)
    uint total, free = 0, used = 0;
    if (instance_of(handle) >= 0) {
        if (sscanf(find(index_of(handle), "instance", instance_of(handle))->value, "%u %u", &total, &free) != 2) return 3;
    } else {
        if (number(handle, "total", &total)) return 3;
        number(handle, "free", &free), number(handle, "used", &used);
    }
    out->total = total * 1048576ULL, out->free = free * 1048576ULL, out->used = used * 1048576ULL;
    return 0;
}
/* Only where the file says what is reserved: older drivers lack it. */
typedef struct { uint version; ull total, reserved, free, used; } Memory2;
int nvmlDeviceGetMemoryInfo_v2(void *handle, Memory2 *out) {
    uint reserved;
    Memory plain;
    if (number(handle, "reserved", &reserved)) return 3;
    int failed = nvmlDeviceGetMemoryInfo(handle, &plain);
    if (failed) return failed;
    out->total = plain.total, out->free = plain.free, out->used = plain.used, out->reserved = reserved * 1048576ULL;
    return 0;
}
int nvmlDeviceGetUtilizationRates(void *handle, uint *out) { ENTER(handle) out[1] = 0; return number(handle, "use", out); }
int nvmlDeviceGetCudaComputeCapability(void *handle, int *major, int *minor) {
    ENTER(handle)
    Line *line = find(index_of(handle), "capability", 0);
    return line && sscanf(line->value, "%d %d", major, minor) == 2 ? 0 : 3;
}
typedef struct { char legacy[16]; uint domain, bus, device, id, subsystem; char address[32]; } Pci;
static void address(int gpu, Pci *out) {
    memset(out, 0, sizeof *out);
    snprintf(out->address, sizeof out->address, gpu < 0 ? "00000000:F%X:00.0" : "00000000:%02X:00.0", gpu < 0 ? 1 : 16 + gpu);
}
int nvmlDeviceGetPciInfo_v3(void *handle, Pci *out) { ENTER(handle) address(index_of(handle), out); return 0; }
int nvmlDeviceGetMigMode(void *handle, uint *current, uint *pending) { ENTER(handle) *pending = 0; return number(handle, "mig", current); }
int nvmlDeviceGetMaxMigDeviceCount(void *handle, uint *out) { ENTER(handle) *out = 7; return 0; }
int nvmlDeviceGetMigDeviceHandleByIndex(void *handle, uint index, void **out) {
    ENTER(handle)
    if (!find(index_of(handle), "instance", (int)index)) return 6; /* not found */
    *out = (void *)(size_t)(1000 * (index_of(handle) + 1) + index + 1);
    return 0;
}
int nvmlDeviceGetEccMode(void *handle, uint *current, uint *pending) { ENTER(handle) *pending = 0; return number(handle, "ecc", current); }
int nvmlDeviceGetTotalEccErrors(void *handle, uint type, uint counter, ull *out) {
    uint found;
    ENTER(handle)
    (void)type, (void)counter;
    int code = number(handle, "ecc_errors", &found);
    *out = found;
    return code;
}
int nvmlDeviceGetRemappedRows(void *handle, uint *corrected, uint *uncorrected, uint *pending, uint *failed) {
    ENTER(handle)
    *corrected = *uncorrected = 0;
    return number(handle, "rows_pending", pending) || number(handle, "rows_failed", failed) ? 3 : 0;
}
NUMBER(nvmlDeviceGetEnforcedPowerLimit, "power")
NUMBER(nvmlDeviceGetPowerManagementDefaultLimit, "power_default")
NUMBER(nvmlDeviceGetPersistenceMode, "persistence")
NUMBER(nvmlDeviceGetComputeMode, "compute_mode")
NUMBER(nvmlDeviceGetCurrPcieLinkGeneration, "generation")
NUMBER(nvmlDeviceGetCurrPcieLinkWidth, "width")
NUMBER(nvmlDeviceGetMaxPcieLinkGeneration, "max_generation")
NUMBER(nvmlDeviceGetMaxPcieLinkWidth, "max_width")
int nvmlDeviceGetTemperature(void *handle, uint sensor, uint *out) { ENTER(handle) (void)sensor; return number(handle, "temperature", out); }
static int reasons(void *handle, ull *out) {
    uint found;
    int code = number(handle, "slowed", &found);
    *out = found;
    return code;
}
int nvmlDeviceGetCurrentClocksThrottleReasons(void *handle, ull *out) { ENTER(handle) return reasons(handle, out); }
int nvmlDeviceGetNvLinkState(void *handle, uint link, uint *out) {
    ENTER(handle)
    uint active = 0, down = 0;
    Line *line = find(index_of(handle), "links", 0);
    if (!line || sscanf(line->value, "%u %u", &active, &down) < 1) return 3;
    *out = link < active;
    return link < active + down ? 0 : 2; /* invalid argument */
}
int nvmlDeviceGetNvLinkRemotePciInfo_v2(void *handle, uint link, Pci *out) {
    ENTER(handle)
    Line *line;
    for (int nth = 0; (line = find(index_of(handle), "to", nth)); nth++) {
        int to = 0;
        uint many = 0;
        sscanf(line->value, "%d %u", &to, &many);
        if (link < many) { address(to, out); return 0; }
        link -= many;
    }
    address(-1, out); /* a switch */
    return 0;
}
static Line *pair(void *one, void *other, int *level, int *nvlink, int *p2p) {
    Line *line;
    for (int nth = 0; (line = find(-1, "pair", nth)); nth++) {
        int a, b;
        if (sscanf(line->value, "%d %d %d %d %d", &a, &b, level, nvlink, p2p) == 5 &&
            ((a == index_of(one) && b == index_of(other)) || a < 0)) return line;
    }
    return NULL;
}
int nvmlDeviceGetTopologyCommonAncestor(void *one, void *other, uint *out) {
    int level, nvlink, p2p;
    ENTER(one)
    if (!pair(one, other, &level, &nvlink, &p2p)) return 3;
    *out = (uint)level;
    return 0;
}
typedef struct { uint pid; ull used; uint gpu, compute; } Process;
static int processes(void *handle, uint *size, Process *out) {
    uint many = 0;
    while (find(index_of(handle), "process", (int)many)) many++;
    if (*size < many) { *size = many; return 7; /* insufficient size */ }
    *size = many;
    for (uint i = 0; i < many; i++) {
        ull used = 0;
        sscanf(find(index_of(handle), "process", (int)i)->value, "%u %llu", &out[i].pid, &used);
        out[i].used = used * 1048576ULL;
    }
    return 0;
}
int nvmlDeviceGetComputeRunningProcesses_v2(void *handle, uint *size, Process *out) { ENTER(handle) return processes(handle, size, out); }

#ifndef OLD
int nvmlSystemGetCudaDriverVersion_v2(int *out) { ENTER(NULL) return number(NULL, "cuda", (uint *)out); }
int nvmlDeviceGetComputeRunningProcesses_v3(void *handle, uint *size, Process *out) { ENTER(handle) return processes(handle, size, out); }
int nvmlDeviceGetGraphicsRunningProcesses_v3(void *handle, uint *size, Process *out) { ENTER(handle) (void)out; *size = 0; return 0; }
int nvmlDeviceGetCurrentClocksEventReasons(void *handle, ull *out) { ENTER(handle) return reasons(handle, out); }
int nvmlDeviceGetP2PStatus(void *one, void *other, uint what, uint *out) {
    int level, nvlink, p2p;
    ENTER(one)
    if (!pair(one, other, &level, &nvlink, &p2p)) return 3;
    *out = what == 2 ? (nvlink ? 0 : 5) : (p2p ? 0 : 1);
    return 0;
}
typedef struct { uint version; unsigned char uuid[16]; uint status, clique, state, health; } Fabric;
int nvmlDeviceGetGpuFabricInfoV(void *handle, Fabric *out) { ENTER(handle) out->status = 0; return number(handle, "fabric", &out->state); }
#endif
