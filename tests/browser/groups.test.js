// Groups by mouse and by keyboard, choosing servers on the fleet page, in both themes and on a phone.

import assert from "node:assert/strict";
import fs from "node:fs";
import path from "node:path";
import { after, before, describe, test } from "node:test";
import { Browser, LOOKS, Roundsman, eventually, presentable, setUp, shot } from "./harness.js";

describe("groups", () => {
  const roundsman = new Roundsman();
  let browser;
  let cookies;
  let page;

  before(async () => {
    await roundsman.start();
    // Nobody listens on these ports of the loopback; they are servers all the same.
    const lines = ["web-1", "web-2", "web-3", "db-1"].map((name, index) => `root@127.0.0.1:${index + 2} name=${name} tags=${name.split("-")[0]}`);
    const list = path.join(roundsman.dir, "servers");
    fs.writeFileSync(list, `${lines.join("\n")}\n`);
    roundsman.run("import", list, "--unchecked");
    roundsman.run("group", "create", "front", "--color", "teal", "--description", "What faces the world");
    roundsman.run("group", "create", "databases", "--color", "amber", "--tag", "db");
    browser = await Browser.launch();
    const profile = await browser.profile();
    page = await profile.newPage();
    await setUp(page, roundsman);
    cookies = await profile.cookies();
  });

  after(async () => {
    await browser?.close();
    await roundsman.remove();
  });

  const members = (group) => JSON.parse(roundsman.run("group", "show", group, "--json")).servers.map((server) => server.name);

  test("a server is dragged onto a group, with those that are ticked", async () => {
    await page.goto(`${roundsman.url}/groups`);
    const offer = (name) => page.locator(".offer", { hasText: name });
    await offer("web-1").locator("input").check();
    await offer("web-2").locator("input").check();
    await offer("web-2").dragTo(page.locator("[data-drop-group=front]"));
    await page.waitForURL(/done=grouped/);
    assert.deepEqual(members("front"), ["web-1", "web-2"]);
    await page.locator(".group-card", { hasText: "front" }).getByText("2 servers").waitFor();
    assert.equal(await page.locator("[data-drop-group=databases]").count(), 0, "a filter chooses its servers");
  });

  test("the keyboard puts a server into a group as well", async () => {
    await page.goto(`${roundsman.url}/groups`);
    await page.locator(".offer", { hasText: "web-3" }).locator("input").focus();
    await page.keyboard.press("Space");
    await page.locator("select[name=group]").focus();
    await page.keyboard.press("Tab");
    await page.keyboard.press("Enter");
    await page.waitForURL(/done=grouped/);
    assert.deepEqual(members("front"), ["web-1", "web-2", "web-3"]);
  });

  test("Shift chooses a range, and the bar leads to a page that lists what is touched", async () => {
    await page.goto(`${roundsman.url}/?view=table&group=front`);
    assert.equal(await page.locator("#bulk").isVisible(), false);
    const box = (name) => page.getByLabel(`Choose ${name}`, { exact: true });
    await box("web-1").click();
    await box("web-3").click({ modifiers: ["Shift"] });
    await eventually("three chosen", async () => (await page.locator("[data-bulk-count]").innerText()) === "3");
    await shot(page, "bulk-bar");
    await page.getByRole("button", { name: "Choose none" }).click();
    assert.equal(await page.locator("#bulk").isVisible(), false);
    await page.getByLabel("Choose all shown").focus();
    await page.keyboard.press("Space");
    assert.equal(await page.locator("[data-bulk-count]").innerText(), "3");
    await page.getByRole("button", { name: "Tags…" }).click();
    await page.getByRole("heading", { name: "Tags of 3 servers" }).waitFor();
    await page.fill("input[name=tags]", "edge");
    await page.getByRole("button", { name: "Add the tags" }).click();
    await page.waitForURL(/done=changed/);
    const listed = JSON.parse(roundsman.run("list", "--tag", "edge", "--json"));
    assert.deepEqual(listed.map((server) => server.name), ["web-1", "web-2", "web-3"]);
  });

  test("what is chosen stays chosen when new readings arrive", async () => {
    await page.goto(`${roundsman.url}/`);
    await page.locator("#live-state[data-state=live]").waitFor();
    const own = page.locator(".server-card", { hasText: "this machine" });
    await own.locator(".choose").check();
    const before = await own.locator(".card-chart").innerHTML();
    await eventually("a newer drawing", async () => (await own.locator(".card-chart").innerHTML()) !== before);
    assert.equal(await own.locator(".choose").isChecked(), true);
    assert.equal(await page.locator("[data-bulk-count]").innerText(), "1");
  });

  test("without a script the form of the fleet page leads to the same confirmation", async () => {
    const profile = await browser.profile({ javaScriptEnabled: false });
    await profile.addCookies(cookies);
    const plain = await profile.newPage();
    await plain.goto(`${roundsman.url}/?group=front`);
    await plain.getByLabel("Choose web-2", { exact: true }).check();
    await plain.getByRole("button", { name: "Maintenance on…" }).click();
    assert.match(await plain.locator("main").innerText(), /Maintenance for 1 server[\s\S]*web-2/);
    await plain.getByRole("button", { name: "Begin the maintenance" }).click();
    await plain.waitForURL(/done=changed/);
    assert.equal(JSON.parse(roundsman.run("show", "web-2", "--json")).status, "maintenance");
    await profile.close();
  });

  test("a dependency is noted, drawn and leads to its server", async () => {
    await page.goto(`${roundsman.url}/dependencies`);
    for (const [name, value] of Object.entries({ service: "nginx", server: "web-1", needs_service: "postgresql", needs_server: "db-1" })) {
      await page.fill(`input[name=${name}]`, value);
    }
    await page.getByRole("button", { name: "Note it" }).click();
    await page.waitForURL(/done=saved/);
    await page.getByRole("link", { name: "postgresql on db-1" }).focus();
    await page.keyboard.press("Enter");
    await page.waitForURL(/\/servers\/db-1\/services/);
  });

  for (const [look, options] of Object.entries(LOOKS)) {
    test(`every page fits and is readable: ${look}`, async () => {
      const profile = await browser.profile(options);
      await profile.addCookies(cookies);
      const own = await profile.newPage();
      const pages = { groups: "/groups", group: "/groups/front", "group-form": "/groups/databases/edit", dependencies: "/dependencies", "fleet-grouped": "/?group=front&view=table", "fleet-cards": "/?group=front" };
      for (const [name, address] of Object.entries(pages)) {
        assert.equal((await own.goto(roundsman.url + address)).status(), 200, address);
        if (name.startsWith("fleet")) await own.getByLabel("Choose web-1", { exact: true }).check();
        await presentable(own, `groups-${name}-${look}`);
      }
      await own.getByRole("button", { name: "Groups…" }).click();
      await own.getByRole("heading", { name: "Groups of 1 server" }).waitFor();
      await presentable(own, `groups-bulk-${look}`);
      await profile.close();
    });
  }

  test("no page complained", () => browser.assertQuiet());
});
