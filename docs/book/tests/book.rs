//! The book as a reader has it: in Chromium, and, for what a browser hides, by hand.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod browser;
#[path = "../../../tests/support/needs.rs"]
#[allow(dead_code)]
mod needs;

use browser::Browser;
use needs::needs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStdout, Command, Stdio};

/// A server of its own, at a port that the kernel chooses.
struct Book(Child, String, #[allow(dead_code)] BufReader<ChildStdout>); // or its pipe would break

impl Book {
    fn start() -> Book {
        let mut command = Command::new(env!("CARGO_BIN_EXE_threadbare-book"));
        let mut child = command.arg("127.0.0.1:0").stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();
        let address = line.trim().split("http://").nth(1).unwrap().trim_end_matches('/').to_owned();
        Book(child, address, output)
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.1)
    }

    /// Sends bytes and returns all that comes back.
    fn ask(&self, request: &str) -> String {
        let mut client = TcpStream::connect(&self.1).unwrap();
        client.write_all(request.replace("ADDRESS", &self.1).as_bytes()).unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    fn get(&self, path: &str) -> String {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: ADDRESS\r\nConnection: close\r\n\r\n"))
    }
}

impl Drop for Book {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The addresses of all pages, as the contents have them.
fn pages(browser: &mut Browser, book: &Book) -> Vec<String> {
    browser.open(&book.url("/docs/README.md"));
    let found = browser
        .eval("[...document.querySelectorAll('#book-contents li a')].map(it => it.pathname)");
    let found: Vec<String> = serde_json::from_value(found).unwrap();
    assert!(found.len() > 35, "{found:?}");
    found
}

#[test] // none is broken, none complains, none is wider than a phone, and all can be read
fn every_page() {
    if !needs(&["chromium"]) {
        return;
    }
    let (book, mut browser) = (Book::start(), Browser::start());
    let pages = pages(&mut browser, &book);
    let mut links = std::collections::BTreeSet::new();
    for page in &pages {
        browser.window(390, 844, "light");
        browser.open(&book.url(page));
        let width = browser.eval("document.documentElement.scrollWidth");
        assert_eq!(width, 390, "{page}");
        browser.wait("document.querySelector('#live-calls pre')");
        assert_eq!(browser.eval("document.querySelectorAll('h1').length"), 1, "{page}");
        let ids = "[...document.querySelectorAll('[id]')].map(it => it.id)";
        let twice = browser.eval(&format!("{ids}.filter((id, at, all) => all.indexOf(id) < at)"));
        assert_eq!(twice, serde_json::json!([]), "{page}: names that stand twice");
        browser.wait("[...document.images].every(it => it.complete && it.naturalWidth)");
        let found = browser.eval("[...document.links].map(it => it.href).filter(it => it.startsWith(location.origin) && !it.includes('/live/'))");
        links.extend(serde_json::from_value::<Vec<String>>(found).unwrap());
        for scheme in ["light", "dark"] {
            browser.window(1280, 900, scheme);
            let pale = browser.eval(include_str!("contrast.js"));
            assert_eq!(pale, serde_json::json!([]), "{page}, {scheme}");
        }
        assert_eq!(browser.complaints(), Vec::<String>::new(), "{page}");
    }
    assert!(links.len() > 500, "only {} links", links.len());
    let links = serde_json::to_string(&links).unwrap();
    let broken = browser.eval(&format!(
        "(async () => {{ const pages = new Map(), bad = []; for (const link of {links}) {{
            const [address, place] = link.split('#');
            if (!pages.has(address)) {{
                const answer = await fetch(address);
                pages.set(address, answer.ok && new DOMParser().parseFromString(await answer.text(), 'text/html'));
            }}
            const page = pages.get(address);
            if (!page || place && !page.getElementById(decodeURIComponent(place))) bad.push(link);
        }} return bad; }})()"
    ));
    assert_eq!(broken, serde_json::json!([]));
}

