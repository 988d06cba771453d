// Who comes in, who does not, and what hostile text does: nothing.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { Browser, PASSWORD, Roundsman, Sshd, becomes, enrol, logIn, setUp, shot } from "./harness.js";

describe("the doors", () => {
  const roundsman = new Roundsman();
  const sshd = new Sshd();
  let browser;
  let page;

  before(async () => {
    await Promise.all([roundsman.start(), sshd.start()]);
    browser = await Browser.launch();
    page = await (await browser.profile()).newPage();
    await setUp(page, roundsman);
  });

  after(async () => {
    await browser?.close();
    await sshd.remove();
    await roundsman.remove();
  });

  test("markup in a description stays text", async () => {
    const hostile = `<script>window.owned = 1</script><img src=x onerror="window.owned = 1">'"&amp;`;
    enrol(roundsman, sshd, "web-1", "--description", hostile, "--region", "<b>eu</b>", "--tag", "x");
    for (const address of ["/", "/?view=table", "/servers/web-1", "/servers/web-1/configuration"]) {
      await page.goto(roundsman.url + address);
      assert.equal(await page.evaluate(() => window.owned), undefined, address);
      assert.equal(await page.locator("main img, main script").count(), 0, address);
    }
    await page.goto(`${roundsman.url}/servers/web-1`);
    assert.equal(await page.textContent(".description"), hostile);
    // Live fragments go another way than the page; they must not obey either.
    await page.locator("#live-state[data-state=live]").waitFor();
    await page.waitForTimeout(1500);
    assert.equal(await page.evaluate(() => window.owned), undefined);
    const search = encodeURIComponent('"><script>window.owned=1</script>');
    await page.goto(`${roundsman.url}/?search=${search}`);
    assert.equal(await page.evaluate(() => window.owned), undefined);
  });

  test("logging out closes every page", async () => {
    await page.goto(roundsman.url);
    await page.click("details.menu summary");
    await page.click("text=Log out");
    await page.waitForURL(/\/login/);
    await page.goto(`${roundsman.url}/servers/web-1`);
    assert.match(page.url(), /\/login\?next=/);
    await page.fill("input[name=username]", "admin");
    await page.fill("input[name=password]", PASSWORD);
    await page.click("button.primary");
    await page.waitForURL(`${roundsman.url}/servers/web-1`);
    await page.context().clearCookies();
  });

  test("wrong passwords are refused, then slowed down, and the right one works after the wait", async () => {
    browser.expect(/status of 40[13]|status of 429/);
    await logIn(page, roundsman, "not the password");
    await becomes(page, "main", /wrong/, 10_000);
    await shot(page, "login-wrong");
    let text = "";
    for (let attempt = 0; attempt < 10 && !/try again in/.test(text); attempt += 1) {
      await logIn(page, roundsman, "not the password");
      text = await page.textContent("main");
    }
    assert.match(text, /too many failed attempts; try again in \d+ s/i);
    await shot(page, "login-throttled");
    const seconds = Number(text.match(/try again in (\d+) s/)[1]);
    await page.waitForTimeout((seconds + 1) * 1000);
    await logIn(page, roundsman);
    await page.waitForURL(`${roundsman.url}/`);
  });

  test("a page that does not exist says so", async () => {
    browser.expect(/status of 404/);
    const answer = await page.goto(`${roundsman.url}/servers/nobody`);
    assert.equal(answer.status(), 404);
    assert.match(await page.textContent("main"), /no server 'nobody'/);
    await shot(page, "not-found");
  });

  test("no page complained", () => browser.assertQuiet());
});
