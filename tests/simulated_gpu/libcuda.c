/* A CUDA driver without a GPU, for tests: device memory is memory of the host, and work is done when it
 * is queued, or recorded while a stream is captured.
 *
 * It implements what the runtime and its two bindings call, and is stricter than a real driver: a call
 * without a current context, a copy outside of an allocation and a second free are errors. It counts
 * what is alive, and fails on demand. Needs no CUDA headers: cc -shared -fPIC -Wl,-soname,libcuda.so.1
 *
 * Environment: SIM_CUDA_DEVICES (1), SIM_CUDA_NAME, SIM_CUDA_CAPABILITY (86), SIM_CUDA_DRIVER (13000).
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef int CUresult;
typedef int CUdevice;
typedef unsigned long long CUdeviceptr;

enum {
  SUCCESS = 0,
  INVALID_VALUE = 1,
  OUT_OF_MEMORY = 2,
  NOT_INITIALIZED = 3,
  NO_DEVICE = 100,
  INVALID_DEVICE = 101,
  INVALID_CONTEXT = 201,
  INVALID_HANDLE = 400,
  NOT_FOUND = 500,
  ILLEGAL_ADDRESS = 700,
  LAUNCH_FAILED = 719,
  CAPTURE_UNSUPPORTED = 900
};

/* ---- what tests read and set ---------------------------------------------------------------- */

enum { ALLOCATIONS, BYTES, PINNED, STREAMS, EVENTS, GRAPHS, EXECUTABLES, PRIMARY, CONTEXTS, LAUNCHES, COUNTERS };
static long counters[COUNTERS];
static long memory_limit = 1L << 33;
static long calls_until_lost = -1; /* of copies, launches and waits */
static int lost = 0;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

long sim_count(int kind) { return counters[kind]; }
void sim_set_memory(long bytes) { memory_limit = bytes; }
void sim_lose_after(long calls) { calls_until_lost = calls; lost = 0; }

static void count(int kind, long change) {
  pthread_mutex_lock(&mutex);
  counters[kind] += change;
  pthread_mutex_unlock(&mutex);
}

/* ---- contexts ------------------------------------------------------------------------------- */

struct context { int device; int is_primary; };
static struct context primaries[16];
static int initialised = 0;
#define DEPTH 64
static __thread struct context *stack[DEPTH];
static __thread int depth = 0;

int sim_depth(void) { return depth; }

static int setting(const char *name, int otherwise) {
  const char *text = getenv(name);
  return text ? atoi(text) : otherwise;
}

#define NEED_CONTEXT \
  if (!initialised) return NOT_INITIALIZED; \
  if (depth == 0 || !stack[depth - 1]) return INVALID_CONTEXT; \
  if (lost) return ILLEGAL_ADDRESS;

static CUresult work(void) {
  NEED_CONTEXT
  pthread_mutex_lock(&mutex);
  if (calls_until_lost >= 0 && calls_until_lost-- == 0) lost = 1;
  pthread_mutex_unlock(&mutex);
  return lost ? ILLEGAL_ADDRESS : SUCCESS;
}