#[test] // what a reader looks for is found
fn search() {
    if !needs(&["chromium"]) {
        return;
    }
    let (book, mut browser) = (Book::start(), Browser::start());
    browser.open(&book.url("/docs/README.md"));
    browser.key("/");
    for letter in "half-close".chars() {
        browser.key(&letter.to_string());
    }
    browser.key("Enter");
    browser.wait(
        "location.pathname === '/search' && document.querySelectorAll('.found li').length > 3",
    );
    assert_eq!(
        browser.eval("document.querySelector('.found mark').textContent.toLowerCase()"),
        "half-close"
    );
    for word in [
        "EPOLLOUT",
        "EAGAIN",
        "TIME_WAIT",
        "SO_REUSEADDR",
        "SO_LINGER",
        "EMFILE",
        "ECONNRESET",
        "backlog",
        "signalfd",
        "eventfd",
        "timerfd",
        "Nagle",
        "slowloris",
        "sendfile",
        "graceful",
        "keep-alive",
        "partial",
        "edge-triggered",
        "SIGPIPE",
        "accept queue",
    ] {
        let found = book.get(&format!("/search?q={}", word.replace(' ', "+")));
        assert!(found.contains("<li><a href="), "{word} is not found");
    }
}

#[test] // each line of each trace of the docs is understood, also as other programs write it
fn the_stepper_understands_all_traces() {
    if !needs(&["chromium"]) {
        return;
    }
    let (book, mut browser) = (Book::start(), Browser::start());
    browser.open(&book.url("/docs/traces"));
    let names = browser.eval("[...document.querySelectorAll('pre.source > span')].map(it => it.textContent.replace(/^\\d+/, '').trim()).filter(it => it.endsWith('.txt'))");
    let names: Vec<String> = serde_json::from_value(names).unwrap();
    assert!(names.len() >= 17, "{names:?}");
    for name in &names {
        let steps = format!("fetch('/docs/traces/{name}?raw').then(it => it.text()).then(steps)");
        let silent = browser.eval(&format!(
            "{steps}.then(all => all.filter(it => !it.call || !it.say).map(it => it.line))"
        ));
        assert_eq!(silent, serde_json::json!([]), "{name}");
        let left = browser
            .eval(&format!("{steps}.then(all => all.at(-1).fds.filter(it => it.conn).length)"));
        assert_eq!(left, 0, "{name}: all connections are closed at the end");
        let blind = browser.eval(&format!(
            "{steps}.then(all => all.filter(it => it.say.startsWith('1 events')).length)"
        ));
        assert_eq!(blind, 0, "{name}: every event has its descriptor");
    }
    let told = r#"  0.061  accept4(3, 127.0.0.1:50844, SOCK_CLOEXEC|NONBLOCK) = 8       accepting
  0.061  epoll_ctl(4, EPOLL_CTL_ADD, 8, EPOLLIN) = 0       loop
  0.062  epoll_wait(4, [8 EPOLLIN], 1024, -1) = 1       loop
  0.063  recvfrom(8, "one\ntwo", 65536) = 7       receiving
recvfrom(8, 0x7f2ada568000, 65536, 0, NULL, NULL) = -1 EAGAIN (Resource temporarily unavailable)  # docs/receiving.md
[pid 17] sendto(8, "x"..., 100, MSG_NOSIGNAL, NULL, 0) = 60"#;
    let shown = browser.eval(&format!("steps({}).map(it => it.fds.filter(fd => fd.number === 8).map(fd => [fd.receive, fd.input, fd.outbox, it.call.chapter]).join())", serde_json::json!(told)));
    let due = [
        "0,0,0,accepting",
        "0,0,0,loop",
        "7,0,0,loop",
        "0,3,0,receiving",
        "0,3,0,receiving",
        "0,3,40,",
    ];
    assert_eq!(shown, serde_json::json!(due));
}

