// A chart as a file: its picture as PNG, its values as CSV.

import { colour } from "./plot.js";
import { momentText } from "./format.js";
import { view } from "./view.js";

const MARGIN = 16;
const TITLE_HEIGHT = 34;
const ROW_HEIGHT = 18;

function save(href, name) {
  const link = document.createElement("a");
  link.href = href;
  link.download = name;
  document.body.append(link);
  link.click();
  link.remove();
}

const safe = (text) => text.toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-+|-+$/g, "");

/** The chart with title, range and legend as the page shows it, in the page's colours. */
export function savePicture(chart, place) {
  const source = chart.plot?.ctx.canvas;
  if (!source) return;
  const scale = devicePixelRatio;
  const rows = chart.legend.hidden ? [] : [...chart.legend.querySelectorAll("button[aria-pressed=true]")];
  const width = source.width / scale + 2 * MARGIN;
  const height = source.height / scale + 2 * MARGIN + TITLE_HEIGHT + rows.length * ROW_HEIGHT;
  const canvas = document.createElement("canvas");
  canvas.width = width * scale;
  canvas.height = height * scale;
  const pen = canvas.getContext("2d");
  pen.scale(scale, scale);
  pen.fillStyle = colour("--surface");
  pen.fillRect(0, 0, width, height);
  pen.fillStyle = colour("--text");
  pen.font = "600 15px sans-serif";
  pen.fillText(`${place} · ${chart.title}`, MARGIN, MARGIN + 12);
  pen.fillStyle = colour("--soft");
  pen.font = "11px sans-serif";
  pen.fillText(`${momentText(view.range.from, 0)} to ${momentText(view.range.to, 0)}`, MARGIN, MARGIN + 28);
  pen.drawImage(source, MARGIN, MARGIN + TITLE_HEIGHT, source.width / scale, source.height / scale);
  let y = MARGIN + TITLE_HEIGHT + source.height / scale + 13;
  for (const row of rows) {
    pen.fillStyle = row.querySelector("i").style.getPropertyValue("--key");
    pen.fillRect(MARGIN, y - 5, 14, 3);
    pen.fillStyle = colour("--text");
    pen.fillText(row.querySelector("span").textContent, MARGIN + 20, y);
    y += ROW_HEIGHT;
  }
  canvas.toBlob((blob) => {
    const href = URL.createObjectURL(blob);
    save(href, `${safe(place)}-${safe(chart.title)}.png`);
    setTimeout(() => URL.revokeObjectURL(href), 10_000);
  }, "image/png");
}

/** The values as the server gives them, not as they were drawn. */
export function saveValues(chart, place, address, query) {
  query.set("format", "csv");
  save(`${address}?${query}`, `${safe(place)}-${safe(chart.title)}.csv`);
}
