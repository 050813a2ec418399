/* A CUDA driver without a GPU, for tests: device memory is memory of the host. Work is done late, by a
 * thread of its stream, or recorded while the stream is captured.
 *
 * It implements what the runtime and its two bindings call, and is at least as strict as a real driver: a
 * call without a current context, a copy outside of an allocation, a second free, a stream of another
 * context, and allocating, freeing or waiting in a thread that captures are errors; the last of them ends
 * the capture. A primary context dies with its memory at its last release. It counts what is alive, and
 * fails on demand. Needs no CUDA headers: cc -shared -fPIC -Wl,-soname,libcuda.so.1
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
#include <unistd.h>

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
  NOT_READY = 600,
  ILLEGAL_ADDRESS = 700,
  CONTEXT_IS_DESTROYED = 709,
  LAUNCH_FAILED = 719,
  CAPTURE_UNSUPPORTED = 900,
  CAPTURE_INVALIDATED = 901
};

/* ---- what tests read and set ---------------------------------------------------------------- */

enum { ALLOCATIONS, BYTES, PINNED, STREAMS, EVENTS, GRAPHS, EXECUTABLES, PRIMARY, CONTEXTS, LAUNCHES, COUNTERS };
static long counters[COUNTERS];
static long memory_limit = 1L << 33;
static long calls_until_lost = -1; /* of copies, launches and waits */
static int lost = 0;
static long delays[2] = {20, 20}; /* microseconds before each piece of work: own streams, default streams */
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;

long sim_count(int kind) { return counters[kind]; }
void sim_set_memory(long bytes) { memory_limit = bytes; }
void sim_lose_after(long calls) { calls_until_lost = calls; lost = 0; }
void sim_set_delays(long own, long of_default) { delays[0] = own; delays[1] = of_default; }

static void count(int kind, long change) {
  pthread_mutex_lock(&mutex);
  counters[kind] += change;
  pthread_mutex_unlock(&mutex);
}

/* ---- contexts ------------------------------------------------------------------------------- */