#[test] // beside the traces of the docs the kernel's buffers were recorded: no bound, a number
fn buffers_are_exact() {
    if !needs(&["chromium"]) {
        return;
    }
    let (book, mut browser) = (Book::start(), Browser::start());
    browser.open(&book.url("/docs/traces"));
    let names = browser.eval("fetch('/buffers.json').then(it => it.json()).then(Object.keys)");
    let names: Vec<String> = serde_json::from_value(names).unwrap();
    assert!(names.len() >= 17, "{names:?}");
    for name in &names {
        let vague = browser.eval(&format!(
            "trace('{name}').then(([text, held]) => steps(text, held).flatMap(it => it.fds.filter(fd => \
            fd.conn).flatMap(fd => [fd.receive, fd.send])).filter(it => /at most|or more|room/.test(it)))"
        ));
        assert_eq!(vague, serde_json::json!([]), "{name}");
    }
    // What a client does not read stays here, until it does.
    let sent = browser.eval(
        "trace('slow').then(([text, held]) => steps(text, held).filter(it => it.call.name === 'sendto')\
        .map(it => it.fds.find(fd => fd.number === 8).send)[0])",
    );
    let sent: u64 = sent.as_str().unwrap().parse().unwrap();
    assert!((1..196_608).contains(&sent), "{sent}: the client's kernel has taken the rest");
}

#[test] // on paper there is nothing to press, nothing dark, and nothing is cut at the edge
fn print() {
    if !needs(&["chromium"]) {
        return;
    }
    let (book, mut browser) = (Book::start(), Browser::start());
    let mut pages = pages(&mut browser, &book);
    pages.extend(["/src/reactor.rs", "/docs/traces/slow.txt", "/all"].map(str::to_owned));
    for page in &pages {
        browser.paper("dark");
        browser.open(&book.url(page));
        let color = browser.eval("getComputedStyle(document.body).backgroundColor");
        assert_eq!(color, "rgb(255, 255, 255)", "{page}");
        assert_eq!(browser.eval(include_str!("contrast.js")), serde_json::json!([]), "{page}");
        let shown = browser.eval(
            "[...document.querySelectorAll('button, input, nav, header, .live, .steps')]\
            .filter(it => it.checkVisibility()).map(it => it.outerHTML.slice(0, 60))",
        );
        assert_eq!(shown, serde_json::json!([]), "{page}");
        let cut = browser.eval(
            "[...document.querySelectorAll('main *')].filter(it => it.checkVisibility() && !it.closest('svg') && \
            (it.getBoundingClientRect().right > 681 || it.scrollWidth > it.clientWidth + 1 && \
            getComputedStyle(it).overflowX !== 'visible')).map(it => it.outerHTML.slice(0, 90))",
        );
        assert_eq!(cut, serde_json::json!([]), "{page}");
    }
    let (sheets, bytes) = browser.sheets();
    assert!(sheets > 100 && bytes > 200_000, "the whole book: {sheets} sheets, {bytes} bytes");
}

#[test] // what serves stays small: main, the handler and the log; the rest renders, or is a client
fn sizes() {
    let lines = |names: &[&str]| -> usize {
        let file = |name: &&str| std::fs::read_to_string(format!("src/{name}")).unwrap();
        let is_code = |line: &&str| !line.is_empty() && !line.starts_with("//");
        let count = |text: String| text.lines().map(str::trim).filter(is_code).count();
        names.iter().map(file).map(count).sum()
    };
    let server = lines(&["main.rs", "site.rs", "live.rs"]);
    let (rude, renderer) = (lines(&["rude.rs"]), lines(&["pages.rs", "markdown.rs"]));
    let looks = lines(&["book.css", "book.js", "page.html"]);
    println!("server {server}, rude clients {rude}, renderer {renderer}, css and js {looks}");
    assert!(server <= 300 && rude <= 100 && renderer <= 400 && looks <= 600);
}

