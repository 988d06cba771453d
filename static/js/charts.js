// The charts of a page: one range in the address, one cursor, few requests, fed live while the range ends now.

import { aggregateQuery, earlier, fetchAggregates, fetchRanges, fetchTimeline, linesOf, linesOfAggregate, linesOfTop, rangeQuery } from "./charts/data.js";
import { savePicture, saveValues } from "./charts/files.js";
import { APPENDED_MAX, Chart } from "./charts/plot.js";
import { view } from "./charts/view.js";

// Marks of more servers than these would be a thicket.
const MARKED_SERVERS = 3;
// Figures of the whole fleet change slowly; without a stream every chart is asked for this often.
const REFETCH_MS = 15_000;
const REDRAW_MS = 250;
const MARKS_EVERY_MS = 60_000;
const REST_MS = 300;

const root = document.getElementById("charts");
const place = root.dataset.place;
const servers = (root.dataset.servers ?? "").split(",").filter(Boolean);
const filter = new URLSearchParams(root.dataset.filter ?? "");
const top = Number(root.dataset.top ?? 5);
const note = document.getElementById("range-note");

/** A chart a server instead of a line a server. */
function splitByServer() {
  for (const figure of [...root.querySelectorAll(".chart")]) {
    figure.after(
      ...servers.slice(1).map((server) => {
        const copy = figure.cloneNode(true);
        copy.dataset.server = server;
        copy.querySelector("h2").textContent += ` · ${server}`;
        copy.dataset.slug += `-${server}`;
        return copy;
      }),
    );
    figure.dataset.server = servers[0];
    figure.querySelector("h2").textContent += ` · ${servers[0]}`;
  }
}
if (root.dataset.layout === "multiples" && servers.length > 1) splitByServer();

const charts = [...root.querySelectorAll(".chart")].map((figure) => new Chart(figure));
const chartOf = (target) => charts.find((chart) => chart.figure === target.closest(".chart"));
for (const chart of charts) chart.servers = chart.figure.dataset.server ? [chart.figure.dataset.server] : servers;

const localInput = (ms) => new Date(ms - new Date(ms).getTimezoneOffset() * 60000).toISOString().slice(0, 16);

function showRange() {
  for (const link of root.querySelectorAll("[data-range]")) {
    if (link.dataset.range === view.range.name) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
  }
  const form = document.getElementById("range-custom");
  form.elements.from.value = localInput(view.range.from);
  form.elements.to.value = localInput(view.range.to);
  form.classList.toggle("is-used", !view.isLive);
  document.getElementById("range-back").hidden = view.isLive;
  note.textContent = view.isLive ? "" : "Not live: a fixed range is shown.";
  const compare = root.querySelector("select[name=compare]");
  if (compare) compare.value = view.compare ?? "";
  for (const chart of charts) {
    const enlarged = chart.slug === view.enlarged;
    chart.figure.classList.toggle("is-enlarged", enlarged);
    chart.figure.querySelector("[data-do=enlarge]").textContent = enlarged ? "Make smaller" : "Enlarge";
  }
}

let loading = null;

/** What is not in sight yet is fetched when what is has come, in one request more: for paper, and for who scrolls. */
function loadRest() {
  clearTimeout(rest);
  rest = setTimeout(() => load(charts.filter((chart) => chart.stale)), REST_MS);
}
let rest = null;

/** Fetches what is old, by default of what is in sight, in one request for each kind of question. */
async function load(due = charts.filter((chart) => chart.visible && chart.stale)) {
  if (!due.length) return;
  const { signal } = (loading ??= new AbortController());
  const range = { ...view.range };
  for (const chart of due) {
    chart.stale = false;
    chart.figure.classList.add("is-loading");
  }
  const points = Math.max(...due.map((chart) => chart.points));
  const groups = [due.filter((chart) => chart.source === "servers"), due.filter((chart) => chart.source !== "servers")];
  const loads = [loadServers, loadFleet];
  await Promise.all(
    groups.map(async (group, index) => {
      if (!group.length) return;
      try {
        await loads[index](group, range, points, signal);
      } catch (error) {
        if (signal.aborted) return;
        for (const chart of group) chart.say(`Not loaded: ${error.message}`);
      } finally {
        if (!signal.aborted) for (const chart of group) chart.figure.classList.remove("is-loading");
      }
    }),
  );
  if (!signal.aborted && charts.some((chart) => chart.stale)) loadRest();
}

