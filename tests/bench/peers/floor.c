/* The floor: the least that a server on epoll must do for this job. One recv and one send
 * for each message, one epoll_wait for each batch, no limits, no deadlines, no care: an
 * answer that the socket does not take whole is lost. Not a server, but a measure. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { PREFIX = 27, INPUT = 64 << 10, BATCH = 1024 };

static char answer[PREFIX + INPUT] = "Thank you for your message ";
static struct epoll_event events[BATCH];

static int listen_on(int port) {
    int yes = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    setsockopt(listener, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes); /* is inherited */
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4096))
        exit(1);
    return listener;
}

static void watch(int epoll, int fd, unsigned mask) {
    struct epoll_event event = {.events = mask, .data.fd = fd};
    epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
}

static void serve(int fd, unsigned mask) {
    for (;;) {
        ssize_t got = recv(fd, answer + PREFIX, INPUT, 0);
        if (got <= 0) {
            close(fd);
            return;
        }
        send(fd, answer, PREFIX + got, MSG_NOSIGNAL);
        if (got < INPUT && !(mask & EPOLLRDHUP))
            return; /* a short read: edge-triggered epoll will tell what comes later */
    }
}

int main(int argc, char **argv) {
    int listener = listen_on(argc > 1 ? atoi(argv[1]) : 0), epoll = epoll_create1(0);
    watch(epoll, listener, EPOLLIN);
    for (;;) {
        int ready = epoll_wait(epoll, events, BATCH, -1);
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd;
            if (fd != listener)
                serve(fd, events[i].events);
            else if ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0)
                watch(epoll, fd, EPOLLIN | EPOLLRDHUP | EPOLLET);
        }
    }
}