#[test] // by keys alone: a trace is stepped through, a link leads into its middle
fn the_stepper_by_keys() {
    if !needs(&["chromium"]) {
        return;
    }
    let (book, mut browser) = (Book::start(), Browser::start());
    let page =
        pages(&mut browser, &book).into_iter().find(|it| it.ends_with("receiving.md")).unwrap();
    browser.open(&book.url(&page));
    browser.eval("document.querySelector('figure[data-trace] button').focus()");
    browser.key("Enter");
    browser.wait("document.activeElement.matches('.steps ol') && document.querySelector('.steps [aria-current]')");
    let at = "document.querySelector('.steps [aria-current]').textContent";
    let first = browser.eval(at).as_str().unwrap().to_owned();
    let shown = browser.eval("document.querySelector('figure[data-trace] pre').textContent");
    let begins = |text: &str| text.split("EPOLL").next().unwrap()[..12].to_owned();
    assert_eq!(begins(&first), begins(shown.as_str().unwrap()), "it begins where the page does");
    browser.key("ArrowRight");
    browser.wait(&format!("{at} !== {}", serde_json::json!(first)));
    browser.key("ArrowLeft");
    browser.wait(&format!("{at} === {}", serde_json::json!(first)));
    let link = browser.eval("location.href");
    browser.open(link.as_str().unwrap());
    browser.wait("document.querySelector('.steps [aria-current]')");
    assert_eq!(browser.eval("location.href"), link);
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[test] // one's own trace, dropped into the stepper, takes the place of the one that is there
fn a_trace_of_ones_own() {
    if !needs(&["chromium"]) {
        return;
    }
    let (book, mut browser) = (Book::start(), Browser::start());
    browser.open(&book.url("/docs/traces/slow.txt"));
    browser.wait("document.querySelector('.steps [aria-current]')");
    let outbox = "[...document.querySelectorAll('.fd.conn dd')].map(it => it.textContent).join()";
    browser.eval("[...document.querySelectorAll('.steps li')].find(it => it.textContent.endsWith(' = 196608')).click()");
    assert_eq!(browser.eval(outbox), "0,at most 10000,65556,163840,theirs open, ours open");
    browser.eval(
        "{ const it = new DataTransfer(); it.setData('text', 'A client connects.\\n  0.061  accept4(3, \
        127.0.0.1:50844, SOCK_CLOEXEC|NONBLOCK) = 8   accepting\\n  0.070  close(8) = 0  closing'); \
        document.querySelector('.steps').dispatchEvent(new DragEvent('drop', {dataTransfer: it})); }",
    );
    browser.wait("document.querySelectorAll('.steps li').length === 3");
    browser.key("ArrowRight");
    browser.wait("document.querySelector('.fd.conn')?.textContent.includes('from port 50844')");
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[test] // without a script all is there: text, search, calls, rude clients; and keys suffice
fn without_a_script() {
    if !needs(&["chromium"]) {
        return;
    }
    let (book, mut browser) = (Book::start(), Browser::start());
    browser.call("Emulation.setScriptExecutionDisabled", serde_json::json!({"value": true}));
    browser.open(&book.url("/docs/README.md"));
    browser.key("Tab");
    assert_eq!(browser.eval("document.activeElement.className"), "skip");
    browser.key("Enter");
    browser.wait("location.hash === '#book-main'");
    assert!(
        browser.eval("document.querySelector('article').innerText.length").as_u64() > Some(2_000)
    );
    browser.eval("document.querySelector('[name=q]').focus()");
    "backlog".chars().for_each(|letter| browser.key(&letter.to_string()));
    browser.key("Enter");
    browser.wait("document.querySelector('.found li')");
    browser.eval("document.querySelector('#live-calls a').focus()");
    browser.key("Enter");
    browser.wait("document.querySelector('.told')?.innerText.includes('recvfrom(')");
    browser.eval("document.querySelector('[formaction*=half]').focus()");
    browser.key("Enter");
    browser.wait("document.querySelector('h1').innerText === 'A rude client'");
    browser.wait("document.querySelector('.told').innerText.includes('HTTP/1.1 200 OK')");
}

#[test] // each button lets its client loose, and shows what the server did about it
fn rude_clients() {
    if !needs(&["chromium"]) {
        return;
    }
    let (book, mut browser) = (Book::start(), Browser::start());
    browser.open(&book.url("/docs/README.md"));
    browser.wait("document.querySelector('#live-calls img')?.naturalWidth > 100");
    browser.wait("document.querySelector('#live-state').textContent.includes('asleep')");
    let count =
        browser.eval("document.querySelectorAll('#live-rude button').length").as_u64().unwrap();
    assert!(count >= 8);
    let press = |browser: &mut Browser, at| {
        browser.eval(&format!("document.querySelectorAll('#live-rude button')[{at}].focus()"));
        browser.eval("document.querySelector('#live-deed').replaceChildren()");
        browser.key("Enter");
        browser.wait("document.querySelector('#live-deed pre') && !document.querySelector('#live-rude button:disabled')");
        browser.eval("document.querySelector('#live-deed').innerText").as_str().unwrap().to_owned()
    };
    for at in 0..count {
        let told = press(&mut browser, at);
        for call in ["accept4(", "epoll_wait(", "recvfrom(", "close("] {
            assert!(told.contains(call), "{told}");
        }
        let others = told.matches("accept4(").count();
        assert_eq!(others, 1, "{told}");
        let steps = "[...document.querySelectorAll('#live-deed code')].map(it => it.textContent)";
        assert_eq!(browser.eval(&format!("{steps}.filter(it => !steps(it)[0].say).join()")), "");
        if told.contains("the whole book") {
            // Amid the answers the kernel holds what the client has not read. The client waits for
            // half a second, in which a busy machine may not have asked how much that is.
            let held = "Math.max(...[...document.querySelectorAll('#live-deed [data-held]')].map(it => it.dataset.held.split(' ')[1]))";
            let is_held = |browser: &mut Browser| browser.eval(held).as_u64() > Some(0);
            for _ in 0..10 {
                if !is_held(&mut browser) {
                    press(&mut browser, at);
                }
            }
            assert!(is_held(&mut browser));
            browser.eval("document.querySelector('#live-deed button').click()");
            browser.wait(
                "document.querySelector('#live-deed .steps')?.innerText.includes('SIOCOUTQ')",
            );
        }
    }
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[test] // the calls of a page are its own: of one connection, and not the style's
fn calls_are_of_one_request() {
    let book = Book::start();
    let page = book.get("/docs/README.md");
    let number = page.split("data-request=").nth(1).unwrap().split('>').next().unwrap();
    book.get("/book.css?secret");
    let told = book.get(&format!("/live/calls?request={number}"));
    let told =
        told.split("<section class=told>").nth(1).unwrap().split("</section>").next().unwrap();
    assert_eq!(told.matches("accept4(").count(), 1, "{told}");
    assert_eq!(told.matches("\"GET ").count(), 1, "{told}");
    assert!(told.contains("GET /docs/README.md") && !told.contains("secret"), "{told}");
    let other = number.parse::<u64>().unwrap() ^ 1;
    assert!(book.get(&format!("/live/calls?request={other}")).starts_with("HTTP/1.1 404 "));
}

#[test] // a connection carries one request, so that its calls are that request's
fn one_request_a_connection() {
    let book = Book::start();
    let ask = format!("GET /docs/README.md HTTP/1.1\r\nHost: {}\r\n\r\n", book.1);
    let answers = book.ask(&(ask.clone() + &ask.replace("docs/README.md", "search?q=secret")));
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 1);
    let number = answers.rsplit("data-request=").next().unwrap().split('>').next().unwrap();
    let told = book.get(&format!("/live/calls?request={number}"));
    let told = told.split("<section class=told>").nth(1).unwrap_or_default();
    assert!(told.contains("sendto(") && told.contains("close("), "{told}");
}

#[test] // a reader who leaves while the client is loose takes the buttons from nobody
fn a_reader_leaves_before_the_rude_client_is_done() {
    let book = Book::start();
    let post =
        "POST /live/rude?client=bytes HTTP/1.1\r\nHost: ADDRESS\r\nOrigin: http://ADDRESS\r\n";
    let post = format!("{post}Connection: close\r\n\r\n");
    let mut client = TcpStream::connect(&book.1).unwrap();
    client.write_all(post.replace("ADDRESS", &book.1).as_bytes()).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(30));
    let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
    nix::sys::socket::setsockopt(&client, nix::sys::socket::sockopt::Linger, &linger).unwrap();
    drop(client);
    let answer = book.ask(&post);
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[test] // no name that an attacker controls leads here, and no other page presses the buttons
fn host_and_origin_are_checked() {
    let book = Book::start();
    let status = |method: &str, path: &str, fields: &str| {
        let answer =
            book.ask(&format!("{method} {path} HTTP/1.1\r\n{fields}Connection: close\r\n\r\n"));
        answer.split(' ').nth(1).unwrap_or_default().to_owned()
    };
    let port = book.1.rsplit(':').next().unwrap();
    for (fields, due) in [
        ("Host: ADDRESS\r\n".to_owned(), "200"),
        (format!("Host: localhost:{port}\r\n"), "200"),
        (format!("Host: evil.example:{port}\r\n"), "403"),
        (format!("Host: 127.0.0.1.evil.example:{port}\r\n"), "403"),
        ("Host: 127.0.0.1\r\n".to_owned(), "403"),
        (String::new(), "403"),
        ("Host: ADDRESS\r\nOrigin: http://ADDRESS\r\n".to_owned(), "200"),
        ("Host: ADDRESS\r\nOrigin: http://evil.example\r\n".to_owned(), "403"),
        ("Host: ADDRESS\r\nOrigin: null\r\n".to_owned(), "403"),
        (format!("Host: evil.example:{port}\r\nOrigin: http://evil.example:{port}\r\n"), "403"),
    ] {
        assert_eq!(status("GET", "/docs/README.md", &fields), due, "{fields}");
    }
    let rude = "/live/rude?client=silent";
    assert_eq!(status("POST", rude, "Host: ADDRESS\r\nOrigin: http://ADDRESS\r\n"), "200");
    assert_eq!(status("POST", rude, "Host: ADDRESS\r\nOrigin: http://evil.example\r\n"), "403");
    assert_eq!(status("POST", rude, "Host: ADDRESS\r\n"), "403", "no browser posts without it");
    assert_eq!(status("GET", rude, "Host: ADDRESS\r\n"), "404", "a link lets nobody loose");
}

#[test] // what no browser sends is refused, and paths lead nowhere else
fn strange_requests() {
    let book = Book::start();
    let status = |request: &str| book.ask(request).split(' ').nth(1).unwrap_or_default().to_owned();
    let host = "HTTP/1.1\r\nHost: ADDRESS\r\nConnection: close\r\n";
    assert_eq!(status("\0\x01\r\n\r\n"), "400");
    assert_eq!(status(&format!("GET /{} {host}\r\n", "x".repeat(20_000))), "431");
    assert_eq!(status(&format!("BREW / {host}\r\n")), "405");
    let body = "Origin: http://ADDRESS\r\nContent-Length: 99999999999999999999\r\n\r\n";
    assert_eq!(status(&format!("POST / {host}{body}")), "405");
    assert_eq!(status(&format!("GET /../../etc/passwd {host}\r\n")), "404");
    assert_eq!(status(&format!("GET /Cargo.lock {host}\r\n")), "404", "no page links to it");
    let head = book.ask(&format!("HEAD /docs/README.md {host}\r\n"));
    assert!(head.ends_with("\r\n\r\n") && head.contains("Content-Length: "), "{head}");
}

#[test]
#[ignore = "pictures, for people: PICTURES=folder"]
fn pictures() {
    let folder = std::env::var("PICTURES").unwrap_or_else(|_| "/tmp".to_owned());
    let (book, mut browser) = (Book::start(), Browser::start());
    let shots = std::env::var("SHOTS").unwrap_or_else(|_| "/docs/README.md".to_owned());
    for shot in shots.split(' ') {
        let (path, script) = shot.split_once('!').unwrap_or((shot, ""));
        for (name, width, height, scheme) in [
            ("print", 680, 1000, "dark"),
            ("light", 1280, 900, "light"),
            ("dark", 1280, 900, "dark"),
            ("phone", 390, 844, "light"),
        ] {
            browser.window(width, height, scheme);
            browser.open(&book.url(path));
            browser.wait("document.querySelector('#live-calls pre')");
            if name == "print" {
                browser.paper(scheme);
            }
            if !script.is_empty() {
                browser.eval(&script.replace('~', " "));
                std::thread::sleep(std::time::Duration::from_millis(1500));
            }
            let file = path.trim_matches('/').replace(['/', '#', '?', ':'], "_");
            let at = if script.is_empty() { "" } else { "_at" };
            browser.picture(&format!("{folder}/{file}{at}_{name}.png"));
        }
    }
}
