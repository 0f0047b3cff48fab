"use strict";
// What the pages do beyond being read: colors, the corner, live calls, rude clients, and the
// stepper, which makes states of the lines of a trace. Without it all text reads.

const root = document.documentElement;
try { root.dataset.theme = localStorage.theme || ""; } catch { /* storage is forbidden */ }

/** An element: its name with classes, its properties, what is in it. */
function make(name, properties, ...inside) {
  const [tag, ...classes] = name.split(".");
  const element = Object.assign(document.createElement(tag), properties);
  if (classes.length) element.className = classes.join(" ");
  element.append(...inside.filter(it => it !== null));
  return element;
}

// ---- the lines of a trace ------------------------------------------------------------

/** Arguments, of which commas in strings and brackets separate nothing. */
function split(text) {
  const found = [];
  let depth = 0, quoted = false, begin = 0;
  for (let at = 0; at < text.length; at++) {
    const c = text[at];
    if (quoted) { if (c === "\\") at++; else if (c === '"') quoted = false; }
    else if (c === '"') quoted = true;
    else if ("([{".includes(c)) depth++;
    else if (")]}".includes(c)) depth--;
    else if (c === "," && depth === 0) { found.push(text.slice(begin, at).trim()); begin = at + 1; }
  }
  const last = text.slice(begin).trim();
  return last ? [...found, last] : found;
}

/** A line of strace, of --narrate or of `make trace`; of another, null. */
function parse(line) {
  const it = /^\s*(?:\[[\w ]+\] +|[\d:.]+ +)*(\w+)\((.*)\)\s+= (-?\d+|\?|0x\S+)(?: (E[A-Z]\w+))?(.*)$/.exec(line);
  if (!it) return null;
  const [, name, inside, result, errno, rest] = it;
  const chapter = /(?:# docs\/)?([\w-]+?)(?:\.md)?$/.exec(rest.replace(/\(.*?\)/g, "").trim());
  return { name, args: split(inside), result: Number(result), errno: errno || "", chapter: chapter ? chapter[1] : "" };
}

/** What calls do of which there is no more to say. */
const SAYS = {
  rt_sigaction: "Is the signal ignored, as nohup leaves it?", rt_sigprocmask: "Signals wait, until they are read.",
  prlimit64: "How many descriptors there may be.", setsockopt: "An option of the socket.", getsockname: "The address, with the port that the kernel chose.",
  fstat: "What kind of file it is, and how long.", newfstatat: "What stands at that name.", stat: "What stands at that name.", lstat: "What stands at that name.",
  flock: "Only one process at a time, from here.", unlink: "The name is gone.", chmod: "Who may connect.", fchmod: "Who may connect.",
  fcntl: "What an inherited descriptor is.", getsockopt: "Is it a listener?", timerfd_settime: "The next deadline is set.",
  exit_group: "The process ends.", clock_nanosleep: "A moment's patience.",
};

const COUNTED = /^(recvfrom|recv|read|sendto|send|sendmsg|sendfile|write|pread64)$/;

/** How many bytes a call was given, or had room for. */
function asked({ name, args }) {
  if (name !== "sendmsg") return Number(args[name === "sendfile" ? 3 : 2]);
  const lengths = [...args.join().matchAll(/iov_len=(\d+)/g)].map(it => Number(it[1]));
  return lengths.length ? lengths.reduce((sum, it) => sum + it) : NaN;
}

/** What of a payload follows its last end of line; NaN if strace has not shown all of it. */
function unended(text, before) {
  const shown = /^"((?:[^"\\]|\\.)*)"$/.exec(text || "");
  if (!shown) return NaN;
  const bytes = shown[1].replace(/\\(?:[0-7]{1,3}|.)/g, it => it === "\\n" ? "\n" : "?");
  const at = bytes.lastIndexOf("\n");
  return at < 0 ? before + bytes.length : bytes.length - at - 1;
}

/**
 * Each line with what is true when its call has returned. What the kernel held was perhaps recorded
 * beside some lines: by their number, descriptors with what there is to receive and to acknowledge.
 */
