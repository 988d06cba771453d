// Every page in both themes, on a phone, by keyboard, without WebSocket and without JavaScript.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { Browser, LOOKS, Roundsman, Sshd, enrol, eventually, figure, presentable, setUp, shot } from "./harness.js";

const PAGES = {
  fleet: "/",
  "fleet-table": "/?view=table",
  enrol: "/servers/new",
  import: "/import",
  overview: "/servers/web-1",
  metrics: "/servers/web-1/metrics",
  processes: "/servers/web-1/processes",
  services: "/servers/web-1/services",
  configuration: "/servers/web-1/configuration",
  commands: "/servers/web-1/commands",
  charts: "/charts",
  operations: "/operations",
  keys: "/keys",
  key: "/keys/default",
  "host-keys": "/host-keys",
  settings: "/settings",
};

describe("the pages", () => {
  const roundsman = new Roundsman();
  const sshd = new Sshd();
  let browser;
  let cookies;

  before(async () => {
    await Promise.all([roundsman.start(), sshd.start()]);
    const long = "A server with a description that is long enough to need more than one line on every screen there is";
    enrol(roundsman, sshd, "web-1", "--description", long, "--region", "eu-central", "--environment", "production", "--tag", "web", "--tag", "frontend");
    roundsman.run("exec", "web-1", "--", "echo done");
    const [{ id }] = JSON.parse(roundsman.run("op", "list", "--json"));
    PAGES.operation = `/operations/${id}`;
    browser = await Browser.launch();
    const profile = await browser.profile();
    const page = await profile.newPage();
    await setUp(page, roundsman);
    cookies = await profile.cookies();
    await profile.close();
  });

  after(async () => {
    await browser?.close();
    await sshd.remove();
    await roundsman.remove();
  });

  /** A page of somebody who is logged in. */
  async function loggedIn(options) {
    const profile = await browser.profile(options);
    await profile.addCookies(cookies);
    return profile.newPage();
  }

  async function settled(page, name) {
    if (name === "metrics" || name === "charts") await page.locator("figure.chart canvas").first().waitFor();
    if (await page.locator("body[data-live]").count()) await page.locator("#live-state[data-state=live]").waitFor();
  }

  for (const [look, options] of Object.entries(LOOKS)) {
    test(`every page fits and is readable: ${look}`, async () => {
      const page = await loggedIn(options);
      const backgrounds = new Set();
      for (const [name, address] of Object.entries(PAGES)) {
        const answer = await page.goto(roundsman.url + address);
        assert.equal(answer.status(), 200, address);
        await settled(page, name);
        const broken = await page.evaluate(() => {
          const range = document.createRange();
          return [...document.querySelectorAll(".sections a, .tabs a, .page-head .button")].filter((link) => {
            range.selectNodeContents(link);
            const lines = new Set([...range.getClientRects()].filter((box) => box.width > 1).map((box) => Math.round(box.bottom / 12)));
            return link.checkVisibility() && lines.size > 2;
          }).map((link) => link.textContent);
        });
        assert.deepEqual(broken, [], `${address}: words of the navigation are broken`);
        backgrounds.add(await page.evaluate(() => getComputedStyle(document.documentElement).backgroundColor));
        await presentable(page, `${name}-${look}`);
      }
      assert.equal(backgrounds.size, 1, "one background on every page");
      const [, red] = [...backgrounds][0].match(/rgba?\((\d+)/);
      assert.equal(Number(red) > 128, options.colorScheme === "light", `${[...backgrounds]} in ${look}`);
      await page.context().close();
    });
  }

  test("the theme can be chosen and is kept", async () => {
    const page = await loggedIn({ colorScheme: "light" });
    await page.goto(roundsman.url);
    const background = () => page.evaluate(() => getComputedStyle(document.documentElement).backgroundColor);
    const light = await background();
    await page.click("[data-theme-toggle]");
    await page.click("[data-theme-toggle]");
    await eventually("dark colours", async () => (await background()) !== light);
    await page.reload();
    assert.notEqual(await background(), light);
    await page.context().close();
  });

  test("the keyboard reaches everything: skip link, palette, a server", async () => {
    const page = await loggedIn();
    await page.goto(roundsman.url);
    await page.keyboard.press("Tab");
    assert.equal(await page.evaluate(() => document.activeElement.textContent), "Skip to content");
    await page.keyboard.press("Enter");
    assert.equal(await page.evaluate(() => location.hash), "#main");
    await page.keyboard.press("Control+k");
    await page.locator("dialog#palette[open]").waitFor();
    await page.keyboard.type("web-1");
    await page.locator("#palette-list [role=option]", { hasText: "web-1" }).waitFor();
    await shot(page, "palette");
    await page.keyboard.press("Enter");
    await page.waitForURL(`${roundsman.url}/servers/web-1`);
    await page.keyboard.press("Control+k");
    await page.keyboard.press("Escape");
    assert.equal(await page.locator("dialog#palette[open]").count(), 0);
    await page.context().close();
  });

  test("where the keyboard is can be seen", async () => {
    const page = await loggedIn();
    await page.goto(roundsman.url);
    for (let step = 0; step < 12; step += 1) {
      await page.keyboard.press("Tab");
      const seen = await page.evaluate(() => {
        const style = getComputedStyle(document.activeElement);
        return style.outlineStyle !== "none" || style.boxShadow !== "none";
      });
      assert.ok(seen, `the focus of ${await page.evaluate(() => document.activeElement.outerHTML.slice(0, 120))} is invisible`);
    }
    await page.context().close();
  });

  test("processes stay a tree while readings come", async () => {
    const page = await loggedIn();
    await page.goto(`${roundsman.url}/servers/web-1/processes?view=tree`);
    await page.locator("#live-state[data-state=live]").waitFor();
    const read = () => page.locator("#processes .counted time").getAttribute("datetime");
    const first = await read();
    await eventually("a newer reading", async () => (await read()) !== first);
    assert.ok((await page.locator("#processes th.depth-1").count()) > 0);
    await page.context().close();
  });

  test("without WebSocket the page is fetched again every 5 s", async () => {
    browser.expect(/WebSocket/);
    const page = await loggedIn();
    await page.routeWebSocket(/\/live/, (socket) => socket.close());
    await page.goto(`${roundsman.url}/servers/web-1`);
    await page.locator("#live-state[data-state=polling]").waitFor({ timeout: 30_000 });
    await page.evaluate(() => {
      window.stays = true;
    });
    const overview = () => page.locator("#overview .share-grid").innerHTML();
    const first = await overview();
    await eventually("newer figures", async () => (await overview()) !== first, 15_000);
    assert.equal(await page.evaluate(() => window.stays), true);
    await page.context().close();
  });

  test("without JavaScript every page can be read and filtered", async () => {
    const page = await loggedIn({ javaScriptEnabled: false });
    for (const [name, address] of Object.entries(PAGES)) {
      const answer = await page.goto(roundsman.url + address);
      assert.equal(answer.status(), 200);
      const text = await page.locator("main").innerText();
      assert.ok(text.trim().length > 40, `${address}: ${text}`);
      await shot(page, `${name}-without-javascript`);
    }
    await page.goto(roundsman.url);
    assert.ok(figure(await page.locator(".server-card dl.shares").first().innerText()) !== null);
    await page.fill("input[name=search]", "web");
    await page.click("form#filters button.no-js");
    await page.waitForURL(/search=web/);
    assert.equal(await page.locator(".server-card").count(), 1);
    await page.context().close();
  });

  test("every input has a name and every picture a text", async () => {
    const page = await loggedIn();
    for (const address of Object.values(PAGES)) {
      await page.goto(roundsman.url + address);
      const nameless = await page.evaluate(() =>
        [...document.querySelectorAll("input:not([type=hidden]):not([hidden]), select, textarea, button, a[href]")]
          .filter((element) => element.checkVisibility())
          .filter((element) => !(element.labels?.length || element.ariaLabel || element.title || element.textContent.trim() || element.querySelector("[aria-label]")))
          .map((element) => element.outerHTML.slice(0, 160)),
      );
      assert.deepEqual(nameless, [], address);
      assert.equal(await page.locator("h1").count(), 1, `${address} has one heading`);
    }
    await page.context().close();
  });

  test("no page complained", () => browser.assertQuiet());
});
