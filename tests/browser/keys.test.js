// Keys and host keys in a browser: a key is made, replaces another one on a server, known_hosts lines are taken in.

import assert from "node:assert/strict";
import fs from "node:fs";
import { after, before, describe, test } from "node:test";
import { Browser, LOOKS, Roundsman, Sshd, becomes, enrol, presentable, setUp, shot } from "./harness.js";

describe("keys", () => {
  const roundsman = new Roundsman();
  const sshd = new Sshd();
  let browser;
  let page;

  before(async () => {
    await Promise.all([roundsman.start(), sshd.start()]);
    // Where a login would look for it.
    fs.mkdirSync(sshd.path("home/.ssh"), { mode: 0o700 });
    fs.symlinkSync(sshd.path("authorized_keys"), sshd.path("home/.ssh/authorized_keys"));
    enrol(roundsman, sshd, "web-1");
    browser = await Browser.launch();
    page = await (await browser.profile()).newPage();
    await setUp(page, roundsman);
  });

  after(async () => {
    await browser?.close();
    await sshd.remove();
    await roundsman.remove();
  });

  test("a key is made and shows the line that lets it in", async () => {
    await page.goto(roundsman.url);
    await page.click("nav.sections >> text=Keys");
    await page.fill("#create input[name=name]", "keys of 2027");
    await page.click("text=Make it");
    await page.waitForURL(/\/keys\/[0-9a-f-]+\?done=key-made/);
    assert.match(await page.textContent("#paste-command"), /authorized_keys.*ssh-ed25519 AAAA|ssh-ed25519 AAAA.*authorized_keys/s);
    await shot(page, "key-made");
  });

  test("a private key that is none is refused beside its field and does not come back", async () => {
    browser.expect(/status of 422/);
    await page.goto(`${roundsman.url}/keys`);
    await page.fill("#import textarea", "-----BEGIN OPENSSH PRIVATE KEY-----\nnothing\n");
    await page.click("text=Keep it");
    await page.locator("#import .is-wrong textarea").waitFor();
    assert.equal(await page.inputValue("#import textarea"), "");
  });

  test("the new key takes the place of the old one while the page follows every step", async () => {
    await page.goto(`${roundsman.url}/keys/default`);
    assert.match(await page.textContent("#uses"), /web-1/);
    await page.selectOption("#rotate select[name=to]", { label: "keys of 2027" });
    await page.check("#rotate input[name=verify_old]");
    await page.click("#rotate button.primary");
    await page.waitForURL(/\/operations\//);
    await becomes(page, "#operation-progress", /1 of 1/, 30_000);
    await becomes(page, ".target", /default is refused/, 10_000);
    await shot(page, "key-replaced");
    const line = fs.readFileSync(sshd.path("authorized_keys"), "utf8");
    assert.match(line, /roundsman-keys of 2027/);
    assert.equal(line.trim().split("\n").length, 1, line);
    assert.ok(fs.lstatSync(sshd.path("home/.ssh/authorized_keys")).isSymbolicLink());
  });

  test("known_hosts lines are looked at first and then imported, and the host key is in the report", async () => {
    await page.goto(`${roundsman.url}/host-keys`);
    await becomes(page, ".host-keys-table", new RegExp(sshd.fingerprint.replace(/[+/]/g, "\\$&")), 10_000);
    const key = fs.readFileSync(sshd.path("host_key.pub"), "utf8").split(" ").slice(0, 2).join(" ");
    await page.fill("#import textarea", `[127.0.0.1]:${sshd.port} ${key}\nnonsense\n`);
    await page.click("text=Only look");
    await page.locator("#report").waitFor();
    assert.match(await page.textContent("#report"), /1 would be added.*1 not readable/s);
    assert.match(await page.textContent("#report"), /the approved key of web-1/);
    await page.click("#import button.primary");
    await page.locator("#known tbody tr").waitFor();
    await shot(page, "host-keys-imported");
  });

  for (const [look, options] of Object.entries(LOOKS)) {
    test(`every page of keys fits and is readable: ${look}`, async () => {
      browser.expect(/status of 422/);
      const profile = await browser.profile(options);
      await profile.addCookies(await page.context().cookies());
      const own = await profile.newPage();
      await own.goto(`${roundsman.url}/keys`);
      assert.equal(await own.locator(".keys-table tbody tr").count(), 2);
      await presentable(own, `keys-two-${look}`);
      await own.fill("#import textarea", "nothing");
      await own.click("text=Keep it");
      await own.locator("#import .is-wrong").waitFor();
      await presentable(own, `keys-refused-${look}`);
      for (const [name, key] of [["in-use", "keys%20of%202027"], ["free", "default"]]) {
        await own.goto(`${roundsman.url}/keys/${key}`);
        await own.locator("#rotate, #uses").first().waitFor();
        await presentable(own, `key-${name}-${look}`);
      }
      await own.goto(`${roundsman.url}/host-keys`);
      await own.locator("#known tbody tr").waitFor();
      await own.fill("#import textarea", `@revoked * ${"A".repeat(60)}\nnonsense\n`);
      await own.click("text=Only look");
      await own.locator("#report").waitFor();
      await presentable(own, `host-keys-report-${look}`);
      await profile.close();
    });
  }

  test("an imported line goes again", async () => {
    await page.goto(`${roundsman.url}/host-keys`);
    await page.click("#known tbody button");
    await page.waitForURL(/done=known-host-removed/);
  });

  test("no page complained", () => browser.assertQuiet());
});