function steps(text, held) {
  const fds = new Map(), calls = text.split("\n").filter(it => it.trim()).map(line => ({ line, call: parse(line) }));
  const at = (number, kind) => {
    if (!fds.has(number)) fds.set(number, { number, kind, about: "" });
    const fd = fds.get(number);
    if (kind && (fd.kind === "" || fd.kind === "socket")) fd.kind = kind;
    return fd;
  };
  const open = (number, kind, about = "") => { fds.delete(number); return Object.assign(at(number, kind), { about }); };
  const conn = (number, kind, about) => Object.assign(open(number, kind, about),
    { conn: true, receive: "0", input: "0", outbox: "0", send: "0", sent: 0, theirs: "", ours: "" });
  const port = args => (/htons\((\d+)\)/.exec(args.join()) || /:(\d+)\b/.exec(args.join()) || [])[1] || "";
  /** What the next receive on a descriptor will find. */
  const ahead = (from, number) => {
    const at = calls.findIndex((it, at) => at > from && it.call?.name === "recvfrom" && Number(it.call.args[0]) === number);
    const left = held?.[at + 1]?.find(it => it[0] === number);
    return at < 0 ? null : { call: calls[at].call, left: left && left[1] };
  };
  return calls.map(({ line, call }, index) => {
    const step = { line, call, hot: NaN, say: "", gone: null };
    for (const fd of fds.values()) fd.ready = "";
    if (!call) return { ...step, fds: structuredClone([...fds.values()]) };
    const { name, args, result, errno } = call, ok = result >= 0, n = Number(args[0]);
    let made = null;
    step.hot = n;
    if (name === "socket" && ok) {
      made = open(result, /SOCK_RAW/.test(args[1]) ? "netlink" : /DGRAM/.test(args[1]) ? "datagram" : "socket");
      step.say = `A socket, descriptor ${result}.`;
    } else if (name === "listen" && ok) {
      Object.assign(at(n, "listener"), { kind: "listener" });
      step.say = "From now on the kernel completes handshakes, and clients queue.";
    } else if (name === "bind" && ok) { at(n, "socket").about = `port ${port(args)}`; step.say = "The socket has an address."; }
    else if (name === "epoll_create1") { made = open(result, "epoll"); step.say = "An empty set of what is to be watched."; }
    else if (name === "signalfd4" && ok) { made = open(result, "signalfd"); step.say = "Signals are bytes to be read, now."; }
    else if (name === "timerfd_create") { made = open(result, "timerfd"); step.say = "Deadlines will be events."; }
    else if (name === "eventfd2") { made = open(result, "eventfd"); step.say = "Other threads can wake the loop."; }
    else if (name.startsWith("openat") && ok) { made = open(result, "file", (args[1] || "").slice(0, 24)); step.say = `A file is ${result}.`; }
    else if (name.startsWith("accept")) {
      at(n, "listener");
      if (ok) { made = conn(result, "client", port(args) && `from port ${port(args)}`); step.say = `A client has left the queue: it is descriptor ${result}.`; }
      else step.say = errno === "EAGAIN" ? "The queue is empty." : `accept4 failed: ${errno}.`;
    } else if (name === "connect" && fds.get(n)?.kind === "datagram") {
      fds.get(n).about = "to the service manager";
      step.say = "What is sent goes to this name from now on.";
    } else if (name === "connect") {
      conn(n, "outbound", `to port ${port(args)}`);
      step.say = errno === "EINPROGRESS" ? "The handshake is under way. EPOLLOUT will say that it has ended." : errno || "Connected.";
    } else if (name === "epoll_ctl") {
      at(n, "epoll");
      const fd = at(Number(args[2]), ""), events = /events=([^,}]+)/.exec(args[3] || "");
      step.hot = fd.number;
      const mask = (events ? events[1] : args[3] || "").replace(/EPOLL/g, "");
      fd.watch = /DEL/.test(args[1]) ? undefined : mask === "0" ? "nothing" : mask;
      const data = /u64=(\d+)/.exec(args[3] || "");
      if (data) fd.data = data[1];
      step.say = fd.watch ? `epoll watches ${fd.number} for ${fd.watch.replace("|", " and ")}.` : `epoll forgets ${fd.number}.`;
    } else if (name === "epoll_wait" || name === "epoll_pwait") {
      at(n, "epoll");
      const long = [...(args[1] || "").matchAll(/events=([^,]+), data=\{.*?u64=(\d+)\}/g)];
      const ready = long.length ? long.map(([, events, data]) => [events, [...fds.values()].find(fd => fd.data === data && fd.watch)])
        : [...(args[1] || "").matchAll(/(\d+) ([A-Z|]+)/g)].map(([, number, events]) => [events, at(Number(number), "")]);
      const known = ready.filter(it => it[1]);
      for (const [events, fd] of known) {
        fd.ready = events.replace(/EPOLL/g, "");
        const next = fd.conn && /IN/.test(events) && ahead(index, fd.number);
        if (next) {
          const { result, errno } = next.call;
          fd.receive = errno ? `the end: ${errno}` : result === 0 ? "0, and the end" : `${result + (next.left || 0)}`;
          if (next.left === undefined && result >= asked(next.call)) fd.receive += " or more";
        }
        if (fd.conn && !held && /OUT/.test(events)) fd.send = "has room";
      }
      step.say = errno === "EINTR" ? "Interrupted: wait again." : known.length ? `Woken: ${known.map(([, fd]) => `${fd.number} is ready for ${fd.ready.replace(/\|/g, ", ")}`).join("; ")}.`
        : result === 0 ? "Nothing is ready, and this wait does not sleep." : `${result} events.`;
    } else if (name === "close") {
      const fd = at(n, "");
      if (fd.conn) {
        fd.ours = fd.linger ? "RST" : fd.ours || "FIN";
        step.say = fd.linger ? "Closed with a reset: what was unsent is dropped." : `Closed${fd.theirs ? "" : ", and FIN is sent"}. The number ${n} is free.`;
      } else step.say = `Closed. The number ${n} is free.`;
      step.gone = structuredClone(fd);
      fds.delete(n);
    } else if (name === "shutdown") { Object.assign(at(n, ""), { ours: "FIN" }); step.say = "FIN: this side has no more to say, and still reads."; }
    else if (name === "setsockopt" && /LINGER/.test(args[2])) { at(n, "").linger = /l_onoff=1, l_linger=0/.test(args.join()); step.say = "Its close is to be a reset."; }
    else if (name === "ioctl") { at(n, "").send = (/\[(\d+)\]/.exec(args.join()) || [])[1]; step.say = "Bytes that the peer has not acknowledged."; }
    else if (name === "getsockopt" && /SO_ERROR/.test(args[2])) step.say = /\[0\]/.test(args[3]) ? "The handshake has succeeded." : "The handshake has failed.";
    else if (COUNTED.test(name)) {
      const fd = fds.get(n), room = asked(call);
      if (name === "write" && n < 3) step.say = n === 1 ? "A line on stdout, for the terminal." : "A line of the log.";
      else if (!/^(read|pread64|write|sendfile)$/.test(name) && fd && !fd.conn && !/netlink|datagram|listener/.test(fd.kind)) conn(n, "client");
      const it = fds.get(n);
      if (/^recv/.test(name) && it && it.conn) {
        if (errno === "EAGAIN") { it.receive = "0"; step.say = "Nothing is there now."; }
        else if (errno) { it.theirs = "RST"; it.receive = "0"; step.say = `The peer has reset the connection: ${errno}.`; }
        else if (result === 0) { it.theirs = it.theirs || "FIN"; it.receive = "0"; step.say = "The end: the peer has sent FIN."; }
        else {
          const before = Number(it.input) || 0, rest = unended(args[1], before);
          it.receive = result < room ? "0" : "0 or more";
          it.input = Number.isNaN(rest) ? `at most ${before + result}` : `${rest}`;
          step.say = `${result} bytes move from the kernel to the handler.`;
        }
      } else if (/^send/.test(name) && it && it.conn) {
        if (errno) { if (errno !== "EAGAIN") it.outbox = "0"; step.say = errno === "EAGAIN" ? "No room: they stay in the outbox." : `Not sent: ${errno}.`; }
        else {
          it.sent += result;
          it.outbox = `${Math.max(0, room - result) || 0}`;
          it.send = `at most ${it.sent}`;
          step.say = result < room ? `The kernel takes ${result} of ${room} bytes; the rest stays in the outbox.` : `The kernel takes all ${result} bytes.`;
        }
      } else if (!step.say) step.say = errno ? `${errno}.` : fd && fd.kind === "signalfd" ? "A signal is read." : fd && fd.kind === "eventfd" ? "A wake-up by another thread." : `${result} bytes.`;
    } else step.say = errno ? `${errno}.` : SAYS[name] || "";
    // What sendfile left is recorded beside the close of its file.
    for (const [number, receive, send] of held?.[index + 1] || (name === "sendfile" && held?.[index + 2]) || []) {
      if (fds.get(number)?.conn) Object.assign(fds.get(number), { receive: `${receive}`, send: `${send}` });
    }
    if (made) step.hot = made.number;
    return { ...step, fds: structuredClone([...fds.values()]) };
  });
}

