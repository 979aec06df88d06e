// A stand-in for NCCL and the CUDA driver (or RCCL and HIP): the same functions over host memory, for ranks
// that are threads of one process. A stream is a thread that does what was put on it in order, so that calls
// return at once, as the real ones do. Sums are made in the order of the ranks.
//
// -DWITHOUT_SEND leaves ncclSend out; -DFAILS makes ncclAllReduce fail.
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct { char bytes[128]; } Id;

// ---- mail between ranks: (communicator, from, to, number) -> floats ----
typedef struct Mail { struct Mail *next; uint64_t comm, number; int from, to; size_t n; float *data; } Mail;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t posted = PTHREAD_COND_INITIALIZER;
static Mail *mail;

typedef struct { uint64_t id; int ranks, rank, aborted; uint64_t sent[64], taken[64]; } Comm;

static void give(Comm *c, int to, const float *from, size_t n) {
  Mail *m = malloc(sizeof *m);
  *m = (Mail){0, c->id, c->sent[to]++, c->rank, to, n, malloc(n * 4 + 4)};
  memcpy(m->data, from, n * 4);
  pthread_mutex_lock(&lock);
  m->next = mail;
  mail = m;
  pthread_cond_broadcast(&posted);
  pthread_mutex_unlock(&lock);
}

static void take(Comm *c, int from, float *to, size_t n) {
  uint64_t number = c->taken[from]++;
  pthread_mutex_lock(&lock);
  for (;;) {
    for (Mail **at = &mail; *at; at = &(*at)->next) {
      Mail *m = *at;
      if (m->comm == c->id && m->number == number && m->from == from && m->to == c->rank) {
        *at = m->next;
        if (m->n != n) { fprintf(stderr, "stand-in: %zu floats sent, %zu expected\n", m->n, n); abort(); }
        memcpy(to, m->data, n * 4);
        free(m->data);
        free(m);
        pthread_mutex_unlock(&lock);
        return;
      }
    }
    if (c->aborted) { pthread_mutex_unlock(&lock); return; }
    pthread_cond_wait(&posted, &lock);
  }
}

// ---- streams and events ----
typedef struct { uint64_t recorded, happened; } Event;
enum Kind { REDUCE, SCATTER, GATHER, SEND, RECV, GROUP, RECORD, WAIT, END };
typedef struct Op {
  struct Op *next, *parts;
  enum Kind kind;
  Comm *comm;
  const float *from;
  float *to;
  size_t n;
  int peer;
  Event *event;
  uint64_t number;
} Op;
typedef struct { pthread_t thread; Op *first, **last; int busy; } Stream;

// Sends everything of an operation, or takes everything: all of a group is given before anything is taken.
static void half(Op *o, int taking) {
  Comm *c = o->comm;
  for (int r = 0; r < c->ranks; r++) {
    if (o->kind == SEND && !taking && r == o->peer) give(c, r, o->from, o->n);
    if (o->kind == RECV && taking && r == o->peer) take(c, r, o->to, o->n);
    if (o->kind == GATHER && !taking) give(c, r, o->from, o->n);
    if (o->kind == GATHER && taking) take(c, r, o->to + r * o->n, o->n);
    if (o->kind == SCATTER && !taking) give(c, r, o->from + r * o->n, o->n);
    if (o->kind == REDUCE && !taking) give(c, r, o->from, o->n);
    if ((o->kind == SCATTER || o->kind == REDUCE) && taking) {
      float *x = malloc(o->n * 4 + 4);
      if (r == 0) memset(o->to, 0, o->n * 4);
      take(c, r, x, o->n);
      for (size_t i = 0; i < o->n; i++) o->to[i] += x[i];
      free(x);
    }
  }
}

static void *work(void *p) {
  Stream *s = p;
  for (;;) {
    pthread_mutex_lock(&lock);
    s->busy = 0;
    pthread_cond_broadcast(&posted);
    while (!s->first) pthread_cond_wait(&posted, &lock);
    Op *o = s->first;
    s->first = o->next;
    if (!s->first) s->last = &s->first;
    s->busy = 1;
    while (o->kind == WAIT && o->event->happened < o->number) pthread_cond_wait(&posted, &lock);
    if (o->kind == RECORD) { o->event->happened = o->number; pthread_cond_broadcast(&posted); }
    pthread_mutex_unlock(&lock);
    for (int taking = 0; taking < 2; taking++)
      for (Op *q = o->parts; q; q = q->next) half(q, taking);
    for (Op *q = o->parts, *next; q; q = next) { next = q->next; free(q); }
    int end = o->kind == END;
    free(o);
    if (end) return 0;
  }
}

static Op *new(enum Kind kind) { Op *o = calloc(1, sizeof *o); o->kind = kind; return o; }

static int put(Stream *s, Op *o) {
  pthread_mutex_lock(&lock);
  *s->last = o;
  s->last = &o->next;
  pthread_cond_broadcast(&posted);
  pthread_mutex_unlock(&lock);
  return 0;
}