struct context { int device; int retained; /* primary ones */ };
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
static void free_all_of(struct context *context);
CUresult cuDevicePrimaryCtxRetain(void **context, CUdevice device) {
  if (device < 0 || device >= setting("SIM_CUDA_DEVICES", 1)) return INVALID_DEVICE;
  primaries[device].device = device;
  primaries[device].retained++;
  *context = &primaries[device];
  count(PRIMARY, 1);
  return SUCCESS;
}
CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device) {
  if (primaries[device].retained == 0) return INVALID_CONTEXT;
  count(PRIMARY, -1);
  if (--primaries[device].retained == 0) free_all_of(&primaries[device]);
  return SUCCESS;
}
static int is_destroyed(struct context *context) {
  return context >= primaries && context < primaries + 16 && context->retained == 0;
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
  if (is_destroyed(context)) return CONTEXT_IS_DESTROYED;
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
CUresult cuCtxGetApiVersion(void *context, unsigned *version) {
  (void)context;
  *version = 3020;
  return SUCCESS;
}

/* ---- streams -------------------------------------------------------------------------------- */

typedef void (*host_function)(void *);
struct event { struct timespec time; long wanted, reached; };
struct operation {
  char *destination;
  const char *source;
  size_t size;
  host_function function;
  void *data;
  struct event *record, *wait; /* marks in the order of this event's records */
  long mark;
  struct operation *next;
};
struct graph { struct operation *first, *last; };
struct stream {
  struct graph queued;
  struct context *context;
  struct graph *captured;
  int is_invalid, is_busy, is_started, is_gone;
};
static struct stream default_stream;         /* the legacy one, for all contexts */
static long pending = 0;                     /* operations of all streams that are not done */
static int captures = 0;
static __thread struct stream *capturing;    /* of this thread: what is unsafe must not be called */

/* Handles 0, 1 and 2 are the default streams, which cannot be captured. */
static struct stream *stream_of(void *handle) {
  return (uintptr_t)handle > 2 ? handle : &default_stream;
}

static CUresult unsafe(void) {
  if (!capturing) return SUCCESS;
  capturing->is_invalid = 1;
  return CAPTURE_UNSUPPORTED;
}
#define NO_CAPTURE_HERE \
  if (unsafe() != SUCCESS) return CAPTURE_UNSUPPORTED;

static void append(struct graph *graph, struct operation operation) {
  struct operation *kept = malloc(sizeof *kept);
  *kept = operation;
  kept->next = NULL;
  if (graph->last) graph->last->next = kept;
  else graph->first = kept;
  graph->last = kept;
}

static void release_freed(void);
static void *do_work(void *argument) {
  struct stream *stream = argument;
  pthread_mutex_lock(&mutex);
  for (;;) {
    struct operation *next = stream->queued.first;
    if (!next && stream->is_gone) break;
    if (next && next->wait && next->wait->reached < next->mark) next = NULL;
    if (!next) {
      pthread_cond_wait(&changed, &mutex);
      continue;
    }
    stream->queued.first = next->next;
    if (!next->next) stream->queued.last = NULL;
    stream->is_busy = 1;
    long delay = delays[stream == &default_stream];
    pthread_mutex_unlock(&mutex);
    if (delay) usleep(delay);
    if (next->function) next->function(next->data);
    else if (next->destination) memcpy(next->destination, next->source, next->size);
    pthread_mutex_lock(&mutex);
    if (next->record) {
      clock_gettime(CLOCK_MONOTONIC, &next->record->time);
      next->record->reached = next->mark;
    }
    free(next);
    stream->is_busy = 0;
    if (--pending == 0) release_freed();
    pthread_cond_broadcast(&changed);
  }
  pthread_mutex_unlock(&mutex);
  free(stream);
  return NULL;
}

static CUresult queue(void *handle, struct operation operation) {
  CUresult result = work();
  if (result != SUCCESS) return result;
  struct stream *stream = stream_of(handle);
  if (stream->context && stream->context != stack[depth - 1]) return INVALID_HANDLE;
  if (stream->captured) {
    if (operation.record || operation.wait) stream->is_invalid = 1;
    if (stream->is_invalid) return CAPTURE_INVALIDATED;
    append(stream->captured, operation);
    return SUCCESS;
  }
  pthread_mutex_lock(&mutex);
  if (!stream->is_started) {
    pthread_t thread;
    pthread_create(&thread, NULL, do_work, stream);
    pthread_detach(thread);
    stream->is_started = 1;
  }
  if (operation.record) operation.mark = ++operation.record->wanted;
  if (operation.wait) operation.mark = operation.wait->wanted;
  append(&stream->queued, operation);
  pending++;
  pthread_cond_broadcast(&changed);
  pthread_mutex_unlock(&mutex);
  return SUCCESS;
}
CUresult cuLaunchHostFunc(void *stream, host_function function, void *data) {
  return queue(stream, (struct operation){.function = function, .data = data});
}
CUresult cuStreamCreate(void **handle, unsigned flags) {
  NEED_CONTEXT
  if (flags != 1) return INVALID_VALUE; /* a blocking stream would wait for the caller's own work */
  struct stream *stream = calloc(1, sizeof *stream);
  stream->context = stack[depth - 1];
  *handle = stream;
  count(STREAMS, 1);
  return SUCCESS;
}
CUresult cuStreamDestroy_v2(void *handle) {
  struct stream *stream = handle;
  NEED_CONTEXT
  pthread_mutex_lock(&mutex);
  int is_started = stream->is_started;
  stream->is_gone = 1; /* its thread frees it when its work is done */
  pthread_cond_broadcast(&changed);
  pthread_mutex_unlock(&mutex);
  if (!is_started) free(stream);
  count(STREAMS, -1);
  return SUCCESS;
}
CUresult cuStreamSynchronize(void *handle) {
  struct stream *stream = stream_of(handle);
  NO_CAPTURE_HERE
  if (stream->captured) {
    stream->is_invalid = 1;
    return CAPTURE_UNSUPPORTED;
  }
  pthread_mutex_lock(&mutex);
  while (stream->queued.first || stream->is_busy) pthread_cond_wait(&changed, &mutex);
  pthread_mutex_unlock(&mutex);
  return work();
}
CUresult cuCtxSynchronize(void) {
  NO_CAPTURE_HERE
  if (captures) return CAPTURE_UNSUPPORTED;
  pthread_mutex_lock(&mutex);
  while (pending) pthread_cond_wait(&changed, &mutex);
  pthread_mutex_unlock(&mutex);
  return work();
}
CUresult cuStreamWaitEvent(void *stream, void *event, unsigned flags) {
  (void)flags;
  return queue(stream, (struct operation){.wait = event});
}

/* ---- memory --------------------------------------------------------------------------------- */

struct allocation { char *address; size_t size; struct context *context; struct allocation *next; };
static struct allocation *allocations = NULL, *freed = NULL;

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
  NO_CAPTURE_HERE
  if (size == 0) return INVALID_VALUE;
  if (counters[BYTES] + (long)size > memory_limit) return OUT_OF_MEMORY;
  struct allocation *made = malloc(sizeof *made);
  made->address = malloc(size);
  made->size = size;
  made->context = stack[depth - 1];
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
/* A real driver frees when all that was queued before is done. All of these hold the mutex. */
static void release_freed(void) {
  while (freed) {
    struct allocation *gone = freed;
    freed = gone->next;
    memset(gone->address, 0xDD, gone->size);
    free(gone->address);
    free(gone);
  }
}
static void free_later(struct allocation *gone) {
  gone->next = freed;
  freed = gone;
  if (!pending) release_freed();
}
static void unlink_allocation(struct allocation **place) {
  struct allocation *gone = *place;
  *place = gone->next;
  counters[ALLOCATIONS]--;
  counters[BYTES] -= (long)gone->size;
  free_later(gone);
}
static void free_all_of(struct context *context) {
  pthread_mutex_lock(&mutex);
  for (struct allocation **a = &allocations; *a;) {
    if ((*a)->context == context) unlink_allocation(a);
    else a = &(*a)->next;
  }
  pthread_mutex_unlock(&mutex);
}
long sim_bytes_of(int device) {
  long size = 0;
  pthread_mutex_lock(&mutex);
  for (struct allocation *a = allocations; a; a = a->next)
    if (a->context->device == device) size += (long)a->size;
  pthread_mutex_unlock(&mutex);
  return size;
}
CUresult cuMemFree_v2(CUdeviceptr address) {
  NEED_CONTEXT
  NO_CAPTURE_HERE
  CUresult result = INVALID_VALUE;
  pthread_mutex_lock(&mutex);
  for (struct allocation **a = &allocations; *a; a = &(*a)->next) {
    if ((CUdeviceptr)(uintptr_t)(*a)->address != address) continue;
    unlink_allocation(a);
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
  NO_CAPTURE_HERE
  (void)flags;
  *memory = malloc(size);
  count(PINNED, 1);
  return SUCCESS;
}
CUresult cuMemAllocHost_v2(void **memory, size_t size) { return cuMemHostAlloc(memory, size, 0); }
CUresult cuMemFreeHost(void *memory) {
  NEED_CONTEXT
  NO_CAPTURE_HERE
  struct allocation *gone = calloc(1, sizeof *gone);
  gone->address = memory;
  pthread_mutex_lock(&mutex);
  free_later(gone);
  counters[PINNED]--;
  pthread_mutex_unlock(&mutex);
  return SUCCESS;
}
static CUresult copy(void *destination, const void *source, size_t size, void *stream) {
  return queue(stream, (struct operation){.destination = destination, .source = source, .size = size});
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
  CUresult result = cuMemcpyHtoDAsync_v2(destination, source, size, NULL);
  return result == SUCCESS ? cuStreamSynchronize(NULL) : result;
}

/* ---- events, graphs ------------------------------------------------------------------------- */

static void free_graph(struct graph *graph) {
  for (struct operation *o = graph->first; o;) {
    struct operation *next = o->next;
    free(o);
    o = next;
  }
  free(graph);
}
CUresult cuStreamBeginCapture_v2(void *handle, int mode) {
  NEED_CONTEXT
  struct stream *stream = stream_of(handle);
  if (stream == &default_stream || mode != 1 || capturing) return CAPTURE_UNSUPPORTED;
  stream->captured = calloc(1, sizeof(struct graph));
  stream->is_invalid = 0;
  capturing = stream;
  __atomic_add_fetch(&captures, 1, __ATOMIC_SEQ_CST);
  count(GRAPHS, 1);
  return SUCCESS;
}
CUresult cuStreamEndCapture(void *handle, void **graph) {
  struct stream *stream = handle;
  *graph = stream->captured;
  if (!*graph) return INVALID_HANDLE;
  stream->captured = NULL;
  capturing = NULL;
  __atomic_sub_fetch(&captures, 1, __ATOMIC_SEQ_CST);
  if (!stream->is_invalid) return SUCCESS;
  free_graph(*graph);
  count(GRAPHS, -1);
  *graph = NULL;
  return CAPTURE_INVALIDATED;
}
CUresult cuGraphInstantiateWithFlags(void **executable, void *graph, unsigned long long flags) {
  NEED_CONTEXT
  (void)flags;
  *executable = calloc(1, sizeof(struct graph));
  for (struct operation *o = ((struct graph *)graph)->first; o; o = o->next) append(*executable, *o);
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
  return queue(stream, (struct operation){.record = event});
}
CUresult cuEventSynchronize(void *handle) {
  struct event *event = handle;
  NO_CAPTURE_HERE
  pthread_mutex_lock(&mutex);
  while (event->reached < event->wanted) pthread_cond_wait(&changed, &mutex);
  pthread_mutex_unlock(&mutex);
  return work();
}
CUresult cuEventElapsedTime_v2(float *milliseconds, void *start, void *end) {
  struct event *first = start, *last = end;
  if (!first->wanted || !last->wanted) return INVALID_HANDLE;
  if (first->reached < first->wanted || last->reached < last->wanted) return NOT_READY;
  *milliseconds = (last->time.tv_sec - first->time.tv_sec) * 1e3f +
                  (last->time.tv_nsec - first->time.tv_nsec) / 1e6f;
  return SUCCESS;
}
CUresult cuEventElapsedTime(float *milliseconds, void *start, void *end) {
  return cuEventElapsedTime_v2(milliseconds, start, end);
}
CUresult cuEventDestroy_v2(void *event) {
  (void)event; /* may still be queued; a few bytes that the process keeps */
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
    {INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {NOT_READY, "CUDA_ERROR_NOT_READY", "device not ready"},
    {ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {CONTEXT_IS_DESTROYED, "CUDA_ERROR_CONTEXT_IS_DESTROYED", "context is destroyed"},
    {CAPTURE_UNSUPPORTED, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing"},
    {CAPTURE_INVALIDATED, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", "operation failed due to a previous error during capture"},
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
