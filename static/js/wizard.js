// A new operation: which servers are meant is told while they are being chosen, and a chosen file goes along in Base64. Without
// this the button does the one, and the other is typed.

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

// So many bytes become text at once; more arguments than that are too many for a call.
const PIECE_BYTES = 0x8000;

// The alphabet whose signs stand as they are in a form.
function packed(bytes) {
  let text = "";
  for (let at = 0; at < bytes.length; at += PIECE_BYTES) text += String.fromCharCode(...bytes.subarray(at, at + PIECE_BYTES));
  return btoa(text).replaceAll("+", "-").replaceAll("/", "_");
}

for (const picker of document.querySelectorAll("input[data-packed-into]")) {
  const field = picker.closest(".packed");
  const into = field.querySelector("textarea");
  const said = field.querySelector("[data-packed-said]");
  const none = field.querySelector("[data-packed-none]");
  const most = Number(picker.dataset.mostBytes);

  const keep = (text, words) => {
    into.value = text;
    said.textContent = words;
    none.hidden = !text;
  };
  picker.addEventListener("change", async () => {
    const file = picker.files[0];
    picker.setCustomValidity("");
    keep("", "");
    if (!file) return;
    if (file.size > most || !file.size) {
      picker.setCustomValidity(file.size ? `${file.name} has ${file.size} bytes; at most ${most} go this way` : `${file.name} is empty`);
      picker.reportValidity();
      return;
    }
    keep(packed(new Uint8Array(await file.arrayBuffer())), `${file.name}: ${file.size} bytes`);
  });
  none.addEventListener("click", () => {
    picker.value = "";
    picker.setCustomValidity("");
    keep("", "");
    picker.focus();
  });
}
