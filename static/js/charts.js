// The charts of a server: one shared range in the address, one shared cursor, fed live while it ends now.

const POINTS = 600;
// More lines than this cannot be told apart; the busiest are kept and the page says how many are not.
const LINES_MAX = 10;
const HEIGHT = 168;
const PALETTE = ["--cpu", "--network", "--memory", "--disk", "--line-a", "--line-b", "--line-c", "--line-d", "--line-e", "--line-f"];

const root = document.getElementById("charts");
const server = root.dataset.server;
const intervalMs = Number(root.dataset.intervalMs);
const ranges = new Map([...root.querySelectorAll("[data-range]")].map((button) => [button.dataset.range, Number(button.dataset.seconds)]));
const sync = window.uPlot.sync("server");
const charts = [];

/** The range in the address: `?range=1h`, or `?from=ms&to=ms`. */
function readRange() {
  const query = new URLSearchParams(location.search);
  const from = Number(query.get("from"));
  const to = Number(query.get("to"));
  if (from > 0 && to > from) return { name: null, from, to };
  const name = ranges.has(query.get("range")) ? query.get("range") : "1h";
  const now = Date.now();
  return { name, from: now - ranges.get(name) * 1000, to: now };
}

let range = readRange();
// Where a double-click goes back to.
let lastNamed = range.name ?? "1h";

function setRange(query) {
  history.pushState(null, "", `${location.pathname}?${new URLSearchParams(query)}`);
  applyRange();
}

function applyRange() {
  range = readRange();
  lastNamed = range.name ?? lastNamed;
  showRange();
  for (const chart of charts) chart.stale = true;
  loadVisible();
}

const localInput = (ms) => new Date(ms - new Date(ms).getTimezoneOffset() * 60000).toISOString().slice(0, 16);

function showRange() {
  for (const button of root.querySelectorAll("[data-range]")) button.setAttribute("aria-pressed", String(button.dataset.range === range.name));
  const form = document.getElementById("range-custom");
  form.elements.from.value = localInput(range.from);
  form.elements.to.value = localInput(range.to);
  form.classList.toggle("is-used", !range.name);
  document.getElementById("range-back").hidden = Boolean(range.name);
  document.getElementById("range-note").textContent = range.name ? "" : "Not live: a fixed range is shown.";
}

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

function formatBytes(value) {
  let unit = 0;
  let size = Math.abs(value);
  while (size >= 1023.5 && unit < UNITS.length - 1) {
    size /= 1024;
    unit += 1;
  }
  const digits = unit === 0 || size >= 99.95 ? 0 : size >= 9.995 ? 1 : 2;
  return `${value < 0 ? "-" : ""}${size.toFixed(digits)}\u00a0${UNITS[unit]}`;
}

/** The same words as `view.rs`. */
function format(value, unit) {
  if (value == null) return "–";
  switch (unit) {
    case "percent": return `${value.toFixed(value >= 99.95 ? 0 : 1)}%`;
    case "bytes": return formatBytes(value);
    case "bytes_per_second": return `${formatBytes(value)}/s`;
    case "celsius": return `${value.toFixed(1)}\u00a0°C`;
    case "milliseconds": return value < 9.95 ? `${value.toFixed(1)}\u00a0ms` : value < 999.5 ? `${value.toFixed(0)}\u00a0ms` : `${(value / 1000).toFixed(2)}\u00a0s`;
    case "number": return value.toFixed(2);
    case "per_second": return `${value.toLocaleString("en", { maximumFractionDigits: value < 10 ? 1 : 0 })}/s`;
    default: return value.toLocaleString("en", { maximumFractionDigits: value < 10 ? 1 : 0 });
  }
}

/** Short words for an axis: no decimals that say nothing. */
function axisText(value, unit) {
  if (unit === "percent") return `${+value.toFixed(1)}%`;
  if (unit === "bytes" || unit === "bytes_per_second") return formatBytes(value).replace(/\.0+(?=\u00a0)/, "").replace(/(\.\d)0(?=\u00a0)/, "$1");
  if (unit === "milliseconds") return `${+value.toFixed(1)} ms`;
  if (unit === "celsius") return `${+value.toFixed(1)}°`;
  return value >= 10000 ? `${+(value / 1000).toFixed(1)}k` : String(+value.toFixed(2));
}