async function loadServers(group, range, points, signal) {
  const metrics = [...new Set(group.flatMap((chart) => chart.metrics))];
  const back = view.compareMs;
  const before = back && fetchRanges(servers, metrics, { from: range.from - back, to: range.to - back }, points, signal);
  const [answer, past] = await Promise.all([fetchRanges(servers, metrics, range, points, signal), before]);
  for (const chart of group) {
    const lines = linesOf(answer, chart.metrics, chart.servers);
    const old = past ? earlier(linesOf(past, chart.metrics, chart.servers), back, view.compare) : [];
    chart.show([...lines, ...old]);
  }
}

async function loadFleet(group, range, points, signal) {
  const metrics = [...new Set(group.flatMap((chart) => chart.metrics))];
  const answer = await fetchAggregates(filter, metrics, range, points, top, signal);
  for (const chart of group) chart.show(chart.source === "top" ? linesOfTop(answer, chart.metrics[0]) : linesOfAggregate(answer, chart.metrics[0]));
}

/** Operations, restarts and outages of the servers that are shown. */
async function loadMarks() {
  const marked = servers.slice(0, MARKED_SERVERS);
  const { signal } = (loading ??= new AbortController());
  try {
    const found = await Promise.all(marked.map((server) => fetchTimeline(server, view.range, signal)));
    for (const chart of charts.filter((chart) => chart.source === "servers")) {
      const own = found.filter((timeline) => chart.servers.includes(timeline.server));
      chart.showMarks(own.flatMap((timeline) => timeline.items.map((item) => markOf(item, servers.length > 1 ? timeline.server : null))));
    }
  } catch (error) {
    if (!signal.aborted) note.textContent = `What happened meanwhile is not known: ${error.message}`;
  }
}

function markOf(item, server) {
  return {
    kind: item.kind,
    at: Date.parse(item.at),
    until: item.until ? Date.parse(item.until) : item.kind === "outage" ? Date.now() : null,
    title: [server, item.title, item.status].filter(Boolean).join(" · "),
    by: item.initiated_by,
    href: item.operation_id ? `/operations/${item.operation_id}` : null,
  };
}

function reload() {
  loading?.abort();
  loading = null;
  for (const chart of charts) chart.stale = true;
  load();
  if (servers.length) loadMarks();
}

let shown = "";
view.onChange(() => {
  const { from, to, name } = view.range;
  const asked = JSON.stringify([name ?? [from, to], view.compare]);
  showRange();
  for (const chart of charts) chart.resize();
  if (asked !== shown) {
    shown = asked;
    reload();
  } else {
    for (const chart of charts) if (chart.plot) chart.draw();
  }
});

const seen = new IntersectionObserver(
  (entries) => {
    for (const entry of entries) {
      const chart = chartOf(entry.target);
      chart.visible = entry.isIntersecting;
      // Out of sight it was not redrawn while time went on.
      if (chart.visible) chart.refresh();
    }
    load();
  },
  { rootMargin: "400px" },
);
const resized = new ResizeObserver((entries) => {
  for (const entry of entries) chartOf(entry.target).resize();
});
for (const chart of charts) {
  seen.observe(chart.figure);
  resized.observe(chart.box);
}

/** The address as it is now, with other words in it; null takes a word out. */
function addressWith(words) {
  const query = new URLSearchParams(location.search);
  for (const [key, value] of Object.entries(words)) {
    query.delete(key);
    if (value) query.set(key, value);
  }
  return `${location.pathname}?${query}`;
}

/** Links and forms that the server made know the view of then; they are to keep the view of now. */
function startNavigation() {
  for (const link of document.querySelectorAll("a[data-keep-view]")) link.addEventListener("click", () => (link.href = addressWith({ view: "table" })));
  for (const link of root.querySelectorAll("[data-drop]")) {
    link.addEventListener("click", () => {
      const field = root.querySelector("[data-adds-to]")?.dataset.addsTo ?? "with";
      const rest = (new URLSearchParams(location.search).get(field) ?? "").split(",").filter((name) => name !== link.dataset.drop);
      link.href = addressWith({ [field]: rest.join(",") });
    });
  }
  for (const form of document.querySelectorAll("form[data-keep-view]")) {
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const words = {};
      for (const [name, value] of new FormData(form)) if (form.elements[name]?.type !== "hidden") words[name] = value.trim();
      const adds = form.elements.add;
      if (adds) {
        const field = adds.dataset.addsTo;
        const known = (new URLSearchParams(location.search).get(field) ?? "").split(",");
        words[field] = [...new Set([...known, words.add])].filter(Boolean).join(",");
        delete words.add;
      }
      if (words.server) words.server = words.server.split(/[\s,]+/).filter(Boolean).join(",");
      location.assign(addressWith(words));
    });
  }
}

