// The agent by the page of a server's settings: deployed, seen, removed; and by the command line.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import fs from "node:fs";
import path from "node:path";
import { after, before, describe, test } from "node:test";
import { Browser, LOOKS, Roundsman, Sshd, enrol, eventually, presentable, setUp, shot } from "./harness.js";

const AGENT = path.join(import.meta.dirname, "../../target/debug/roundsman-agent");

describe("the agent", () => {
  const roundsman = new Roundsman();
  const sshd = new Sshd();
  let browser;
  let page;
  let cookies;

  const configuration = () => `${roundsman.url}/servers/web-1/configuration`;
  const finished = () => page.locator("body", { hasText: /exit status 0|succeeded/i }).first().waitFor();
  const readBy = (words) =>
    eventually(`readings by ${words}`, async () => {
      await page.goto(configuration());
      return (await page.textContent("#agent")).includes(`Readings come from ${words}`);
    });

  before(async () => {
    const agents = path.join(roundsman.dir, "agents");
    fs.mkdirSync(agents);
    const machine = execFileSync("uname", ["-m"], { encoding: "utf8" }).trim();
    fs.copyFileSync(AGENT, path.join(agents, `roundsman-agent-${machine}`));
    await Promise.all([roundsman.start("--agents", agents), sshd.start()]);
    enrol(roundsman, sshd, "web-1");
    browser = await Browser.launch();
    const profile = await browser.profile();
    page = await profile.newPage();
    await setUp(page, roundsman);
    cookies = await profile.cookies();
  });

  after(async () => {
    await browser?.close();
    await sshd.remove();
    await roundsman.remove();
  });

  test("is deployed from the page, which says what the readings come from", async () => {
    await readBy("the shell probe");
    await page.click("#agent a:text-is('Deploy it')");
    assert.match(await page.textContent("#command"), /place SHA256/);
    await shot(page, "agent-confirm-light");
    await page.click("button:text('Deploy to web-1')");
    await finished();
    await shot(page, "agent-operation-light");
    await readBy("the agent");
    await shot(page, "agent-light");
  });

  test("looks right in the dark and on a phone", async () => {
    const profile = await browser.profile(LOOKS["phone-dark"]);
    await profile.addCookies(cookies);
    const phone = await profile.newPage();
    await phone.goto(configuration());
    await presentable(phone, "agent-phone-dark");
    await profile.close();
  });

  test("is current for the command line, which also removes it", async () => {
    assert.match(roundsman.run("deploy", "web-1"), /already current/);
    assert.match(roundsman.run("deploy", "--all", "--remove"), /removed \S+roundsman-agent-/);
    assert.equal(fs.existsSync(path.join(sshd.path("home"), ".cache/roundsman")), false);
    await readBy("the shell probe");
  });
});
