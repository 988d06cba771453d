// What every page has: theme, times, menus, filters, copying, confirmations, toasts. The rest is in modules.

import { startLive, startRefreshing } from "./live.js";
import { startPalette } from "./palette.js";

// Against the moment when the page came: a page that was slow to load is not late for ever.
const arrived = performance.timeOrigin + (performance.getEntriesByType("navigation")[0]?.responseStart ?? performance.now());
const skew = arrived - Number(document.body.dataset.now || arrived);

/** The same words as `view::relative` on the server. */
export function relative(at, now) {
  const seconds = Math.trunc((now - at) / 1000);
  const span = Math.abs(seconds);
  const words =
    span < 60 ? `${span}\u00a0s`
    : span < 3600 ? `${Math.trunc(span / 60)}\u00a0min`
    : span < 86400 ? `${Math.trunc(span / 3600)}\u00a0h`
    : `${Math.trunc(span / 86400).toLocaleString("en")}\u00a0d`;
  if (seconds < 0) return `in\u00a0${words}`;
  return seconds < 2 ? "now" : `${words}\u00a0ago`;
}

function refreshTimes() {
  const now = Date.now() - skew;
  for (const element of document.querySelectorAll("time[data-relative]")) {
    const words = relative(Date.parse(element.dateTime), now);
    if (element.textContent !== words) element.textContent = words;
  }
}

export function toast(text, isProblem = false) {
  const element = document.createElement("p");
  element.className = isProblem ? "toast is-problem" : "toast";
  element.textContent = text;
  document.getElementById("toasts")?.append(element);
  setTimeout(() => element.remove(), isProblem ? 10000 : 4000);
}

const THEMES = ["system", "light", "dark"];
const THEME_ICONS = { system: "sun-moon", light: "sun", dark: "moon" };
const THEME_WORDS = { system: "as the system", light: "light", dark: "dark" };

function startTheme() {
  const button = document.querySelector("[data-theme-toggle]");
  if (!button) return;
  const show = () => {
    const theme = document.documentElement.dataset.theme || "system";
    button.title = `Colours: ${THEME_WORDS[theme]}`;
    button.setAttribute("aria-label", button.title);
    button.querySelector("use").setAttribute("href", `#i-${THEME_ICONS[theme]}`);
  };
  button.addEventListener("click", () => {
    const root = document.documentElement;
    const theme = THEMES[(THEMES.indexOf(root.dataset.theme || "system") + 1) % THEMES.length];
    if (theme === "system") delete root.dataset.theme;
    else root.dataset.theme = theme;
    try {
      if (theme === "system") localStorage.removeItem("theme");
      else localStorage.setItem("theme", theme);
    } catch {
      toast("This browser keeps no settings, so the colours last until the page is closed.");
    }
    show();
    document.dispatchEvent(new CustomEvent("themechange"));
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () =>
    document.dispatchEvent(new CustomEvent("themechange")),
  );
  show();
}

/** A filter form sends itself: a choice at once, typing after a pause. Empty fields stay out of the address. */
function startFilters() {
  const form = document.querySelector("form[data-auto-submit]");
  if (!form) return;
  let timer;
  const submit = () => {
    const query = new URLSearchParams();
    for (const [key, value] of new FormData(form)) {
      if (value !== "" && !(key === "view" && value === "grid") && !(key === "sort" && value === "name")) query.append(key, value);
    }
    // A field may be called "action"; then the form's property of that name is the field.
    const own = new URL(form.getAttribute("action"), location.href).href.split("?")[0];
    const address = query.size ? `${own}?${query}` : own;
    if (address !== location.href) location.assign(address);
  };
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    submit();
  });
  form.addEventListener("change", (event) => {
    if (event.target.matches("select, input[type=checkbox]")) {
      // The direction belonged to the other order.
      if (event.target.name === "sort") form.elements.order?.remove();
      submit();
    }
  });
  form.addEventListener("input", (event) => {
    if (!event.target.matches("input[type=search]")) return;
    clearTimeout(timer);
    timer = setTimeout(() => {
      sessionStorage.setItem("typing", event.target.name);
      submit();
    }, 450);
  });
  const typing = sessionStorage.getItem("typing");
  sessionStorage.removeItem("typing");
  const field = typing && form.elements.namedItem(typing);
  if (field instanceof HTMLInputElement) {
    field.focus();
    field.setSelectionRange(field.value.length, field.value.length);
  }
}