function startControls() {
  const acts = {
    earlier: () => view.pan(-0.5),
    later: () => view.pan(0.5),
    closer: () => view.zoom(0.5),
    wider: () => view.zoom(2),
    back: () => view.reset(),
  };
  root.addEventListener("click", (event) => {
    const link = event.target.closest("[data-range]");
    if (link && !event.ctrlKey && !event.metaKey && !event.shiftKey) {
      event.preventDefault();
      view.showNamed(link.dataset.range);
    }
    const action = event.target.closest("[data-do]")?.dataset.do;
    if (acts[action]) acts[action]();
    else if (action) forChart(chartOf(event.target), action);
  });
  document.getElementById("range-custom").addEventListener("submit", (event) => {
    event.preventDefault();
    const from = Date.parse(event.target.elements.from.value);
    const to = Date.parse(event.target.elements.to.value);
    if (to > from) view.showRange(from, to);
    else note.textContent = "The end must be after the start.";
  });
  root.querySelector("select[name=compare]")?.addEventListener("change", (event) => view.change({ compare: event.target.value }));
}

function forChart(chart, action) {
  chart.figure.querySelector(".chart-menu").open = false;
  if (action === "enlarge") view.change({ chart: chart.slug === view.enlarged ? null : chart.slug });
  if (action === "picture") savePicture(chart, place);
  if (action === "values") {
    const { range } = view;
    if (chart.source === "servers") saveValues(chart, place, "/api/v1/fleet/metrics", rangeQuery(chart.servers, chart.metrics, range, chart.points));
    else saveValues(chart, place, "/api/v1/fleet/metrics/aggregated", aggregateQuery(filter, chart.metrics, range, chart.points, chart.source === "top" ? top : 0));
  }
  if (action === "table") chart.table.open = !chart.table.open;
}

let redraw = null;
document.addEventListener("samples", ({ detail }) => {
  if (!view.isLive || view.compareMs) return;
  for (const { server, at, values } of detail) {
    for (const chart of charts) {
      // The first reading of a new server: there is something to fetch now.
      if (!chart.lines.length && chart.source === "servers" && Object.keys(values).some((key) => chart.metrics.includes(key.split("{")[0]))) chart.stale = true;
      else if (chart.append(server, at, values) && chart.appended > APPENDED_MAX) chart.stale = true;
    }
  }
  redraw ??= setTimeout(() => {
    redraw = null;
    view.follow();
    for (const chart of charts) if (chart.visible) chart.refresh();
    load();
  }, servers.length > 1 ? REDRAW_MS : 0);
});

// Without a stream, over the whole fleet, and beside what is compared with, charts are fetched again now and then.
setInterval(() => {
  const streamed = document.getElementById("live-state")?.dataset.state === "live" && servers.length > 0 && !view.compareMs;
  if (document.hidden || !view.isLive || streamed) return;
  view.follow();
  for (const chart of charts) chart.stale = true;
  load();
}, REFETCH_MS);

setInterval(() => {
  if (!document.hidden && view.isLive && servers.length) loadMarks();
}, MARKS_EVERY_MS);

const redrawAll = () => {
  for (const chart of charts) if (chart.plot) chart.draw();
};
document.addEventListener("themechange", redrawAll);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redrawAll);
// Paper is white whatever the screen is.
let theme;
addEventListener("beforeprint", () => {
  theme = document.documentElement.dataset.theme;
  document.documentElement.dataset.theme = "light";
  redrawAll();
});
addEventListener("afterprint", () => {
  if (theme) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
  redrawAll();
});

startControls();
startNavigation();
showRange();
shown = JSON.stringify([view.range.name ?? [view.range.from, view.range.to], view.compare]);
if (servers.length) loadMarks();
