// Dragging servers onto groups. What is ticked goes along; the form below does the same without a mouse.

import { toast } from "./app.js";

const KIND = "application/x-roundsman-servers";

const token = () => document.querySelector("meta[name=csrf-token]")?.content ?? "";

async function put(group, servers) {
  const answer = await fetch(`/api/v1/fleet/groups/${encodeURIComponent(group)}/servers`, {
    method: "POST",
    headers: { "content-type": "application/json", accept: "application/json", "x-csrf-token": token() },
    body: JSON.stringify({ server_ids: servers }),
  });
  if (!answer.ok) throw new Error((await answer.json().catch(() => ({}))).detail ?? `the answer was ${answer.status}`);
}

document.addEventListener("dragstart", (event) => {
  const item = event.target.closest?.("[data-drag-server]");
  if (!item) return;
  const own = item.dataset.dragServer;
  const ticked = [...document.querySelectorAll(".offer input:checked")].map((box) => box.value);
  const servers = ticked.includes(own) ? ticked : [own];
  event.dataTransfer.setData(KIND, JSON.stringify(servers));
  event.dataTransfer.setData("text/plain", item.querySelector("label").textContent.trim());
  event.dataTransfer.effectAllowed = "copy";
  document.body.classList.add("is-dragging");
});

document.addEventListener("dragend", () => document.body.classList.remove("is-dragging"));

for (const group of document.querySelectorAll("[data-drop-group]")) {
  let inside = 0;
  const isOurs = (event) => event.dataTransfer.types.includes(KIND);
  group.addEventListener("dragenter", (event) => {
    if (!isOurs(event)) return;
    inside += 1;
    group.classList.add("is-target");
  });
  group.addEventListener("dragleave", (event) => {
    if (!isOurs(event)) return;
    inside -= 1;
    if (inside <= 0) group.classList.remove("is-target");
  });
  group.addEventListener("dragover", (event) => {
    if (!isOurs(event)) return;
    event.preventDefault();
    event.dataTransfer.dropEffect = "copy";
  });
  group.addEventListener("drop", async (event) => {
    if (!isOurs(event)) return;
    event.preventDefault();
    inside = 0;
    group.classList.remove("is-target");
    try {
      const servers = JSON.parse(event.dataTransfer.getData(KIND));
      await put(group.dataset.dropGroup, servers);
      location.assign(`/groups?done=grouped`);
    } catch (error) {
      toast(`Nothing was put into ${group.dataset.dropGroup}: ${error.message}`, true);
    }
  });
}