CUresult cuInit(unsigned flags) {
  (void)flags;
  if (setting("SIM_CUDA_DEVICES", 1) == 0) return NO_DEVICE;
  initialised = 1;
  return SUCCESS;
}
CUresult cuDriverGetVersion(int *version) {
  *version = setting("SIM_CUDA_DRIVER", 13000);
  return SUCCESS;
}
CUresult cuDeviceGetCount(int *result) {
  *result = setting("SIM_CUDA_DEVICES", 1);
  return SUCCESS;
}
CUresult cuDeviceGet(CUdevice *device, int index) {
  if (!initialised) return NOT_INITIALIZED;
  if (index < 0 || index >= setting("SIM_CUDA_DEVICES", 1)) return INVALID_DEVICE;
  *device = index;
  return SUCCESS;
}
CUresult cuDeviceGetName(char *name, int length, CUdevice device) {
  const char *text = getenv("SIM_CUDA_NAME");
  (void)device;
  snprintf(name, length, "%s", text ? text : "Simulated GPU");
  return SUCCESS;
}
CUresult cuDeviceGetAttribute(int *value, int attribute, CUdevice device) {
  int capability = setting("SIM_CUDA_CAPABILITY", 86);
  (void)device;
  switch (attribute) {
    case 13: *value = 1500000; break; /* clock rate, kHz */
    case 16: *value = 20; break;      /* multiprocessors */
    case 75: *value = capability / 10; break;
    case 76: *value = capability % 10; break;
    default: *value = 1;
  }
  return SUCCESS;
}
CUresult cuDeviceComputeCapability(int *major, int *minor, CUdevice device) {
  cuDeviceGetAttribute(major, 75, device);
  return cuDeviceGetAttribute(minor, 76, device);
}
CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice device) {
  (void)device;
  *bytes = memory_limit;
  return SUCCESS;
}
CUresult cuDevicePrimaryCtxRetain(void **context, CUdevice device) {
  primaries[device].device = device;
  primaries[device].is_primary = 1;
  *context = &primaries[device];
  count(PRIMARY, 1);
  return SUCCESS;
}
CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device) {
  (void)device;
  if (counters[PRIMARY] == 0) return INVALID_CONTEXT;
  count(PRIMARY, -1);
  return SUCCESS;
}
static CUresult create_context(void **context, CUdevice device) {
  struct context *made = calloc(1, sizeof *made);
  made->device = device;
  *context = made;
  stack[depth++] = made;
  count(CONTEXTS, 1);
  return SUCCESS;
}
CUresult cuCtxCreate_v2(void **context, unsigned flags, CUdevice device) {
  (void)flags;
  return create_context(context, device);
}
CUresult cuCtxCreate_v4(void **context, void *parameters, unsigned flags, CUdevice device) {
  (void)parameters;
  (void)flags;
  return create_context(context, device);
}
CUresult cuCtxDestroy_v2(void *context) {
  if (depth && stack[depth - 1] == context) depth--;
  count(CONTEXTS, -1);
  free(context);
  return SUCCESS;
}
CUresult cuCtxDetach(void *context) { return cuCtxDestroy_v2(context); }
CUresult cuCtxPushCurrent_v2(void *context) {
  if (!context || depth == DEPTH) return INVALID_CONTEXT;
  stack[depth++] = context;
  return SUCCESS;
}
CUresult cuCtxPopCurrent_v2(void **context) {
  if (depth == 0) return INVALID_CONTEXT;
  depth--;
  if (context) *context = stack[depth];
  return SUCCESS;
}
CUresult cuCtxGetCurrent(void **context) {
  *context = depth ? stack[depth - 1] : NULL;
  return SUCCESS;
}
CUresult cuCtxSetCurrent(void *context) {
  if (depth == 0) depth = 1;
  stack[depth - 1] = context;
  return SUCCESS;
}
CUresult cuCtxGetDevice(CUdevice *device) {
  NEED_CONTEXT
  *device = stack[depth - 1]->device;
  return SUCCESS;
}
CUresult cuCtxSynchronize(void) { return work(); }
CUresult cuCtxGetApiVersion(void *context, unsigned *version) {
  (void)context;
  *version = 3020;
  return SUCCESS;
}

/* ---- memory --------------------------------------------------------------------------------- */

struct allocation { char *address; size_t size; struct allocation *next; };
static struct allocation *allocations = NULL;

static int is_on_device(CUdeviceptr address, size_t size) {
  int found = 0;
  pthread_mutex_lock(&mutex);
  for (struct allocation *a = allocations; a && !found; a = a->next) {
    char *first = (char *)(uintptr_t)address;
    found = first >= a->address && first + size <= a->address + a->size;
  }
  pthread_mutex_unlock(&mutex);
  return found;
}
CUresult cuMemAlloc_v2(CUdeviceptr *address, size_t size) {
  NEED_CONTEXT
  if (size == 0) return INVALID_VALUE;
  if (counters[BYTES] + (long)size > memory_limit) return OUT_OF_MEMORY;
  struct allocation *made = malloc(sizeof *made);
  made->address = malloc(size);
  made->size = size;
  memset(made->address, 0xAB, size); /* what a real GPU leaves there is no use either */
  pthread_mutex_lock(&mutex);
  made->next = allocations;
  allocations = made;
  counters[ALLOCATIONS]++;
  counters[BYTES] += (long)size;
  pthread_mutex_unlock(&mutex);
  *address = (CUdeviceptr)(uintptr_t)made->address;
  return SUCCESS;
}
CUresult cuMemFree_v2(CUdeviceptr address) {
  NEED_CONTEXT
  CUresult result = INVALID_VALUE;
  pthread_mutex_lock(&mutex);
  for (struct allocation **a = &allocations; *a; a = &(*a)->next) {
    if ((CUdeviceptr)(uintptr_t)(*a)->address != address) continue;
    struct allocation *gone = *a;
    *a = gone->next;
    counters[ALLOCATIONS]--;
    counters[BYTES] -= (long)gone->size;
    free(gone->address);
    free(gone);
    result = SUCCESS;
    break;
  }
  pthread_mutex_unlock(&mutex);
  return result;
}
CUresult cuMemGetInfo_v2(size_t *free_bytes, size_t *total) {
  NEED_CONTEXT
  *free_bytes = memory_limit - counters[BYTES];
  *total = memory_limit;
  return SUCCESS;
}
CUresult cuMemHostAlloc(void **memory, size_t size, unsigned flags) {
  NEED_CONTEXT
  (void)flags;
  *memory = malloc(size);
  count(PINNED, 1);
  return SUCCESS;
}
CUresult cuMemAllocHost_v2(void **memory, size_t size) { return cuMemHostAlloc(memory, size, 0); }
CUresult cuMemFreeHost(void *memory) {
  NEED_CONTEXT
  free(memory);
  count(PINNED, -1);
  return SUCCESS;
}

