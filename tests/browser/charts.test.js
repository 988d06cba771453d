// Charts over an hour, a day and a month of stored history: drawn, zoomed, compared, marked, saved, live, on a phone.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import fs from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { after, before, describe, test } from "node:test";
import { Browser, LOOKS, Roundsman, Sshd, enrol, eventually, figure, presentable, setUp, shot } from "./harness.js";

const SEED = path.join(path.dirname(fileURLToPath(import.meta.url)), "../../target/debug/examples/seed_history");
const PAGE = "/servers/web-1/metrics";

describe("the charts", () => {
  const roundsman = new Roundsman();
  const sshd = new Sshd();
  let browser;
  let cookies;

  before(async () => {
    await Promise.all([roundsman.start(), sshd.start()]);
    for (const name of ["web-1", "web-2"]) enrol(roundsman, sshd, name, "--interval", "5s", "--region", "eu", "--tag", "web");
    roundsman.run("exec", "web-1", "--", "echo done");
    browser = await Browser.launch();
    const profile = await browser.profile();
    await setUp(await profile.newPage(), roundsman);
    cookies = await profile.cookies();
    await profile.close();
    await roundsman.stop();
    execFileSync(SEED, [roundsman.data, "web-1", "web-2"]);
    await roundsman.start();
  });

  after(async () => {
    await browser?.close();
    await sshd.remove();
    await roundsman.remove();
  });

  async function open(address, options = {}) {
    const profile = await browser.profile(options);
    await profile.addCookies(cookies);
    const page = await profile.newPage();
    page.asked = [];
    page.on("request", (request) => request.url().includes("/api/") && page.asked.push(new URL(request.url())));
    const answer = await page.goto(roundsman.url + address);
    assert.equal(answer.status(), 200, address);
    if (options.javaScriptEnabled !== false) await drawn(page);
    return page;
  }

  const chart = (page, slug) => page.locator(`figure.chart[data-slug="${slug}"]`);

  async function drawn(page, slug) {
    const figure = slug ? chart(page, slug) : page.locator("figure.chart").first();
    await figure.locator("canvas").waitFor();
    await page.waitForFunction(() => !document.querySelector(".chart.is-loading"));
  }

  /** Pixels of a chart's canvas that belong to a line: neither clear nor grey. */
  function ink(figure) {
    return figure.locator("canvas").evaluate(
      (canvas) =>
        new Promise((resolve) => {
          requestAnimationFrame(() => {
            const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
            let count = 0;
            for (let i = 0; i < data.length; i += 4) {
              const spread = Math.max(data[i], data[i + 1], data[i + 2]) - Math.min(data[i], data[i + 1], data[i + 2]);
              if (data[i + 3] > 200 && spread > 60) count += 1;
            }
            resolve(count);
          });
        }),
    );
  }

  const query = (page) => new URL(page.url()).searchParams;

  for (const [look, options] of Object.entries(LOOKS)) {
    test(`an hour, a day and a month are drawn and fit: ${look}`, async () => {
      for (const range of ["1h", "24h", "30d"]) {
        const page = await open(`${PAGE}?range=${range}`, options);
        for (const slug of ["cpu", "memory", "load"]) {
          await chart(page, slug).scrollIntoViewIfNeeded();
          await drawn(page, slug);
          const pixels = await ink(chart(page, slug));
          assert.ok(pixels > 150, `${slug} over ${range} has ${pixels} coloured pixels`);
        }
        const named = await chart(page, "cpu").locator(".chart-plot").getAttribute("aria-label");
        assert.match(named, /CPU: \d+(\.\d)?% on average, \d+(\.\d)?% at most/);
        await page.evaluate(() => scrollTo(0, 0));
        await presentable(page, `charts-${range}-${look}`);
        await page.context().close();
      }
    });
  }

  test("every chart in sight is one request, and a peak of a minute is in a month", async () => {
    const page = await open(`${PAGE}?range=30d`);
    const ranges = page.asked.filter((url) => url.pathname === "/api/v1/fleet/metrics");
    assert.ok(ranges.length <= 2, `${ranges.length} requests`);
    assert.ok(ranges[0].searchParams.get("metric").split(",").length > 10);
    await page.evaluate(() => scrollTo(0, document.body.scrollHeight));
    await page.waitForFunction(() => !document.querySelector(".chart.is-loading"));
    assert.ok(page.asked.length <= 6, `${page.asked.length} requests for the whole page`);
    const most = (await chart(page, "cpu").locator(".chart-plot").getAttribute("aria-label")).match(/, ([\d.]+)% at most/)[1];
    // The machine of the test may have been busier than what was stored.
    assert.ok(Number(most) >= 98, `${most}%`);
    await page.context().close();
  });

  test("dragging zooms every chart, the link carries it, back goes back, a double click goes home", async () => {
    const page = await open(`${PAGE}?range=24h`);
    const box = await chart(page, "cpu").locator(".u-over").boundingBox();
    const drag = async (from, to, ...keys) => {
      for (const key of keys) await page.keyboard.down(key);
      await page.mouse.move(box.x + box.width * from, box.y + box.height / 2);
      await page.mouse.down();
      await page.mouse.move(box.x + box.width * to, box.y + box.height / 2, { steps: 5 });
      await page.mouse.up();
      for (const key of keys) await page.keyboard.up(key);
    };
    await drag(0.25, 0.5);
    await page.waitForURL(/from=\d+&to=\d+/);
    const length = () => Number(query(page).get("to")) - Number(query(page).get("from"));
    assert.ok(Math.abs(length() / 3600e3 - 6) < 0.5, `${length() / 3600e3} hours`);
    await drawn(page);
    const zoomed = page.url();
    const limits = (slug) => page.evaluate((slug) => document.querySelector(`[data-slug="${slug}"] .u-axis`) && document.querySelector(`[data-slug="${slug}"] .chart-plot`).ariaLabel, slug);
    assert.notEqual(await limits("load"), null);
    const before = query(page).get("from");
    await drag(0.5, 0.75, "Shift");
    await page.waitForFunction((before) => new URLSearchParams(location.search).get("from") !== before, before);
    assert.ok(Math.abs((Number(before) - Number(query(page).get("from"))) / 3600e3 - 1.5) < 0.3, "moved an hour and a half back");
    assert.ok(Math.abs(length() / 3600e3 - 6) < 0.5);
    await page.goBack();
    assert.equal(page.url(), zoomed);
    await page.goBack();
    assert.equal(query(page).get("range"), "24h");
    assert.equal(await page.locator("[data-range='24h']").getAttribute("aria-current"), "true");
    await page.goto(zoomed);
    await drawn(page);
    assert.equal(await page.locator("#range-back").isVisible(), true);
    await chart(page, "cpu").locator(".u-over").dblclick();
    await page.waitForURL(/range=/);
    assert.equal(await page.locator("#range-back").isVisible(), false);
    await page.context().close();
  });

  test("the keyboard moves and zooms, and hides lines; the link carries both", async () => {
    const page = await open(`${PAGE}?range=6h`);
    await chart(page, "load").locator(".chart-plot").focus();
    await page.keyboard.press("ArrowLeft");
    await page.waitForURL(/from=/);
    const length = Number(query(page).get("to")) - Number(query(page).get("from"));
    await page.keyboard.press("+");
    await page.waitForFunction((length) => {
      const now = new URLSearchParams(location.search);
      return now.get("to") - now.get("from") < length;
    }, length);
    await page.keyboard.press("0");
    await page.waitForURL(/range=6h/);
    await drawn(page, "load");
    const line = () => chart(page, "load").locator(".chart-legend button", { hasText: "15 minutes" });
    assert.equal(await line().getAttribute("aria-pressed"), "true");
    await line().focus();
    await page.keyboard.press("Enter");
    await page.waitForURL(/hide=load15/);
    assert.equal(await line().getAttribute("aria-pressed"), "false");
    await page.reload();
    await drawn(page, "load");
    assert.equal(await line().getAttribute("aria-pressed"), "false");
    await page.context().close();
  });

  test("a server is compared with another, in one chart or a chart each, and with the week before", async () => {
    const page = await open(`${PAGE}?range=24h`);
    await page.fill("input[name=add]", "web-2");
    await page.click(".compare-bar button");
    await page.waitForURL(/with=web-2/);
    await drawn(page);
    assert.equal(query(page).get("range"), "24h", "the range is kept");
    const legend = (slug) => chart(page, slug).locator(".chart-legend").innerText();
    assert.match(await legend("cpu"), /web-1[^]*web-2/);
    await page.selectOption("select[name=layout]", "multiples");
    await page.click(".compare-bar button");
    await page.waitForURL(/layout=multiples/);
    await drawn(page, "cpu-web-2");
    assert.ok((await ink(chart(page, "cpu-web-2"))) > 150);
    await shot(page, "charts-multiples");
    await page.click("[data-drop='web-2']");
    await page.waitForURL((url) => !url.search.includes("with="));
    await drawn(page);
    await page.selectOption("select[name=compare]", "week");
    await page.waitForURL(/compare=week/);
    await page.waitForFunction(() => /a week before/.test(document.querySelector("[data-slug=load] .chart-legend").textContent));
    await drawn(page, "cpu");
    assert.match(await legend("cpu"), /a week before/);
    await shot(page, "charts-compared");
    await page.context().close();
  });

  test("operations, restarts and outages are marked, told and linked", async () => {
    const page = await open(`${PAGE}?range=24h`);
    const cpu = chart(page, "cpu");
    await cpu.locator(".chart-mark.is-outage").first().waitFor();
    const outage = cpu.locator(".chart-mark.is-outage").first();
    await outage.hover();
    assert.match(await outage.locator(".chart-tip").innerText(), /No readings[^]*for \d+\s(min|h)/);
    await cpu.locator(".chart-mark.is-reboot").first().focus();
    assert.equal(await cpu.locator(".chart-mark.is-reboot .chart-tip").first().isVisible(), true);
    const operation = cpu.locator("a.chart-mark.is-operation").first();
    assert.match(await operation.getAttribute("aria-label"), /completed/);
    await operation.focus();
    await page.keyboard.press("Enter");
    await page.waitForURL(/\/operations\/[0-9a-f-]+$/);
    await page.context().close();
  });

  /** Chooses a word of a chart's menu and gives the file that comes of it. */
  async function download(page, slug, word) {
    await chart(page, slug).locator(".chart-menu summary").click();
    const [file] = await Promise.all([page.waitForEvent("download"), chart(page, slug).locator(`[data-do=${word}]`).click()]);
    return { name: file.suggestedFilename(), content: fs.readFileSync(await file.path()) };
  }

  test("a chart is saved as a picture and as values", async () => {
    const page = await open(`${PAGE}?range=24h`);
    const picture = await download(page, "load", "picture");
    assert.equal(picture.name, "web-1-load.png");
    assert.equal(picture.content.subarray(1, 4).toString(), "PNG");
    const [width, height] = [picture.content.readUInt32BE(16), picture.content.readUInt32BE(20)];
    assert.ok(width > 300 && height > 200, `${width} × ${height}`);
    const values = await download(page, "load", "values");
    assert.equal(values.name, "web-1_3_metrics.csv");
    const lines = values.content.toString().trim().split("\r\n").map((line) => line.split(","));
    assert.deepEqual(lines[0], ["time", "server", "metric", "label", "average", "minimum", "maximum", "samples"]);
    assert.deepEqual([...new Set(lines.slice(1).map((line) => line[2]))], ["load1", "load5", "load15"]);
    assert.ok(lines.length > 600, `${lines.length} lines`);
    for (const [time, server, , , average, least, most] of lines.slice(1)) {
      assert.ok(!Number.isNaN(Date.parse(time)) && server === "web-1");
      assert.ok(Number(least) <= Number(average) && Number(average) <= Number(most));
    }
    await page.context().close();
  });

  test("the values of a chart are a table for who cannot see it", async () => {
    const page = await open(`${PAGE}?range=1h`);
    await chart(page, "load").locator(".chart-menu summary").click();
    await chart(page, "load").locator("[data-do=table]").click();
    const table = chart(page, "load").locator(".chart-data table");
    await table.waitFor();
    assert.ok((await table.locator("tbody tr").count()) > 10);
    assert.equal(await table.locator("thead th").count(), 4);
    await page.context().close();
  });

  test("readings are appended live, without a request for them", async () => {
    const page = await open(`${PAGE}?range=15m`);
    await page.locator("#live-state[data-state=live]").waitFor();
    const now = () => chart(page, "time-of-a-reading").locator(".chart-plot").evaluate((box) => box.querySelector("canvas") && box.parentElement.querySelector(".chart-now").textContent);
    await chart(page, "time-of-a-reading").scrollIntoViewIfNeeded();
    await drawn(page, "time-of-a-reading");
    const ranges = () => page.asked.filter((url) => url.pathname === "/api/v1/fleet/metrics").map((url) => url.search);
    // Charts that scrolling brought near are asked for first; from then on nothing is.
    let asked = [];
    while (asked.length !== ranges().length) {
      asked = ranges();
      await page.waitForTimeout(1500);
    }
    const seen = new Set();
    await eventually("two new readings on the chart", async () => seen.add(await now()).size >= 3, 40_000);
    assert.deepEqual(ranges(), asked);
    for (const value of seen) assert.notEqual(figure(value), null);
    await page.context().close();
  });

  test("the fleet's charts show average, spread and the highest, and keep the range through the filters", async () => {
    for (const [look, options] of Object.entries(LOOKS)) {
      const page = await open("/charts?range=24h", options);
      const average = chart(page, "cpu-all-servers");
      assert.ok((await ink(average)) > 150);
      assert.match(await average.locator(".chart-legend").innerText(), /Average[^]*95th percentile/);
      assert.match(await chart(page, "cpu-the-highest").locator(".chart-legend").innerText(), /web-2/);
      await presentable(page, `charts-fleet-${look}`);
      await page.context().close();
    }
    const page = await open("/charts?range=24h");
    assert.equal(page.asked.length, 1, "one request for the page");
    const values = await download(page, "cpu-all-servers", "values");
    assert.match(values.content.toString(), /^time,metric,aggregate,server,label,value\r\n[^]*,cpu_percent,p95,,,/);
    await page.selectOption("select[name=metric]", "load1");
    await page.selectOption("select[name=region]", "eu");
    await page.click("#chart-filters button");
    await page.waitForURL(/metric=load1/);
    await drawn(page);
    assert.deepEqual([query(page).get("range"), query(page).get("region")], ["24h", "eu"]);
    assert.equal(await page.locator("figure.chart").count(), 2);
    await page.fill("input[name=server]", "web-1, web-2");
    await page.click("#chart-filters button");
    await page.waitForURL(/server=web-1/);
    await drawn(page);
    assert.match(await page.locator(".chart-legend").first().innerText(), /web-1[^]*web-2/);
    await page.context().close();
  });

  test("without JavaScript the same is tables and drawings, range by range", async () => {
    const page = await open(PAGE, { javaScriptEnabled: false });
    await page.click("noscript a");
    await page.waitForURL(/view=table/);
    assert.ok((await page.locator("svg.drawing path").count()) > 5);
    assert.ok((await page.locator(".chart-as-table tbody tr").count()) > 20);
    await page.click("[data-range='24h']");
    await page.waitForURL(/range=24h/);
    assert.match(await page.locator(".chart-as-table").first().innerText(), /98\.0%/);
    await shot(page, "charts-without-javascript");
    await page.context().close();
  });

  test("no page complained", () => browser.assertQuiet());
});
