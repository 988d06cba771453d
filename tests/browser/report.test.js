// The fleet report: on a screen, on a phone, and as a PDF of A4 pages from which nothing is cut off.

import assert from "node:assert/strict";
import fs from "node:fs";
import { after, before, describe, test } from "node:test";
import { Browser, LOOKS, Roundsman, Sshd, enrol, presentable, setUp, shot } from "./harness.js";

// Of A4 in points, as PDF counts.
const A4 = { width: 595, height: 842 };
// What the page's margins leave of 210 mm, at 96 dots an inch.
const PRINTED_WIDTH = Math.round(((210 - 20) / 25.4) * 96);

describe("the fleet report", () => {
  const roundsman = new Roundsman();
  const sshd = new Sshd();
  let browser;
  let cookies;

  before(async () => {
    await Promise.all([roundsman.start(), sshd.start()]);
    enrol(roundsman, sshd, "a-server-with-the-longest-name-that-is-allowed.example-dot-org", "--region", "eu-central-frankfurt-1", "--environment", "production", "--tag", "web", "--tag", "frontend");
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

  async function report(options) {
    const profile = await browser.profile(options);
    await profile.addCookies(cookies);
    const page = await profile.newPage();
    await page.goto(`${roundsman.url}/report`);
    await page.locator(".report-table").waitFor();
    return page;
  }

  test("it prints on A4 pages, in light colours, and no column is cut off", async () => {
    const page = await report({ colorScheme: "dark" });
    await page.setViewportSize({ width: PRINTED_WIDTH, height: 1000 });
    await page.emulateMedia({ media: "print", colorScheme: "dark" });
    const cut = await page.evaluate(() => {
      const right = document.documentElement.clientWidth;
      const over = (cell) => cell.getBoundingClientRect().right > right + 1 || cell.scrollWidth > cell.clientWidth + 1;
      return [...document.querySelectorAll(".report-table th, .report-table td, .report-summary dd")].filter(over).map((cell) => cell.textContent);
    });
    assert.deepEqual(cut, []);
    assert.ok(await page.locator("header.top").isHidden(), "the navigation is not printed");
    assert.ok(await page.locator("[data-print]").isHidden());
    const colour = await page.evaluate(() => getComputedStyle(document.querySelector(".report-table .col-name a")).color);
    assert.ok(Number(colour.match(/\d+/)[0]) < 128, `dark text on paper: ${colour}`);
    await shot(page, "report-print");
    const pdf = await page.pdf({ preferCSSPageSize: true, printBackground: true });
    const text = pdf.toString("latin1");
    const boxes = [...text.matchAll(/\/MediaBox\s*\[\s*0\s+0\s+([\d.]+)\s+([\d.]+)\s*\]/g)];
    assert.ok(boxes.length >= 1, "the PDF says how large its pages are");
    for (const [, width, height] of boxes) {
      assert.ok(Math.abs(width - A4.width) < 2 && Math.abs(height - A4.height) < 2, `${width} x ${height} is not A4`);
    }
    if (process.env.ROUNDSMAN_REPORT_PDF) fs.writeFileSync(process.env.ROUNDSMAN_REPORT_PDF, pdf);
    await page.context().close();
  });

  test("it is readable in both themes and on a phone, and the same servers are a CSV file away", async () => {
    for (const [look, options] of Object.entries(LOOKS)) {
      const page = await report(options);
      await presentable(page, `report-${look}`);
      if (look === "light") {
        const [download] = await Promise.all([page.waitForEvent("download"), page.click("text=CSV")]);
        assert.equal(download.suggestedFilename(), "roundsman-report.csv");
        const lines = fs.readFileSync(await download.path(), "utf8").split("\r\n");
        assert.match(lines[0], /^name,hostname,region/);
        assert.equal(lines.length, 4, "a header, two servers, an end");
        await page.evaluate(() => {
          window.print = () => document.body.setAttribute("data-printed", "");
        });
        await page.click("[data-print]");
        assert.equal(await page.locator("body[data-printed]").count(), 1);
      }
      await page.context().close();
    }
  });
});
