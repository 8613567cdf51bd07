/* The baseline of our Paranoid Pirate benchmarks: the least such a queue on libzmq can do.
 *
 * Two ROUTER sockets and one loop; workers are used least recently first, and clients are read only
 * while a worker is free. No heartbeats and no expiry: whatever a real queue does beside, it does on
 * top of this.
 *
 *   libzmq_ppqueue FRONTEND BACKEND  prints the endpoints it bound, then serves until it is killed
 */
#include <stdio.h>
#include <stdlib.h>
#include <zmq.h>

enum { IDLE_MAX = 65536, NAME_MAX_BYTES = 255 };

/* Free workers by routing id: a ring. */
static struct {
    char id[NAME_MAX_BYTES];
    size_t bytes;
} idle[IDLE_MAX];
static unsigned first_idle, idle_len;

static void *bind_router(void *context, const char *endpoint, const char *what)
{
    int unlimited = 0;
    char bound[256];
    size_t bytes = sizeof bound;
    void *router = zmq_socket(context, ZMQ_ROUTER);

    zmq_setsockopt(router, ZMQ_SNDHWM, &unlimited, sizeof unlimited);
    zmq_setsockopt(router, ZMQ_RCVHWM, &unlimited, sizeof unlimited);
    if (zmq_bind(router, endpoint)) {
        fprintf(stderr, "libzmq_ppqueue: %s: %s\n", endpoint, zmq_strerror(zmq_errno()));
        exit(1);
    }
    zmq_getsockopt(router, ZMQ_LAST_ENDPOINT, bound, &bytes);
    printf("listening %s %s\n", what, bound);
    return router;
}

/* The rest of the message at `from` goes to `to`. */
static void forward(void *from, void *to)
{
    int more = 1;
    while (more) {
        zmq_msg_t frame;
        zmq_msg_init(&frame);
        zmq_msg_recv(&frame, from, 0);
        more = zmq_msg_more(&frame);
        zmq_msg_send(&frame, to, more ? ZMQ_SNDMORE : 0);
    }
}

static void on_worker(void *front, void *back)
{
    zmq_msg_t frame;
    unsigned place = (first_idle + idle_len) % IDLE_MAX;
    int bytes = zmq_recv(back, idle[place].id, NAME_MAX_BYTES, 0);

    if (bytes < 0 || bytes > NAME_MAX_BYTES || idle_len == IDLE_MAX)
        abort();
    idle[place].bytes = (size_t)bytes;
    idle_len++;
    /* READY is one frame alone; a reply begins with its client. */
    zmq_msg_init(&frame);
    zmq_msg_recv(&frame, back, 0);
    if (zmq_msg_more(&frame)) {
        zmq_msg_send(&frame, front, ZMQ_SNDMORE);
        forward(back, front);
    } else
        zmq_msg_close(&frame);
}

static void on_client(void *front, void *back)
{
    zmq_send(back, idle[first_idle].id, idle[first_idle].bytes, ZMQ_SNDMORE);
    first_idle = (first_idle + 1) % IDLE_MAX;
    idle_len--;
    forward(front, back);
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: libzmq_ppqueue FRONTEND BACKEND\n");
        return 1;
    }
    void *context = zmq_ctx_new();
    void *front = bind_router(context, argv[1], "ppp-frontend");
    void *back = bind_router(context, argv[2], "ppp-backend");
    puts("ready");
    fflush(stdout);

    for (;;) {
        zmq_pollitem_t items[] = {{back, 0, ZMQ_POLLIN, 0}, {front, 0, ZMQ_POLLIN, 0}};
        if (zmq_poll(items, idle_len ? 2 : 1, -1) < 0)
            return 0;
        if (items[0].revents)
            on_worker(front, back);
        if (idle_len && items[1].revents)
            on_client(front, back);
    }
}
