/* libuv at its best: one buffer for all, which has the prefix in front; the answer is written
 * at once, and only what the socket does not take is copied and queued. Until that is gone
 * the client is not read. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

enum { PREFIX = 27, INPUT = 64 << 10 };

static char answer[PREFIX + INPUT] = "Thank you for your message ";

struct rest {
    uv_write_t write;
    char bytes[];
};

static void on_data(uv_stream_t *client, ssize_t got, const uv_buf_t *buffer);

static void give_buffer(uv_handle_t *client, size_t suggested, uv_buf_t *buffer) {
    *buffer = uv_buf_init(answer + PREFIX, INPUT);
}

static void on_close(uv_handle_t *client) { free(client); }

static void on_written(uv_write_t *write, int status) {
    if (!status)
        uv_read_start(write->handle, give_buffer, on_data);
    free(write);
}

static void queue(uv_stream_t *client, const char *bytes, size_t length) {
    struct rest *rest = malloc(sizeof *rest + length);
    memcpy(rest->bytes, bytes, length);
    uv_buf_t buffer = uv_buf_init(rest->bytes, length);
    uv_read_stop(client);
    uv_write(&rest->write, client, &buffer, 1, on_written);
}

static void on_data(uv_stream_t *client, ssize_t got, const uv_buf_t *unused) {
    if (got < 0)
        return uv_close((uv_handle_t *)client, on_close);
    uv_buf_t whole = uv_buf_init(answer, PREFIX + got);
    int sent = uv_try_write(client, &whole, 1);
    if (sent < 0)
        sent = 0;
    if (sent < PREFIX + got)
        queue(client, answer + sent, PREFIX + got - sent);
}

static void on_client(uv_stream_t *listener, int status) {
    uv_tcp_t *client = malloc(sizeof *client);
    uv_tcp_init(listener->loop, client);
    if (uv_accept(listener, (uv_stream_t *)client))
        return uv_close((uv_handle_t *)client, on_close);
    uv_tcp_nodelay(client, 1);
    uv_read_start((uv_stream_t *)client, give_buffer, on_data);
}

int main(int argc, char **argv) {
    if (argc < 2 || !strcmp(argv[1], "version"))
        return puts(uv_version_string()) < 0;
    signal(SIGPIPE, SIG_IGN);
    uv_tcp_t listener;
    struct sockaddr_in address;
    uv_tcp_init(uv_default_loop(), &listener);
    uv_ip4_addr("127.0.0.1", atoi(argv[1]), &address);
    if (uv_tcp_bind(&listener, (struct sockaddr *)&address, 0)
        || uv_listen((uv_stream_t *)&listener, 4096, on_client))
        return 1;
    return uv_run(uv_default_loop(), UV_RUN_DEFAULT);
}
