// One chart: lines, bands, thresholds and marks on a canvas, its legend, its table. It draws what it is given.

import { LINES_MAX, busiest, columnsOf } from "./data.js";
import { axisText, format, lengthText, momentText, tickText } from "./format.js";
import { view } from "./view.js";

const HEIGHT = 176;
const ENLARGED_HEIGHT = 380;
const PALETTE = ["--cpu", "--network", "--disk", "--memory", "--line-a", "--line-b", "--line-c", "--line-d", "--line-e", "--line-f"];
// Colour is never alone: after five lines the stroke changes, too.
const STROKES = [[], [7, 3]];
const BEFORE_STROKE = [3, 3];
// Bands of more lines than this hide each other.
const BANDS_MAX = 3;
// Marks that can be pointed at; more would cover each other, their lines are still drawn.
const MARKS_MAX = 40;
const TABLE_ROWS = 24;
// A live chart with so many appended points is fetched again: its old half is coarser than its new one.
export const APPENDED_MAX = 240;
// A mark below this width is a point in time.
const NARROW_PX = 3;
// Steps of powers of two, so that an axis of bytes reads 512 KiB, 1 MiB, 2 MiB.
const BYTE_STEPS = Array.from({ length: 50 }, (_, power) => 2 ** power);

const sync = window.uPlot.sync("page");
const root = document.getElementById("charts");

/** A colour of the sheet as canvas can draw it; `light-dark()` is resolved by asking an element. */
const probe = document.createElement("span");
probe.hidden = true;
root.append(probe);
export function colour(name) {
  probe.style.color = `var(${name})`;
  return getComputedStyle(probe).color;
}
const withAlpha = (rgb, alpha) => rgb.replace(/^rgb\(([^)]+)\)$/, (_, parts) => `rgba(${parts}, ${alpha})`);

const element = (name, className, text) => {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
};

export class Chart {
  constructor(figure) {
    this.figure = figure;
    this.slug = figure.dataset.slug;
    this.unit = figure.dataset.unit;
    this.source = figure.dataset.source;
    this.metrics = figure.dataset.metrics.split(",");
    this.thresholds = (figure.dataset.thresholds ?? "").split(",").filter(Boolean).map(Number);
    this.isShare = figure.hasAttribute("data-share");
    this.title = figure.querySelector("h2").textContent;
    this.box = figure.querySelector(".chart-plot");
    this.legend = figure.querySelector(".chart-legend");
    this.nowText = figure.querySelector(".chart-now");
    this.whenText = figure.querySelector(".chart-when");
    this.table = figure.querySelector(".chart-data");
    this.servers = null;
    this.lines = [];
    this.marks = [];
    this.stale = true;
    this.visible = false;
    this.appended = 0;
    this.table.addEventListener("toggle", () => this.fillTable());
    this.box.addEventListener("keydown", (event) => this.key(event));
  }

  get height() {
    return this.figure.classList.contains("is-enlarged") ? ENLARGED_HEIGHT : HEIGHT;
  }

  /** Points that this chart can show. */
  get points() {
    return Math.min(1200, Math.max(200, Math.ceil(this.box.clientWidth / 100) * 100));
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const actions = {
      ArrowLeft: () => view.pan(-0.25),
      ArrowRight: () => view.pan(0.25),
      "+": () => view.zoom(0.5),
      "-": () => view.zoom(2),
      0: () => view.reset(),
      Escape: () => !view.isLive && view.reset(),
    };
    const action = actions[event.key];
    if (!action) return;
    event.preventDefault();
    action();
  }

  say(text) {
    this.plot?.destroy();
    this.plot = null;
    this.lines = [];
    this.legend.replaceChildren();
    this.nowText.textContent = "";
    this.box.replaceChildren(element("p", "chart-note soft", text));
  }

  show(lines) {
    const known = lines.filter((line) => line.points.length);
    const ranked = busiest(known);
    this.lines = ranked.lines;
    this.leftOut = ranked.leftOut;
    this.appended = 0;
    if (!known.length) {
      this.say("Nothing was recorded in this range.");
      return;
    }
    this.draw();
    this.fillTable();
  }

  showMarks(marks) {
    this.marks = marks;
    this.plot?.redraw(false);
    this.placeMarks();
  }

  isHidden(line) {
    return view.hidden.has(line.before ?? line.key) && this.lines.length > 1;
  }

