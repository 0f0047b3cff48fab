//! Behind fronts, and in front of servers: PROXY headers between the real program and real
//! HAProxy, nginx and curl; and the configurations that the chapter shows.

use std::fs;
use std::process::Command;

use crate::support::{
    Client, Scratch, Server, command, needs, path, quiet_port, quoted, thanks, until,
};

const CHAPTER: &str = "docs/17-production.md";
/// Without it nginx has no `stream`.
const STREAM: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

/// A server behind fronts that says who connects.
fn behind_fronts(args: &[&str]) -> Server {
    Server::start(&[&["-v", "--proxy-protocol"], args].concat())
}

/// Another program with a configuration of its own, once it listens at this port.
fn program(words: &[&str], port: u16) -> Server {
    let [name, args @ ..] = words else { unreachable!() };
    let prelude = format!("PATH='{}'", path());
    let program = Server::spawn_other(&prelude, name, args);
    until("the front to listen", || {
        assert!(!program.has_ended(), "{words:?}: {}", program.logs());
        Client::try_to(&at(port)).is_ok()
    });
    program
}

fn at(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

fn haproxy(folder: &Scratch, config: &str, port: u16) -> Server {
    let file = folder.path("haproxy.cfg");
    fs::write(&file, config).unwrap();
    program(&["haproxy", "-db", "-f", file.to_str().unwrap()], port)
}

fn nginx(folder: &Scratch, config: &str, port: u16) -> Server {
    let file = folder.path("nginx.conf");
    let files = folder.path("nginx");
    let own = format!(
        "daemon off;\nmaster_process off;\npid {0}.pid;\nerror_log stderr;\n{config}",
        files.display()
    );
    fs::write(&file, own).unwrap();
    program(
        &["nginx", "-p", folder.path(".").to_str().unwrap(), "-c", file.to_str().unwrap()],
        port,
    )
}

/// What is said through a front is answered, and the server knows by whom it was said.
fn assert_known_through(server: &Server, port: u16) {
    let mut client = Client::to(&at(port));
    client.ask("hello\n");
    let opened = format!(" {} fd ", client.name());
    until("the client's own address", || {
        server.logs().lines().any(|line| line.contains("opened ") && line.contains(&opened))
    });
}

fn summary_of(mut server: Server) -> String {
    assert_eq!(server.stop(), Some(0), "{}", server.logs());
    let logs = server.logs();
    logs.lines().last().unwrap_or_default().to_owned()
}

const HAPROXY: &str = "\
defaults
    mode tcp
    timeout connect 5s
    timeout client 1m
    timeout server 1m
";

/// Each way in which it names its clients, and its own checks, which name nobody.
#[test]
fn haproxy_names_its_clients() {
    if !needs(&["haproxy"]) {
        return;
    }
    let (folder, server) = (Scratch::new(), behind_fronts(&[]));
    let ways = ["send-proxy", "send-proxy-v2", "send-proxy-v2-ssl", "send-proxy-v2-ssl-cn"];
    let ports = ways.map(|_| quiet_port());
    let mut config = HAPROXY.to_owned();
    for (way, port) in ways.iter().zip(ports) {
        let to = &server.addresses[0];
        config += &format!(
            "listen {way}\n    bind {}\n    server one {to} {way} check check-send-proxy inter 50ms\n",
            at(port)
        );
    }
    let _haproxy = haproxy(&folder, &config, ports[3]);
    ports.iter().for_each(|&port| assert_known_through(&server, port));
    let checks = || server.logs().matches("opened ").count() >= 4 + 8;
    until("checks of its own", checks);
    drop(_haproxy);
    let summary = summary_of(server);
    assert!(!summary.contains("bad proxy header"), "{summary}");
}

#[test]
fn nginx_names_its_clients() {
    if !needs(&["nginx", STREAM]) {
        return;
    }
    let (folder, server) = (Scratch::new(), behind_fronts(&["-l", "127.0.0.1:0"]));
    let port = quiet_port();
    let config = format!(
        "load_module {STREAM};\nevents {{}}\nstream {{\n\
         server {{ listen {}; proxy_pass {}; proxy_protocol on; }}\n}}\n",
        at(port),
        server.addresses[0],
    );
    let _nginx = nginx(&folder, &config, port);
    assert_known_through(&server, port);
}

/// A client that names itself. The access log has what it says.
#[test]
fn curl_names_itself() {
    if !needs(&["curl"]) {
        return;
    }
    let server = Server::start(&["--proxy-protocol", "--access-log", "http"]);
    let url = format!("http://{}/", server.addresses[0]);
    let curl = |args: &[&str]| Command::new("curl").args(args).arg(&url).output().unwrap();
    let said = curl(&["-sS", "--noproxy", "*", "--haproxy-protocol"]);
    assert_eq!(String::from_utf8_lossy(&said.stdout), "hello\n", "{said:?}");
    until("the access log", || server.logs().contains("127.0.0.1 - - ["));
    let refused = curl(&["-sS", "--noproxy", "*"]);
    assert_eq!((refused.status.success(), refused.stdout.len()), (false, 0));
    let cut = "was cut (bad proxy header): it came with no PROXY header, or a wrong one (--proxy-protocol)";
    until("a line about it", || server.logs().contains(cut));
    assert!(summary_of(server).contains("1 bad proxy header"));
}

/// The line that says who was turned away, and what it began with.
#[test]
fn who_brings_no_header_is_turned_away() {
    let server = behind_fronts(&[]);
    let mut client = server.client();
    client.send("GET / HTTP/1.1\r\n\r\n");
    client.until_reset();
    let line = format!("turned away {}: no PROXY header, first bytes \"GET / HT\"", client.name());
    until("the line", || server.logs().contains(&line));
}

/// Whoever speaks through several clients of a front is one address.
#[test]
fn a_front_s_clients_count_by_their_own_addresses() {
    let server = behind_fronts(&["--max-per-ip", "1"]);
    let mut through = |ip: &str| {
        let mut client = server.client();
        client.send(format!("PROXY TCP4 {ip} 198.51.100.1 5 80\r\nme\n"));
        client
    };
    let [mut one, mut other, mut again] = ["192.0.2.1", "192.0.2.2", "192.0.2.1"].map(&mut through);
    one.expect(thanks("me\n"));
    other.expect(thanks("me\n"));
    again.expect_end();
    until("the line", || server.logs().contains("192.0.2.1:5 was cut (address limit)"));
}

// ---- out -------------------------------------------------------------------------------

/// The server behind the proxy knows the client; and a second proxy in between changes nothing.
#[test]
fn our_proxy_names_its_clients() {
    let server = behind_fronts(&[]);
    let to = &server.addresses[0];
    let near = Server::start(&["--send-proxy", "--proxy-protocol", "proxy", to]);
    let far = Server::start(&["--send-proxy", "proxy", &near.addresses[0]]);
    let mut client = far.client();
    client.ask("hello\n");
    until("the client", || server.logs().contains(&format!(" {} fd ", client.name())));
    client.finish();
    client.expect_end();
    assert!(!server.logs().contains("turned away"));
}

#[test]
fn haproxy_knows_the_clients_of_our_proxy() {
    if !needs(&["haproxy"]) {
        return;
    }
    let (folder, [port, open]) = (Scratch::new(), [quiet_port(), quiet_port()]);
    let config = format!(
        "{HAPROXY}    mode http\nfrontend f\n    bind {} accept-proxy\n    bind {}\n    \
         http-request return content-type text/plain lf-string %[src]:%[src_port]=%[dst]:%[dst_port]\n",
        at(port),
        at(open)
    );
    let _haproxy = haproxy(&folder, &config, open);
    let proxy = Server::start(&["--send-proxy", "proxy", &at(port)]);
    let mut client = proxy.client();
    client.send("GET / HTTP/1.0\r\n\r\n");
    let answer = String::from_utf8(client.rest()).unwrap();
    assert!(answer.ends_with(&format!("{}={}", client.name(), proxy.addresses[0])), "{answer}");
}

// ---- as the chapter shows it -------------------------------------------------------------

/// A block of the chapter, by its first line, fit for this machine: each `from` becomes its `to`.
fn shown(first: &str, changes: &[(&str, &str)]) -> String {
    let chapter = fs::read_to_string(CHAPTER).unwrap();
    let mut lines = chapter.lines().skip_while(|line| *line != first);
    assert!(lines.next().is_some(), "{CHAPTER} has no block that begins with {first}");
    let block: Vec<&str> = lines.take_while(|line| *line != "```").collect();
    let mut block = block.join("\n") + "\n";
    for (from, to) in changes {
        assert!(block.contains(from), "{first}: no {from}");
        block = block.replace(from, to);
    }
    block
}

/// TLS is spoken by HAProxy; the access log has the client that it names.
#[test]
fn tls_by_haproxy_as_the_chapter_shows() {
    if !needs(&["haproxy", "curl", "openssl"]) {
        return;
    }
    let (folder, port) = (Scratch::new(), quiet_port());
    let file = |name: &str| folder.path(name).to_str().unwrap().to_owned();
    let make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 \
                -subj /CN=localhost -addext subjectAltName=DNS:localhost -keyout key -out cert \
                2>&1 && cat cert key >site.pem";
    let made =
        Command::new("sh").args(["-ec", make]).current_dir(folder.path(".")).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let socket = folder.unix("web.sock");
    let server = Server::start(&["-l", &socket, "--proxy-protocol", "--access-log", "http"]);
    let config = shown(
        "# /etc/haproxy/haproxy.cfg",
        &[
            ("*:443", &at(port)),
            ("/etc/haproxy/site.pem", &file("site.pem")),
            ("/run/threadbare/web.sock", &file("web.sock")),
        ],
    );
    let haproxy = haproxy(&folder, &config, port);
    let url = format!("https://localhost:{port}/");
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--noproxy", "*", "-4", "--cacert", &file("cert"), &url]);
    let said = curl.output().unwrap();
    assert_eq!(String::from_utf8_lossy(&said.stdout), "hello\n", "{said:?} {}", haproxy.logs());
    until("the client in the access log", || server.logs().contains("127.0.0.1 - - ["));
    assert!(!server.logs().contains("unix - -"), "{}", server.logs());
}

/// What several servers behind each front are asked, if one of them stops: nothing is lost.
fn assert_balanced(port: u16, mut servers: [Server; 2]) {
    let ask = || {
        let mut client = Client::to(&at(port));
        client.send("GET / HTTP/1.0\r\nHost: a\r\n\r\n");
        let answer = String::from_utf8(client.rest()).unwrap();
        assert!(answer.contains(" 200 OK\r\n") && answer.ends_with("hello\n"), "{answer}");
    };
    (0..10).for_each(|_| ask());
    let served = |server: &Server| server.logs().contains("127.0.0.1 - - [");
    until("both to have served", || servers.iter().all(served));
    assert_eq!(servers[0].stop(), Some(0));
    (0..10).for_each(|_| ask());
}

fn pair() -> [Server; 2] {
    [(); 2].map(|()| Server::start(&["--proxy-protocol", "--access-log", "http"]))
}

#[test]
fn two_servers_behind_haproxy_as_the_chapter_shows() {
    if !needs(&["haproxy"]) {
        return;
    }
    let (folder, port, servers) = (Scratch::new(), quiet_port(), pair());
    let config = shown(
        "# haproxy.cfg: two servers",
        &[
            ("*:80", &at(port)),
            ("10.0.0.11:8080", &servers[0].addresses[0]),
            ("10.0.0.12:8080", &servers[1].addresses[0]),
        ],
    );
    let _haproxy = haproxy(&folder, &config, port);
    assert_balanced(port, servers);
}

#[test]
fn two_servers_behind_nginx_as_the_chapter_shows() {
    if !needs(&["nginx", STREAM]) {
        return;
    }
    let (folder, port, servers) = (Scratch::new(), quiet_port(), pair());
    let config = shown(
        "# nginx.conf: two servers",
        &[
            ("listen 80", &format!("listen {}", at(port))),
            ("10.0.0.11:8080", &servers[0].addresses[0]),
            ("10.0.0.12:8080", &servers[1].addresses[0]),
            ("load_module modules/ngx_stream_module.so", &format!("load_module {STREAM}")),
        ],
    );
    let _nginx = nginx(&folder, &config, port);
    assert_balanced(port, servers);
}

// ---- packages ------------------------------------------------------------------------------

/// What `make install` brings is there, and works from there; what it brought is gone again.
#[test]
fn an_installation_is_whole_and_leaves_nothing() {
    let root = Scratch::new();
    let cargo = format!(
        "CARGO=printf '\"executable\":\"%s\"\\n' {}",
        quoted(env!("CARGO_BIN_EXE_threadbare").as_ref())
    );
    let make = |target: &str| {
        let to = format!("DESTDIR={}", root.path("").display());
        let mut make = command("make");
        make.args(["--no-print-directory", target, "PREFIX=/usr", &to, &cargo.replace('$', "$$")]);
        let said = make.output().unwrap();
        assert!(said.status.success(), "{said:?}");
    };
    let all = || {
        let found = Command::new("find").arg(root.path("")).args(["-type", "f"]).output().unwrap();
        let found = String::from_utf8(found.stdout).unwrap();
        let names = found.lines().map(|line| line.split("/usr/").nth(1).unwrap().to_owned());
        names.collect::<std::collections::BTreeSet<_>>()
    };
    make("install");
    let installed = all();
    for due in [
        "bin/threadbare",
        "share/man/man1/threadbare.1",
        "share/bash-completion/completions/threadbare",
        "share/zsh/site-functions/_threadbare",
        "share/fish/vendor_completions.d/threadbare.fish",
        "share/doc/threadbare/README.md",
    ] {
        assert!(installed.contains(due), "{due} of {installed:?}");
    }
    for unit in fs::read_dir("docs/units").unwrap() {
        let due = format!("lib/systemd/system/{}", unit.unwrap().file_name().display());
        assert!(installed.contains(&due), "{due} of {installed:?}");
        let unit = fs::read_to_string(root.path("usr").join(due)).unwrap();
        assert!(!unit.contains("/usr/local/"), "{unit}"); // it is in /usr
    }
    let version = Command::new(root.path("usr/bin/threadbare")).arg("-V").output().unwrap();
    assert!(version.stdout.starts_with(b"threadbare "));
    make("uninstall");
    assert_eq!(all().len(), 0, "{:?}", all());
}