// ---- the stepper ---------------------------------------------------------------------

const PARTS = [["receive", "receive buffer"], ["input", "input"], ["outbox", "outbox"], ["send", "send buffer"]];

function card(fd, step) {
  const classes = ["fd", fd.conn ? "conn" : "", fd.number === step.hot ? "hot" : "", fd.ready ? "ready" : "", fd === step.gone ? "gone" : ""];
  const box = make("div." + classes.filter(Boolean).join("."), {}, make("b", {}, `${fd.number}`), ` ${fd.kind} ${fd.about || ""}`);
  if (fd.conn) {
    const rows = PARTS.map(([key, name]) => [name, fd[key]]);
    rows.push(["ends", `theirs ${fd.theirs || "open"}, ours ${fd.ours || "open"}`]);
    box.append(make("dl", {}, ...rows.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)])));
  }
  return box;
}

/** A stepper of a text, which begins at a line; `name` is for links that lead to a line. */
function stepper(name, text, line, held) {
  const all = steps(text, held), list = make("ol", { tabIndex: 0, role: "list", ariaLabel: "Calls, with arrow keys" });
  const count = make("output"), say = make("p.say"), set = make("div"), process = make("div");
  let now = line;
  const show = to => {
    now = Math.min(Math.max(to, 0), all.length - 1);
    const step = all[now];
    count.textContent = `${now + 1} of ${all.length}`;
    [...list.children].forEach((row, at) => {
      row.classList.toggle("past", at < now);
      if (at === now) row.setAttribute("aria-current", "step"); else row.removeAttribute("aria-current");
    });
    const row = list.children[now];
    list.scrollTop = row.offsetTop - list.offsetTop - list.clientHeight / 2 + row.offsetHeight / 2;
    say.replaceChildren(step.call ? make("code", {}, step.call.name) : "", " " + step.say);
    const shown = step.gone ? [...step.fds, step.gone] : step.fds;
    process.replaceChildren(...shown.filter(fd => fd.number > 2).map(fd => card(fd, step)));
    set.replaceChildren(...step.fds.filter(fd => fd.watch).map(fd =>
      make("span.fd" + (fd.ready ? ".ready" : "") + (fd.number === step.hot && step.call.name === "epoll_ctl" ? ".hot" : ""), {},
        make("b", {}, `${fd.number}`), ` ${fd.watch}` + (fd.ready ? `, reported: ${fd.ready}` : ""))));
    if (name) history.replaceState(null, "", `#${name}:${now + 1}`);
  };
  list.append(...all.map(({ line, call }, at) => make(call ? "li" : "li.note", { onclick: () => show(at) }, line.replace(/\s+# docs.*/, ""))));
  const file = make("input", { type: "file", onchange: () => file.files[0] && take(file.files[0].text()) });
  const bar = make("div.bar", {},
    make("button", { type: "button", onclick: () => show(now - 1) }, "Back"),
    make("button", { type: "button", onclick: () => show(now + 1) }, "Next"), count,
    make("label", {}, "Drop or paste the output of make trace here, or choose a file", file));
  const note = make("p", {}, make("small", {}, held
    ? "Receive and send buffer as the kernel told them after each call (SIOCINQ, SIOCOUTQ); the rest from the lines."
    : "From the lines alone: what they do not say is “at most”, “or more”."));
  const box = make("section.steps", { ariaLabel: "The trace, step by step" }, bar,
    make("div", {}, list, make("div.see", {}, say, make("h4", {}, "The epoll set, in the kernel"), set, make("h4", {}, "Descriptors of the process"), process, note)));
  const take = async text => { const own = stepper("", await text, 0); box.replaceWith(own); own.querySelector("ol").focus(); };
  box.addEventListener("keydown", event => {
    const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -1e9, End: 1e9 }[event.key];
    if (by) { event.preventDefault(); show(now + by); }
  });
  box.addEventListener("paste", event => { event.preventDefault(); take(event.clipboardData.getData("text")); });
  box.addEventListener("dragover", event => { event.preventDefault(); box.classList.add("over"); });
  box.addEventListener("dragleave", () => box.classList.remove("over"));
  box.addEventListener("drop", event => {
    event.preventDefault();
    const dropped = event.dataTransfer.files[0];
    take(dropped ? dropped.text() : event.dataTransfer.getData("text"));
  });
  requestAnimationFrame(() => show(now)); // a key may have been faster
  return box;
}

/** A trace of the docs, and what the kernel held beside its lines. */
async function trace(name) {
  const asked = [`/docs/traces/${name}.txt?raw`, "/buffers.json"].map(it => fetch(it));
  const [text, held] = await Promise.all(asked);
  return [await text.text(), (await held.json())[name]];
}

/** Opens the stepper below a trace of a page, at its first line or at another. */
async function open(figure, line) {
  const { trace: name, from } = figure.dataset, [call, number = 1] = from.split("#");
  const [text, held] = await trace(name), whole = text.trim().split("\n");
  const calls = whole.flatMap((it, at) => parse(it)?.name === call ? [at] : []), first = calls[number - 1] ?? 0;
  figure.nextElementSibling?.matches(".steps") && figure.nextElementSibling.remove();
  const box = stepper(name, text, line ?? first, held);
  figure.after(box);
  box.querySelector("ol").focus({ preventScroll: line === undefined });
}

// ---- the page ------------------------------------------------------------------------

/** The told part of an answer in HTML, put into a place of this page. */
async function bring(place, address, options) {
  const response = await fetch(address, options);
  if (!response.ok) return place.replaceChildren(make("p", {}, `${response.status} ${response.statusText}`));
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  place.replaceChildren(...page.querySelector(".told").childNodes);
  paintAll(place);
  const codes = [...place.querySelectorAll("pre code")], lines = codes.map(it => it.textContent), all = steps(lines.join("\n"));
  const recorded = codes.flatMap((it, at) => it.dataset.held ? [[at + 1, [[all[at].hot, ...it.dataset.held.split(" ")]]]] : []);
  const held = recorded.length ? Object.fromEntries(recorded) : undefined;
  const button = make("button", { type: "button", onclick: () => button.replaceWith(stepper("", lines.join("\n"), 0, held)) }, "Step through it");
  place.querySelector("pre").after(button);
}

const KINDS = { rust: "rs", "rust,no_run": "rs", rs: "rs", c: "c", txt: "c", diff: "diff", console: "diff" };
const COLORS = {
  rs: /(?<i>\/\/.*)|(?<q>"(?:[^"\\]|\\.)*")|(?<b>\b(?:as|break|const|continue|else|enum|false|fn|for|if|impl|in|let|loop|match|mod|move|mut|pub|ref|return|self|Self|static|struct|super|trait|true|type|unsafe|use|where|while)\b)/g,
  c: /(?<b>^(?:\[\w+\] )?\w+(?=\())|(?<em>-1 E[A-Z]\w+(?: \(.*?\))?)|(?<i> \/\/ .*)/gm,
  diff: /(?<q>^\+.*)|(?<em>^-.*)|(?<b>^\$ .*)/gm,
};

/** Colors for what is worth one: in code, in a trace, in a diff. */
function paint(element, color) {
  const text = element.textContent, pieces = [];
  let at = 0;
  for (const found of text.matchAll(color)) {
    const [tag, words] = Object.entries(found.groups).find(it => it[1] !== undefined);
    pieces.push(text.slice(at, found.index), make(tag === "q" ? "span.q" : tag, {}, words));
    at = found.index + words.length;
  }
  if (pieces.length) element.replaceChildren(...pieces, text.slice(at));
}

function paintAll(within) {
  for (const pre of within.querySelectorAll("pre[class]")) {
    const color = COLORS[KINDS[[...pre.classList].at(-1)]];
    if (color) pre.querySelectorAll("code").forEach(code => paint(code, color));
  }
}

function corner(output) {
  let source = null;
  const listen = () => {
    if (source) source.close();
    source = document.hidden ? null : new EventSource("/live/state");
    if (source) source.onmessage = event => { output.textContent = event.data; };
  };
  document.addEventListener("visibilitychange", listen);
  addEventListener("pagehide", () => source && source.close());
  listen();
}

/** Lines that a link names, #L3-L9. */
function light() {
  document.querySelectorAll(".lit").forEach(it => it.classList.remove("lit"));
  const lines = /^#L(\d+)(?:-L(\d+))?$/.exec(location.hash);
  if (lines) for (let at = +lines[1]; at <= +(lines[2] || lines[1]); at++) document.getElementById(`L${at}`)?.classList.add("lit");
}

document.addEventListener("DOMContentLoaded", () => {
  const at = id => document.getElementById(id), theme = at("book-theme");
  const isDark = () => getComputedStyle(root).colorScheme === "dark" ||
    (!root.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
  const name = () => { theme.textContent = isDark() ? "Light" : "Dark"; };
  theme.hidden = false;
  name();
  theme.onclick = () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    try { localStorage.theme = root.dataset.theme; } catch { /* for this page only */ }
    name();
  };
  addEventListener("keydown", event => {
    if (event.key === "/" && !event.target.closest("input, textarea")) { event.preventDefault(); document.querySelector("[name=q]").focus(); }
  });
  paintAll(document.body);
  light();
  addEventListener("hashchange", light);
  const here = document.querySelector("[aria-current=page]");
  if (here) at("book-contents").scrollTop = here.offsetTop - 200;
  corner(at("live-state"));
  bring(at("live-calls"), `/live/calls?request=${document.body.dataset.request}`);
  at("live-rude").addEventListener("submit", async event => {
    event.preventDefault();
    const buttons = [...at("live-rude").querySelectorAll("button")];
    buttons.forEach(it => { it.disabled = true; });
    at("live-deed").replaceChildren(make("p", {}, "It is on its way."));
    await bring(at("live-deed"), event.submitter.formAction, { method: "POST" });
    buttons.forEach(it => { it.disabled = false; });
    event.submitter.focus();
  });
  for (const figure of document.querySelectorAll("figure[data-trace]")) {
    const button = make("button", { type: "button", onclick: () => open(figure) }, "Step through it");
    figure.querySelector("figcaption").prepend(button);
  }
  const step = /^#(\w+):(\d+)$/.exec(location.hash);
  const figure = step && document.querySelector(`figure[data-trace="${step[1]}"]`);
  if (figure) open(figure, step[2] - 1).then(() => figure.nextElementSibling.scrollIntoView({ block: "center" }));
  if (/^\/docs\/traces\/.+\.txt$/.test(location.pathname)) {
    const name = location.pathname.split("/").pop().slice(0, -4);
    trace(name).then(([text, held]) => document.querySelector("h1").after(stepper(name, text, step ? step[2] - 1 : 0, held)));
  }
});
