/* A stand-in for libnvidia-ml.so.1, built by tests/test_detect.py. State is read from the file named by FAKE_NVML at
   every call: first the code of nvmlInit, then one line per GPU: total free used (MiB) utilisation name.
   A utilisation of -1 is "not supported"; a total of -1 fails the memory call; -2 loses the whole GPU. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct { long total, free, used; int use; char name[96]; } Card;
typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned int gpu, memory; } Rates;
static Card cards[16];

static int load(int *init) {
    FILE *file = fopen(getenv("FAKE_NVML"), "r");
    int count = 0;
    if (!file || fscanf(file, "%d", init) != 1) exit(3);
    while (count < 16 && fscanf(file, "%ld %ld %ld %d %95[^\n]", &cards[count].total, &cards[count].free,
                                &cards[count].used, &cards[count].use, cards[count].name) == 5) count++;
    fclose(file);
    return count;
}

static int refresh(void) { int init; return load(&init); }
int nvmlInitWithFlags(unsigned int flags) { int init; (void)flags; load(&init); return init; }
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(int code) { return code == 9 ? "Driver Not Loaded" : "Fake Failure"; }
int nvmlDeviceGetCount_v2(unsigned int *count) { *count = refresh(); return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **handle) {
    *handle = (void *)(size_t)(index + 1);
    return (int)index < refresh() && cards[index].total != -2 ? 0 : 15; /* GPU is lost */
}
static Card *card(void *handle) { refresh(); return &cards[(size_t)handle - 1]; }
int nvmlDeviceGetName(void *handle, char *out, unsigned int size) { strncpy(out, card(handle)->name, size); return 0; }
int nvmlDeviceGetUUID(void *handle, char *out, unsigned int size) {
    snprintf(out, size, "GPU-fake-%zu", (size_t)handle - 1);
    return 0;
}
int nvmlDeviceGetMemoryInfo(void *handle, Memory *out) {
    Card *c = card(handle);
    if (c->total == -1) return 3; /* not supported */
    out->total = c->total * 1048576ULL, out->free = c->free * 1048576ULL, out->used = c->used * 1048576ULL;
    return 0;
}
int nvmlDeviceGetUtilizationRates(void *handle, Rates *out) {
    Card *c = card(handle);
    if (c->use < 0) return 3;
    out->gpu = c->use, out->memory = 0;
    return 0;
}
