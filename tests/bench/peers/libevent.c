/* libevent, with bufferevents: its high-level way. A client that does not read is not read. */
#include <arpa/inet.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <event2/listener.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HIGH_WATER = 256 << 10 };

static void on_data(struct bufferevent *client, void *unused) {
    struct evbuffer *output = bufferevent_get_output(client);
    evbuffer_add(output, "Thank you for your message ", 27);
    evbuffer_add_buffer(output, bufferevent_get_input(client));
    if (evbuffer_get_length(output) > HIGH_WATER)
        bufferevent_disable(client, EV_READ);
}

static void on_flushed(struct bufferevent *client, void *unused) {
    if (!(bufferevent_get_enabled(client) & EV_READ))
        bufferevent_enable(client, EV_READ);
}

static void on_end(struct bufferevent *client, short why, void *unused) {
    bufferevent_free(client);
}

static void on_client(struct evconnlistener *listener, evutil_socket_t fd,
                      struct sockaddr *peer, int length, void *base) {
    int yes = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    struct bufferevent *client = bufferevent_socket_new(base, fd, BEV_OPT_CLOSE_ON_FREE);
    bufferevent_setcb(client, on_data, on_flushed, on_end, NULL);
    bufferevent_enable(client, EV_READ | EV_WRITE);
}

int main(int argc, char **argv) {
    if (argc < 2 || !strcmp(argv[1], "version"))
        return puts(event_get_version()) < 0;
    signal(SIGPIPE, SIG_IGN);
    struct event_base *base = event_base_new();
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1]))};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (!evconnlistener_new_bind(base, on_client, base,
                                 LEV_OPT_CLOSE_ON_FREE | LEV_OPT_REUSEABLE, 4096,
                                 (struct sockaddr *)&address, sizeof address))
        return 1;
    return event_base_dispatch(base);
}
