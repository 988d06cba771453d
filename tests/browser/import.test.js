// Many servers at once: paste, look at each line, add, see what became of them.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { Browser, Roundsman, Sshd, publicKey, setUp, shot, sideways } from "./harness.js";

describe("the import page", () => {
  const roundsman = new Roundsman();
  const sshd = new Sshd();
  let browser;
  let page;

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
    await shot(page, "import-plan-light");
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
    const rows = page.locator(".import-table tbody tr");
    assert.match(await rows.nth(0).textContent(), /Added.*web-1/s);
    assert.match(await rows.nth(1).textContent(), /Not added.*dead.*refused/s);
    await shot(page, "import-done-light");
    await page.click(".import-table a:has-text('web-1')");
    await page.waitForURL(/\/servers\/web-1/);
    assert.equal(sshd.logins(), 1);
  });

  test("both pages fit a phone in the dark", async () => {
    const phone = await (await browser.profile({ viewport: { width: 390, height: 844 }, colorScheme: "dark" })).newPage();
    await phone.context().addCookies(await page.context().cookies());
    await phone.goto(`${roundsman.url}/import`);
    await phone.fill("textarea[name=text]", `web-1.example.com name=${"a".repeat(60)} jump=${"gate.".repeat(20)}example.com\n`);
    await phone.click("text=Show what would be added");
    assert.equal(await sideways(phone), 0);
    await shot(phone, "import-plan-phone-dark");
  });

  test("no page complained", () => browser.assertQuiet());
});