/* ---- streams, events, graphs ---------------------------------------------------------------- */

typedef void (*host_function)(void *);
struct operation {
  char *destination;
  const char *source;
  size_t size;
  host_function function;
  void *data;
  struct operation *next;
};
struct graph { struct operation *first, *last; };
struct stream { struct graph *captured; };
struct event { struct timespec time; int is_recorded; };

/* Handles 0, 1 and 2 are the default streams, which cannot be captured. */
static int is_own(void *stream) { return (uintptr_t)stream > 2; }

static CUresult queue(void *handle, struct operation operation) {
  CUresult result = work();
  if (result != SUCCESS) return result;
  struct graph *captured = is_own(handle) ? ((struct stream *)handle)->captured : NULL;
  if (!captured) {
    if (operation.function) operation.function(operation.data);
    else memcpy(operation.destination, operation.source, operation.size);
    return SUCCESS;
  }
  struct operation *kept = malloc(sizeof *kept);
  *kept = operation;
  kept->next = NULL;
  if (captured->last) captured->last->next = kept;
  else captured->first = kept;
  captured->last = kept;
  return SUCCESS;
}
static CUresult copy(void *destination, const void *source, size_t size, void *stream) {
  return queue(stream, (struct operation){destination, source, size, NULL, NULL, NULL});
}
CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr destination, const void *source, size_t size, void *stream) {
  if (!is_on_device(destination, size)) { lost = 1; return ILLEGAL_ADDRESS; }
  return copy((void *)(uintptr_t)destination, source, size, stream);
}
CUresult cuMemcpyDtoHAsync_v2(void *destination, CUdeviceptr source, size_t size, void *stream) {
  if (!is_on_device(source, size)) { lost = 1; return ILLEGAL_ADDRESS; }
  return copy(destination, (void *)(uintptr_t)source, size, stream);
}
CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr destination, CUdeviceptr source, size_t size, void *stream) {
  if (!is_on_device(destination, size) || !is_on_device(source, size)) { lost = 1; return ILLEGAL_ADDRESS; }
  return copy((void *)(uintptr_t)destination, (void *)(uintptr_t)source, size, stream);
}
CUresult cuMemcpyHtoD_v2(CUdeviceptr destination, const void *source, size_t size) {
  return cuMemcpyHtoDAsync_v2(destination, source, size, NULL);
}
CUresult cuLaunchHostFunc(void *stream, host_function function, void *data) {
  return queue(stream, (struct operation){NULL, NULL, 0, function, data, NULL});
}
CUresult cuStreamCreate(void **stream, unsigned flags) {
  NEED_CONTEXT
  if (flags != 1) return INVALID_VALUE; /* a blocking stream would wait for the caller's own work */
  *stream = calloc(1, sizeof(struct stream));
  count(STREAMS, 1);
  return SUCCESS;
}
CUresult cuStreamDestroy_v2(void *stream) {
  NEED_CONTEXT
  free(stream);
  count(STREAMS, -1);
  return SUCCESS;
}
CUresult cuStreamSynchronize(void *stream) {
  if (is_own(stream) && ((struct stream *)stream)->captured) return CAPTURE_UNSUPPORTED;
  return work();
}
CUresult cuStreamWaitEvent(void *stream, void *event, unsigned flags) {
  (void)stream;
  (void)event;
  (void)flags;
  return work();
}
CUresult cuStreamBeginCapture_v2(void *stream, int mode) {
  NEED_CONTEXT
  if (!is_own(stream) || mode != 1) return CAPTURE_UNSUPPORTED;
  ((struct stream *)stream)->captured = calloc(1, sizeof(struct graph));
  count(GRAPHS, 1);
  return SUCCESS;
}
CUresult cuStreamEndCapture(void *stream, void **graph) {
  NEED_CONTEXT
  *graph = ((struct stream *)stream)->captured;
  ((struct stream *)stream)->captured = NULL;
  return *graph ? SUCCESS : INVALID_HANDLE;
}
static struct graph *copy_of(struct graph *graph) {
  struct graph *made = calloc(1, sizeof *made);
  for (struct operation *o = graph->first; o; o = o->next) {
    struct operation *kept = malloc(sizeof *kept);
    *kept = *o;
    kept->next = NULL;
    if (made->last) made->last->next = kept;
    else made->first = kept;
    made->last = kept;
  }
  return made;
}
static void free_graph(struct graph *graph) {
  for (struct operation *o = graph->first; o;) {
    struct operation *next = o->next;
    free(o);
    o = next;
  }
  free(graph);
}
CUresult cuGraphInstantiateWithFlags(void **executable, void *graph, unsigned long long flags) {
  NEED_CONTEXT
  (void)flags;
  *executable = copy_of(graph);
  count(EXECUTABLES, 1);
  return SUCCESS;
}
CUresult cuGraphDestroy(void *graph) {
  free_graph(graph);
  count(GRAPHS, -1);
  return SUCCESS;
}
CUresult cuGraphExecDestroy(void *executable) {
  free_graph(executable);
  count(EXECUTABLES, -1);
  return SUCCESS;
}
CUresult cuGraphLaunch(void *executable, void *stream) {
  count(LAUNCHES, 1);
  for (struct operation *o = ((struct graph *)executable)->first; o; o = o->next) {
    CUresult result = queue(stream, *o);
    if (result != SUCCESS) return result;
  }
  return work();
}
CUresult cuEventCreate(void **event, unsigned flags) {
  NEED_CONTEXT
  (void)flags;
  *event = calloc(1, sizeof(struct event));
  count(EVENTS, 1);
  return SUCCESS;
}
CUresult cuEventRecord(void *event, void *stream) {
  (void)stream;
  clock_gettime(CLOCK_MONOTONIC, &((struct event *)event)->time);
  ((struct event *)event)->is_recorded = 1;
  return work();
}
CUresult cuEventSynchronize(void *event) {
  (void)event;
  return work();
}
CUresult cuEventElapsedTime_v2(float *milliseconds, void *start, void *end) {
  struct event *first = start, *last = end;
  if (!first->is_recorded || !last->is_recorded) return INVALID_HANDLE;
  *milliseconds = (last->time.tv_sec - first->time.tv_sec) * 1e3f +
                  (last->time.tv_nsec - first->time.tv_nsec) / 1e6f;
  return SUCCESS;
}
CUresult cuEventElapsedTime(float *milliseconds, void *start, void *end) {
  return cuEventElapsedTime_v2(milliseconds, start, end);
}
CUresult cuEventDestroy_v2(void *event) {
  free(event);
  count(EVENTS, -1);
  return SUCCESS;
}