// The default stream has nothing on it: all that was asked of it has happened.
int cuStreamCreate(void **s, unsigned flags) {
  (void)flags;
  Stream *n = calloc(1, sizeof *n);
  n->last = &n->first;
  *s = n;
  return pthread_create(&n->thread, 0, work, n);
}
int cuStreamSynchronize(void *p) {
  Stream *s = p;
  pthread_mutex_lock(&lock);
  while (s->first || s->busy) pthread_cond_wait(&posted, &lock);
  pthread_mutex_unlock(&lock);
  return 0;
}
int cuStreamDestroy_v2(void *p) { Stream *s = p; put(s, new(END)); pthread_join(s->thread, 0); free(s); return 0; }
int cuEventCreate(void **e, unsigned flags) { (void)flags; *e = calloc(1, sizeof(Event)); return 0; }
int cuEventDestroy_v2(void *e) { free(e); return 0; }
int cuEventRecord(void *p, void *stream) {
  Event *e = p;
  pthread_mutex_lock(&lock);
  uint64_t number = ++e->recorded;
  if (!stream) e->happened = number;
  pthread_mutex_unlock(&lock);
  if (!stream) return 0;
  Op *o = new(RECORD);
  o->event = e;
  o->number = number;
  return put(stream, o);
}
int cuEventQuery(void *p) {
  Event *e = p;
  pthread_mutex_lock(&lock);
  int done = e->happened == e->recorded;
  pthread_mutex_unlock(&lock);
  return done ? 0 : 600;
}
int cuStreamWaitEvent(void *stream, void *p, unsigned flags) {
  (void)flags;
  Op *o = new(WAIT);
  o->event = p;
  o->number = ((Event *)p)->recorded;
  return put(stream, o);
}
int hipStreamCreateWithFlags(void **s, unsigned f) { return cuStreamCreate(s, f); }
int hipStreamSynchronize(void *s) { return cuStreamSynchronize(s); }
int hipStreamDestroy(void *s) { return cuStreamDestroy_v2(s); }
int hipEventCreateWithFlags(void **e, unsigned f) { return cuEventCreate(e, f); }
int hipEventDestroy(void *e) { return cuEventDestroy_v2(e); }
int hipEventRecord(void *e, void *s) { return cuEventRecord(e, s); }
int hipEventQuery(void *e) { return cuEventQuery(e); }
int hipStreamWaitEvent(void *s, void *e, unsigned f) { return cuStreamWaitEvent(s, e, f); }

// ---- NCCL ----
static uint64_t ids;
static __thread int depth;
static __thread Op *group, **group_end;
static __thread Stream *group_stream;

int ncclGetUniqueId(Id *id) {
  pthread_mutex_lock(&lock);
  uint64_t n = ++ids;
  pthread_mutex_unlock(&lock);
  memcpy(id->bytes, &n, 8);
  return 0;
}
int ncclCommInitRank(void **comm, int ranks, Id id, int rank) {
  Comm *c = calloc(1, sizeof *c);
  memcpy(&c->id, id.bytes, 8);
  c->ranks = ranks;
  c->rank = rank;
  *comm = c;
  // Collective, as the real one: each hears of each.
  Op o = {.kind = GATHER, .comm = c, .from = (float[]){0}, .to = malloc(ranks * 4), .n = 1};
  half(&o, 0);
  half(&o, 1);
  free(o.to);
  return 0;
}
int ncclCommDestroy(void *c) { free(c); return 0; }
int ncclCommAbort(void *c) {
  pthread_mutex_lock(&lock);
  ((Comm *)c)->aborted = 1;
  pthread_cond_broadcast(&posted);
  pthread_mutex_unlock(&lock);
  return 0;
}
const char *ncclGetErrorString(int code) { return code == 3 ? "internal error" : "no error"; }
int ncclGroupStart(void) {
  if (!depth++) { group = 0; group_end = &group; }
  return 0;
}
int ncclGroupEnd(void) {
  if (--depth || !group) return 0;
  Op *o = new(GROUP);
  o->parts = group;
  group = 0;
  return put(group_stream, o);
}
static int call(enum Kind kind, const void *from, void *to, size_t n, int type, int peer, void *c, void *s) {
  if (type != 7) return 4;
  ncclGroupStart();
  Op *o = new(kind);
  o->from = from;
  o->to = to;
  o->n = n;
  o->peer = peer;
  o->comm = c;
  *group_end = o;
  group_end = &o->next;
  group_stream = s;
  return ncclGroupEnd();
}
int ncclAllReduce(const void *from, void *to, size_t n, int type, int op, void *c, void *s) {
#ifdef FAILS
  return 3;
#endif
  return op ? 4 : call(REDUCE, from, to, n, type, 0, c, s);
}
int ncclReduceScatter(const void *from, void *to, size_t n, int type, int op, void *c, void *s) {
  return op ? 4 : call(SCATTER, from, to, n, type, 0, c, s);
}
int ncclAllGather(const void *from, void *to, size_t n, int type, void *c, void *s) {
  return call(GATHER, from, to, n, type, 0, c, s);
}
#ifndef WITHOUT_SEND
int ncclSend(const void *from, size_t n, int type, int peer, void *c, void *s) {
  return call(SEND, from, 0, n, type, peer, c, s);
}
#endif
int ncclRecv(void *to, size_t n, int type, int peer, void *c, void *s) {
  return call(RECV, 0, to, n, type, peer, c, s);
}