  /** The lines with how each is drawn. */
  looks() {
    let own = 0;
    const colours = new Map();
    const lone = this.lines.filter((line) => !line.before).length === 1;
    const usual = this.unit.startsWith("bytes") ? "--network" : this.metrics[0].startsWith("memory") ? "--memory" : /^(filesystem|disk_percent)/.test(this.metrics[0]) ? "--disk" : "--cpu";
    const bands = this.lines.filter((line) => !line.before).length <= BANDS_MAX;
    return this.lines.map((line) => {
      if (line.before) return { line, colour: colours.get(line.before) ?? colour("--soft"), dash: BEFORE_STROKE, banded: false };
      const name = lone ? usual : PALETTE[own % PALETTE.length];
      const look = { line, colour: colour(name), dash: STROKES[Math.floor(own / 5) % STROKES.length], banded: line.banded ?? (bands && this.source !== "aggregate") };
      own += 1;
      colours.set(line.key, look.colour);
      return look;
    });
  }

  /** What uPlot draws: columns on one time axis, a series a column, and the bands between them. */
  assemble(looks) {
    const tables = looks.map(({ line, banded }) => columnsOf(line, banded));
    const data = tables.length === 1 ? tables[0] : window.uPlot.join(tables, tables.map((table) => table.map(() => 2)));
    const series = [{}];
    const bands = [];
    this.valueColumns = [];
    const edge = (show) => ({ stroke: "transparent", width: 0, points: { show: false }, show });
    for (const { line, colour: stroke, dash, banded } of looks) {
      const show = !this.isHidden(line);
      this.valueColumns.push(series.length);
      const filled = looks.length === 1 && banded;
      series.push({ label: line.title, stroke: line.before ? withAlpha(stroke, 0.75) : stroke, width: 1.5, dash, points: { show: false }, spanGaps: false, show, fill: filled ? withAlpha(stroke, 0.08) : undefined });
      if (banded) {
        bands.push({ series: [series.length + 1, series.length], fill: withAlpha(stroke, looks.length === 1 ? 0.24 : 0.16) });
        series.push(edge(show), edge(show));
      }
    }
    return { data, series, bands };
  }

  draw() {
    const looks = this.looks();
    const { data, series, bands } = this.assemble(looks);
    const soft = colour("--soft");
    const grid = { stroke: colour("--line"), width: 1 };
    const font = '11px "Liberation Sans", Roboto, sans-serif';
    const bytes = this.unit.startsWith("bytes");
    const options = {
      width: Math.max(100, this.box.clientWidth),
      height: this.height,
      legend: { show: false },
      cursor: {
        sync: { key: sync.key },
        drag: { x: true, y: false, setScale: false },
        points: { size: 6 },
        y: false,
        bind: { mousedown: (plot, _, handler) => (event) => this.press(plot, event, handler), dblclick: () => () => view.reset() },
      },
      scales: {
        x: { time: true, range: () => [view.range.from / 1000, view.range.to / 1000] },
        y: { range: (_, least, most) => this.heightOf(least, most, bytes) },
      },
      padding: [12, 12, 0, 0],
      axes: [
        { stroke: soft, grid, ticks: grid, font, size: 28, gap: 3, space: 62, values: (_, ticks, _axis, _space, step) => ticks.map((tick) => tickText(tick, step)) },
        { stroke: soft, grid, ticks: { show: false }, font, size: 66, incrs: bytes ? BYTE_STEPS : undefined, values: (_, ticks) => ticks.map((tick) => axisText(tick, this.unit)) },
      ],
      series,
      bands,
      hooks: {
        setCursor: [(plot) => this.showValues(plot.cursor.idx)],
        setSelect: [(plot) => this.select(plot)],
        drawAxes: [(plot) => this.drawOutages(plot)],
        draw: [(plot) => this.drawThresholds(plot), (plot) => this.drawMarks(plot), () => this.moveMarks()],
      },
    };
    this.plot?.destroy();
    this.box.replaceChildren();
    this.heads = [];
    this.plot = new window.uPlot(options, data, this.box);
    this.buildLegend(looks);
    this.showValues(null);
    this.placeMarks();
    this.describe();
  }

  heightOf(least, most, bytes) {
    if (this.isShare) return [0, most > 50 ? 100 : Math.max(5, most * 1.15)];
    const top = Math.max(most ?? 1, bytes ? 1024 : 0.1) * 1.1;
    return [least < 0 ? least * 1.1 : this.unit === "celsius" && least > 20 ? Math.floor(least - 5) : 0, top];
  }

  /** Shift drags the time along; without it a part is chosen. */
  press(plot, event, handler) {
    if (!event.shiftKey) return handler(event);
    const startPx = event.clientX;
    const { from, to } = view.range;
    const msPerPx = (to - from) / plot.over.clientWidth;
    const moved = (now) => -(now.clientX - startPx) * msPerPx;
    const drag = (now) => {
      plot.setScale("x", { min: (from + moved(now)) / 1000, max: (to + moved(now)) / 1000 });
    };
    const drop = (now) => {
      removeEventListener("mousemove", drag);
      if (Math.abs(now.clientX - startPx) > NARROW_PX) view.showRange(from + moved(now), to + moved(now));
    };
    addEventListener("mousemove", drag);
    addEventListener("mouseup", drop, { once: true });
    return null;
  }

