// Fetches history for many charts at once and turns answers into lines; a line is one series of one server.

// More lines than this cannot be told apart; the busiest are kept and the chart says how many are not.
export const LINES_MAX = 10;
// A hole longer than so many steps is a gap, not a slow reading.
const GAP_STEPS = 2.1;

async function ask(address, query, signal) {
  const answer = await fetch(`${address}?${query}`, { headers: { accept: "application/json" }, signal });
  if (!answer.ok) {
    const problem = await answer.json().catch(() => ({}));
    throw new Error(problem.detail ?? `the history answered ${answer.status}`);
  }
  return answer.json();
}

const span = (range) => ({ from: String(Math.trunc(range.from)), to: String(Math.trunc(range.to)) });

/** The query of a chart, also for its file of values. */
export function rangeQuery(servers, metrics, range, points) {
  return new URLSearchParams([...servers.map((server) => ["server", server]), ["metric", metrics.join(",")], ...Object.entries(span(range)), ["points", String(points)]]);
}

/** Every metric of every server in one answer. */
export function fetchRanges(servers, metrics, range, points, signal) {
  return ask("/api/v1/fleet/metrics", rangeQuery(servers, metrics, range, points), signal);
}

export function aggregateQuery(filter, metrics, range, points, top) {
  return new URLSearchParams([...filter, ["metric", metrics.join(",")], ["aggregate", "avg,min,max,p95"], ["top", String(top)], ...Object.entries(span(range)), ["points", String(points)]]);
}

/** Every metric over the servers that a filter accepts, and the highest of them. */
export function fetchAggregates(filter, metrics, range, points, top, signal) {
  return ask("/api/v1/fleet/metrics/aggregated", aggregateQuery(filter, metrics, range, points, top), signal);
}

export function fetchTimeline(server, range, signal) {
  return ask(`/api/v1/fleet/servers/${encodeURIComponent(server)}/timeline`, new URLSearchParams(span(range)), signal);
}

/** What a line is called beside others of the same chart. */
function lineTitle(metric, label, server, { severalMetrics, severalServers }) {
  const short = metric.title.replace(/^CPU (in )?/, "").replace(/ by (interface|core|disk)$/, "").replace(/^(Load|Memory|Swap|Pressure), /, "");
  const what = label && severalMetrics ? `${label} ${short.toLowerCase()}` : label ?? (severalMetrics || !severalServers ? short : "");
  return severalServers ? [server, what].filter(Boolean).join(" ") : what || metric.title;
}

/** The lines of one chart out of an answer: those of its metrics. */
export function linesOf(answer, metrics, servers) {
  const found = metrics.map((name) => answer.metrics.find((metric) => metric.metric === name)).filter(Boolean);
  const several = { severalMetrics: found.length > 1, severalServers: servers.length > 1 };
  const lines = [];
  for (const metric of found) {
    for (const { server, server_id: serverId, interval_ms: intervalMs, series } of metric.servers) {
      if (!servers.includes(server)) continue;
      for (const { label, points } of series) {
        const key = label ? `${metric.metric}{${label}}` : metric.metric;
        lines.push({
          key: several.severalServers ? `${server}:${key}` : key,
          sampleKey: key,
          serverId,
          server,
          title: lineTitle(metric, label, server, several),
          stepMs: Math.max(intervalMs, Math.max(answer.span_ms, answer.step_ms ?? 0)),
          points,
        });
      }
    }
  }
  return lines;
}

/** What lies between the least and the highest of the fleet, its average and its 95th percentile. */
export function linesOfAggregate(answer, name) {
  const metric = answer.metrics.find((candidate) => candidate.metric === name);
  if (!metric) return [];
  const points = new Map(metric.aggregates.map(({ aggregate, points }) => [aggregate, points]));
  const least = new Map(points.get("min"));
  const most = new Map(points.get("max"));
  const step = { stepMs: Math.max(answer.span_ms, answer.step_ms ?? 0), serverId: null, server: null };
  const average = (points.get("avg") ?? []).map(([at, value]) => [at, value, least.get(at) ?? value, most.get(at) ?? value]);
  const p95 = (points.get("p95") ?? []).map(([at, value]) => [at, value, value, value]);
  return [
    { ...step, key: "avg", title: "Average", points: average, banded: true },
    { ...step, key: "p95", title: "95th percentile", points: p95 },
  ].filter((line) => line.points.length);
}

/** The highest of the fleet, a line each. */
export function linesOfTop(answer, name) {
  const metric = answer.metrics.find((candidate) => candidate.metric === name);
  return (metric?.top ?? []).map(({ server, server_id: serverId, label, points }) => ({
    key: label ? `${server}:${label}` : server,
    sampleKey: label ? `${name}{${label}}` : name,
    serverId,
    server,
    title: label ? `${server} ${label}` : server,
    stepMs: Math.max(answer.span_ms, answer.step_ms ?? 0),
    points,
  }));
}

/** The same lines some time before, moved to now. */
export function earlier(lines, compareMs, word) {
  return lines.map((line) => ({
    ...line,
    key: `${line.key}@${word}`,
    title: `${line.title}, a ${word} before`,
    before: line.key,
    sampleKey: null,
    points: line.points.map(([at, ...values]) => [at + compareMs, ...values]),
  }));
}

/** The busiest lines, and how many were left out. */
export function busiest(lines) {
  if (lines.length <= LINES_MAX) return { lines, leftOut: 0 };
  const mean = ({ points }) => points.reduce((sum, point) => sum + point[1], 0) / Math.max(1, points.length);
  const ranked = lines.map((line) => [mean(line), line]).sort((a, b) => b[0] - a[0]);
  return { lines: ranked.slice(0, LINES_MAX).map(([, line]) => line), leftOut: lines.length - LINES_MAX };
}

/** One line as columns for uPlot: time, average, and with a band least and greatest; a null where a gap begins. */
export function columnsOf({ points, stepMs }, banded) {
  const table = banded ? [[], [], [], []] : [[], []];
  let before = null;
  for (const [at, average, least, greatest] of points) {
    if (before !== null && at - before > stepMs * GAP_STEPS) {
      table[0].push((before + stepMs) / 1000);
      for (const column of table.slice(1)) column.push(null);
    }
    table[0].push(at / 1000);
    table[1].push(average);
    if (banded) {
      table[2].push(least ?? average);
      table[3].push(greatest ?? average);
    }
    before = at;
  }
  return table;
}
