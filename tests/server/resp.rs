//! The RESP server of docs/programs/resp.rs with real clients: redis-cli, redis-benchmark.

use crate::support::{Server, needs, until};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

fn port(server: &Server) -> String {
    server.addresses[0].rsplit(':').next().unwrap().to_owned()
}

fn redis_cli(port: &str, words: &[&str]) -> String {
    let output = Command::new("redis-cli").args(["-p", port]).args(words).output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}

#[test]
fn redis_cli_is_served() {
    if !needs(&["redis-cli"]) {
        return;
    }
    let server = Server::example("resp", &["127.0.0.1:0"]);
    let port = port(&server);
    for (words, answer) in [
        (&["ping"][..], "PONG"),
        (&["set", "greeting", "hello there"], "OK"),
        (&["get", "greeting"], "hello there"),
        (&["incr", "count"], "1"),
        (&["rpush", "list", "a", "b"], "2"),
        (&["lpop", "list"], "a"),
        (&["blpop", "nothing", "1"], ""),
        (&["set", "short", "x", "px", "1"], "OK"),
    ] {
        assert_eq!(redis_cli(&port, words), answer, "{words:?}");
    }
    until("the key to expire", || redis_cli(&port, &["get", "short"]).is_empty());
    let mut listener = Command::new("redis-cli")
        .args(["-p", &port, "subscribe", "news"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(listener.stdout.take().unwrap()).lines();
    let mut next = || lines.next().unwrap().unwrap();
    assert_eq!([next(), next(), next()], ["subscribe", "news", "1"]);
    assert_eq!(redis_cli(&port, &["publish", "news", "hello"]), "1");
    assert_eq!([next(), next(), next()], ["message", "news", "hello"]);
    listener.kill().unwrap();
    listener.wait().unwrap();
    until("it to have left", || redis_cli(&port, &["publish", "news", "hello"]) == "0");
}

#[test]
fn redis_benchmark_is_served() {
    if !needs(&["redis-benchmark"]) {
        return;
    }
    let server = Server::example("resp", &["127.0.0.1:0"]);
    let port = port(&server);
    let tests = "ping_inline,ping_mbulk,set,get,incr,lpush,rpush,lpop,rpop";
    let words = ["-p", &port, "-n", "2000", "-c", "20", "-P", "8", "--csv", "-t", tests];
    let output = Command::new("redis-benchmark").args(words).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    for test in
        ["PING_INLINE", "PING_MBULK", "SET", "GET", "INCR", "LPUSH", "RPUSH", "LPOP", "RPOP"]
    {
        assert!(text.lines().any(|line| line.starts_with(&format!("\"{test}\""))), "{text}");
    }
    assert_eq!(redis_cli(&port, &["dbsize"]), "2");
}