  select(plot) {
    const { left, width } = plot.select;
    if (width < NARROW_PX + 1) return;
    plot.setSelect({ left: 0, width: 0 }, false);
    // Only the chart under the pointer speaks; the others follow the address.
    if (!this.box.matches(":hover")) return;
    view.showRange(plot.posToVal(left, "x") * 1000, plot.posToVal(left + width, "x") * 1000);
  }

  drawThresholds(plot) {
    const { ctx, bbox } = plot;
    const names = ["--degraded", "--critical"];
    this.thresholds.forEach((value, index) => {
      if (value > plot.scales.y.max) return;
      const y = Math.round(plot.valToPos(value, "y", true));
      ctx.save();
      ctx.strokeStyle = withAlpha(colour(names[index]), 0.8);
      ctx.lineWidth = devicePixelRatio;
      ctx.setLineDash(index ? [6 * devicePixelRatio, 3 * devicePixelRatio] : [2 * devicePixelRatio, 3 * devicePixelRatio]);
      ctx.beginPath();
      ctx.moveTo(bbox.left, y);
      ctx.lineTo(bbox.left + bbox.width, y);
      ctx.stroke();
      ctx.restore();
    });
  }

  inside(plot, ms) {
    const at = plot.valToPos(ms / 1000, "x", true);
    return Math.min(plot.bbox.left + plot.bbox.width, Math.max(plot.bbox.left, at));
  }

  drawOutages(plot) {
    const { ctx, bbox } = plot;
    ctx.save();
    ctx.fillStyle = withAlpha(colour("--unreachable"), 0.12);
    for (const mark of this.marks.filter((mark) => mark.kind === "outage")) {
      const left = this.inside(plot, mark.at);
      const right = this.inside(plot, mark.until ?? view.range.to);
      ctx.fillRect(left, bbox.top, Math.max(1, right - left), bbox.height);
    }
    ctx.restore();
  }

  drawMarks(plot) {
    const { ctx, bbox } = plot;
    ctx.save();
    ctx.lineWidth = devicePixelRatio;
    for (const mark of this.marks.filter((mark) => mark.kind !== "outage")) {
      if (mark.at < view.range.from || mark.at > view.range.to) continue;
      const x = Math.round(plot.valToPos(mark.at / 1000, "x", true)) + 0.5;
      ctx.strokeStyle = withAlpha(colour(mark.kind === "reboot" ? "--degraded" : "--accent"), 0.7);
      ctx.setLineDash(mark.kind === "reboot" ? [] : [2 * devicePixelRatio, 2 * devicePixelRatio]);
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
    }
    ctx.restore();
  }

  /** The heads of the marks, which can be pointed at, reached by keyboard, and followed. */
  placeMarks() {
    if (!this.plot) return;
    for (const head of this.heads ?? []) head.element.remove();
    this.heads = this.marks.slice(-MARKS_MAX).map((mark) => {
      const head = element(mark.href ? "a" : "span", `chart-mark is-${mark.kind}`);
      if (mark.href) head.href = mark.href;
      else head.tabIndex = 0;
      if (!mark.href) head.setAttribute("role", "img");
      head.setAttribute("aria-label", `${mark.title}, ${momentText(mark.at, view.lengthMs)}`);
      const tip = element("span", "chart-tip");
      const length = mark.until && mark.kind !== "reboot" ? ` for ${lengthText(mark.until - mark.at)}` : "";
      tip.append(element("b", "", mark.title), element("span", "", `${momentText(mark.at, view.lengthMs)}${length}`));
      if (mark.by) tip.append(element("span", "", mark.by));
      head.append(tip);
      // A drag that begins on a head would choose a part.
      head.addEventListener("mousedown", (event) => event.stopPropagation());
      this.plot.over.append(head);
      return { mark, element: head };
    });
    this.moveMarks();
  }

  /** Heads go along with the time axis. */
  moveMarks() {
    const { min, max } = this.plot?.scales.x ?? {};
    if (min == null) return;
    for (const { mark, element: head } of this.heads ?? []) {
      const [at, until] = [mark.at / 1000, (mark.until ?? mark.at) / 1000];
      head.hidden = until < min || at > max;
      const left = this.plot.valToPos(Math.max(min, at), "x");
      head.style.left = `${left}px`;
      head.classList.toggle("is-right", left > this.plot.over.clientWidth / 2);
    }
  }

