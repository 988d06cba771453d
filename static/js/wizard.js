// A new operation: which servers are meant is told while they are being chosen. Without this the button does it.

const form = document.querySelector("form[data-wizard=targets]");
// Typing is over when nothing came for so long.
const PAUSE_MS = 350;
let timer;
let asking;

async function look() {
  asking?.abort();
  asking = new AbortController();
  const body = new URLSearchParams(new FormData(form));
  body.set("to", "targets");
  try {
    const answer = await fetch(form.action, { method: "POST", body, headers: { accept: "text/html" }, signal: asking.signal });
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const found = page.getElementById("preview");
    // A login that has ended answers another page; the next press of a button tells so.
    if (found) document.getElementById("preview")?.replaceWith(found);
  } catch (error) {
    if (error.name !== "AbortError") throw error;
  }
}

if (form) {
  const later = (wait) => {
    clearTimeout(timer);
    timer = setTimeout(look, wait);
  };
  form.addEventListener("change", () => later(0));
  form.addEventListener("input", () => later(PAUSE_MS));
}
