// The next runs of a schedule while it is typed. The server says what it means; without this a button asks for it.

const PAUSE_MS = 250;

const place = document.getElementById("schedule");
const cron = document.querySelector("input[name=cron]");
const zone = document.querySelector("input[name=time_zone]");
let waiting;
let asked = 0;

function element(name, text, className) {
  const made = document.createElement(name);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

function show(...children) {
  place.replaceChildren(...children);
}

async function ask() {
  const number = (asked += 1);
  if (!cron.value.trim()) return;
  const query = new URLSearchParams({ cron: cron.value, time_zone: zone.value });
  try {
    const answer = await fetch(`/api/v1/tasks/schedule?${query}`, { headers: { accept: "application/json" } });
    const found = await answer.json();
    // An answer to what was typed before is of no use.
    if (number !== asked) return;
    if (!answer.ok) {
      show(element("p", found.detail ?? `The answer was ${answer.status}.`, "wrong"));
      return;
    }
    const words = document.createElement("p");
    words.append(element("b", found.words), " ", element("span", `in ${found.time_zone}`, "soft"));
    const list = element("ol", "", "next-runs");
    list.append(...found.next_runs.map((run) => element("li", run.local, "mono")));
    show(words, list);
  } catch {
    if (number === asked) show(element("p", "Roundsman does not answer; the next runs are not known.", "soft"));
  }
}

for (const input of [cron, zone]) {
  input?.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(ask, PAUSE_MS);
  });
}

// Another kind of action has other fields: the server draws them, with what stands in the form.
const kind = document.querySelector("select[name=operation_type]");
let drawing;

async function draw() {
  drawing?.abort();
  drawing = new AbortController();
  const body = new URLSearchParams(new FormData(kind.form));
  body.set("look", "fields");
  try {
    const answer = await fetch(kind.form.action, { method: "POST", body, headers: { accept: "text/html" }, signal: drawing.signal });
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const found = page.getElementById("what-fields");
    // A login that has ended answers another page; saving tells so.
    if (found) document.getElementById("what-fields").replaceWith(found);
  } catch (error) {
    if (error.name !== "AbortError") throw error;
  }
}

kind?.addEventListener("change", draw);
