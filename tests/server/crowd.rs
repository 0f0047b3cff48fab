//! Crowds, with real sockets: nobody waits behind another's, whatever is short.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::support::{
    Client, PATIENCE, Scratch, Server, Signal, in_a_network_of_its_own, needs,
    raise_descriptor_limit, until,
};
use nix::sys::socket::{Backlog, listen};

/// Lets eight clients at the first door and one at each other come again and again, and returns
/// how many were served at each when there were `enough`.
fn served(doors: &[String], enough: usize) -> Vec<usize> {
    let served: Arc<Vec<AtomicUsize>> =
        Arc::new(doors.iter().map(|_| AtomicUsize::default()).collect());
    let is_over = Arc::new(AtomicBool::new(false));
    let mut threads = Vec::new();
    for (door, address) in doors.iter().enumerate() {
        for _ in 0..if door == 0 { 8 } else { 1 } {
            let (address, served) = (address.clone(), Arc::clone(&served));
            let is_over = Arc::clone(&is_over);
            threads.push(thread::spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    Client::to(&address).ask("me\n");
                    served[door].fetch_add(1, Ordering::Relaxed);
                }
            }));
        }
    }
    let count = || served.iter().map(|count| count.load(Ordering::Relaxed)).collect::<Vec<_>>();
    until("clients to be served", || count().iter().sum::<usize>() >= enough);
    let counted = count();
    is_over.store(true, Ordering::Relaxed);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    counted
}

#[track_caller]
fn assert_fair(served: &[usize]) {
    let (least, most) = (served.iter().min().unwrap(), served.iter().max().unwrap());
    assert!(least * 10 >= *most, "served {served:?}");
    println!("served {served:?}");
}

const DOORS: [&str; 6] = ["-l", "127.0.0.1:0", "-l", "127.0.0.1:0", "-l", "127.0.0.1:0"];

#[test] // a full house has doors for all
fn a_full_house_at_three_doors() {
    let server = Server::start(&[&DOORS[..], &["--max-connections", "1"]].concat());
    assert_fair(&served(&server.addresses, 600));
}

#[test] // and so has one that is out of descriptors
fn out_of_descriptors_at_three_doors() {
    if !needs(&["prlimit"]) {
        return;
    }
    let server = Server::start(&DOORS);
    server.limit_descriptors(server.descriptors() + 1);
    assert_fair(&served(&server.addresses, 600));
}

#[test] // of `localhost` both addresses are served alike
fn localhost_is_both_its_addresses() {
    let server = Server::start(&["-l", "localhost:0", "--max-connections", "1"]);
    let mut doors = server.addresses.clone();
    doors.sort_by_key(|door| !door.starts_with('[')); // the crowd is where it was served alone
    assert_fair(&served(&doors, 400));
}

#[test] // a stop lets in who waits, at all doors alike
fn a_stop_at_three_doors() {
    let mut server = Server::start(&[&DOORS[..], &["--max-connections", "1"]].concat());
    server.freeze();
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut threads = Vec::new();
    for (door, address) in server.addresses.iter().enumerate() {
        for _ in 0..40 {
            let (mut client, order) = (Client::to(address), Arc::clone(&order));
            client.send("me\n");
            threads.push(thread::spawn(move || {
                if client.try_line().is_ok_and(|line| line.ends_with("me\n")) {
                    order.lock().unwrap().push(door);
                }
            }));
        }
    }
    server.signal(Signal::SIGTERM);
    server.thaw();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(server.wait(), Some(0), "{}", server.logs());
    let order = order.lock().unwrap();
    assert_eq!(order.len(), 120);
    let first = &order[..40];
    let served: Vec<_> =
        (0..3).map(|door| first.iter().filter(|it| **it == door).count()).collect();
    assert_fair(&served);
}

// ---- on the way out ------------------------------------------------------------------

/// Answers so many clients, one after the other.
fn answer(count: usize, mut accept: impl FnMut() -> Box<dyn Both> + Send + 'static) {
    thread::spawn(move || {
        for _ in 0..count {
            let mut stream = accept();
            let mut ping = [0; 4];
            stream.read_exact(&mut ping).unwrap();
            stream.write_all(b"pong").unwrap();
        }
    });
}

trait Both: Read + Write {}
impl<T: Read + Write> Both for T {}

/// Clients that have said something.
fn callers(proxy: &Server, count: usize) -> Vec<Client> {
    let mut callers = proxy.clients(count);
    callers.iter_mut().for_each(|client| client.send("ping"));
    callers
}

