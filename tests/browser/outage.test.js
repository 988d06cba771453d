// A server goes and comes back while a page is open, closed and frozen; the others go on.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { Browser, Roundsman, Sshd, becomes, enrol, eventually, setUp, shot } from "./harness.js";

// The default; a reading is given up after one and a half intervals, so a frozen server needs nearly three.
const INTERVAL_MS = 5000;

describe("an outage", () => {
  const roundsman = new Roundsman();
  const lost = new Sshd();
  const other = new Sshd();
  let browser;
  let page;

  before(async () => {
    await Promise.all([roundsman.start(), lost.start(), other.start()]);
    enrol(roundsman, lost, "lost", "--interval", "5s");
    enrol(roundsman, other, "other");
    browser = await Browser.launch();
    page = await (await browser.profile()).newPage();
    await setUp(page, roundsman);
    await page.goto(`${roundsman.url}/servers/lost`);
    await page.locator("#live-state[data-state=live]").waitFor();
    await becomes(page, "#server-head .server-title", /healthy|degraded/, 20_000);
  });

  after(async () => {
    await browser?.close();
    await lost.remove();
    await other.remove();
    await roundsman.remove();
  });

  const seenOfOther = () => {
    const server = JSON.parse(roundsman.run("show", "other", "--json"));
    return Date.parse(server.last_seen_at);
  };

  async function goesAndComesBack(name, goes, comesBack, limitMs) {
    await page.evaluate(() => {
      window.stays = true;
    });
    await goes();
    const gone = await becomes(page, "#server-head .server-title", /unreachable/, limitMs + 10_000);
    await shot(page, `unreachable-${name}`);
    // The other server is read on time all along.
    const before = seenOfOther();
    await eventually("the other server is read", () => seenOfOther() > before, INTERVAL_MS);
    const start = Date.now();
    await comesBack();
    await becomes(page, "#server-head .server-title", /healthy|degraded/, 60_000);
    const back = Date.now() - start;
    console.log(`# ${name}: unreachable on the page after ${gone} ms, back after ${back} ms`);
    assert.ok(gone <= limitMs, `unreachable after ${gone} ms, allowed are ${limitMs}`);
    assert.equal(await page.evaluate(() => window.stays), true, "without a reload");
  }

  test("a stopped sshd is unreachable on the open page within 3 intervals and healthy within 60 s of its return", async () => {
    await goesAndComesBack("stopped", () => lost.stop(), () => lost.start(), 3 * INTERVAL_MS);
  });

  test("a frozen sshd is unreachable within 3 intervals as well", async () => {
    await goesAndComesBack("frozen", () => lost.freeze(), () => lost.thaw(), 3 * INTERVAL_MS);
  });

  test("an open page finds the program again after its restart, and servers and history are there", async () => {
    browser.expect(/ERR_CONNECTION_REFUSED|WebSocket connection .* failed|ERR_EMPTY_RESPONSE|ERR_CONNECTION_RESET/);
    await page.goto(roundsman.url);
    await page.locator("#live-state[data-state=live]").waitFor();
    await roundsman.stop("SIGKILL");
    await page.waitForFunction(() => document.getElementById("live-state").dataset.state !== "live");
    await roundsman.start();
    await page.locator("#live-state[data-state=live]").waitFor({ timeout: 60_000 });
    assert.equal(await page.locator(".server-card").count(), 3);
    const answer = await page.request.get(`${roundsman.url}/api/v1/fleet/servers/other/metrics?metric=cpu_percent&period=15m`);
    const [{ points }] = (await answer.json()).series;
    assert.ok(points.filter((point) => point[1] !== null).length > 3, "the history of before is there");
  });

  test("no page complained", () => browser.assertQuiet());
});