async function copy(button) {
  const source = document.getElementById(button.dataset.copy);
  if (!source) return;
  // Of a sentence, the commands that stand in it.
  const codes = [...source.querySelectorAll("code")].map((code) => code.textContent.trim());
  const text = "value" in source ? source.value : codes.length ? codes.join("\n") : source.textContent.trim();
  try {
    await navigator.clipboard.writeText(text);
    toast("Copied.");
  } catch {
    // Clipboard access needs https or loopback: select it, so that Ctrl-C does it.
    if ("select" in source) source.select();
    else getSelection().selectAllChildren(source);
    toast("Press Ctrl-C to copy.");
  }
}

function startClicks() {
  document.addEventListener("click", (event) => {
    const button = event.target.closest?.("[data-copy]");
    if (button) copy(button);
    if (event.target.closest?.("[data-print]")) window.print();
    for (const menu of document.querySelectorAll("details.menu[open]")) {
      if (!menu.contains(event.target)) menu.open = false;
    }
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      for (const menu of document.querySelectorAll("details.menu[open]")) {
        menu.open = false;
        menu.querySelector("summary")?.focus();
      }
    }
    const typing = event.target.closest?.("input, textarea, select, [contenteditable]");
    if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
      const search = document.querySelector("[data-focus-key='/']");
      if (search) {
        event.preventDefault();
        search.focus();
        search.select();
      }
    }
  });
}

/** A form that must be told the name of what it removes keeps its button shut until then. */
function startConfirmations() {
  for (const field of document.querySelectorAll("input[data-must-equal]")) {
    const named = field.form?.querySelectorAll("button[data-when-confirmed]");
    const buttons = named?.length ? named : [field.form?.querySelector("button[type=submit], button:not([type])")];
    const check = () => {
      for (const button of buttons) if (button) button.disabled = field.value !== field.dataset.mustEqual;
    };
    field.addEventListener("input", check);
    check();
  }
}

/** Only the fields of the chosen way to log in are shown. */
function startChoices() {
  for (const group of document.querySelectorAll("[data-choices]")) {
    const show = () => {
      const chosen = group.querySelector("input[type=radio]:checked")?.value;
      for (const part of group.querySelectorAll("[data-for-choice]")) part.hidden = !part.dataset.forChoice.split(" ").includes(chosen);
    };
    group.addEventListener("change", show);
    show();
  }
}

/** Ctrl-Enter in a field of several lines sends its form. */
function startSubmitKeys() {
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && event.target.matches?.("textarea[data-submit-key]")) {
      event.preventDefault();
      event.target.form.requestSubmit();
    }
  });
}

/** A form is sent once, however often its button is pressed. */
function startSubmits() {
  document.addEventListener("submit", (event) => {
    if (event.target.method !== "post") return;
    if (event.target.dataset.sent) event.preventDefault();
    event.target.dataset.sent = "1";
    const button = event.submitter;
    if (button?.dataset.busy) button.textContent = button.dataset.busy;
  });
  addEventListener("pageshow", () => {
    for (const form of document.querySelectorAll("form[data-sent]")) delete form.dataset.sent;
  });
}

// On a phone the tabs scroll sideways; the one that is open must be seen.
document.querySelector(".tabs [aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });
startTheme();
startFilters();
startClicks();
startConfirmations();
startChoices();
startSubmits();
startSubmitKeys();
startPalette();
startLive();
startRefreshing();
setInterval(refreshTimes, 1000);
