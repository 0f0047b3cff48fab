//! Chromium, driven over two pipes: the DevTools protocol is JSON with a NUL behind each message.

use serde_json::{Value, json};
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

pub struct Browser {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    session: String,
    last: u64,
    events: VecDeque<Value>,
    folder: PathBuf,
}

impl Browser {
    pub fn start() -> Browser {
        static BROWSERS: AtomicU32 = AtomicU32::new(0);
        let (process, number) = (std::process::id(), BROWSERS.fetch_add(1, Relaxed));
        let folder = std::env::temp_dir().join(format!("threadbare-book-{process}-{number}"));
        let profile = format!("--user-data-dir={}", folder.display());
        let pipes = "exec \"$0\" \"$@\" 3<&0 4>&1 0</dev/null 1>/dev/null 2>/dev/null";
        let mut command = Command::new("sh");
        command.args(["-c", pipes, "chromium", "--headless", "--remote-debugging-pipe", &profile]);
        command.args([
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--disable-dev-shm-usage",
        ]);
        command.args(["--hide-scrollbars", "--disable-background-networking", "about:blank"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let to = child.stdin.take().unwrap();
        let from = BufReader::new(child.stdout.take().unwrap());
        let (session, events) = (String::new(), VecDeque::new());
        let mut browser = Browser { child, to, from, session, last: 0, events, folder };
        let target = browser.call("Target.createTarget", json!({"url": "about:blank"}));
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let session = browser.call("Target.attachToTarget", attach);
        browser.session = session["sessionId"].as_str().unwrap().to_owned();
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        browser
    }

    /// Calls a method, and returns its result.
    pub fn call(&mut self, method: &str, params: Value) -> Value {
        let result = self.attempt(method, params);
        result.unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    fn attempt(&mut self, method: &str, params: Value) -> Result<Value, Value> {
        self.last += 1;
        let mut message = json!({"id": self.last, "method": method, "params": params});
        if !self.session.is_empty() {
            message["sessionId"] = json!(self.session);
        }
        self.to.write_all(message.to_string().as_bytes()).unwrap();
        self.to.write_all(b"\0").unwrap();
        loop {
            let message = self.receive();
            if message["id"] == self.last {
                let failed = !message["error"].is_null();
                return if failed {
                    Err(message["error"].clone())
                } else {
                    Ok(message["result"].clone())
                };
            }
            self.events.push_back(message);
        }
    }

    fn receive(&mut self) -> Value {
        let mut bytes = Vec::new();
        self.from.read_until(0, &mut bytes).unwrap();
        assert!(bytes.pop() == Some(0), "chromium has ended");
        serde_json::from_slice(&bytes).unwrap()
    }

    /// Waits for an event; those before it are kept for [`complaints`](Browser::complaints).
    fn until(&mut self, method: &str) {
        loop {
            let at = self.events.iter().position(|it| it["method"] == method);
            if let Some(at) = at {
                self.events.remove(at);
                return;
            }
            let event = self.receive();
            self.events.push_back(event);
        }
    }

    pub fn open(&mut self, url: &str) {
        self.call("Page.navigate", json!({"url": "about:blank"}));
        self.until("Page.loadEventFired");
        self.call("Page.navigate", json!({"url": url}));
        self.until("Page.loadEventFired");
    }

    /// What an expression is worth, once its promise is kept.
    pub fn eval(&mut self, expression: &str) -> Value {
        let params = json!({"expression": expression, "awaitPromise": true, "returnByValue": true});
        let result = self.call("Runtime.evaluate", params);
        assert!(
            result["exceptionDetails"].is_null(),
            "{expression}: {}",
            result["exceptionDetails"]
        );
        result["result"]["value"].clone()
    }

    /// Waits until an expression is true, on this page or on the one that is under way.
    pub fn wait(&mut self, expression: &str) {
        let begun = Instant::now();
        let params = json!({"expression": format!("Boolean({expression})")});
        while !self
            .attempt("Runtime.evaluate", params.clone())
            .is_ok_and(|it| it["result"]["value"] == true)
        {
            assert!(begun.elapsed() < Duration::from_secs(20), "never: {expression}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn key(&mut self, key: &str) {
        let text = if key.chars().count() == 1 {
            key
        } else if key == "Enter" {
            "\r"
        } else {
            ""
        };
        let code = match key {
            "Tab" => 9,
            "Enter" => 13,
            "ArrowRight" => 39,
            "ArrowLeft" => 37,
            "End" => 35,
            _ => 0,
        };
        let kind = if text.is_empty() { "rawKeyDown" } else { "keyDown" };
        for kind in [kind, "keyUp"] {
            let text = if kind == "keyDown" { json!(text) } else { json!("") };
            self.call("Input.dispatchKeyEvent", json!({"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code, "text": text}));
        }
    }

    pub fn window(&mut self, width: u32, height: u32, scheme: &str) {
        self.call("Emulation.setDeviceMetricsOverride", json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}));
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.call("Emulation.setEmulatedMedia", json!({"media": "", "features": features}));
    }

    /// Shows the page as it is printed, as wide as paper is.
    pub fn paper(&mut self, scheme: &str) {
        self.window(680, 1000, scheme); // A4 without its margins
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.call("Emulation.setEmulatedMedia", json!({"media": "print", "features": features}));
    }

    /// The page as it is printed, in PDF: how many sheets, and how many bytes.
    pub fn sheets(&mut self) -> (usize, usize) {
        let paper =
            json!({"paperWidth": 8.27, "paperHeight": 11.69, "transferMode": "ReturnAsBase64"});
        let pdf = bytes(self.call("Page.printToPDF", paper)["data"].as_str().unwrap());
        let text = String::from_utf8_lossy(&pdf);
        (text.matches("/Type /Page\n").count(), pdf.len())
    }

    /// A picture of what is in the window, for people to look at.
    pub fn picture(&mut self, path: &str) {
        let shot = self.call("Page.captureScreenshot", json!({"format": "png"}));
        std::fs::write(path, bytes(shot["data"].as_str().unwrap())).unwrap();
    }

    /// Errors and warnings that the console has shown, exceptions, and requests that failed.
    pub fn complaints(&mut self) -> Vec<String> {
        let bad = |event: &Value| {
            let params = &event["params"];
            let level = params["entry"]["level"].as_str().or(params["type"].as_str()).unwrap_or("");
            let kind = event["method"].as_str().unwrap_or("");
            let is_bad = kind == "Runtime.exceptionThrown"
                || ["Log.entryAdded", "Runtime.consoleAPICalled"].contains(&kind)
                    && ["error", "warning"].contains(&level);
            is_bad.then(|| params.to_string())
        };
        self.events.drain(..).filter_map(|event| bad(&event)).collect()
    }
}

/// What stands in base64.
fn bytes(text: &str) -> Vec<u8> {
    let value = |c: u8| {
        b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
            .iter()
            .position(|it| *it == c)
    };
    let mut bytes = Vec::new();
    for four in text.as_bytes().chunks(4) {
        let values: Vec<u32> = four.iter().filter_map(|c| Some(value(*c)? as u32)).collect();
        let all = values.iter().fold(0, |all, it| all << 6 | it) << (6 * (4 - values.len()));
        bytes.extend(&all.to_be_bytes()[1..values.len()]);
    }
    bytes
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
