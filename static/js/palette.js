// The command palette: Ctrl-K, a few letters, Enter.

const PAGES = [
  { name: "Fleet", where: "page", href: "/", icon: "server" },
  { name: "Fleet as a table", where: "page", href: "/?view=table", icon: "table-2" },
  { name: "Unreachable servers", where: "filter", href: "/?health=unreachable", icon: "unplug" },
  { name: "Critical servers", where: "filter", href: "/?health=critical", icon: "octagon-x" },
  ...("admin" in document.body.dataset ? [{ name: "Add server", where: "page", href: "/servers/new", icon: "plus" }, { name: "Import servers", where: "page", href: "/import", icon: "layers" }] : []),
  { name: "Groups", where: "page", href: "/groups", icon: "layers" },
  { name: "Dependencies", where: "page", href: "/dependencies", icon: "network" },
  { name: "Charts of the fleet", where: "page", href: "/charts", icon: "chart-line" },
  { name: "Operations", where: "page", href: "/operations", icon: "terminal" },
  { name: "Tasks", where: "page", href: "/tasks", icon: "clock" },
  { name: "Keys", where: "page", href: "/keys", icon: "key-round" },
  { name: "Host keys", where: "page", href: "/host-keys", icon: "fingerprint" },
  { name: "Settings", where: "page", href: "/settings", icon: "settings" },
];
// More than fit on a screen help nobody: type another letter.
const SHOWN_MAX = 12;

let servers = null;

async function loadServers() {
  if (servers) return;
  const answer = await fetch("/api/v1/fleet/servers?limit=200", { headers: { accept: "application/json" } });
  if (!answer.ok) throw new Error(`the list of servers answered ${answer.status}`);
  const body = await answer.json();
  const list = Array.isArray(body) ? body : (body.servers ?? body.items ?? []);
  servers = list.map((server) => ({
    name: String(server.name),
    where: [server.health_status, server.hostname, ...(server.tags ?? [])].filter(Boolean).join(" · "),
    href: `/servers/${encodeURIComponent(server.name)}`,
    icon: "server",
  }));
}

/** The better the match, the higher; 0 is none. */
function score(entry, words) {
  const name = entry.name.toLowerCase();
  const rest = entry.where.toLowerCase();
  let sum = 1;
  for (const word of words) {
    if (name.startsWith(word)) sum += 4;
    else if (name.includes(word)) sum += 2;
    else if (rest.includes(word)) sum += 1;
    else return 0;
  }
  return sum;
}

export function startPalette() {
  const dialog = document.getElementById("palette");
  if (!dialog) return;
  const input = dialog.querySelector("input");
  const list = dialog.querySelector("ul");
  let found = [];
  let chosen = 0;

  const option = (entry, index) => {
    const item = document.createElement("li");
    item.id = `palette-${index}`;
    item.setAttribute("role", "option");
    item.setAttribute("aria-selected", String(index === chosen));
    const icon = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    icon.setAttribute("class", "icon");
    icon.setAttribute("aria-hidden", "true");
    const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
    use.setAttribute("href", `#i-${entry.icon}`);
    icon.append(use);
    const name = document.createElement("b");
    name.textContent = entry.name;
    const where = document.createElement("span");
    where.className = "soft";
    where.textContent = entry.where;
    item.append(icon, name, where);
    item.addEventListener("click", () => location.assign(entry.href));
    return item;
  };

  const show = () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    found = [...PAGES, ...(servers ?? [])]
      .map((entry) => ({ entry, points: score(entry, words) }))
      .filter(({ points }) => points > 0)
      .sort((a, b) => b.points - a.points)
      .slice(0, SHOWN_MAX)
      .map(({ entry }) => entry);
    chosen = Math.min(chosen, Math.max(0, found.length - 1));
    list.replaceChildren(...found.map(option));
    if (!found.length) {
      const none = document.createElement("li");
      none.className = "none";
      none.textContent = "Nothing found. Enter searches the fleet.";
      list.append(none);
    }
    input.setAttribute("aria-activedescendant", found.length ? `palette-${chosen}` : "");
    list.children[chosen]?.scrollIntoView({ block: "nearest" });
  };

  const open = () => {
    if (dialog.open) return;
    input.value = "";
    chosen = 0;
    dialog.showModal();
    show();
    loadServers().then(show, (error) => console.warn(`The palette knows pages only: ${error.message}`));
  };

  input.addEventListener("input", () => {
    chosen = 0;
    show();
  });
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      const step = event.key === "ArrowDown" ? 1 : -1;
      chosen = (chosen + step + found.length) % Math.max(1, found.length);
      show();
    } else if (event.key === "Enter") {
      event.preventDefault();
      location.assign(found[chosen]?.href ?? `/?search=${encodeURIComponent(input.value)}`);
    }
  });
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
  document.addEventListener("keydown", (event) => {
    if ((event.ctrlKey || event.metaKey) && !event.altKey && event.key.toLowerCase() === "k") {
      event.preventDefault();
      open();
    }
  });
  document.querySelector("[data-open-palette]")?.addEventListener("click", open);
}