/** 24 hours, a date where a day begins, seconds only where they tell ticks apart. */
function timeText(tick, step) {
  const at = new Date(tick * 1000);
  const two = (number) => String(number).padStart(2, "0");
  const startsDay = at.getHours() === 0 && at.getMinutes() === 0 && at.getSeconds() === 0;
  if (step >= 86400 || startsDay) return at.toLocaleDateString("en-GB", { day: "numeric", month: "short" });
  const minutes = `${two(at.getHours())}:${two(at.getMinutes())}`;
  return step < 60 ? `${minutes}:${two(at.getSeconds())}` : minutes;
}

// Steps of powers of two, so that an axis of bytes reads 512 KiB, 1 MiB, 2 MiB.
const BYTE_STEPS = Array.from({ length: 50 }, (_, power) => 2 ** power);

/** A colour of the sheet as canvas can draw it; `light-dark()` is resolved by asking an element. */
const probe = document.createElement("span");
probe.hidden = true;
root.append(probe);
function colour(name) {
  probe.style.color = `var(${name})`;
  return getComputedStyle(probe).color;
}
const withAlpha = (rgb, alpha) => rgb.replace(/^rgb\(([^)]+)\)$/, (_, parts) => `rgba(${parts}, ${alpha})`);

class Chart {
  constructor(element) {
    this.element = element;
    this.unit = element.dataset.unit;
    this.metrics = element.dataset.metrics.split("|").map((part) => {
      const [name, title] = part.split("=");
      return { name, title };
    });
    this.plotBox = element.querySelector(".chart-plot");
    this.legend = element.querySelector(".chart-legend");
    this.nowText = element.querySelector(".chart-now");
    this.stale = true;
    this.visible = false;
    this.series = [];
    this.load = 0;
  }

  async fetch() {
    this.stale = false;
    const load = ++this.load;
    const { from, to } = range;
    this.element.classList.add("is-loading");
    try {
      const answers = await Promise.all(
        this.metrics.map(async ({ name }) => {
          const query = new URLSearchParams({ metric: name, from: Math.trunc(from), to: Math.trunc(to), points: POINTS });
          const answer = await fetch(`/api/v1/fleet/servers/${server}/metrics?${query}`, { headers: { accept: "application/json" } });
          if (!answer.ok) throw new Error(`${name}: the history answered ${answer.status}`);
          return answer.json();
        }),
      );
      // A newer range was chosen while this one was on its way.
      if (load !== this.load) return;
      this.take(answers);
    } catch (error) {
      if (load === this.load) this.say(`Not loaded: ${error.message}`);
    } finally {
      if (load === this.load) this.element.classList.remove("is-loading");
    }
  }

  /** Answers of the API to series of points, each with its key as live samples name it. */
  take(answers) {
    const all = answers.flatMap((answer, index) =>
      (answer.series ?? []).map(({ label, points }) => {
        const { name, title } = this.metrics[index];
        const short = title.replace(/^CPU (in )?/, "").replace(/ by interface$/, "").replace(/^Load, /, "");
        const one = this.metrics.length === 1;
        return {
          key: label ? `${name}{${label}}` : name,
          title: label ? (one ? label : `${label} ${short.toLowerCase()}`) : one ? title : short,
          points: points.filter((point) => point[1] != null),
        };
      }),
    );
    const mean = (series) => series.points.reduce((sum, point) => sum + point[1], 0) / Math.max(1, series.points.length);
    this.leftOut = Math.max(0, all.length - LINES_MAX);
    this.series = this.leftOut ? all.map((series) => [mean(series), series]).sort((a, b) => b[0] - a[0]).slice(0, LINES_MAX).map(([, series]) => series) : all;
    if (!this.series.some((series) => series.points.length)) {
      this.say("Nothing was recorded in this range.");
      return;
    }
    this.draw();
  }

  say(text) {
    this.plot?.destroy();
    this.plot = null;
    this.legend.replaceChildren();
    this.nowText.textContent = "";
    const note = document.createElement("p");
    note.className = "chart-note soft";
    note.textContent = text;
    this.plotBox.replaceChildren(note);
  }

