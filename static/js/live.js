// Keeps an open page true: fragments and samples over one WebSocket, or the page itself every 5 s without it.
//
// A frame is JSON, each member may be missing:
//   fragments  [{id, html}]             the element of that id becomes this HTML
//   samples    [{server, at, values}]   `at` in Unix ms, values by `metric` or `metric{label}`, for charts
//   reload     true                     fetch this page again (servers were added or removed)
//
// The page of an operation says which servers are opened on it, {open: [positions]}: only their output is sent.

const POLL_MS = 5000;
const RETRY_FIRST_MS = 1000;
const RETRY_MOST_MS = 30000;
// This many failures in a row mean that a proxy lets no WebSocket through; polling takes over meanwhile.
const FAILURES_BEFORE_POLLING = 2;
const WORDS = { connecting: "Connecting", live: "Live", polling: "Every 5 s", offline: "Offline" };

function showState(state) {
  const element = document.getElementById("live-state");
  if (!element || element.dataset.state === state) return;
  element.dataset.state = state;
  element.querySelector(".live-text").textContent = WORDS[state];
  element.title =
    state === "live" ? "New readings appear as they arrive."
    : state === "polling" ? "No WebSocket; the page is fetched again every 5 seconds."
    : state === "offline" ? "Roundsman cannot be reached. What you see is what was known last."
    : "";
}

/** What a person has open, typed or chosen outlives a new version of the element around it. */
const MORPH = {
  morphStyle: "outerHTML",
  ignoreActiveValue: true,
  callbacks: {
    beforeAttributeUpdated: (name, node) =>
      !(name === "open" && (node.matches("details, dialog"))) &&
      !((name === "value" || name === "checked" || name === "selected" || name === "hidden") && node.closest("form")) &&
      !(name === "disabled" && node.closest("form")),
    // The output of an opened server was fetched apart; a new version of its line may come without it.
    beforeNodeRemoved: (node) => !(node instanceof Element && node.classList.contains("target-body")),
    beforeNodeMorphed: (node) =>
      !(node instanceof Element && (node.hasAttribute("data-keep") || (node.matches("input, select, textarea") && node.form))),
  },
};

function morph(element, html) {
  // A selection inside the element would be lost; the next version comes soon enough.
  const selection = getSelection();
  if (selection && !selection.isCollapsed && element.contains(selection.anchorNode)) return;
  // Who reads the end of an output goes on reading its end; who has scrolled up stays there.
  const left = [...element.querySelectorAll("pre[data-follow]")].filter((pre) => !isAtEnd(pre)).map((pre) => pre.getAttribute("aria-label"));
  // White space around the element would stay behind as text, a little more each time.
  window.Idiomorph.morph(element, html.trim(), MORPH);
  for (const pre of document.getElementById(element.id)?.querySelectorAll("pre[data-follow]") ?? []) {
    if (!left.includes(pre.getAttribute("aria-label"))) pre.scrollTop = pre.scrollHeight;
  }
}

function isAtEnd(pre) {
  return pre.scrollHeight - pre.scrollTop - pre.clientHeight < 4;
}

/** The newest version of each part that waits for the next frame; a hidden page draws none and keeps the last. */
const waiting = new Map();

function drawWaiting() {
  const parts = [...waiting];
  waiting.clear();
  for (const [id, html] of parts) {
    const element = document.getElementById(id);
    if (element) morph(element, html);
  }
}

function apply(message) {
  for (const { id, html } of message.fragments ?? []) {
    if (!document.getElementById(id)) continue;
    if (waiting.size === 0) requestAnimationFrame(drawWaiting);
    waiting.set(id, html);
  }
  if (message.samples?.length) document.dispatchEvent(new CustomEvent("samples", { detail: message.samples }));
  if (message.reload) refetch();
}

let speaking;

/** Says something to the server over the page's WebSocket; without one the page is fetched by its address anyway. */
export function tell(message) {
  if (speaking?.readyState === WebSocket.OPEN) speaking.send(JSON.stringify(message));
}

let fetching = false;

/** Fetches this page again and takes over its content. Answers whether that worked. */
async function refetch() {
  if (fetching) return true;
  fetching = true;
  try {
    const answer = await fetch(location.href, { headers: { accept: "text/html" }, signal: AbortSignal.timeout(POLL_MS * 2) });
    if (answer.redirected && new URL(answer.url).pathname === "/login") {
      location.reload();
      return true;
    }
    if (!answer.ok) return false;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const main = page.getElementById("main");
    // A notice tells of one request; fetched again it would be gone, and a reader may not be done with it.
    if (main) morph(document.getElementById("main"), main.outerHTML);
    return Boolean(main);
  } catch {
    return false;
  } finally {
    fetching = false;
  }
}

// An import of a thousand servers takes minutes; more often nobody looks.
const REFRESH_MS = 2000;

/** What is going on and sends no events of its own says data-refresh; the page is fetched again until it no longer does. */
export function startRefreshing() {
  const again = async () => {
    if (!document.querySelector("[data-refresh]")) return;
    if (!document.hidden) await refetch();
    setTimeout(again, REFRESH_MS);
  };
  setTimeout(again, REFRESH_MS);
}

export function startLive() {
  const view = document.body.dataset.live;
  if (!view) return;
  let failures = 0;
  let retry;
  let poll;

  const pollOnce = async () => {
    if (document.hidden) return;
    showState((await refetch()) ? "polling" : "offline");
  };
  const startPolling = () => {
    if (poll) return;
    pollOnce();
    poll = setInterval(pollOnce, POLL_MS);
  };
  const stopPolling = () => {
    clearInterval(poll);
    poll = undefined;
  };

  const connect = () => {
    clearTimeout(retry);
    const address = new URL("/live", location.href);
    address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    const params = new URLSearchParams([["view", view]]);
    // The page's own `view` (a table, a tree) would collide with the name of the stream.
    for (const [key, value] of new URLSearchParams(location.search)) params.append(key === "view" ? "page_view" : key, value);
    address.search = params;
    const socket = new WebSocket(address);
    speaking = socket;
    let opened = false;
    socket.addEventListener("open", () => {
      opened = true;
      stopPolling();
      showState("live");
      // What changed while nobody listened.
      if (failures > 0) refetch();
      failures = 0;
    });
    socket.addEventListener("message", (event) => {
      if (typeof event.data !== "string") return;
      apply(JSON.parse(event.data));
    });
    socket.addEventListener("close", () => {
      failures += 1;
      showState(opened ? "connecting" : poll ? document.getElementById("live-state")?.dataset.state ?? "offline" : "connecting");
      if (failures >= FAILURES_BEFORE_POLLING) startPolling();
      const most = Math.min(RETRY_MOST_MS, RETRY_FIRST_MS * 2 ** (failures - 1));
      // Full jitter: after a restart of Roundsman not every page comes at once.
      retry = setTimeout(connect, 250 + Math.random() * most);
    });
    // One that is still on its way is dropped by the browser; closing it would be a complaint on the console.
    addEventListener("pagehide", () => socket.readyState === WebSocket.OPEN && socket.close(), { once: true });
  };

  // Back from the cache of the browser or from sleep: what is shown may be old.
  addEventListener("pageshow", (event) => {
    if (event.persisted) connect();
  });
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden && poll) pollOnce();
  });
  connect();
}