#[test] // the queue of the server behind is full: who comes then waits, and is served
fn a_full_queue_behind() {
    let scratch = Scratch::new();
    let server = UnixListener::bind(scratch.path("back")).unwrap();
    listen(&server, Backlog::new(1).unwrap()).unwrap();
    let proxy = Server::start(&["--connect-timeout", "60", "proxy", &scratch.unix("back")]);
    let callers = callers(&proxy, 100);
    until("the queue to be full", || proxy.logs().contains("EAGAIN"));
    answer(100, move || Box::new(server.accept().unwrap().0));
    for mut caller in callers {
        caller.expect_rest("pong");
    }
    assert_eq!(proxy.logs().matches("EAGAIN").count(), 1, "{}", proxy.logs());
}

#[test] // no descriptor for the connection behind: the client waits until another has left
fn few_descriptors_for_both_sides() {
    if !needs(&["prlimit"]) {
        return;
    }
    for left in 2..10 {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let behind = server.local_addr().unwrap().to_string();
        let proxy = Server::start(&["--connect-timeout", "60", "proxy", &behind]);
        proxy.limit_descriptors(proxy.descriptors() + left);
        let callers = callers(&proxy, 10);
        answer(10, move || Box::new(server.accept().unwrap().0));
        for mut caller in callers {
            caller.expect_rest("pong");
        }
    }
}

#[test] // no port for the connection behind: the same
fn few_ports_for_the_server_behind() {
    let name = "crowd::few_ports_for_the_server_behind";
    let prepare = "echo '50000 50019' > /proc/sys/net/ipv4/ip_local_port_range";
    in_a_network_of_its_own(name, prepare, || {
        let scratch = Scratch::new();
        let server = TcpListener::bind("127.0.0.1:1234").unwrap();
        let options = ["-l", &scratch.unix("front"), "--connect-timeout", "60"];
        let proxy = Server::start(&[&options[..], &["proxy", "127.0.0.1:1234"]].concat());
        let callers = callers(&proxy, 60);
        until("ports to run out", || proxy.logs().contains("EADDRNOTAVAIL"));
        answer(60, move || Box::new(server.accept().unwrap().0));
        for mut caller in callers {
            caller.expect_rest("pong");
        }
    });
}

// ---- places --------------------------------------------------------------------------

/// A house that is full of idle clients of one address.
fn house_full_of_one(options: &[&str]) -> (Server, Vec<Client>) {
    raise_descriptor_limit();
    let server = Server::start(&[options, &["--max-connections", "300"]].concat());
    let mut crowd = server.clients(300);
    crowd.iter_mut().for_each(|client| client.ask("me\n"));
    (server, crowd)
}

#[test] // 300 idle connections of one address do not keep another address out
fn an_idle_crowd_gives_way() {
    let (server, mut crowd) = house_full_of_one(&[]);
    let mut others: Vec<Client> = (2..12)
        .map(|number| Client::from(Ipv4Addr::new(127, 0, 0, number), &server.addresses[0]))
        .collect();
    others.iter_mut().for_each(|other| other.ask("me too\n"));
    // Who has been idle for longest has gone, with FIN; who is left is served.
    crowd.drain(..10).for_each(|mut client| client.expect_end());
    crowd.iter_mut().for_each(|client| client.ask("still here\n"));
    others.iter_mut().for_each(|other| other.ask("me too\n"));
    assert!(server.logs().contains("was cut (gave way): all 300 places were taken"));
}

#[test] // unless that is off
fn an_idle_crowd_that_stays() {
    let (server, mut crowd) = house_full_of_one(&["--give-way", "0"]);
    let mut other = Client::from(Ipv4Addr::new(127, 0, 0, 2), &server.addresses[0]);
    other.send("me too\n");
    other.expect_silence(Duration::from_millis(2_500));
    drop(crowd.pop());
    other.expect("Thank you for your message me too\n");
    crowd.iter_mut().for_each(|client| client.ask("still here\n"));
}

#[test] // connections that outlive their clients keep their places, and newcomers wait
fn a_server_behind_that_lets_nobody_go() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let behind = server.local_addr().unwrap().to_string();
    let proxy = Server::start(&["--max-connections", "2", "proxy", &behind]);
    let mut kept = Vec::new();
    for _ in 0..6 {
        let mut client = proxy.client();
        client.send("ping");
        let mut stream = server.accept().unwrap().0;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.read_exact(&mut [0; 4]).unwrap();
        client.finish();
        assert_eq!(stream.read(&mut [0]).unwrap(), 0); // and does not end what it has
        client.reset();
        kept.push(stream);
    }
}

// ---- SIGUSR1 -------------------------------------------------------------------------

#[test] // however often a report is asked for, there is one a second
fn a_flood_of_reports() {
    let server = Server::start(&[]);
    let mut clients = server.clients(150);
    for _ in 0..2_000 {
        server.signal(Signal::SIGUSR1);
    }
    clients.iter_mut().for_each(|client| client.ask("me\n"));
    until("a report", || server.logs().contains(" open, holding "));
    let count = server.logs().matches(" open, holding ").count();
    assert!(count <= 20, "{count} reports");
}
