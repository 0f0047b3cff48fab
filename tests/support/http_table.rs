//! Requests and what is due to them: a table of our own, and behind it the facts of others, in
//! http_facts.txt. Behind each request stands [`LAST`], which is answered only if the
//! connection goes on: so what follows a request that is refused is never answered.

#![allow(unreachable_pub)] // two test programs use it

/// The request behind each case.
pub const LAST: &str = "GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

pub struct Case {
    pub request: Vec<u8>,
    /// The status of each answer, that to `LAST` included (404).
    pub due: Vec<u16>,
    /// What the first answer has in it.
    #[allow(dead_code)] // one of the test programs looks at it
    pub has: &'static str,
}

/// A GET of `path` with these lines, each `Name: value`.
fn get(path: &str, fields: &str) -> Vec<u8> {
    let lines: String = fields.lines().map(|line| format!("{line}\r\n")).collect();
    format!("GET {path} HTTP/1.1\r\nHost: x\r\n{lines}\r\n").into()
}

fn post(fields: &str, body: &str) -> Vec<u8> {
    let lines: String = fields.lines().map(|line| format!("{line}\r\n")).collect();
    format!("POST / HTTP/1.1\r\nHost: x\r\n{lines}\r\n{body}").into()
}

#[rustfmt::skip] // one row a case
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut case = |request: Vec<u8>, due: &'static [u16], has: &'static str| cases.push(Case { request, due: due.to_vec(), has });
    let raw = |text: &str| text.as_bytes().to_vec();
    // Files.
    case(get("/", ""), &[200, 404], "\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: 6\r\n");
    case(get("/index.html?a=b", ""), &[200, 404], "\r\n\r\nindex\n");
    case(get("/sub/", ""), &[200, 404], "\r\n\r\nsub\n");
    // A redirect is relative, so that it keeps a prefix that a proxy has taken away.
    case(get("/sub", ""), &[301, 404], "\r\nLocation: ./sub/\r\n");
    case(get("/sub?q", ""), &[301, 404], "\r\nLocation: ./sub/?q\r\n");
    case(get("/sub?", ""), &[301, 404], "\r\nLocation: ./sub/?\r\n");
    case(get("/sub?/a/b", ""), &[301, 404], "\r\nLocation: ./sub/?/a/b\r\n");
    case(get("//sub", ""), &[301, 404], "\r\nLocation: ./sub/\r\n");
    case(get("/bare//./../sub", ""), &[404, 404], "");
    case(get("/./s%75b", ""), &[301, 404], "\r\nLocation: ./s%75b/\r\n");
    case(get("http://x/sub?q", ""), &[301, 404], "\r\nLocation: ./sub/?q\r\n");
    // It never leads to itself: a folder that is called like the page of one is none.
    case(get("/odd/", ""), &[404, 404], "\r\n\r\n404 This folder has no index.html, and folders are not listed\n");
    case(get("/odd/index.html", ""), &[301, 404], "\r\nLocation: ./index.html/\r\n");
    // A part that is a dot names nothing.
    for path in ["/./index.html", "/././index.html", "/sub/./../index.html", "//./index.html", "/%2e/index.html", "/.", "/./", "/%2E?q", "http://x/./"] {
        let due: &[u16] = if path.contains("..") { &[404, 404] } else { &[200, 404] };
        case(get(path, ""), due, if due[0] == 200 { "\r\n\r\nindex\n" } else { "" });
    }
    case(get("/sub/.", ""), &[200, 404], "\r\n\r\nsub\n");
    case(get("/./.well-known/x", ""), &[200, 404], "\r\n\r\nknown\n");
    case(get("/./.env", ""), &[404, 404], "");
    case(get("/...", ""), &[404, 404], "");
    case(get("/index.html/.", ""), &[404, 404], "");
    // Types.
    case(get("/page.xhtml", ""), &[200, 404], "\r\nContent-Type: application/xhtml+xml\r\n");
    case(get("/feed.xml", ""), &[200, 404], "\r\nContent-Type: application/xml\r\n");
    case(get("/bare/", ""), &[404, 404], "\r\n\r\n404 This folder has no index.html, and folders are not listed\n");
    case(get("/none/", ""), &[404, 404], "\r\n\r\n404 Not Found\n");
    case(get("/empty.txt/", ""), &[404, 404], "\r\n\r\n404 Not Found\n");
    case(get("/%73ub/%69ndex.html", ""), &[200, 404], "\r\n\r\nsub\n");
    case(get("/%C3%BC%20b.txt", ""), &[200, 404], "\r\n\r\numlaut\n");
    case(get("/index.html/", ""), &[404, 404], "");
    case(get("/nothing", ""), &[404, 404], "");
    case(get("/empty.txt", ""), &[200, 404], "\r\nContent-Length: 0\r\n");
    case(get("/big.bin", ""), &[200, 404], "\r\nContent-Type: application/octet-stream\r\nContent-Length: 100000\r\n");
    case(get("http://x/sub/", ""), &[200, 404], "\r\n\r\nsub\n");
    case(get("HTTP://other:80", ""), &[200, 404], "\r\n\r\nindex\n");
    case(raw("HEAD / HTTP/1.1\r\nHost: x\r\n\r\n"), &[200, 404], "\r\nContent-Length: 6\r\n");
    case(raw("HEAD /big.bin HTTP/1.1\r\nHost: x\r\n\r\n"), &[200, 404], "\r\nContent-Length: 100000\r\n");
    case(raw("HEAD /nothing HTTP/1.1\r\nHost: x\r\n\r\n"), &[404, 404], "\r\nContent-Length: 14\r\n");
    // Nothing leads out, and dot files are not there.
    for path in ["/.env", "/.git/config", "/..", "/../secret", "/sub/../../secret", "/%2e%2e/secret", "/..%2fsecret", "/sub/.hidden", "/%2Eenv", "/.well-known2/x", "/sub/.well-known/x"] {
        case(get(path, ""), &[404, 404], "");
    }
    case(get("/.well-known/x", ""), &[200, 404], "\r\n\r\nknown\n");
    case(get("/a%00b", ""), &[400, 404], "");
    case(get("/a%0d%0aSet-Cookie:x", ""), &[400, 404], "");
    case(get("/%", ""), &[400, 404], "");
    case(get("/%4", ""), &[400, 404], "");
    case(get("/%zz", ""), &[400, 404], "");
    case(get("/%252e%252e/secret", ""), &[404, 404], ""); // decoded once
    // Conditions and ranges.
    case(get("/", "If-None-Match: *"), &[304, 404], "\r\nETag: \"");
    case(get("/", "If-None-Match: \"other\""), &[200, 404], "");
    case(get("/", "If-Modified-Since: Fri, 31 Dec 2100 23:59:59 GMT"), &[304, 404], "");
    case(get("/", "If-Modified-Since: Sun, 06 Nov 1960 08:49:37 GMT"), &[200, 404], "");
    case(get("/", "If-Match: \"other\""), &[412, 404], "");
    case(get("/", "If-Match: *"), &[200, 404], "");
    case(get("/", "Range: bytes=1-2"), &[206, 404], "\r\nContent-Range: bytes 1-2/6\r\n");
    case(get("/", "Range: bytes=-2"), &[206, 404], "\r\n\r\nx\n");
    case(get("/big.bin", "Range: bytes=10-"), &[206, 404], "\r\nContent-Range: bytes 10-99999/100000\r\n");
    case(get("/", "Range: bytes=6-"), &[416, 404], "\r\nContent-Range: bytes */6\r\n");
    case(get("/", "Range: bytes=0-1,3-4"), &[200, 404], "");
    case(get("/", "Range: bytes=0-1\nIf-Range: \"other\""), &[200, 404], "");
    case(get("/empty.txt", "Range: bytes=0-"), &[200, 404], "\r\nContent-Length: 0\r\n");
    case(get("/empty.txt", "Range: bytes=-5"), &[200, 404], "\r\nContent-Length: 0\r\n");
    // A list may come in several lines; of a single value that is repeated none counts.
    case(get("/", "If-None-Match: \"other\"\nIf-None-Match: *"), &[200, 404], "");
    case(get("/", "If-None-Match:"), &[200, 404], "");
    case(get("/", "If-Match:"), &[412, 404], "");
    case(get("/", "If-Modified-Since: Fri, 31 Dec 2100 23:59:59 GMT\nIf-Modified-Since: Fri, 31 Dec 2100 23:59:59 GMT"), &[200, 404], "");
    case(get("/", "If-Unmodified-Since: Sun, 06 Nov 1960 08:49:37 GMT\nIf-Unmodified-Since: Sun, 06 Nov 1960 08:49:37 GMT"), &[200, 404], "");
    case(get("/", "Range: bytes=0-1\nRange: bytes=0-1"), &[200, 404], "");
    case(get("/", "Range:"), &[200, 404], "");
    case(get("/", "Range: bytes=0-1\nIf-Range:"), &[200, 404], "");
    // The connection.
    case(get("/", "Connection:\nConnection: x\nConnection: , close ,"), &[200], "\r\nConnection: close\r\n");
    case(get("/", "Connection: close"), &[200], "\r\nConnection: close\r\n");
    case(get("/", "Connection: x, CLOSE"), &[200], "");
    case(raw("GET / HTTP/1.0\r\n\r\n"), &[200], "HTTP/1.1 200 OK\r\n");
    case(raw("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"), &[200, 404], "\r\nConnection: keep-alive\r\n");
    case(raw("\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n"), &[200, 404], "");
    case(raw("GET / HTTP/1.1\r\nHost: x\r\n\r\n\r\n\r\n"), &[200, 404], "");
    case(raw("GET / HTTP/1.1\r\nhost:x\r\nX-Odd:\x20\t v\u{e4} \t\r\n\r\n"), &[200, 404], "");
    case(raw("GET / HTTP/1.1\r\nHost:\r\n\r\n"), &[200, 404], "");
    // A HEAD, or not? (It may come in pieces, and the first says what follows is wrong.)
    case(raw("\tHEAD / HTTP/1.1\r\nHost: x\r\n\r\n"), &[400], "\r\n\r\n400 Bad Request\n");
    // Methods.
    case(post("Content-Length: 3", "abc"), &[405, 404], "\r\nAllow: GET, HEAD, OPTIONS\r\n");
    case(post("Content-Length: 0", ""), &[405, 404], ""); // empty is not absent
    case(raw("OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n"), &[204, 404], "\r\nAllow: GET, HEAD, OPTIONS\r\n");
    case(raw("OPTIONS / HTTP/1.0\r\n\r\n"), &[204], "HTTP/1.1 204 No Content\r\n");
    case(raw("OPTIONS nowhere HTTP/1.1\r\nHost: x\r\n\r\n"), &[400], "");
    case(raw("POST * HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"), &[400], "");
    for target in ["/", "x", "x:", ":80", "http://x:80", "x:80/", "x@y:80"] {
        case(raw(&format!("CONNECT {target} HTTP/1.1\r\nHost: x\r\n\r\n")), &[400], "");
    }
    case(raw("DELETE / HTTP/1.1\r\nHost: x\r\n\r\n"), &[405, 404], "");
    case(raw("CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n"), &[405], "");
    case(raw("BREW / HTTP/1.1\r\nHost: x\r\n\r\n"), &[501, 404], "");
    case(raw("get / HTTP/1.1\r\nHost: x\r\n\r\n"), &[501, 404], "");
    case(post("", ""), &[411], "");
    // Bodies.
    case(get("/", "Content-Length: 3").into_iter().chain(*b"abc").collect(), &[200, 404], "");
    case(get("/", "Content-Length: 0"), &[200, 404], "");
    case(get("/", "Content-Length: 00003").into_iter().chain(*b"abc").collect(), &[200, 404], "");
    case(get("/", "Transfer-Encoding: Chunked").into_iter().chain(*b"3\r\nabc\r\n00a;x=\"y\"\r\n0123456789\r\n0\r\nX: y\r\n\r\n").collect(), &[200, 404], "");
    case(post("Transfer-Encoding: chunked", "0\r\n\r\n"), &[405, 404], "");
    for body in [
        "3;a\r\nabc\r\n0\r\n\r\n", "3 ; a\r\nabc\r\n0\r\n\r\n", "3;a = b\r\nabc\r\n0\r\n\r\n", "3\t;a=\"b;c\\\"d\" ;e\r\nabc\r\n0;f\r\n\r\n", "3;a=\"\"\r\nabc\r\n0\r\n\r\n",
        "00000000000000003\r\nabc\r\n0000\r\n\r\n", "0\r\nX: y\r\nZ:\r\n\r\n", "0\r\na!b:\tc \u{e4}\r\n\r\n",
    ] {
        case(post("Transfer-Encoding: chunked", body), &[405, 404], "");
    }
    for body in ["100001\r\n", "ffffffffffffffffffff\r\n", "00000000ffffffff\r\n"] {
        case(post("Transfer-Encoding: chunked", body), &[413], "");
    }
    case(post("Content-Length: 1048577", ""), &[413], "");
    case(post("Content-Length: 99999999999999999999999999", ""), &[413], "");
    case(get("/", "Expect: 100-continue\nContent-Length: 3").into_iter().chain(*b"abc").collect(), &[100, 200, 404], "");
    case(get("/", "Expect: 100-continue"), &[200, 404], "");
    case(post("Expect: 100-continue\nContent-Length: 3", "abc"), &[405], "");
    case(post("Expect: tea\nContent-Length: 3", "abc"), &[417], "");
    case(post("Expect: 100-continue, tea\nContent-Length: 3", "abc"), &[417], "");
    case(get("/", "Expect:\nContent-Length: 3").into_iter().chain(*b"abc").collect(), &[200, 404], "");
    case(get("/", "Expect: ,\nExpect: 100-Continue\nContent-Length: 3").into_iter().chain(*b"abc").collect(), &[100, 200, 404], "");
    // What is no request, or could be read in two ways.
    for fields in [
        "Content-Length: 3\nContent-Length: 3", "Content-Length: 3\nContent-Length: 4", "Content-Length: 3, 3",
        "Content-Length: +3", "Content-Length: -3", "Content-Length: 0x3", "Content-Length:", "Content-Length: 3 3", "Content-Length: 3\u{b2}",
        "Content-Length: 3\nTransfer-Encoding: chunked", "Transfer-Encoding: chunked\nContent-Length: 3",
        "Transfer-Encoding: chunked\nTransfer-Encoding: chunked", "Content-Length : 3", "Content-Length\t: 3", " Content-Length: 3",
        "X: y\n Content-Length: 3", "X: y\n\tz", "Host: y", ": v", "X", "X\u{e4}: y", "X: a\u{0}b", "X: a\u{1}b", "X: a\rb", "Bad(Name): y",
    ] {
        case(post(fields, "abc"), &[400], "\r\nConnection: close\r\n");
    }
    for coding in ["gzip, chunked", "identity", "chunked, chunked", "xchunked", "chunked;q=1", "", "\"chunked\""] {
        case(post(&format!("Transfer-Encoding: {coding}"), "0\r\n\r\n"), &[501], "");
    }
    for body in [
        "\r\n", "x\r\n", "3\nabc\r\n0\r\n\r\n", "3\r\nabc0\r\n\r\n", "3\r\nabc\n0\r\n\r\n", "3\r\nabcd\r\n0\r\n\r\n", "3 \r\nabc\r\n0\r\n\r\n", " 3\r\nabc\r\n0\r\n\r\n",
        "0x3\r\nabc\r\n0\r\n\r\n", "+3\r\nabc\r\n0\r\n\r\n", "-3\r\n", ";x\r\n", "3;\nabc\r\n0\r\n\r\n", "0\r\n\n", "0\n\r\n", "0\r\n X: y\r\n\r\n", "0\r\nX: y\n\r\n", "0\r\nX: \u{1}\r\n\r\n",
        "3\r\r\nabc\r\n0\r\n\r\n",
        "3;\r\nabc\r\n0\r\n\r\n", "3;a \r\nabc\r\n0\r\n\r\n", "3;a=\r\nabc\r\n0\r\n\r\n", "3;=b\r\nabc\r\n0\r\n\r\n", "3;a=\"b\r\nabc\r\n0\r\n\r\n", "3;a b\r\nabc\r\n0\r\n\r\n", "3;a=\"b\"c\r\nabc\r\n0\r\n\r\n", "3;a@b\r\nabc\r\n0\r\n\r\n",
        "0\r\nX\r\n\r\n", "0\r\n: y\r\n\r\n", "0\r\nX : y\r\n\r\n", "0\r\nX@: y\r\n\r\n", "0\r\nX: y\rz\r\n\r\n",
    ] {
        case(post("Transfer-Encoding: chunked", body), &[400], "");
    }
    case(raw("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), &[400], "");
    for text in [
        "GET / HTTP/1.1\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n",
        "GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", "GET / HTTP/1.1\nHost: x\r\n\r\n", "GET / HTTP/1.1\r\nHost: x\n\r\n", "GET / HTTP/1.1\r\nHost: x\r\n\n", "\nGET / HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET  / HTTP/1.1\r\nHost: x\r\n\r\n", "GET /  HTTP/1.1\r\nHost: x\r\n\r\n", "GET /a b HTTP/1.1\r\nHost: x\r\n\r\n", " GET / HTTP/1.1\r\nHost: x\r\n\r\n", "GET\t/ HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /\r\n\r\n", "GET\r\n\r\n", "GET / http/1.1\r\nHost: x\r\n\r\n", "GET / HTTP/1.1x\r\nHost: x\r\n\r\n", "GET / HTTP/1.1 \r\nHost: x\r\n\r\n", "GET nowhere HTTP/1.1\r\nHost: x\r\n\r\n", "GET * HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /#x HTTP/1.1\r\nHost: x\r\n\r\n", "GET ftp://x/ HTTP/1.1\r\nHost: x\r\n\r\n", "GET http:///x HTTP/1.1\r\nHost: x\r\n\r\n", "GET /\u{0} HTTP/1.1\r\nHost: x\r\n\r\n", "G\u{e4}T / HTTP/1.1\r\nHost: x\r\n\r\n", "GET / HTTP/1.1\r\r\nHost: x\r\n\r\n",
        "\u{16}\u{3}\u{1}\r\n\r\n",
    ] {
        case(raw(text), &[400], "");
    }
    for version in ["HTTP/2.0", "HTTP/0.9", "HTTP/9.9"] {
        case(raw(&format!("GET / {version}\r\nHost: x\r\n\r\n")), &[505], "");
    }
    // A later minor version is served as 1.1, and all that holds for that holds for it.
    for version in ["HTTP/1.2", "HTTP/1.9"] {
        case(raw(&format!("\r\nGET / {version}\r\nHost: x\r\n\r\n")), &[200, 404], "HTTP/1.1 200 OK\r\n");
        case(raw(&format!("GET / {version}\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")), &[200, 404], "");
        case(raw(&format!("GET / {version}\r\n\r\n")), &[400], "");
        case(raw(&format!("GET / {version}\nHost: x\r\n\r\n")), &[400], "");
        case(raw(&format!("GET / {version}\r\nHost: x\n\r\n")), &[400], "");
        case(raw(&format!("GET /  {version}\r\nHost: x\r\n\r\n")), &[400], "");
        case(raw(&format!("GET / / {version}\r\nHost: x\r\n\r\n")), &[400], "");
        case(raw(&format!("GET / {version}\r\nHost: x\r\n{}\r\n", "X: y\r\n".repeat(100))), &[431], "");
        case(raw(&format!("GET / {version}\r\nHost: x\r\nX: {}\r\n\r\n", "a".repeat(17_000))), &[431], "");
    }
    for version in ["HTTP/1.", "HTTP/1.10", "HTTP/1.2x", "HTTP/1.x", "HTTP/x.1", "HTTP/11.1", "HTTP/2", "HTTP/2.00"] {
        case(raw(&format!("GET / {version}\r\nHost: x\r\n\r\n")), &[400], "");
    }
    case(raw("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), &[505], "");
    case(get(&format!("/{}", "a".repeat(9_000)), ""), &[414], "");
    case(get(&format!("/{}", "a".repeat(7_000)), ""), &[404, 404], "");
    case(get("/", &format!("X: {}", "a".repeat(17_000))), &[431], "");
    case(get("/", &"X: y\n".repeat(101)), &[431], "");
    case(get("/", &"X: y\n".repeat(98)), &[200, 404], "");
    cases.extend(facts().into_iter().map(|fact| fact.case));
    cases
}

/// A request that others test, what they say to it, and the row of docs/http.md that explains
/// why we do not.
#[allow(dead_code)] // one of the test programs looks at all of it
pub struct Fact {
    pub case: Case,
    /// The repository, the commit and the file.
    pub source: &'static str,
    /// `ok`, `bad`, or a status.
    pub theirs: &'static str,
    pub why: Option<&'static str>,
}

pub fn facts() -> Vec<Fact> {
    let mut source = "";
    let mut facts = Vec::new();
    for line in include_str!("http_facts.txt").lines() {
        if let Some(name) = line.strip_prefix("== ") {
            source = name;
        } else if !line.is_empty() && !line.starts_with('#') {
            let mut columns = line.splitn(4, '\t');
            let [theirs, due, why, request] = [(); 4].map(|()| columns.next().expect(line));
            let due = due.split(' ').map(|status| status.parse().expect(line)).collect();
            let case = Case { request: unescaped(request), due, has: "" };
            facts.push(Fact { case, source, theirs, why: Some(why).filter(|why| *why != "-") });
        }
    }
    facts
}

/// What an escaped text stands for, as `escape_ascii` writes it.
fn unescaped(text: &str) -> Vec<u8> {
    let mut bytes = text.bytes();
    let mut unescaped = Vec::new();
    while let Some(byte) = bytes.next() {
        unescaped.push(match byte {
            b'\\' => match bytes.next().expect(text) {
                b'r' => b'\r',
                b'n' => b'\n',
                b't' => b'\t',
                b'x' => {
                    let digits = [(); 2].map(|()| bytes.next().expect(text) as char);
                    u8::from_str_radix(&String::from_iter(digits), 16).expect(text)
                }
                byte => byte,
            },
            byte => byte,
        });
    }
    unescaped
}

/// The heads and bodies of what a server said, to requests of which these were HEADs.
pub fn answers(mut said: &[u8], request: &[u8]) -> Vec<(u16, Vec<u8>)> {
    let is_head = request.strip_prefix(b"\r\n").unwrap_or(request).starts_with(b"HEAD ");
    let mut answers = Vec::new();
    while !said.is_empty() {
        let end = said.windows(4).position(|four| four == b"\r\n\r\n").expect("a whole head") + 4;
        let head = str::from_utf8(&said[..end]).expect("text");
        let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest[..3].parse().ok());
        let status: u16 = status.unwrap_or_else(|| panic!("no status: {head}"));
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
        let is_first = answers.iter().all(|(status, _)| *status == 100);
        let has_body = !(status < 200 || matches!(status, 204 | 304) || is_head && is_first);
        let length = if has_body { length.expect("a length").parse().unwrap() } else { 0 };
        let without_date = head.lines().filter(|line| !line.starts_with("Date: "));
        let mut whole = without_date.collect::<Vec<_>>().join("\r\n").into_bytes();
        whole.extend(b"\r\n");
        whole.extend(&said[end..end + length]);
        answers.push((status, whole));
        said = &said[end + length..];
    }
    answers
}
