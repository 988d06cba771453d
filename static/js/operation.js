// The page of an operation: a server that is opened fetches its command and output, and from then on hears of new output.
// Which ones are open stands in the address, so that a reload, a poll and a new connection show the same.

import { toast } from "./app.js";
import { tell } from "./live.js";

// As many as the server sends.
const MOST = 20;

const rows = () => [...document.querySelectorAll("details[data-target][open]")];

function remember() {
  const positions = rows().map((row) => row.dataset.target);
  const address = new URL(location.href);
  if (positions.length) address.searchParams.set("open", positions.join(","));
  else address.searchParams.delete("open");
  history.replaceState(history.state, "", address.href.replaceAll("%2C", ","));
  tell({ open: positions.map(Number) });
}

async function fill(row) {
  try {
    const answer = await fetch(`${location.pathname}/targets/${row.dataset.target}`, { headers: { accept: "text/html" } });
    if (!answer.ok) throw new Error(`the answer was ${answer.status}`);
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const body = page.querySelector(".target-body");
    const old = row.querySelector(".target-body");
    if (!body) throw new Error("the answer is another page");
    if (old) old.replaceWith(body);
    else row.append(body);
    for (const pre of body.querySelectorAll("pre[data-follow]")) pre.scrollTop = pre.scrollHeight;
  } catch (error) {
    toast(`The output could not be fetched: ${error.message}`, true);
  }
}

// What was open when the page came is filled already.
const first = new Set(rows());

document.getElementById("targets")?.addEventListener(
  "toggle",
  (event) => {
    const row = event.target;
    if (!row.matches?.("details[data-target]")) return;
    const isNew = !first.delete(row);
    if (row.open && isNew) {
      for (const other of rows().filter((one) => one !== row).slice(0, Math.max(0, rows().length - MOST))) other.open = false;
      fill(row);
    }
    remember();
  },
  true,
);