  /** Columns for uPlot: one x axis for all series, a null where one has a hole, min and max for a lone one. */
  columns() {
    const lone = this.series.length === 1;
    // A roll-up is coarser than the readings: its own step decides what a hole is.
    const tables = this.series.map(({ points }) => {
      let step = intervalMs;
      const gaps = points.slice(1).map((point, index) => point[0] - points[index][0]).sort((a, b) => a - b);
      if (gaps.length) step = Math.max(step, gaps[gaps.length >> 1]);
      const table = lone ? [[], [], [], []] : [[], []];
      points.forEach((point, index) => {
        if (index > 0 && point[0] - points[index - 1][0] > step * 2.6) {
          table[0].push((point[0] - step) / 1000);
          for (const column of table.slice(1)) column.push(null);
        }
        table[0].push(point[0] / 1000);
        table[1].push(point[1]);
        if (lone) {
          table[2].push(point[3] ?? point[1]);
          table[3].push(point[2] ?? point[1]);
        }
      });
      return table;
    });
    // Keep explicit nulls as gaps; fill what merely lies between two points of another series.
    return lone ? tables[0] : window.uPlot.join(tables, tables.map((table) => table.map(() => 2)));
  }

  draw() {
    const data = this.columns();
    const lone = this.series.length === 1;
    const colours = this.series.map((_, index) => colour(PALETTE[index % PALETTE.length]));
    const own = lone ? colour(this.unit.startsWith("bytes") ? "--network" : this.element.dataset.metrics.startsWith("memory") ? "--memory" : this.element.dataset.metrics.startsWith("filesystem") ? "--disk" : "--cpu") : null;
    const line = (title, stroke) => ({ label: title, stroke, width: 1.5, points: { show: false }, spanGaps: false });
    const edge = { stroke: "transparent", width: 0, points: { show: false } };
    const soft = colour("--soft");
    const grid = { stroke: colour("--line"), width: 1 };
    const bytes = this.unit.startsWith("bytes");
    const options = {
      width: this.plotBox.clientWidth,
      height: HEIGHT,
      legend: { show: false },
      cursor: {
        sync: { key: sync.key },
        drag: { x: true, y: false, setScale: false },
        points: { size: 6 },
        y: false,
      },
      scales: {
        x: { time: true, range: () => [range.from / 1000, range.to / 1000] },
        y: {
          range: (_, least, most) => {
            if (this.element.hasAttribute("data-share")) return [0, most > 50 ? 100 : Math.max(5, most * 1.15)];
            const top = Math.max(most ?? 1, bytes ? 1024 : 1) * 1.1;
            return [this.unit === "celsius" && least > 20 ? Math.floor(least - 5) : 0, top];
          },
        },
      },
      padding: [10, 10, 0, 0],
      axes: [
        { stroke: soft, grid, ticks: grid, font: "11px sans-serif", size: 28, gap: 3, space: 62, values: (_, ticks, _axis, _space, step) => ticks.map((tick) => timeText(tick, step)) },
        { stroke: soft, grid, ticks: { show: false }, font: "11px sans-serif", size: 66, incrs: bytes ? BYTE_STEPS : undefined, values: (_, ticks) => ticks.map((tick) => axisText(tick, this.unit)) },
      ],
      series: lone
        ? [{}, { ...line(this.series[0].title, own), fill: withAlpha(own, 0.1) }, edge, edge]
        : [{}, ...this.series.map((series, index) => line(series.title, colours[index]))],
      bands: lone ? [{ series: [2, 3], fill: withAlpha(own, 0.22) }] : [],
      hooks: {
        setCursor: [(plot) => this.showValues(plot.cursor.idx)],
        setSelect: [
          (plot) => {
            const { left, width } = plot.select;
            if (width < 4) return;
            plot.setSelect({ left: 0, width: 0 }, false);
            const from = Math.round(plot.posToVal(left, "x") * 1000);
            const to = Math.round(plot.posToVal(left + width, "x") * 1000);
            // Only the chart under the pointer speaks; the others follow the address.
            if (this.plotBox.matches(":hover") && to - from >= 2000) setRange({ from, to });
          },
        ],
      },
    };
    this.plot?.destroy();
    this.plotBox.replaceChildren();
    this.plot = new window.uPlot(options, data, this.plotBox);
    this.plot.over.addEventListener("dblclick", () => !range.name && setRange({ range: lastNamed }));
    this.buildLegend(lone ? [own] : colours);
    this.showValues(null);
  }

