//! A name that the user gave keeps its meaning: `localhost` where the machine has only one of
//! its addresses, a directory that is made anew, a server behind that moves.

use crate::support::{
    Client, Finished, PATIENCE, Scratch, Server, eventually, in_a_network_of_its_own, quiet_port,
    run, until,
};
use std::fs;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::Instant;

/// Words in front of the program's own, which give it a hosts(5) file of its own. (It takes
/// root, at least of a namespace.)
fn with_hosts(hosts: &str) -> [String; 6] {
    let bind = format!("mount --bind '{hosts}' /etc/hosts; exec \"$0\" \"$@\"");
    ["unshare", "--mount", "sh", "-ec", &bind, "env"].map(str::to_owned)
}

/// A hosts file.
struct Hosts(Scratch);

impl Hosts {
    fn new(lines: &str) -> Hosts {
        let hosts = Hosts(Scratch::new());
        hosts.say(lines);
        hosts
    }

    fn path(&self) -> PathBuf {
        self.0.path("hosts")
    }

    /// In place: what is mounted is the file, not its name.
    fn say(&self, lines: &str) {
        fs::write(self.path(), lines).unwrap();
    }

    fn start(&self, args: &[&str]) -> Server {
        let words = with_hosts(self.path().to_str().unwrap());
        Server::start_under(&words.each_ref().map(String::as_str), args)
    }

    fn run(&self, args: &[&str]) -> Finished {
        let words = with_hosts(self.path().to_str().unwrap());
        let mut server = Server::spawn_under(&words.each_ref().map(String::as_str), args);
        let code = server.wait();
        Finished { code, stdout: server.stdout(), stderr: server.logs() }
    }
}

const BOTH: &str = "::1 localhost\n127.0.0.1 localhost\n";

#[test] // as in a container of Docker's: the name has an address that the machine lacks
fn localhost_without_ipv6() {
    let lack = "ip addr del ::1/128 dev lo";
    in_a_network_of_its_own("names::localhost_without_ipv6", lack, || {
        let hosts = Hosts::new(BOTH);
        let server = hosts.start(&["-l", "localhost:1234"]);
        assert_eq!(server.addresses, ["127.0.0.1:1234"]);
        server.client().ask("hello\n");
        let line = "warning: bind localhost:1234 ([::1]:1234): EADDRNOTAVAIL \
                    (Cannot assign requested address); going on without\n";
        assert_eq!(server.logs(), line);
        // What is written as an address is meant so, even beside the name.
        for words in [&["-l", "[::1]:1"][..], &["-l", "localhost:1", "-l", "[::1]:1"]] {
            let failed = hosts.run(words);
            assert_eq!((failed.code, failed.stdout.as_str()), (Some(2), ""));
            let line = "error: bind [::1]:1: EADDRNOTAVAIL (Cannot assign requested address); ";
            assert!(failed.stderr.starts_with(line), "{}", failed.stderr);
        }
    });
}

#[test]
fn localhost_without_ipv4() {
    let lack = "ip addr del 127.0.0.1/8 dev lo";
    in_a_network_of_its_own("names::localhost_without_ipv4", lack, || {
        let server = Hosts::new(BOTH).start(&["-l", "localhost:1234"]);
        assert_eq!(server.addresses, ["[::1]:1234"]);
        server.client().ask("hello\n");
        let line = "warning: bind localhost:1234 (127.0.0.1:1234): EADDRNOTAVAIL \
                    (Cannot assign requested address); going on without\n";
        assert_eq!(server.logs(), line);
    });
}

#[test] // the message names the word that the user wrote
fn a_name_of_nothing_here() {
    in_a_network_of_its_own("names::a_name_of_nothing_here", "", || {
        let hosts = Hosts::new("192.0.2.1 elsewhere\n2001:db8::1 elsewhere\n127.0.0.1 here\n");
        let failed = hosts.run(&["-l", "elsewhere:1234"]);
        assert_eq!((failed.code, failed.stdout.as_str()), (Some(2), ""));
        let line = "error: bind elsewhere:1234 (192.0.2.1:1234): EADDRNOTAVAIL \
                    (Cannot assign requested address); ";
        assert!(failed.stderr.starts_with(line), "{}", failed.stderr);
        assert_eq!(failed.stderr.lines().count(), 1, "{}", failed.stderr);
        // An address that another server has is no address that is lacking.
        let _server = hosts.start(&["-l", "127.0.0.1:1234"]);
        let failed = hosts.run(&["-l", "here:1234"]);
        let line = "error: bind here:1234 (127.0.0.1:1234): EADDRINUSE ";
        assert!(failed.stderr.contains("(127.0.0.1:1234): EADDRINUSE"), "{}", failed.stderr);
        assert!(failed.stderr.replace("listen", "bind").starts_with(line), "{}", failed.stderr);
        assert!(failed.stderr.contains("ss -tanp"), "{}", failed.stderr);
    });
}

#[test] // the resolver takes 0 for 0.0.0.0: that is said, and not done
fn numbers_are_not_guessed() {
    for word in ["0:1234", "010.0.0.1:1234", "unix:@name", "[::ffff:127.0.0.1]:1234"] {
        for words in [&["-l", word][..], &["proxy", word]] {
            let failed = run(words);
            assert_eq!((failed.code, failed.stdout.as_str()), (Some(2), ""), "{words:?}");
            let named = format!("{} \"{word}\" ", words[0]);
            assert!(failed.stderr.starts_with(&format!("error: {named}")), "{}", failed.stderr);
            assert!(failed.stderr.contains(" write "), "{}", failed.stderr);
            assert_eq!(failed.stderr.lines().count(), 1, "{}", failed.stderr);
        }
    }
}

