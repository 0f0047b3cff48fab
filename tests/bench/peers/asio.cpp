// Boost.Asio, in the shape of its own echo server: a session that keeps itself alive, with a
// buffer of its own, reading and writing in turn.
#include <boost/asio.hpp>
#include <boost/version.hpp>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

using boost::asio::ip::tcp;

static const std::size_t PREFIX = 27;
static std::size_t input = 4096;

struct Session : std::enable_shared_from_this<Session> {
    tcp::socket socket;
    std::vector<char> answer;

    explicit Session(tcp::socket client) : socket(std::move(client)), answer(PREFIX + input) {
        std::memcpy(answer.data(), "Thank you for your message ", PREFIX);
        boost::system::error_code ignored;
        socket.set_option(tcp::no_delay(true), ignored);
    }

    void read() {
        auto self = shared_from_this();
        socket.async_read_some(boost::asio::buffer(answer.data() + PREFIX, input),
                               [self](boost::system::error_code failed, std::size_t got) {
                                   if (!failed) self->write(got);
                               });
    }

    void write(std::size_t got) {
        auto self = shared_from_this();
        boost::asio::async_write(socket, boost::asio::buffer(answer.data(), PREFIX + got),
                                 [self](boost::system::error_code failed, std::size_t) {
                                     if (!failed) self->read();
                                 });
    }
};

static void accept(tcp::acceptor &acceptor) {
    acceptor.async_accept([&acceptor](boost::system::error_code failed, tcp::socket client) {
        if (!failed) std::make_shared<Session>(std::move(client))->read();
        accept(acceptor);
    });
}

int main(int argc, char **argv) {
    if (argc < 2 || !std::strcmp(argv[1], "version")) return std::puts(BOOST_LIB_VERSION) < 0;
    if (argc > 2) input = std::atol(argv[2]);
    boost::asio::io_context context(1); // one thread: it may leave out locks
    auto loopback = boost::asio::ip::address_v4::loopback();
    tcp::acceptor acceptor(context, tcp::endpoint(loopback, std::atoi(argv[1])));
    accept(acceptor);
    context.run();
}