  buildLegend(looks) {
    const items = looks.map(({ line, colour: stroke, dash }) => {
      const item = element("li");
      const button = element("button");
      button.type = "button";
      button.setAttribute("aria-pressed", String(!this.isHidden(line)));
      button.title = this.isHidden(line) ? "Show this line" : "Hide this line";
      const key = element("i", dash.length ? "is-dashed" : "");
      key.style.setProperty("--key", stroke);
      button.append(key, element("span", "", line.title), element("b"));
      button.addEventListener("click", () => view.toggle(line.before ?? line.key));
      item.append(button);
      if (this.source === "top") {
        const link = element("a", "", "open");
        link.href = `/servers/${encodeURIComponent(line.server)}/metrics${location.search}`;
        link.setAttribute("aria-label", `Charts of ${line.server}`);
        item.append(link);
      }
      return item;
    });
    if (this.leftOut) items.push(element("li", "", `and ${this.leftOut} quieter ones`));
    this.legend.replaceChildren(...items);
    this.legend.hidden = looks.length === 1 && this.source !== "top";
  }

  /** The values under the cursor, or the newest. */
  showValues(index) {
    const { data } = this.plot;
    const at = (column) => {
      if (index != null) return column[index];
      for (let i = column.length - 1; i >= 0; i -= 1) if (column[i] != null) return column[i];
      return null;
    };
    this.whenText.textContent = index == null ? "" : momentText(data[0][index] * 1000, view.lengthMs);
    if (this.legend.hidden) {
      const value = format(at(data[1]), this.unit);
      const [least, most] = [data[2]?.[index], data[3]?.[index]];
      const wide = index != null && least != null && most - least > 1e-9;
      this.nowText.textContent = wide ? `${value} (${format(least, this.unit)} to ${format(most, this.unit)})` : value;
      return;
    }
    this.nowText.textContent = "";
    this.valueColumns.forEach((column, line) => {
      const value = this.legend.children[line]?.querySelector("b");
      if (value) value.textContent = format(at(data[column]), this.unit);
    });
  }

  /** What the drawing says, for who cannot see it. */
  describe() {
    const words = this.lines.slice(0, LINES_MAX).map((line) => {
      const values = line.points.map((point) => point[1]);
      const mean = values.reduce((sum, value) => sum + value, 0) / Math.max(1, values.length);
      const most = line.points.reduce((most, point) => Math.max(most, point[3] ?? point[1]), -Infinity);
      return `${line.title}: ${format(mean, this.unit)} on average, ${format(most, this.unit)} at most`;
    });
    this.box.setAttribute("aria-label", `${this.title}. ${words.join("; ")}. Arrow keys move in time, plus and minus zoom, 0 goes back to live.`);
  }

  /** The same values as a table, at most so many rows. */
  fillTable() {
    const place = this.table.querySelector(".table-wrap");
    if (!this.table.open) return;
    if (!this.plot) {
      place.replaceChildren(element("p", "soft", "Nothing was recorded in this range."));
      return;
    }
    const { data } = this.plot;
    const step = Math.max(1, Math.ceil(data[0].length / TABLE_ROWS));
    const table = element("table");
    const head = table.createTHead().insertRow();
    for (const title of ["Time", ...this.lines.map((line) => line.title)]) {
      const cell = element("th", title === "Time" ? "" : "num", title);
      cell.scope = "col";
      head.append(cell);
    }
    const body = table.createTBody();
    for (let index = data[0].length - 1; index >= 0; index -= step) {
      const row = body.insertRow();
      const time = element("th", "", momentText(data[0][index] * 1000, view.lengthMs));
      time.scope = "row";
      row.append(time);
      for (const column of this.valueColumns) row.append(element("td", "num", format(data[column][index], this.unit)));
    }
    place.replaceChildren(table);
  }

  /** One live reading: appended where a line of its name is drawn. Answers whether one was. */
  append(server, at, values) {
    let took = false;
    for (const line of this.lines) {
      if (line.serverId !== server || !line.sampleKey) continue;
      const value = values[line.sampleKey];
      const last = line.points[line.points.length - 1];
      if (value == null || (last && last[0] >= at)) continue;
      line.points.push([at, value, value, value]);
      while (line.points.length && line.points[0][0] < view.range.from) line.points.shift();
      took = true;
    }
    if (took) this.appended += 1;
    return took;
  }

  /** Draws the same lines again over the present range; what is pointed at stays. */
  refresh() {
    if (!this.plot) return;
    const { data } = this.assemble(this.looks());
    this.plot.setData(data);
    if (this.plot.cursor.idx == null || this.plot.cursor.left < 0) this.showValues(null);
  }

  resize() {
    const width = Math.floor(this.box.clientWidth);
    if (!this.plot || width <= 0 || (this.plot.width === width && this.plot.height === this.height)) return;
    this.plot.setSize({ width, height: this.height });
  }
}
