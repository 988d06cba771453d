// Choosing servers: tick, Shift for a range, all that are shown. The bar appears when something is chosen.

const bar = document.getElementById("bulk");
const boxes = () => [...document.querySelectorAll("input[name=server][form=bulk]")];
let last = null;

function show() {
  const all = boxes();
  const chosen = all.filter((box) => box.checked).length;
  const count = bar.querySelector("[data-bulk-count]");
  const words = chosen.toLocaleString("en");
  // Writing the same again would be a change that the observer below hears of, for ever.
  if (count.textContent !== words) count.textContent = words;
  bar.hidden = chosen === 0;
  document.body.classList.toggle("is-choosing", chosen > 0);
  const whole = document.querySelector("[data-bulk-all]");
  if (whole) {
    whole.checked = chosen > 0 && chosen === all.length;
    whole.indeterminate = chosen > 0 && chosen < all.length;
  }
}

function set(wanted, value) {
  for (const box of wanted) box.checked = value;
  show();
}

if (bar) {
  document.addEventListener("click", (event) => {
    const box = event.target.closest?.("input[name=server][form=bulk]");
    if (box) {
      const all = boxes();
      const [from, to] = [all.indexOf(last), all.indexOf(box)];
      if (event.shiftKey && from >= 0) set(all.slice(Math.min(from, to), Math.max(from, to) + 1), box.checked);
      last = box;
      show();
    }
    if (event.target.closest?.("[data-bulk-none]")) {
      set(boxes(), false);
      document.querySelector("[data-bulk-all]")?.focus();
    }
  });
  document.addEventListener("change", (event) => {
    if (event.target.matches?.("[data-bulk-all]")) set(boxes(), event.target.checked);
  });
  // Rows come and go while the page is open.
  new MutationObserver(show).observe(document.getElementById("main"), { childList: true, subtree: true });
  addEventListener("pageshow", show);
  show();
}