/* ---- names ---------------------------------------------------------------------------------- */

static const struct { int code; const char *name, *text; } errors[] = {
    {SUCCESS, "CUDA_SUCCESS", "no error"},
    {INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {NO_DEVICE, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
};
CUresult cuGetErrorName(CUresult code, const char **name) {
  *name = "CUDA_ERROR_UNKNOWN";
  for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
    if (errors[i].code == code) *name = errors[i].name;
  return SUCCESS;
}
CUresult cuGetErrorString(CUresult code, const char **text) {
  *text = "unknown error";
  for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
    if (errors[i].code == code) *text = errors[i].text;
  return SUCCESS;
}

/* The newest version of a function, by its plain name. */
CUresult cuGetProcAddress_v2(const char *symbol, void **function, int version, unsigned long long flags, int *status) {
  static const char *const suffixes[] = {"_v4", "_v2", ""};
  char name[128];
  (void)version;
  (void)flags;
  *function = NULL;
  if (strcmp(symbol, "cuGetProcAddress") == 0) *function = (void *)cuGetProcAddress_v2;
  if (strcmp(symbol, "cuGraphInstantiate") == 0) *function = (void *)cuGraphInstantiateWithFlags;
  for (int i = 0; i < 3 && !*function; i++) {
    snprintf(name, sizeof name, "%s%s", symbol, suffixes[i]);
    Dl_info info;
    void *self = dladdr((void *)cuInit, &info) ? dlopen(info.dli_fname, RTLD_NOW | RTLD_NOLOAD) : NULL;
    if (self) *function = dlsym(self, name);
  }
  if (status) *status = *function ? 0 : 1;
  return *function ? SUCCESS : NOT_FOUND;
}
