// What the page shows, kept in its address: a link carries the whole view, and the back button goes back in it.

// Shorter than this there is nothing to see between two readings.
const SHORTEST_MS = 10_000;
const LONGEST_MS = 10 * 365 * 86400e3;
const COMPARED = { day: 86400e3, week: 7 * 86400e3 };

const root = document.getElementById("charts");
const named = new Map([...root.querySelectorAll("[data-range]")].map((link) => [link.dataset.range, Number(link.dataset.seconds) * 1000]));
const usual = root.dataset.defaultRange;

/** The range of an address: one with a name ends now and is live, `from` and `to` stand still. */
function readRange(query) {
  const from = Number(query.get("from"));
  const to = Number(query.get("to"));
  if (from > 0 && to > from) return { name: null, from, to };
  const name = named.has(query.get("range")) ? query.get("range") : usual;
  const now = Date.now();
  return { name, from: now - named.get(name), to: now };
}

class View {
  constructor() {
    // Where "back to live" and a double click go.
    this.lastNamed = usual;
    this.listeners = [];
    this.read();
    addEventListener("popstate", () => {
      this.read();
      this.tell();
    });
  }

  read() {
    const query = new URLSearchParams(location.search);
    this.range = readRange(query);
    this.lastNamed = this.range.name ?? this.lastNamed;
    this.compare = query.get("compare") in COMPARED ? query.get("compare") : null;
    this.hidden = new Set((query.get("hide") ?? "").split(",").filter(Boolean));
    this.enlarged = query.get("chart");
  }

  get lengthMs() {
    return this.range.to - this.range.from;
  }

  /** How far back what is compared with lies; 0: nothing is. */
  get compareMs() {
    return this.compare ? COMPARED[this.compare] : 0;
  }

  get isLive() {
    return this.range.name !== null;
  }

  /** A live range ends now. */
  follow() {
    const now = Date.now();
    this.range = { name: this.range.name, from: now - named.get(this.range.name), to: now };
  }

  /** Changes the address, null takes a word out of it; listeners hear of it. */
  change(words) {
    const query = new URLSearchParams(location.search);
    for (const [key, value] of Object.entries(words)) {
      if (value == null || value === "") query.delete(key);
      else query.set(key, value);
    }
    const text = query.toString();
    history.pushState(null, "", text ? `${location.pathname}?${text}` : location.pathname);
    this.read();
    this.tell();
  }

  showNamed(name) {
    this.change({ range: name, from: null, to: null });
  }

  showRange(from, to) {
    const now = Date.now();
    const length = Math.min(LONGEST_MS, Math.max(SHORTEST_MS, to - from));
    // Nothing is known of the future.
    const end = Math.min(from + length, now);
    this.change({ range: null, from: Math.round(end - length), to: Math.round(end) });
  }

  /** Moves by a share of the range; negative is earlier. */
  pan(share) {
    this.showRange(this.range.from + this.lengthMs * share, this.range.to + this.lengthMs * share);
  }

  /** Makes the range `factor` times as long around its middle. */
  zoom(factor) {
    const middle = (this.range.from + this.range.to) / 2;
    const half = Math.max(SHORTEST_MS, this.lengthMs * factor) / 2;
    this.showRange(middle - half, middle + half);
  }

  reset() {
    this.showNamed(this.lastNamed);
  }

  toggle(key) {
    const hidden = new Set(this.hidden);
    if (!hidden.delete(key)) hidden.add(key);
    this.change({ hide: [...hidden].join(",") });
  }

  onChange(listener) {
    this.listeners.push(listener);
  }

  tell() {
    for (const listener of this.listeners) listener();
  }
}

export const view = new View();
