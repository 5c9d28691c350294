/* A driver that only counts memory and refuses when the card is full, so that ComfyUI's installed dynamic-memory library runs
   on a machine without a GPU. Functions are padded because the library puts its own jumps over their first bytes. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define OUT_OF_MEMORY 2
#define PAD __asm__ volatile("nop;nop;nop;nop;nop;nop;nop;nop;nop;nop;nop;nop;nop;nop;nop;nop;nop;nop;nop;nop")
#define DRIVER(name, ...) __attribute__((noinline, visibility("default"))) int stub_##name(__VA_ARGS__)

typedef unsigned long long address;

static size_t card = 8ULL << 30, used = 0;
static address next_address = 0x700000000000ULL;
static struct { address at; size_t size; } pieces[65536];
static int count = 0;

__attribute__((visibility("default"))) void stub_card(size_t bytes) { card = bytes; }
__attribute__((visibility("default"))) size_t stub_used(void) { return used; }

static int allocate(address *out, size_t size) {
    if (used + size > card) return OUT_OF_MEMORY;
    used += size;
    *out = next_address;
    next_address += (size + 0xfffff) & ~0xfffffULL;
    pieces[count].at = *out;
    pieces[count++].size = size;
    return 0;
}

static int release(address at) {
    for (int i = 0; i < count; i++)
        if (pieces[i].at == at) {
            used -= pieces[i].size;
            pieces[i] = pieces[--count];
            return 0;
        }
    return 1;
}

DRIVER(cuInit, unsigned flags) { PAD; return 0; }
DRIVER(cuGetErrorString, int error, const char **out) { PAD; *out = "error of the stub"; return 0; }
DRIVER(cuCtxGetDevice, int *out) { PAD; *out = 0; return 0; }
DRIVER(cuCtxSynchronize, void) { PAD; return 0; }
DRIVER(cuDeviceGet, int *out, int number) { PAD; *out = number; return 0; }
DRIVER(cuDeviceGetAttribute, int *out, int which, int device) { PAD; *out = 0; return 0; }
DRIVER(cuDeviceTotalMem, size_t *out, int device) { PAD; *out = card; return 0; }
DRIVER(cuDeviceGetName, char *out, int length, int device) { PAD; strncpy(out, "pretended card", length); return 0; }
DRIVER(cuDeviceGetUuid, char *out, int device) { PAD; memset(out, 0, 16); return 0; }
DRIVER(cuMemGetInfo, size_t *free, size_t *total) { PAD; *free = card - used; *total = card; return 0; }
DRIVER(cuMemAlloc, address *out, size_t size) { PAD; return allocate(out, size); }
DRIVER(cuMemFree, address at) { PAD; return release(at); }
DRIVER(cuMemAllocAsync, address *out, size_t size, void *stream) { PAD; return allocate(out, size); }
DRIVER(cuMemFreeAsync, address at, void *stream) { PAD; return release(at); }
DRIVER(cuMemAllocAsync_ptsz, address *out, size_t size, void *stream) { PAD; PAD; return allocate(out, size); }
DRIVER(cuMemFreeAsync_ptsz, address at, void *stream) { PAD; PAD; return release(at); }
DRIVER(cuMemAllocHost, void **out, size_t size) { PAD; *out = malloc(size); return 0; }
DRIVER(cuMemFreeHost, void *at) { PAD; free(at); return 0; }
DRIVER(cuMemHostRegister, void *at, size_t size, unsigned flags) { PAD; return 0; }
DRIVER(cuMemHostUnregister, void *at) { PAD; return 0; }
DRIVER(cuMemAddressReserve, address *out, size_t size, size_t alignment, address wanted, address flags) {
    PAD;
    void *at = mmap(0, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    *out = (address)at;
    return at == MAP_FAILED ? OUT_OF_MEMORY : 0;
}
DRIVER(cuMemAddressFree, address at, size_t size) { PAD; munmap((void *)at, size); return 0; }
DRIVER(cuMemCreate, address *out, size_t size, const void *properties, address flags) {
    PAD;
    if (used + size > card) return OUT_OF_MEMORY;
    used += size;
    size_t *handle = malloc(sizeof *handle);
    *handle = size;
    *out = (address)handle;
    return 0;
}
DRIVER(cuMemMap, address at, size_t size, size_t offset, address handle, address flags) { PAD; return 0; }
DRIVER(cuMemSetAccess, address at, size_t size, const void *description, size_t number) { PAD; return 0; }
DRIVER(cuMemUnmap, address at, size_t size) { PAD; return 0; }
DRIVER(cuMemRelease, address handle) { PAD; used -= *(size_t *)handle; free((void *)handle); return 0; }
DRIVER(cuMemcpyHtoDAsync, address to, const void *from, size_t size, void *stream) { PAD; return 0; }
DRIVER(cuEventCreate, void **out, unsigned flags) { PAD; *out = (void *)1; return 0; }
DRIVER(cuEventDestroy, void *event) { PAD; return 0; }
DRIVER(cuEventRecord, void *event, void *stream) { PAD; return 0; }
DRIVER(cuEventSynchronize, void *event) { PAD; return 0; }

int cuGetProcAddress(const char *name, void **out, int version, address flags, void *status) {
    const int per_thread = (flags & 2) != 0;
    if (per_thread && !strcmp(name, "cuMemAllocAsync")) { *out = (void *)stub_cuMemAllocAsync_ptsz; return 0; }
    if (per_thread && !strcmp(name, "cuMemFreeAsync")) { *out = (void *)stub_cuMemFreeAsync_ptsz; return 0; }
#define GIVE(function) if (!strcmp(name, #function)) { *out = (void *)stub_##function; return 0; }
    GIVE(cuInit) GIVE(cuGetErrorString) GIVE(cuCtxGetDevice) GIVE(cuCtxSynchronize) GIVE(cuDeviceGet)
    GIVE(cuDeviceGetAttribute) GIVE(cuDeviceTotalMem) GIVE(cuDeviceGetName) GIVE(cuDeviceGetUuid) GIVE(cuMemGetInfo)
    GIVE(cuMemAlloc) GIVE(cuMemFree) GIVE(cuMemAllocAsync) GIVE(cuMemFreeAsync) GIVE(cuMemAllocHost) GIVE(cuMemFreeHost)
    GIVE(cuMemHostRegister) GIVE(cuMemHostUnregister) GIVE(cuMemAddressReserve) GIVE(cuMemAddressFree) GIVE(cuMemCreate)
    GIVE(cuMemMap) GIVE(cuMemSetAccess) GIVE(cuMemUnmap) GIVE(cuMemRelease) GIVE(cuMemcpyHtoDAsync) GIVE(cuEventCreate)
    GIVE(cuEventDestroy) GIVE(cuEventRecord) GIVE(cuEventSynchronize)
    fprintf(stderr, "the stub driver lacks %s\n", name);
    return 1;
}