  buildLegend(colours) {
    const items = this.series.map((series, index) => {
      const item = document.createElement("li");
      const key = document.createElement("i");
      key.style.background = colours[index];
      const title = document.createElement("span");
      title.textContent = series.title;
      const value = document.createElement("b");
      item.append(key, title, value);
      return item;
    });
    if (this.leftOut) {
      const item = document.createElement("li");
      item.textContent = `and ${this.leftOut} quieter ones`;
      items.push(item);
    }
    this.legend.replaceChildren(...items);
    this.legend.hidden = this.series.length === 1;
  }

  /** The values under the cursor, or the newest. */
  showValues(index) {
    const data = this.plot.data;
    const at = (column) => {
      if (index != null) return column[index];
      for (let i = column.length - 1; i >= 0; i -= 1) if (column[i] != null) return column[i];
      return null;
    };
    if (this.series.length === 1) {
      this.nowText.textContent = format(at(data[1]), this.unit);
      return;
    }
    this.series.forEach((_, i) => {
      const value = this.legend.children[i]?.querySelector("b");
      if (value) value.textContent = format(at(data[i + 1]), this.unit);
    });
  }

  /** One live reading: appended where a line of its name is drawn. */
  append(at, values) {
    // The first reading of a new server: there is something to fetch now.
    if (!this.series.length && this.visible && Object.keys(values).some((key) => this.metrics.some(({ name }) => key.split("{")[0] === name))) {
      this.fetch();
      return false;
    }
    let took = false;
    for (const series of this.series) {
      const value = values[series.key];
      if (value == null) continue;
      const last = series.points[series.points.length - 1];
      if (last && last[0] >= at) continue;
      series.points.push([at, value, value, value]);
      while (series.points.length && series.points[0][0] < range.from) series.points.shift();
      took = true;
    }
    return took;
  }

  refresh() {
    if (!this.plot) return this.series.some((series) => series.points.length) ? this.draw() : undefined;
    this.plot.setData(this.columns());
    if (this.plot.cursor.idx == null || this.plot.cursor.left < 0) this.showValues(null);
  }
}

function loadVisible() {
  for (const chart of charts) if (chart.visible && chart.stale) chart.fetch();
}

const seen = new IntersectionObserver(
  (entries) => {
    for (const entry of entries) {
      const chart = charts.find((candidate) => candidate.element === entry.target);
      chart.visible = entry.isIntersecting;
    }
    loadVisible();
  },
  { rootMargin: "300px" },
);

const resized = new ResizeObserver((entries) => {
  for (const entry of entries) {
    const chart = charts.find((candidate) => candidate.plotBox === entry.target);
    const width = Math.floor(entry.contentRect.width);
    if (chart.plot && width > 0 && chart.plot.width !== width) chart.plot.setSize({ width, height: HEIGHT });
  }
});

for (const element of root.querySelectorAll(".chart")) {
  const chart = new Chart(element);
  charts.push(chart);
  seen.observe(element);
  resized.observe(chart.plotBox);
}

root.querySelector(".segments").addEventListener("click", (event) => {
  const name = event.target.closest("[data-range]")?.dataset.range;
  if (name) setRange({ range: name });
});
document.getElementById("range-back").addEventListener("click", () => setRange({ range: lastNamed }));
document.getElementById("range-custom").addEventListener("submit", (event) => {
  event.preventDefault();
  const from = Date.parse(event.target.elements.from.value);
  const to = Date.parse(event.target.elements.to.value);
  if (to > from) setRange({ from, to });
  else document.getElementById("range-note").textContent = "The end must be after the start.";
});
addEventListener("popstate", applyRange);
document.addEventListener("themechange", () => {
  for (const chart of charts) if (chart.plot) chart.draw();
});

document.addEventListener("samples", ({ detail }) => {
  if (!range.name) return;
  const now = Date.now();
  range = { ...range, from: now - ranges.get(range.name) * 1000, to: now };
  for (const { server: from, at, values } of detail) {
    if (from !== server) continue;
    for (const chart of charts) {
      if (chart.append(at, values) && chart.visible) chart.refresh();
    }
  }
});
// Without a stream the charts are fetched again now and then, as the rest of the page is.
setInterval(() => {
  if (document.hidden || !range.name || document.getElementById("live-state")?.dataset.state === "live") return;
  applyRange();
}, 15000);

showRange();