#[test] // more listeners than a server can have: the limit, and the way out
fn too_many_listeners() {
    let words: Vec<String> = (1..=256).map(|n| format!("-l127.0.0.1:{}", 10_000 + n)).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let failed = run(&words);
    let line = "error: -l names 256 addresses, and a server has at most 255: 0.0.0.0:PORT is all \
                addresses of this machine, [::]:PORT all IPv6 ones; try -h\n";
    assert_eq!((failed.code, failed.stderr.as_str()), (Some(2), line));
}

#[test] // a place named twice is one, a name and its address too
fn named_twice() {
    let port = quiet_port();
    let words = ["127.0.0.1", "127.0.0.1"].map(|host| format!("{host}:{port}"));
    let mut server = Server::spawn("", &["-l", &words[0], "-l", &words[1]]);
    until("the ready line", || server.stdout().ends_with('\n') || server.has_ended());
    assert_eq!(server.stdout(), format!("listening on 127.0.0.1:{port}\n"), "{}", server.logs());
    Client::to(&words[0]).ask("hello\n");
    assert_eq!(server.stop(), Some(0));
}

// ---- a directory ---------------------------------------------------------------------------

fn page(server: &Server) -> String {
    let mut client = server.client();
    client.send("GET /page HTTP/1.0\r\n\r\n");
    String::from_utf8(client.rest()).unwrap()
}

#[test] // a deploy that swaps a symbolic link, and one that removes the directory first
fn a_directory_that_is_another_one() {
    let scratch = Scratch::new();
    let path = |name: &str| scratch.path(name);
    for folder in ["one", "two"] {
        fs::create_dir(path(folder)).unwrap();
        fs::write(path(folder).join("page"), folder).unwrap();
    }
    let link_to = |folder: &str| {
        symlink(folder, path("new")).unwrap();
        fs::rename(path("new"), path("current")).unwrap();
    };
    link_to("one");
    let server = Server::start(&["http", path("current").to_str().unwrap()]);
    let before = server.descriptors();
    assert!(page(&server).ends_with("\r\n\r\none"));
    link_to("two");
    let begun = Instant::now();
    until("the new content", || page(&server).ends_with("\r\n\r\ntwo"));
    assert!(begun.elapsed() < PATIENCE / 2, "{:?}", begun.elapsed());
    fs::remove_dir_all(path("two")).unwrap();
    until("the old directory to be empty", || page(&server).contains(" 404 "));
    fs::create_dir(path("two")).unwrap();
    fs::write(path("two").join("page"), "anew").unwrap();
    until("the directory that was made anew", || page(&server).ends_with("\r\n\r\nanew"));
    until("the old ones to be closed", || server.descriptors() == before);
}

// ---- the server behind a proxy --------------------------------------------------------------

fn listen_at(address: &str) -> TcpListener {
    TcpListener::bind(address).unwrap()
}

/// Whether a client of the proxy comes to this server. If not, it is reset.
fn reaches(proxy: &Server, server: &TcpListener) -> bool {
    let client = proxy.client().into_stream();
    client.set_nonblocking(true).unwrap();
    server.set_nonblocking(true).unwrap();
    eventually("a connection, or its end", || match (server.accept(), client.peek(&mut [0])) {
        (Ok(_), _) => Some(true),
        (_, Err(error)) if error.kind() == ErrorKind::WouldBlock => None,
        _ => Some(false),
    })
}

#[test] // a container gets a new address, and is not there at first
fn a_server_behind_that_moves() {
    in_a_network_of_its_own("names::a_server_behind_that_moves", "", || {
        let hosts = Hosts::new("127.0.0.1 localhost\n");
        let proxy = hosts.start(&["-v", "-l", "127.0.0.1:1234", "proxy", "behind:1234"]);
        let line = "warning: proxy \"behind:1234\" does not resolve (";
        assert!(proxy.logs().contains(line), "{}", proxy.logs());
        assert!(proxy.client().until_reset().is_empty());
        let line = "\"behind:1234\" does not resolve (";
        until("the log", || proxy.logs().matches(line).count() == 2); // with a client, once more
        let first = listen_at("127.0.0.2:1234");
        hosts.say("127.0.0.2 behind\n");
        until("the name to be there", || reaches(&proxy, &first));
        drop(first);
        let second = listen_at("127.0.0.3:1234");
        hosts.say("127.0.0.3 behind\n");
        until("the new address", || reaches(&proxy, &second));
        until("a line in the log", || proxy.logs().contains("behind:1234 is 127.0.0.3:1234\n"));
        // An address of its own would be a loop.
        drop(second);
        hosts.say("127.0.0.1 behind\n");
        assert!(proxy.client().until_reset().is_empty());
        let line = "behind:1234 leads back to this proxy";
        until("a line about the loop", || {
            let _ = proxy.client().until_reset(); // it is looked up every three seconds
            proxy.logs().contains(line)
        });
        assert_eq!(proxy.threads(), 3, "the loop, the log, and one for all lookups");
    });
}

#[test] // the server behind is named as the user named it
fn a_name_behind_in_the_log() {
    in_a_network_of_its_own("names::a_name_behind_in_the_log", "", || {
        let hosts = Hosts::new("127.0.0.2 behind\n");
        let proxy = hosts.start(&["-l", "127.0.0.1:1234", "proxy", "behind:90"]);
        assert!(proxy.client().until_reset().is_empty());
        let line = "connect behind:90 (127.0.0.2:90): ECONNREFUSED (Connection refused); clients";
        until("a line in the log", || proxy.logs().contains(line));
    });
}
