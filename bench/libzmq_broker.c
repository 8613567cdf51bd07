/* The baseline of our benchmarks: the least a Majordomo (MDP/0.1) broker on libzmq can do.
 *
 * One ROUTER socket and one loop; per service a FIFO of requests and a queue of idle workers, least
 * recently used first. No heartbeats, no expiry, no redelivery, no limits: whatever a real broker
 * does beside, it does on top of this.
 *
 *   libzmq_broker ENDPOINT [KEY]  prints the endpoint it bound, then serves until it is killed;
 *                                 with a secret key as Z85 it speaks CURVE, and lets everybody in
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zmq.h>

enum { FRAMES_MAX = 16, BODY_MAX = 8, NAME_MAX_BYTES = 256, BUCKETS = 4096 };

typedef struct request {
    zmq_msg_t client;
    zmq_msg_t body[BODY_MAX];
    int frames;
    struct request *next;
} request;

typedef struct worker {
    char id[NAME_MAX_BYTES];
    size_t id_bytes;
    struct service *service;
    struct worker *next_idle;
    struct worker *next_in_bucket;
} worker;

typedef struct service {
    char name[NAME_MAX_BYTES];
    size_t name_bytes;
    request *first_request, *last_request;
    worker *first_idle, *last_idle;
    struct service *next;
} service;

static void *router;
static service *services;
static worker *workers[BUCKETS];

static int is(zmq_msg_t *frame, const char *text, size_t bytes)
{
    return zmq_msg_size(frame) == bytes && !memcmp(zmq_msg_data(frame), text, bytes);
}

static void *allocate(size_t bytes)
{
    void *memory = calloc(1, bytes);
    if (!memory)
        abort();
    return memory;
}

static service *require_service(zmq_msg_t *name)
{
    size_t bytes = zmq_msg_size(name);
    for (service *s = services; s; s = s->next)
        if (s->name_bytes == bytes && !memcmp(s->name, zmq_msg_data(name), bytes))
            return s;
    if (bytes > NAME_MAX_BYTES)
        abort();
    service *s = allocate(sizeof *s);
    memcpy(s->name, zmq_msg_data(name), bytes);
    s->name_bytes = bytes;
    s->next = services;
    return services = s;
}

/* The place of the worker with this routing id; points to NULL if there is none. */
static worker **worker_at(zmq_msg_t *id)
{
    const unsigned char *octets = zmq_msg_data(id);
    size_t bytes = zmq_msg_size(id);
    unsigned hash = 2166136261u; /* FNV-1a */
    for (size_t i = 0; i < bytes; i++)
        hash = (hash ^ octets[i]) * 16777619u;
    worker **at = &workers[hash % BUCKETS];
    while (*at && ((*at)->id_bytes != bytes || memcmp((*at)->id, octets, bytes)))
        at = &(*at)->next_in_bucket;
    return at;
}

static void more(const char *text, size_t bytes)
{
    zmq_send(router, text, bytes, ZMQ_SNDMORE);
}

static void dispatch(service *s)
{
    while (s->first_request && s->first_idle) {
        request *r = s->first_request;
        worker *w = s->first_idle;
        s->first_request = r->next;
        s->first_idle = w->next_idle;
        more(w->id, w->id_bytes);
        more("", 0);
        more("MDPW01", 6);
        more("\002", 1);
        zmq_msg_send(&r->client, router, ZMQ_SNDMORE);
        more("", 0);
        for (int i = 0; i < r->frames; i++)
            zmq_msg_send(&r->body[i], router, i < r->frames - 1 ? ZMQ_SNDMORE : 0);
        free(r);
    }
}

static void on_request(zmq_msg_t *frames, int count)
{
    service *s = require_service(&frames[3]);
    request *r = allocate(sizeof *r);
    zmq_msg_init(&r->client);
    zmq_msg_move(&r->client, &frames[0]);
    for (int i = 4; i < count && r->frames < BODY_MAX; i++) {
        zmq_msg_t *part = &r->body[r->frames++];
        zmq_msg_init(part);
        zmq_msg_move(part, &frames[i]);
    }
    if (s->first_request)
        s->last_request->next = r;
    else
        s->first_request = r;
    s->last_request = r;
    dispatch(s);
}

static void on_idle(worker *w)
{
    service *s = w->service;
    w->next_idle = NULL;
    if (s->first_idle)
        s->last_idle->next_idle = w;
    else
        s->first_idle = w;
    s->last_idle = w;
    dispatch(s);
}

static void on_ready(zmq_msg_t *frames)
{
    worker **at = worker_at(&frames[0]);
    if (!*at) {
        *at = allocate(sizeof **at);
        (*at)->id_bytes = zmq_msg_size(&frames[0]);
        memcpy((*at)->id, zmq_msg_data(&frames[0]), (*at)->id_bytes);
    }
    (*at)->service = require_service(&frames[4]);
    on_idle(*at);
}

static void on_reply(zmq_msg_t *frames, int count)
{
    worker *w = *worker_at(&frames[0]);
    if (!w)
        return;
    zmq_msg_send(&frames[4], router, ZMQ_SNDMORE);
    more("", 0);
    more("MDPC01", 6);
    more(w->service->name, w->service->name_bytes);
    for (int i = 6; i < count; i++)
        zmq_msg_send(&frames[i], router, i < count - 1 ? ZMQ_SNDMORE : 0);
    on_idle(w);
}

static void on_message(zmq_msg_t *frames, int count)
{
    if (count >= 5 && is(&frames[2], "MDPC01", 6))
        on_request(frames, count);
    else if (count >= 5 && is(&frames[2], "MDPW01", 6) && is(&frames[3], "\001", 1))
        on_ready(frames);
    else if (count >= 7 && is(&frames[2], "MDPW01", 6) && is(&frames[3], "\003", 1))
        on_reply(frames, count);
}

int main(int argc, char **argv)
{
    int unlimited = 0;
    char endpoint[256];
    size_t bytes = sizeof endpoint;

    router = zmq_socket(zmq_ctx_new(), ZMQ_ROUTER);
    zmq_setsockopt(router, ZMQ_SNDHWM, &unlimited, sizeof unlimited);
    zmq_setsockopt(router, ZMQ_RCVHWM, &unlimited, sizeof unlimited);
    if (argc == 3) {
        int server = 1;
        zmq_setsockopt(router, ZMQ_CURVE_SERVER, &server, sizeof server);
        zmq_setsockopt(router, ZMQ_CURVE_SECRETKEY, argv[2], 41);
    }
    if (argc < 2 || argc > 3 || zmq_bind(router, argv[1])) {
        fprintf(stderr, "usage: libzmq_broker ENDPOINT [KEY] (%s)\n", zmq_strerror(zmq_errno()));
        return 1;
    }
    zmq_getsockopt(router, ZMQ_LAST_ENDPOINT, endpoint, &bytes);
    printf("listening mdp %s\nready\n", endpoint);
    fflush(stdout);

    for (;;) {
        zmq_msg_t frames[FRAMES_MAX];
        int count = 0, go_on = 1;
        while (go_on) {
            if (count == FRAMES_MAX) /* too many: the last place is overwritten */
                zmq_msg_close(&frames[--count]);
            zmq_msg_init(&frames[count]);
            if (zmq_msg_recv(&frames[count], router, 0) < 0)
                return 0;
            go_on = zmq_msg_more(&frames[count++]);
        }
        on_message(frames, count);
        for (int i = 0; i < count; i++)
            zmq_msg_close(&frames[i]);
    }
}
