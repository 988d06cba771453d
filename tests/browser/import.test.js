// Many servers at once: paste, look at each line, add, see what became of them.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { Browser, LOOKS, Roundsman, Sshd, presentable, publicKey, setUp } from "./harness.js";

describe("the import page", () => {
  const roundsman = new Roundsman();
  const sshd = new Sshd();
  let browser;
  let page;
  let progress;

  before(async () => {
    await Promise.all([roundsman.start(), sshd.start()]);
    sshd.authorize(publicKey(roundsman));
    browser = await Browser.launch();
    page = await (await browser.profile()).newPage();
    await setUp(page, roundsman);
  });

  after(async () => {
    await browser?.close();
    await sshd.remove();
    await roundsman.remove();
  });

  test("a pasted list is shown line by line before anything is stored", async () => {
    await page.goto(`${roundsman.url}/servers/new`);
    await page.click("text=Import many");
    await page.fill("textarea[name=text]", `${sshd.address} name=web-1 tags=web\nroot@127.0.0.1:1 name=dead\nbad:0\n`);
    await page.fill("input[name=tags]", "pasted");
    await page.click("text=Show what would be added");
    const rows = page.locator(".import-table tbody tr");
    assert.equal(await rows.count(), 3);
    assert.match(await rows.nth(0).textContent(), /Add.*web-1.*tags web, pasted/s);
    assert.match(await rows.nth(2).textContent(), /3.*Wrong.*port/s);
    assert.equal(sshd.logins(), 0);
  });

  test("a wrong line stops everything until it is left out, and what was typed stays", async () => {
    browser.expect(/status of 422/);
    await page.click("text=Add 2 servers");
    assert.match(await page.textContent("main"), /nothing was added/);
    assert.match(await page.inputValue("textarea[name=text]"), /name=dead/);
    assert.equal(sshd.logins(), 0);
  });

  test("the servers are added while the page tells how far it is", async () => {
    await page.check("input[name=skip_invalid]");
    await page.check("input[name=accept_new]");
    await page.click("text=Add 2 servers");
    await page.waitForURL(/\/import\/[0-9a-f-]+$/);
    await page.locator("h1", { hasText: "Imported" }).waitFor();
    progress = page.url();
    const rows = page.locator(".import-table tbody tr");
    assert.match(await rows.nth(0).textContent(), /Added.*web-1/s);
    assert.match(await rows.nth(1).textContent(), /Not added.*dead.*refused/s);
    await page.click(".import-table a:has-text('web-1')");
    await page.waitForURL(/\/servers\/web-1/);
    assert.equal(sshd.logins(), 1);
  });

  for (const [look, options] of Object.entries(LOOKS)) {
    test(`what would be added and what became of it fit and are readable: ${look}`, async () => {
      const profile = await browser.profile(options);
      await profile.addCookies(await page.context().cookies());
      const own = await profile.newPage();
      await own.goto(`${roundsman.url}/import`);
      const far = `far.example.com name=${"a".repeat(60)} jump=${"gate.".repeat(20)}example.com\n`;
      await own.fill("textarea[name=text]", `${sshd.address} name=again tags=web\n${far}bad:0\n`);
      await own.click("text=Show what would be added");
      await own.locator(".import-table tbody tr").nth(2).waitFor();
      await presentable(own, `import-plan-${look}`);
      await own.goto(progress);
      await own.locator("h1", { hasText: "Imported" }).waitFor();
      await presentable(own, `import-done-${look}`);
      await profile.close();
    });
  }

  test("no page complained", () => browser.assertQuiet());
});
