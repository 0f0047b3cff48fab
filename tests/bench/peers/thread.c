/* The ancestor: a thread for each client, blocking calls. What the classic tutorial meant,
 * without its mistakes: exact lengths, no copy, a small stack, no SIGPIPE. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { PREFIX = 27 };
static size_t input = 4096;

static void *serve(void *client) {
    int fd = (int)(long)client;
    char answer[PREFIX + input];
    memcpy(answer, "Thank you for your message ", PREFIX);
    ssize_t got;
    while ((got = recv(fd, answer + PREFIX, input, 0)) > 0)
        if (send(fd, answer, PREFIX + got, MSG_NOSIGNAL) < 0)
            break;
    close(fd);
    return NULL;
}

int main(int argc, char **argv) {
    int yes = 1, listener = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {.sin_family = AF_INET};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(argc > 1 ? atoi(argv[1]) : 0);
    if (argc > 2)
        input = atol(argv[2]);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    setsockopt(listener, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4096))
        return 1;
    pthread_attr_t detached;
    pthread_attr_init(&detached);
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&detached, (64 << 10) + input);
    for (;;) {
        int fd = accept(listener, NULL, NULL);
        pthread_t thread;
        if (fd >= 0 && pthread_create(&thread, &detached, serve, (void *)(long)fd))
            close(fd);
    }
}
