// Values, axes and times as a person reads them. Pure; the words for values are those of `view.rs`.

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

function formatSeconds(signed) {
  const [sign, value] = signed < 0 ? ["-", -signed] : ["", signed];
  // Offsets of clocks are parts of a second.
  if (value < 9.995) {
    const short = Number(value.toFixed(2));
    return `${short ? sign : ""}${short}\u00a0s`;
  }
  const days = Math.floor(value / 86400);
  const hours = Math.floor(value / 3600) % 24;
  const minutes = Math.floor(value / 60) % 60;
  if (days > 0) return `${sign}${days}\u00a0d ${hours}\u00a0h`;
  if (hours > 0) return `${sign}${hours}\u00a0h ${minutes}\u00a0min`;
  return minutes > 0 ? `${sign}${minutes}\u00a0min` : `${sign}${value.toFixed(0)}\u00a0s`;
}

const grouped = (value) => value.toLocaleString("en", { maximumFractionDigits: Math.abs(value) < 10 ? 2 : 0 });

/** A value with its unit; a dash for what is unknown. */
export function format(value, unit) {
  if (value == null) return "–";
  switch (unit) {
    case "percent": return `${value.toFixed(value >= 99.95 ? 0 : 1)}%`;
    case "bytes": return formatBytes(value);
    case "bytes_per_second": return `${formatBytes(value)}/s`;
    case "celsius": return `${value.toFixed(1)}\u00a0°C`;
    case "seconds": return formatSeconds(value);
    case "milliseconds": return value < 9.95 ? `${value.toFixed(1)}\u00a0ms` : value < 999.5 ? `${value.toFixed(0)}\u00a0ms` : `${(value / 1000).toFixed(2)}\u00a0s`;
    case "number": return Math.abs(value) >= 1000 ? grouped(value) : value.toFixed(2);
    case "per_second": return `${grouped(value)}/s`;
    default: return grouped(value);
  }
}

/** Short words for an axis: no decimals that say nothing. */
export function axisText(value, unit) {
  if (unit === "percent") return `${+value.toFixed(1)}%`;
  if (unit === "bytes" || unit === "bytes_per_second") return formatBytes(value).replace(/\.0+(?=\u00a0)/, "").replace(/(\.\d)0(?=\u00a0)/, "$1");
  if (unit === "seconds") return formatSeconds(value);
  if (unit === "milliseconds") return `${+value.toFixed(1)} ms`;
  if (unit === "celsius") return `${+value.toFixed(1)}°`;
  return Math.abs(value) >= 10000 ? `${+(value / 1000).toFixed(1)}k` : String(+value.toPrecision(6));
}

const two = (number) => String(number).padStart(2, "0");

/** A tick of the time axis: 24 hours, a date where a day begins, seconds only where they tell ticks apart. */
export function tickText(tick, step) {
  const at = new Date(tick * 1000);
  const startsDay = at.getHours() === 0 && at.getMinutes() === 0 && at.getSeconds() === 0;
  if (step >= 28 * 86400) return at.toLocaleDateString("en-GB", { month: "short", year: "2-digit" });
  if (step >= 86400 || startsDay) return at.toLocaleDateString("en-GB", { day: "numeric", month: "short" });
  const minutes = `${two(at.getHours())}:${two(at.getMinutes())}`;
  return step < 60 ? `${minutes}:${two(at.getSeconds())}` : minutes;
}

/** A moment in full, with seconds where the range is short. */
export function momentText(ms, lengthMs) {
  const at = new Date(ms);
  const day = at.toLocaleDateString("en-GB", { day: "numeric", month: "short" });
  const time = `${two(at.getHours())}:${two(at.getMinutes())}`;
  return `${day} ${time}${lengthMs <= 6 * 3600e3 ? `:${two(at.getSeconds())}` : ""}`;
}

/** A length of time in its two largest units. */
export const lengthText = (ms) => formatSeconds(Math.max(0, ms) / 1000);
